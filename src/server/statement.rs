//! What a client asks for, told apart: queries for DataFusion, and what the session answers itself.
//!
//! Takes SQL, gives statements in order, each parsed once. Everything is parsed before anything runs, as PostgreSQL
//! does, so that a script with a syntax error changes nothing. Knows sqlparser; plans nothing.

use super::copy;
use super::failure::Failure;
use super::rewrite;
use super::settings;
use super::transaction;
use crate::engine;
use crate::engine::script::{self, position};
use crate::error::Error;
use datafusion::sql::sqlparser::ast::{
    self, CloseCursor, CopySource, CopyTarget, Expr, Ident, TransactionAccessMode, TransactionMode,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Tokenizer};

/// One statement.
#[derive(Debug, Clone)]
pub struct Statement {
    /// As sent.
    pub sql: String,
    /// Characters of the script before it.
    pub offset: usize,
    /// What it asks for.
    pub kind: Kind,
}

/// What a statement asks for.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Something for the engine.
    Engine(Box<engine::Statement>),
    /// SET, SHOW, RESET, DISCARD.
    Setting(settings::Command),
    /// BEGIN and its kin.
    Transaction(transaction::Command),
    /// PREPARE
    Prepare {
        /// Its name.
        name: String,
        /// Types of its parameters, as written.
        types: Vec<ast::DataType>,
        /// What is prepared.
        statement: Box<Statement>,
    },
    /// EXECUTE
    Execute {
        /// What was prepared.
        name: String,
        /// Its parameters.
        values: Vec<Expr>,
    },
    /// DEALLOCATE; `None` is ALL.
    Deallocate(Option<String>),
    /// DECLARE CURSOR
    Declare(Declare),
    /// FETCH and MOVE.
    Fetch(Fetch),
    /// CLOSE; `None` is ALL.
    Close(Option<String>),
    /// COPY .. TO STDOUT
    CopyOut {
        /// The rows.
        query: Box<engine::Statement>,
        /// Their form.
        options: copy::Options,
    },
    /// COPY .. FROM STDIN
    CopyIn {
        /// Where rows go.
        table: ast::ObjectName,
        /// Its columns that are given; all when empty.
        columns: Vec<Ident>,
        /// Their form.
        options: copy::Options,
    },
    /// Answered with this tag and nothing else.
    Nothing(&'static str),
}

/// DECLARE CURSOR.
#[derive(Debug, Clone)]
pub struct Declare {
    /// Its name.
    pub name: String,
    /// Whether rows are sent in binary form.
    pub binary: bool,
    /// Whether it outlives its transaction.
    pub hold: bool,
    /// Whether it must go backwards.
    pub scroll: bool,
    /// Its rows.
    pub query: Box<engine::Statement>,
}

/// FETCH or MOVE.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// The cursor.
    pub cursor: String,
    /// Rows; `None` for all.
    pub rows: Option<usize>,
    /// Whether rows are only passed by.
    pub moves: bool,
}

impl Kind {
    /// Whether it may run in a transaction that failed.
    pub fn ends_transactions(&self) -> bool {
        matches!(
            self,
            Kind::Transaction(
                transaction::Command::Commit { .. }
                    | transaction::Command::Rollback { .. }
                    | transaction::Command::RollbackTo(_)
            )
        )
    }
}

/// The statements of a query string.
///
/// # Errors
/// 42601 with a position, and what a statement of this kind can be refused with before it is planned.
pub fn split(script: &str) -> Result<Vec<Statement>, Failure> {
    let pieces = engine::pieces(script).map_err(|error| located(error, script))?;
    let mut statements = Vec::new();
    for piece in pieces {
        // Pieces are slices of the script.
        let before = &script[..piece.as_ptr() as usize - script.as_ptr() as usize];
        let offset = before.chars().count();
        let parsed = parse(piece).map_err(|mut failure| {
            failure.position = failure.position.map(|position| position + offset);
            failure
        })?;
        statements.push(Statement { offset, ..parsed });
    }
    Ok(statements)
}

/// The error, with its place in `sql` where it knows that.
pub fn located(error: Error, sql: &str) -> Failure {
    let position = match &error {
        Error::Statement(error) => position(sql, error),
        _ => None,
    };
    Failure {
        position,
        ..Failure::from(error)
    }
}

fn parse(sql: &str) -> Result<Statement, Failure> {
    let kind = match special(sql)? {
        Some(kind) => kind,
        None => {
            let parsed = engine::Statement::parse(sql).map_err(|error| located(error, sql))?;
            match settings::Command::from_parsed(parsed.parsed())? {
                Some(command) => Kind::Setting(command),
                None => kind(parsed)?,
            }
        }
    };
    Ok(Statement {
        sql: sql.to_owned(),
        offset: 0,
        kind,
    })
}

/// Statements of PostgreSQL that the parser does not know, and this server has nothing for.
const REFUSED: &[&str] = &[
    "checkpoint",
    "cluster",
    "do",
    "import foreign",
    "load",
    "reassign owned",
    "refresh materialized",
    "reindex",
    "security label",
    "commit prepared",
    "prepare transaction",
    "rollback prepared",
];

