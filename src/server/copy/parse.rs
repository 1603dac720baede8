//! The options of COPY from a statement's text: PostgreSQL's grammar, old and new.
//!
//! sqlparser's own has no `HEADER MATCH`, no `FORCE_QUOTE *` and no boolean but true and false, and reads another
//! database's options; this reads what follows STDIN or STDOUT.

use super::options::{Choice, Direction, Header, Names, Options};
use crate::server::failure::Failure;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

impl Options {
    /// From what follows STDIN or STDOUT in a COPY statement: `[WITH] (FORMAT csv, ..)`, or the options of old,
    /// `[WITH] CSV HEADER ..`.
    ///
    /// # Errors
    /// 42601 for what is no list of options; else as [`Options::of`].
    pub fn parse(text: &str, direction: Direction) -> Result<Options, Failure> {
        let tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize();
        let tokens = tokens.map_err(|error| Failure::new("42601", error.to_string()))?;
        let tokens = tokens.into_iter();
        let mut walk = Walk {
            tokens: tokens
                .filter(|t| !matches!(t, Token::Whitespace(_)))
                .collect(),
            at: 0,
        };
        walk.word("with");
        let mut choices = Vec::new();
        if walk.token(&Token::LParen) {
            loop {
                choices.push(walk.option()?);
                if !walk.token(&Token::Comma) {
                    break;
                }
            }
            if !walk.token(&Token::RParen) {
                return Err(walk.wrong());
            }
        } else {
            while let Some(choice) = walk.old_option()? {
                choices.push(choice);
            }
        }
        walk.token(&Token::SemiColon);
        match walk.peek() {
            None => Options::of(choices, direction),
            Some(_) => Err(walk.wrong()),
        }
    }
}

struct Walk {
    tokens: Vec<Token>,
    at: usize,
}

impl Walk {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn wrong(&self) -> Failure {
        let message = match self.peek() {
            Some(token) => format!("syntax error at or near \"{token}\""),
            None => "syntax error at end of input".to_owned(),
        };
        Failure::new("42601", message)
    }

    /// Passes over `token` if it is next.
    fn token(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    /// Passes over a keyword if it is next.
    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(next))
            if next.quote_style.is_none() && next.value.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    /// A name, folded as PostgreSQL folds it.
    fn name(&mut self) -> Result<String, Failure> {
        let Some(Token::Word(word)) = self.peek() else {
            return Err(self.wrong());
        };
        let name = match word.quote_style {
            Some(_) => word.value.clone(),
            None => word.value.to_ascii_lowercase(),
        };
        self.at += 1;
        Ok(name)
    }

    fn string(&mut self) -> Result<String, Failure> {
        let text = match self.peek() {
            Some(Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text)) => {
                text.clone()
            }
            Some(Token::DollarQuotedString(text)) => text.value.clone(),
            _ => return Err(self.wrong()),
        };
        self.at += 1;
        Ok(text)
    }

    /// A value: a name or a string.
    fn value(&mut self) -> Result<String, Failure> {
        match self.peek() {
            Some(Token::Word(_)) => self.name(),
            _ => self.string(),
        }
    }

    /// What may stand behind HEADER and FREEZE; none if nothing does.
    fn flag(&mut self) -> Result<Option<String>, Failure> {
        match self.peek().cloned() {
            None | Some(Token::Comma | Token::RParen) => Ok(None),
            Some(Token::Number(digits, _)) => {
                self.at += 1;
                Ok(Some(digits))
            }
            _ => self.value().map(Some),
        }
    }

    /// `( a, b )`, or `*`.
    fn names(&mut self) -> Result<Names, Failure> {
        if self.token(&Token::Mul) {
            return Ok(Names::All);
        }
        if !self.token(&Token::LParen) {
            return Err(self.wrong());
        }
        if self.token(&Token::Mul) && self.token(&Token::RParen) {
            return Ok(Names::All);
        }
        let names = self.some_names()?;
        match self.token(&Token::RParen) {
            true => Ok(Names::Some(names)),
            false => Err(self.wrong()),
        }
    }

    fn some_names(&mut self) -> Result<Vec<String>, Failure> {
        let mut names = vec![self.name()?];
        while self.token(&Token::Comma) {
            names.push(self.name()?);
        }
        Ok(names)
    }

    /// One option of the list in parentheses.
    fn option(&mut self) -> Result<Choice, Failure> {
        let name = self.name()?;
        Ok(match name.as_str() {
            "format" => Choice::Format(self.value()?),
            "freeze" => Choice::Freeze(truth(&name, self.flag()?)?),
            "delimiter" => Choice::Delimiter(self.value()?),
            "null" => Choice::Null(self.value()?),
            "header" => {
                let flag = self.flag()?;
                let matched = flag
                    .as_ref()
                    .is_some_and(|f| f.eq_ignore_ascii_case("match"));
                Choice::Header(match matched {
                    true => Header::Match,
                    false if truth(&name, flag)? => Header::Line,
                    false => Header::None,
                })
            }
            "quote" => Choice::Quote(self.value()?),
            "escape" => Choice::Escape(self.value()?),
            "force_quote" => Choice::ForceQuote(self.names()?),
            "force_not_null" => Choice::ForceNotNull(self.names()?),
            "force_null" => Choice::ForceNull(self.names()?),
            "encoding" => Choice::Encoding(self.value()?),
            "gather" => Choice::Gather(truth(&name, self.flag()?)?),
            _ => {
                return Err(Failure::new(
                    "42601",
                    format!("option \"{name}\" not recognized"),
                ));
            }
        })
    }

    /// One option of the list of old; none at its end.
    fn old_option(&mut self) -> Result<Option<Choice>, Failure> {
        let format = |name: &str| Choice::Format(name.to_owned());
        for name in ["binary", "csv"] {
            if self.word(name) {
                return Ok(Some(format(name)));
            }
        }
        if self.word("freeze") {
            return Ok(Some(Choice::Freeze(true)));
        }
        if self.word("header") {
            return Ok(Some(Choice::Header(Header::Line)));
        }
        #[allow(clippy::type_complexity)]
        let texts: [(&str, fn(String) -> Choice); 5] = [
            ("delimiter", Choice::Delimiter),
            ("null", Choice::Null),
            ("quote", Choice::Quote),
            ("escape", Choice::Escape),
            ("encoding", Choice::Encoding),
        ];
        for (name, choice) in texts {
            if self.word(name) {
                self.word("as");
                return self.string().map(|text| Some(choice(text)));
            }
        }
        if !self.word("force") {
            return Ok(None);
        }
        let choice = match (self.word("quote"), self.word("not"), self.word("null")) {
            (true, false, false) => Choice::ForceQuote,
            (false, true, true) => Choice::ForceNotNull,
            (false, false, true) => Choice::ForceNull,
            _ => return Err(self.wrong()),
        };
        let names = match self.token(&Token::Mul) {
            true => Names::All,
            false => Names::Some(self.some_names()?),
        };
        Ok(Some(choice(names)))
    }
}

/// A boolean option's value.
fn truth(name: &str, flag: Option<String>) -> Result<bool, Failure> {
    let Some(flag) = flag else { return Ok(true) };
    match flag.to_ascii_lowercase().as_str() {
        "true" | "on" | "1" => Ok(true),
        "false" | "off" | "0" => Ok(false),
        _ if name == "header" => Err(Failure::new(
            "42601",
            "header requires a Boolean value or \"match\"",
        )),
        _ => Err(Failure::new(
            "42601",
            format!("{name} requires a Boolean value"),
        )),
    }
}
