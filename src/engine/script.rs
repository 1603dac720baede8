//! Scripts into statements: parsing, PostgreSQL's spellings that DataFusion's planner lacks, command tags.

mod names;
mod place;

pub(super) use names::folded;
pub use names::{display_name, unique_name};
pub use place::position;

use crate::error::Error;
use datafusion::common::DataFusionError;
use datafusion::sql::parser::{CopyToSource, DFParserBuilder, Statement as Parsed};
use datafusion::sql::sqlparser::ast::{
    self, AccessExpr, BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArgOperator,
    FunctionArgumentList, FunctionArguments, Ident, ObjectName, Subscript, TableFactor, Value,
    VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use std::ops::ControlFlow;

/// The dialect of every session.
pub(super) const DIALECT: &str = "postgresql";

/// One statement of a script.
#[derive(Debug, Clone)]
pub struct Statement {
    /// As typed, without the semicolon.
    pub sql: String,
    /// Characters of the script before it.
    pub offset: usize,
    pub(super) parsed: Parsed,
    pub(super) tag: &'static str,
}

impl Statement {
    /// One statement, without a semicolon.
    ///
    /// # Errors
    /// A syntax error.
    pub fn parse(sql: &str) -> Result<Statement, Error> {
        parse(sql)
    }

    /// A statement that was parsed elsewhere.
    ///
    /// # Errors
    /// As [`Statement::parse`], for what the parser lets through.
    pub fn of(sql: &str, ast: ast::Statement) -> Result<Statement, Error> {
        let mut parsed = Parsed::Statement(Box::new(ast));
        prepare(&mut parsed)?;
        Ok(Statement {
            sql: sql.to_owned(),
            offset: 0,
            tag: tag(&parsed),
            parsed,
        })
    }

    /// The same statement, known by another text.
    #[must_use]
    pub fn named(mut self, sql: &str) -> Statement {
        sql.clone_into(&mut self.sql);
        self
    }

    /// As SQL's own syntax tree; `None` for what is DataFusion's alone (CREATE EXTERNAL TABLE, COPY to files, EXPLAIN).
    pub fn ast(&self) -> Option<&ast::Statement> {
        match &self.parsed {
            Parsed::Statement(statement) => Some(statement),
            _ => None,
        }
    }

    /// What the parser made of it, columns named.
    pub fn parsed(&self) -> &Parsed {
        &self.parsed
    }

    /// The command tag without a count.
    pub fn tag(&self) -> &'static str {
        self.tag
    }

    /// The statement with its SQL (that of EXPLAIN and COPY too) put through `change`.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn rewrite<E>(
        mut self,
        change: &mut impl FnMut(ast::Statement) -> Result<ast::Statement, E>,
    ) -> Result<Statement, E> {
        self.parsed = rewrite(self.parsed, change)?;
        Ok(self)
    }
}

/// A syntax error from sqlparser.
pub fn syntax_error(error: ParserError) -> Error {
    Error::Statement(DataFusionError::SQL(Box::new(error), None))
}

/// The texts of a script's statements, without semicolons.
///
/// # Errors
/// A string, a comment or a quoted name that does not end.
pub fn pieces(script: &str) -> Result<Vec<&str>, Error> {
    match cut(script) {
        Ok(pieces) => Ok(pieces.into_iter().map(|(piece, _)| piece).collect()),
        Err(why) => Err(syntax(why)),
    }
}

fn rewrite<E>(
    parsed: Parsed,
    change: &mut impl FnMut(ast::Statement) -> Result<ast::Statement, E>,
) -> Result<Parsed, E> {
    Ok(match parsed {
        Parsed::Statement(statement) => Parsed::Statement(Box::new(change(*statement)?)),
        Parsed::Explain(mut explain) => {
            explain.statement = Box::new(rewrite(*explain.statement, change)?);
            Parsed::Explain(explain)
        }
        Parsed::CopyTo(mut copy) => {
            if let CopyToSource::Query(query) = copy.source {
                copy.source = match change(ast::Statement::Query(query))? {
                    ast::Statement::Query(query) => CopyToSource::Query(query),
                    other => unreachable!("bug: a query became {other}"),
                };
            }
            Parsed::CopyTo(copy)
        }
        other => other,
    })
}

/// Bytes before a column, which counts characters from 1.
fn columns_in(line: &str, column: u64) -> usize {
    let columns = usize::try_from(column).unwrap_or(1).saturating_sub(1);
    line.char_indices()
        .nth(columns)
        .map_or(line.len(), |(at, _)| at)
}