/// `FETCH [direction] [FROM | IN] cursor`, without its first word.
fn fetch(tokens: &[TokenWithSpan], moves: bool) -> Result<Kind, Failure> {
    let wrong = || Failure::new("42601", "syntax error in FETCH or MOVE");
    let (last, rest) = tokens.split_last().ok_or_else(wrong)?;
    let Token::Word(name) = &last.token else {
        return Err(wrong());
    };
    let words = rest
        .iter()
        .map(|token| token.token.to_string().to_lowercase());
    let mut words: Vec<String> = words.collect();
    if let Some("from" | "in") = words.last().map(String::as_str) {
        words.pop();
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let rows = match words.as_slice() {
        [] | ["next" | "forward"] => Some(1),
        ["all"] | ["forward", "all"] => None,
        [count] | ["forward" | "relative", count] => match count.parse() {
            Ok(0) | Err(_) => return Err(backward()),
            Ok(rows) => Some(rows),
        },
        _ => return Err(backward()),
    };
    Ok(Kind::Fetch(Fetch {
        cursor: folded(&name.to_ident(Span::empty())),
        rows,
        moves,
    }))
}

/// Statements that the engine's parser reads otherwise or not at all: COPY with a client, MOVE, ABORT.
fn special(sql: &str) -> Result<Option<Kind>, Failure> {
    let mut tokens: Vec<TokenWithSpan> = Vec::new();
    let tokenized =
        Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location_into_buf(&mut tokens);
    if tokenized.is_err() {
        return Ok(None);
    }
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    let keyword = |at: usize| match tokens.get(at).map(|t| &t.token) {
        Some(Token::Word(word)) => word.keyword,
        _ => Keyword::NoKeyword,
    };
    let word = |at: usize| match tokens.get(at).map(|t| &t.token) {
        Some(Token::Word(word)) => word.value.to_lowercase(),
        _ => String::new(),
    };
    let depth_zero = |wanted: &[Keyword]| {
        let mut depth = 0_i32;
        tokens.iter().any(|token| match &token.token {
            Token::LParen => {
                depth += 1;
                false
            }
            Token::RParen => {
                depth -= 1;
                false
            }
            Token::Word(word) => depth == 0 && wanted.contains(&word.keyword),
            _ => false,
        })
    };
    if keyword(0) == Keyword::COPY && depth_zero(&[Keyword::STDIN, Keyword::STDOUT]) {
        let streams = [Keyword::STDIN, Keyword::STDOUT];
        let stream = tokens.iter().rev().find(|token| match &token.token {
            Token::Word(word) => streams.contains(&word.keyword),
            _ => false,
        });
        let end = stream.and_then(|token| script::byte_at(sql, token.span.end));
        return copy_statement(sql, end.unwrap_or(sql.len())).map(Some);
    }
    if keyword(0) == Keyword::COPY && depth_zero(&[Keyword::FROM, Keyword::PROGRAM]) {
        let what = if depth_zero(&[Keyword::PROGRAM]) {
            "a program"
        } else {
            "a file of the server"
        };
        return Err(
            Failure::new("0A000", format!("COPY with {what} is not supported"))
                .with_hint("COPY .. FROM STDIN, psql's \\copy, or CREATE EXTERNAL TABLE"),
        );
    }
    if let "fetch" | "move" = word(0).as_str() {
        return fetch(&tokens[1..], word(0) == "move").map(Some);
    }
    if word(0) == "table" {
        let at = script::byte_at(sql, tokens[0].span.end).unwrap_or(0);
        let query = engine::Statement::parse(&format!("SELECT * FROM{}", &sql[at..]));
        let query = query.map_err(|error| located(error, sql))?.named(sql);
        return Ok(Some(Kind::Engine(Box::new(query))));
    }
    let two = format!("{} {}", word(0), word(1));
    for refused in REFUSED {
        if word(0) == *refused || two == *refused {
            let what = refused.to_uppercase();
            return Err(Failure::new("0A000", format!("{what} is not supported")));
        }
    }
    if word(0) == "abort" {
        let chain = word(tokens.len().saturating_sub(2)) == "chain";
        return Ok(Some(Kind::Transaction(transaction::Command::Rollback {
            chain,
        })));
    }
    Ok(None)
}

/// `end` is where the stream's name ends and options begin: the parser knows fewer of them than PostgreSQL.
fn copy_statement(sql: &str, end: usize) -> Result<Kind, Failure> {
    // The parser wants data behind FROM STDIN, and a semicolon before it.
    let ended = format!("{};", &sql[..end]);
    let parsed = Parser::parse_sql(&PostgreSqlDialect {}, &ended);
    let parsed = parsed.map_err(|error| located(engine::syntax_error(error), sql))?;
    let Some(ast::Statement::Copy {
        source, to, target, ..
    }) = parsed.into_iter().next()
    else {
        return Err(Failure::new("42601", "syntax error in COPY"));
    };
    let direction = if to {
        copy::Direction::To
    } else {
        copy::Direction::From
    };
    let options = copy::Options::parse(&sql[end..], direction)?;
    match (source, to, target) {
        (CopySource::Query(query), true, CopyTarget::Stdout) => Ok(Kind::CopyOut {
            query: Box::new(rewritten(sql, ast::Statement::Query(query))?),
            options,
        }),
        (
            CopySource::Table {
                table_name,
                columns,
            },
            true,
            CopyTarget::Stdout,
        ) => {
            let columns = match columns.is_empty() {
                true => "*".to_owned(),
                false => columns
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            let query = format!("SELECT {columns} FROM {table_name}");
            let query = engine::Statement::parse(&query)?.named(sql);
            Ok(Kind::CopyOut {
                query: Box::new(query.rewrite(&mut rewrite::statement)?),
                options,
            })
        }
        (
            CopySource::Table {
                table_name,
                columns,
            },
            false,
            CopyTarget::Stdin,
        ) => Ok(Kind::CopyIn {
            table: table_name,
            columns,
            options,
        }),
        _ => Err(Failure::new("42601", "syntax error in COPY")),
    }
}

/// A statement for the engine, in what DataFusion's planner has.
fn rewritten(sql: &str, ast: ast::Statement) -> Result<engine::Statement, Failure> {
    let statement = engine::Statement::of(sql, ast)?;
    statement.rewrite(&mut rewrite::statement)
}

/// As SQL folds names.
pub fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    }
}

fn kind(parsed: engine::Statement) -> Result<Kind, Failure> {
    use transaction::Command as T;
    let Some(ast) = parsed.ast().cloned() else {
        let parsed = parsed.rewrite(&mut rewrite::statement)?;
        return Ok(Kind::Engine(Box::new(parsed)));
    };
    let sql = parsed.sql.as_str();
    Ok(match ast {
        ast::Statement::StartTransaction { modes, begin, .. } => Kind::Transaction(T::Begin {
            read_only: access(&modes),
            isolation: isolation(&modes),
            begin,
        }),
        ast::Statement::Commit { chain, .. } => Kind::Transaction(T::Commit { chain }),
        ast::Statement::Rollback { chain, savepoint } => Kind::Transaction(match savepoint {
            Some(name) => T::RollbackTo(folded(&name)),
            None => T::Rollback { chain },
        }),
        ast::Statement::Savepoint { name } => Kind::Transaction(T::Savepoint(folded(&name))),
        ast::Statement::ReleaseSavepoint { name } => Kind::Transaction(T::Release(folded(&name))),
        ast::Statement::Prepare {
            name,
            data_types,
            statement,
        } => {
            let text = statement.to_string();
            Kind::Prepare {
                name: folded(&name),
                types: data_types,
                statement: Box::new(parse(&text)?),
            }
        }
        ast::Statement::Execute {
            name: Some(name),
            parameters,
            ..
        } => Kind::Execute {
            name: last(&name),
            values: parameters,
        },
        ast::Statement::Deallocate { name, .. } => {
            let all = name.quote_style.is_none() && name.value.eq_ignore_ascii_case("all");
            Kind::Deallocate((!all).then(|| folded(&name)))
        }
        ast::Statement::Declare { stmts } => declare(sql, stmts)?,
        ast::Statement::Close { cursor } => Kind::Close(match cursor {
            CloseCursor::All => None,
            CloseCursor::Specific { name } => Some(folded(&name)),
        }),
        ast::Statement::UNLISTEN { .. } => Kind::Nothing("UNLISTEN"),
        _ => Kind::Engine(Box::new(parsed.rewrite(&mut rewrite::statement)?)),
    })
}

fn access(modes: &[TransactionMode]) -> Option<bool> {
    modes.iter().find_map(|mode| match mode {
        TransactionMode::AccessMode(access) => Some(*access == TransactionAccessMode::ReadOnly),
        TransactionMode::IsolationLevel(_) => None,
    })
}

fn isolation(modes: &[TransactionMode]) -> Option<String> {
    modes.iter().find_map(|mode| match mode {
        TransactionMode::IsolationLevel(level) => Some(level.to_string().to_lowercase()),
        TransactionMode::AccessMode(_) => None,
    })
}

fn last(name: &ast::ObjectName) -> String {
    match name.0.last().and_then(|part| part.as_ident()) {
        Some(ident) => folded(ident),
        None => name.to_string(),
    }
}

fn declare(sql: &str, declares: Vec<ast::Declare>) -> Result<Kind, Failure> {
    let mut declares = declares.into_iter();
    let (Some(declare), None) = (declares.next(), declares.next()) else {
        return Err(Failure::new("42601", "syntax error in DECLARE"));
    };
    let (Some(name), Some(query)) = (declare.names.first(), declare.for_query) else {
        return Err(Failure::new(
            "42601",
            "DECLARE needs CURSOR FOR and a query",
        ));
    };
    Ok(Kind::Declare(Declare {
        name: folded(name),
        binary: declare.binary == Some(true),
        hold: declare.hold == Some(true),
        scroll: declare.scroll == Some(true),
        query: Box::new(rewritten(sql, ast::Statement::Query(query))?),
    }))
}

fn backward() -> Failure {
    Failure::new("55000", "cursor can only scan forward")
        .with_hint("rows are made as they are read; ask the query again to begin anew")
}