/// The byte at a place that the tokenizer tells; `None` where the text has no such line.
pub fn byte_at(sql: &str, place: Location) -> Option<usize> {
    let before = usize::try_from(place.line).ok()?.checked_sub(1)?;
    let starts = std::iter::once(0).chain(sql.match_indices('\n').map(|(at, _)| at + 1));
    let start = starts.into_iter().nth(before)?;
    Some(start + columns_in(&sql[start..], place.column))
}

/// Cuts at semicolons that are tokens, so that those in strings, dollar quotes and comments are text.
fn cut(script: &str) -> Result<Vec<(&str, bool)>, String> {
    let mut tokens: Vec<TokenWithSpan> = Vec::new();
    Tokenizer::new(&PostgreSqlDialect {}, script)
        .tokenize_with_location_into_buf(&mut tokens)
        .map_err(|e| e.to_string())?;
    let lines: Vec<usize> = std::iter::once(0)
        .chain(script.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let offset = |line: u64, column: u64| {
        let start = lines[usize::try_from(line)
            .unwrap_or(1)
            .saturating_sub(1)
            .min(lines.len() - 1)];
        start + columns_in(&script[start..], column)
    };
    let (mut pieces, mut begin, mut empty) = (Vec::new(), 0, true);
    for token in &tokens {
        match token.token {
            Token::SemiColon => {
                let end = offset(token.span.start.line, token.span.start.column);
                if !empty {
                    pieces.push((script[begin..end].trim(), true));
                }
                begin = end + 1;
                empty = true;
            }
            Token::Whitespace(_) | Token::EOF => {}
            _ => empty = false,
        }
    }
    if !empty {
        pieces.push((script[begin..].trim(), false));
    }
    Ok(pieces)
}

/// The statements of a script, for tests without an engine.
#[cfg(test)]
pub(crate) fn split_for_tests(script: &str) -> Vec<Result<Statement, Error>> {
    split(script)
}

pub(super) fn split(script: &str) -> Vec<Result<Statement, Error>> {
    let pieces = match cut(script) {
        Ok(pieces) => pieces,
        Err(why) => return vec![Err(syntax(why))],
    };
    let mut statements = Vec::new();
    for (sql, _) in pieces {
        // Pieces are slices of the script.
        let before = &script[..sql.as_ptr() as usize - script.as_ptr() as usize];
        let statement = parse(sql).map(|statement| Statement {
            offset: before.chars().count(),
            ..statement
        });
        let failed = statement.is_err();
        statements.push(statement);
        if failed {
            break;
        }
    }
    statements
}

pub(super) fn is_incomplete(script: &str) -> bool {
    match cut(script) {
        Ok(pieces) => pieces.last().is_some_and(|(_, ended)| !ended),
        // A string or a comment that does not end yet.
        Err(_) => true,
    }
}

fn syntax(why: String) -> Error {
    syntax_error(ParserError::ParserError(why))
}

fn parse(sql: &str) -> Result<Statement, Error> {
    let dialect = PostgreSqlDialect {};
    let dropped = drop_server(sql);
    let spelled = dropped.as_deref().unwrap_or(sql);
    let parser = DFParserBuilder::new(spelled).with_dialect(&dialect).build();
    let mut statements = parser.and_then(|mut parser| parser.parse_statements())?;
    let Some(mut parsed) = statements.pop_front() else {
        return Err(syntax("an empty statement".to_owned()));
    };
    prepare(&mut parsed)?;
    let tag = match dropped {
        Some(_) => DROP_SERVER,
        None => tag(&parsed),
    };
    Ok(Statement {
        sql: sql.to_owned(),
        offset: 0,
        parsed,
        tag,
    })
}

/// The tag of what drops a server, which is a schema to the planner.
pub(super) const DROP_SERVER: &str = "DROP SERVER";

/// `DROP SERVER ..`, which the parser lacks, as `DROP SCHEMA .. CASCADE`: as long up to the name, so that positions hold.
fn drop_server(sql: &str) -> Option<String> {
    let rest = without_word(sql.trim_start(), "DROP")?;
    let rest = without_word(rest, "SERVER")?;
    let before = &sql[..sql.len() - rest.len() - "SERVER".len()];
    let last = rest.split_whitespace().last()?;
    let behind = ["CASCADE", "RESTRICT"]
        .iter()
        .any(|word| last.eq_ignore_ascii_case(word));
    Some(format!(
        "{before}SCHEMA{rest}{}",
        if behind { "" } else { " CASCADE" }
    ))
}

/// What is behind a word and its white space.
fn without_word<'a>(sql: &'a str, word: &str) -> Option<&'a str> {
    let (found, rest) = sql.split_at_checked(word.len())?;
    let apart = rest.starts_with(char::is_whitespace);
    (apart && found.eq_ignore_ascii_case(word)).then(|| match word {
        "DROP" => rest.trim_start(),
        _ => rest,
    })
}

/// Spells a statement as DataFusion's planner reads it, with PostgreSQL's column names.
fn prepare(parsed: &mut Parsed) -> Result<(), DataFusionError> {
    match parsed {
        Parsed::Statement(statement) => {
            let _ = statement.visit(&mut Fields);
            names::name_columns(statement)
        }
        Parsed::Explain(explain) => prepare(&mut explain.statement),
        Parsed::CopyTo(copy) => {
            if let CopyToSource::Query(query) = &mut copy.source {
                let _ = query.visit(&mut Fields);
                names::name_query(query);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// PostgreSQL's `(expr).field` as `(expr)['field']`, and arguments by name of functions in FROM and of procedures as
/// structs of one field, because the planner takes arguments by place only.
struct Fields;

/// Schemas whose functions are known without them.
pub(super) const BARE_SCHEMAS: [&str; 2] = ["pg_catalog", "information_schema"];

/// Whether a function is one of a schema's own, such as `cron.schedule`. Its name is spelled as it is registered.
fn is_procedure(name: &mut ObjectName) -> bool {
    let words: Option<Vec<String>> = name
        .0
        .iter()
        .map(|part| part.as_ident().map(folded))
        .collect();
    let Some([schema, function]) = words.as_deref() else {
        return false;
    };
    let own = !BARE_SCHEMAS.contains(&schema.as_str());
    if own {
        *name = ObjectName::from(vec![Ident::new(schema), Ident::new(function)]);
    }
    own
}

/// `name => value` and `name := value` as a struct of one field.
fn by_place(args: &mut [FunctionArg]) {
    for arg in args {
        if let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::BinaryOp {
            left,
            op: BinaryOperator::Assignment,
            right,
        })) = arg
            && let Expr::Identifier(name) = left.as_ref()
        {
            *arg = FunctionArg::Named {
                name: name.clone(),
                arg: FunctionArgExpr::Expr(right.as_ref().clone()),
                operator: FunctionArgOperator::Assignment,
            };
        }
        if let FunctionArg::Named {
            name,
            arg: FunctionArgExpr::Expr(value),
            ..
        }
        | FunctionArg::ExprNamed {
            name: Expr::Identifier(name),
            arg: FunctionArgExpr::Expr(value),
            ..
        } = arg
        {
            let name = Expr::value(Value::SingleQuotedString(folded(name)));
            let named = call("named_struct", vec![name, value.clone()]);
            *arg = FunctionArg::Unnamed(FunctionArgExpr::Expr(named));
        }
    }
}

impl VisitorMut for Fields {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let args = match factor {
            TableFactor::Table {
                args: Some(args), ..
            } => &mut args.args,
            TableFactor::Function { args, .. } => args,
            _ => return ControlFlow::Continue(()),
        };
        by_place(args);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && is_procedure(&mut function.name)
            && let FunctionArguments::List(list) = &mut function.args
        {
            by_place(&mut list.args);
        }
        if let Expr::CompoundFieldAccess { root, access_chain } = expr {
            columns_first(root, access_chain);
            for access in access_chain {
                if let AccessExpr::Dot(Expr::Identifier(field)) = access {
                    let name = match field.quote_style {
                        Some(_) => field.value.clone(),
                        None => field.value.to_lowercase(),
                    };
                    let index = Expr::value(Value::SingleQuotedString(name));
                    *access = AccessExpr::Subscript(Subscript::Index { index });
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// A call of a function by its arguments' places.
pub fn call(function: &str, args: Vec<Expr>) -> Expr {
    let args = args
        .into_iter()
        .map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)));
    Expr::Function(ast::Function {
        name: ObjectName::from(vec![Ident::new(function)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args.collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// `t.a[1]` is an element of a column `t.a`, not of a field `a` of a column `t`.
fn columns_first(root: &mut Expr, chain: &mut Vec<AccessExpr>) {
    while let Some(AccessExpr::Dot(Expr::Identifier(field))) = chain.first() {
        let names = match root {
            Expr::Identifier(table) => vec![table.clone(), field.clone()],
            Expr::CompoundIdentifier(names) => {
                let mut names = names.clone();
                names.push(field.clone());
                names
            }
            _ => return,
        };
        *root = Expr::CompoundIdentifier(names);
        chain.remove(0);
    }
}

/// The setting that a RESET names; `all` for all of them.
pub(super) fn as_reset(statement: &Statement) -> Option<String> {
    match &statement.parsed {
        Parsed::Reset(datafusion::sql::parser::ResetStatement::Variable(name)) => {
            Some(name.to_string().to_lowercase())
        }
        Parsed::Statement(s) => match s.as_ref() {
            ast::Statement::Reset(reset) => Some(match &reset.reset {
                ast::Reset::ALL => "all".to_owned(),
                ast::Reset::ConfigurationParameter(name) => name.to_string().to_lowercase(),
                #[allow(unreachable_patterns)]
                _ => return None,
            }),
            _ => None,
        },
        _ => None,
    }
}

fn tag(parsed: &Parsed) -> &'static str {
    let statement = match parsed {
        Parsed::Statement(statement) => statement.as_ref(),
        Parsed::CreateExternalTable(_) => return "CREATE EXTERNAL TABLE",
        Parsed::CopyTo(_) => return "COPY",
        Parsed::Explain(_) => return "EXPLAIN",
        Parsed::Reset(_) => return "RESET",
    };
    match statement {
        ast::Statement::Query(_) => "SELECT",
        ast::Statement::Insert(_) => "INSERT 0",
        ast::Statement::Update { .. } => "UPDATE",
        ast::Statement::Delete(_) => "DELETE",
        ast::Statement::CreateTable(table) if table.query.is_some() => "SELECT",
        ast::Statement::CreateTable(_) => "CREATE TABLE",
        ast::Statement::CreateView { .. } => "CREATE VIEW",
        ast::Statement::CreateSchema { .. } => "CREATE SCHEMA",
        ast::Statement::CreateServer(_) => "CREATE SERVER",
        ast::Statement::CreateSecret { .. } => "CREATE SECRET",
        ast::Statement::DropSecret { .. } => "DROP SECRET",
        ast::Statement::Drop { object_type, .. } => match object_type {
            ast::ObjectType::Table => "DROP TABLE",
            ast::ObjectType::View => "DROP VIEW",
            ast::ObjectType::Schema => "DROP SCHEMA",
            _ => "DROP",
        },
        ast::Statement::Set(_) => "SET",
        ast::Statement::ShowVariable { .. } => "SHOW",
        ast::Statement::Prepare { .. } => "PREPARE",
        ast::Statement::Deallocate { .. } => "DEALLOCATE",
        ast::Statement::StartTransaction { .. } => "BEGIN",
        ast::Statement::Commit { .. } => "COMMIT",
        ast::Statement::Rollback { .. } => "ROLLBACK",
        _ => "OK",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_cut_at_their_own_semicolons() {
        let cases: [(&str, &[&str]); 7] = [
            ("SELECT 1; SELECT 2", &["SELECT 1", "SELECT 2"]),
            (" ;; -- nothing;\n", &[]),
            (
                "SELECT ';' ; /* ; */ SELECT 'é;ü'",
                &["SELECT ';'", "/* ; */ SELECT 'é;ü'"],
            ),
            (
                "SELECT $$a;\nb$$;\nSELECT 1",
                &["SELECT $$a;\nb$$", "SELECT 1"],
            ),
            ("SELECT $x$a; $$ b$x$", &["SELECT $x$a; $$ b$x$"]),
            ("SELECT 1 AS \"a;b\";", &["SELECT 1 AS \"a;b\""]),
            (
                "SELECT 1;\n-- a comment; with one\nSELECT 2;",
                &["SELECT 1", "-- a comment; with one\nSELECT 2"],
            ),
        ];
        for (script, want) in cases {
            let got: Vec<String> = split(script).into_iter().map(|s| s.unwrap().sql).collect();
            assert_eq!(got, want, "{script}");
        }
    }

    #[test]
    fn a_prompt_knows_when_to_ask_for_more() {
        for (script, want) in [
            ("SELECT 1", true),
            ("SELECT 1;", false),
            ("SELECT 'a;", true),
            ("", false),
        ] {
            assert_eq!(is_incomplete(script), want, "{script}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_script_is_cut_into_its_own_pieces(script in "[a-z '\";$\\-*/\\n\u{e9}]{0,60}") {
            for (piece, _) in cut(&script).unwrap_or_default() {
                proptest::prop_assert!(script.contains(piece) && !piece.is_empty());
            }
        }
    }
}
