//! The options of COPY, with PostgreSQL's defaults and checks.
//!
//! Statements become a list of [`Choice`]s, whoever parsed them; [`Options::of`] holds every rule.

use crate::server::failure::Failure;

/// Which way the rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// COPY .. FROM: into the server.
    From,
    /// COPY .. TO: out of it.
    To,
}

/// How rows are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Tabs and backslashes.
    Text,
    /// Comma-separated values.
    Csv,
    /// PostgreSQL's binary format.
    Binary,
}

/// What the first line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// A row.
    None,
    /// Names: written, or skipped.
    Line,
    /// Names that must be the columns' names.
    Match,
}

/// Some columns by name, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// These.
    Some(Vec<String>),
    /// `*`.
    All,
}

impl Names {
    /// Which of `columns`, of a table or of a query, are meant.
    ///
    /// # Errors
    /// 42703 for a name that is not among them.
    pub(super) fn among(
        &self,
        columns: &[&str],
        table: Option<&str>,
    ) -> Result<Vec<bool>, Failure> {
        let Names::Some(names) = self else {
            return Ok(vec![true; columns.len()]);
        };
        if let Some(name) = names.iter().find(|name| !columns.contains(&name.as_str())) {
            let of = table.map_or(String::new(), |table| format!(" of relation \"{table}\""));
            let message = format!("column \"{name}\"{of} does not exist");
            return Err(Failure::new("42703", message));
        }
        let chosen = |column: &&str| names.iter().any(|name| name == column);
        Ok(columns.iter().map(chosen).collect())
    }

    fn is_none(&self) -> bool {
        *self == Names::Some(Vec::new())
    }
}

/// One option as the statement has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// FORMAT name
    Format(String),
    /// FREEZE: accepted, nothing to do.
    Freeze(bool),
    /// DELIMITER 'c'
    Delimiter(String),
    /// NULL 'text'
    Null(String),
    /// HEADER [ boolean | MATCH ]
    Header(Header),
    /// QUOTE 'c'
    Quote(String),
    /// ESCAPE 'c'
    Escape(String),
    /// FORCE_QUOTE ( column [, ..] ) | *
    ForceQuote(Names),
    /// FORCE_NOT_NULL ( column [, ..] )
    ForceNotNull(Names),
    /// FORCE_NULL ( column [, ..] )
    ForceNull(Names),
    /// ENCODING 'name'
    Encoding(String),
    /// GATHER [ boolean ]: this server's own.
    Gather(bool),
}

/// How one COPY spells its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Text, csv or binary.
    pub format: Format,
    /// Between fields; one byte.
    pub delimiter: u8,
    /// What stands for NULL.
    pub null: String,
    /// What the first line is.
    pub header: Header,
    /// Around csv fields that need it.
    pub quote: u8,
    /// Before a quote within a csv field.
    pub escape: u8,
    /// Columns whose values are always quoted (csv, TO).
    pub force_quote: Names,
    /// Columns that are never NULL for the null string (csv, FROM).
    pub force_not_null: Names,
    /// Columns that are NULL for the null string even if quoted (csv, FROM).
    pub force_null: Names,
    /// Whether a message may hold more than one row (TO). A driver's cost is one of messages more than of bytes; but one
    /// that takes each message for a row must not be sent such.
    pub gather: bool,
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new("22023", message)
}

fn unsupported(message: impl Into<String>) -> Failure {
    Failure::new("0A000", message)
}

fn misplaced(message: impl Into<String>) -> Failure {
    Failure::new("42601", message)
}

/// Sets what may be set once.
fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Failure> {
    match slot.replace(value) {
        Some(_) => Err(misplaced("conflicting or redundant options")),
        None => Ok(()),
    }
}

/// The one byte of an option.
fn byte(name: &str, text: &str) -> Result<u8, Failure> {
    match text.as_bytes() {
        [byte] => Ok(*byte),
        _ => Err(unsupported(format!(
            "COPY {name} must be a single one-byte character"
        ))),
    }
}

/// Options as they were given.
#[derive(Default)]
struct Given {
    format: Option<Format>,
    freeze: Option<bool>,
    delimiter: Option<String>,
    null: Option<String>,
    header: Option<Header>,
    quote: Option<String>,
    escape: Option<String>,
    force_quote: Option<Names>,
    force_not_null: Option<Names>,
    force_null: Option<Names>,
    encoding: Option<String>,
    gather: Option<bool>,
}

impl Given {
    fn take(&mut self, choice: Choice) -> Result<(), Failure> {
        match choice {
            Choice::Format(name) => {
                let format = match name.as_str() {
                    "text" => Format::Text,
                    "csv" => Format::Csv,
                    "binary" => Format::Binary,
                    _ => return Err(invalid(format!("COPY format \"{name}\" not recognized"))),
                };
                once(&mut self.format, format)
            }
            Choice::Freeze(freeze) => once(&mut self.freeze, freeze),
            Choice::Delimiter(text) => once(&mut self.delimiter, text),
            Choice::Null(text) => once(&mut self.null, text),
            Choice::Header(header) => once(&mut self.header, header),
            Choice::Quote(text) => once(&mut self.quote, text),
            Choice::Escape(text) => once(&mut self.escape, text),
            Choice::ForceQuote(names) => once(&mut self.force_quote, names),
            Choice::ForceNotNull(names) => once(&mut self.force_not_null, names),
            Choice::ForceNull(names) => once(&mut self.force_null, names),
            Choice::Gather(gather) => once(&mut self.gather, gather),
            Choice::Encoding(name) => {
                let known = ["utf8", "utf-8", "unicode"];
                if !known.iter().any(|utf8| name.eq_ignore_ascii_case(utf8)) {
                    return Err(unsupported(format!(
                        "COPY encoding \"{name}\" is not supported, only UTF8 is"
                    )));
                }
                once(&mut self.encoding, name)
            }
        }
    }
}

impl Options {
    /// PostgreSQL's defaults for a format.
    pub fn new(format: Format) -> Options {
        let csv = format == Format::Csv;
        Options {
            format,
            delimiter: if csv { b',' } else { b'\t' },
            null: if csv { "" } else { "\\N" }.to_owned(),
            header: Header::None,
            quote: b'"',
            escape: b'"',
            force_quote: Names::Some(Vec::new()),
            force_not_null: Names::Some(Vec::new()),
            force_null: Names::Some(Vec::new()),
            gather: false,
        }
    }

    /// From a statement's choices.
    ///
    /// # Errors
    /// PostgreSQL's, in its words: 42601 for options that exclude one another, 22023 for values that cannot be, 0A000
    /// for what the format does not have.
    pub fn of(choices: Vec<Choice>, direction: Direction) -> Result<Options, Failure> {
        let mut given = Given::default();
        for choice in choices {
            given.take(choice)?;
        }
        let mut options = Options::new(given.format.unwrap_or(Format::Text));
        let binary = options.format == Format::Binary;
        if binary && given.delimiter.is_some() {
            return Err(misplaced("cannot specify DELIMITER in BINARY mode"));
        }
        if binary && given.null.is_some() {
            return Err(misplaced("cannot specify NULL in BINARY mode"));
        }
        if let Some(delimiter) = &given.delimiter {
            options.delimiter = byte("delimiter", delimiter)?;
        }
        options.null = given.null.clone().unwrap_or(options.null);
        options.header = given.header.unwrap_or(Header::None);
        options.gather = given.gather.unwrap_or(false);
        if options.gather && direction == Direction::From {
            return Err(unsupported("COPY gather only available using COPY TO"));
        }
        options.check_lines(direction)?;
        options.take_csv(given, direction)?;
        Ok(options)
    }

    /// What holds of delimiter, null string and header in every format.
    fn check_lines(&self, direction: Direction) -> Result<(), Failure> {
        let delimiter = char::from(self.delimiter);
        if matches!(delimiter, '\r' | '\n') {
            return Err(invalid(
                "COPY delimiter cannot be newline or carriage return",
            ));
        }
        if self.null.contains(['\r', '\n']) {
            return Err(invalid(
                "COPY null representation cannot use newline or carriage return",
            ));
        }
        // What a backslash gives a meaning to cannot end a field.
        let meant = delimiter.is_ascii_lowercase() || delimiter.is_ascii_digit();
        if self.format != Format::Csv && (meant || matches!(delimiter, '\\' | '.')) {
            return Err(invalid(format!("COPY delimiter cannot be \"{delimiter}\"")));
        }
        if self.format == Format::Binary && self.header != Header::None {
            return Err(unsupported("cannot specify HEADER in BINARY mode"));
        }
        if self.header == Header::Match && direction == Direction::To {
            return Err(unsupported("cannot use \"match\" with HEADER in COPY TO"));
        }
        Ok(())
    }

    /// What only csv has.
    fn take_csv(&mut self, given: Given, direction: Direction) -> Result<(), Failure> {
        let csv = self.format == Format::Csv;
        let only = |what: &str| unsupported(format!("COPY {what} available only in CSV mode"));
        if let Some(quote) = &given.quote {
            if !csv {
                return Err(only("quote"));
            }
            self.quote = byte("quote", quote)?;
            self.escape = self.quote;
        }
        if csv && self.delimiter == self.quote {
            return Err(invalid("COPY delimiter and quote must be different"));
        }
        if let Some(escape) = &given.escape {
            if !csv {
                return Err(only("escape"));
            }
            self.escape = byte("escape", escape)?;
        }
        let forced = [
            (
                given.force_quote,
                &mut self.force_quote,
                "force quote",
                Direction::To,
            ),
            (
                given.force_not_null,
                &mut self.force_not_null,
                "force not null",
                Direction::From,
            ),
            (
                given.force_null,
                &mut self.force_null,
                "force null",
                Direction::From,
            ),
        ];
        for (names, slot, what, way) in forced {
            let Some(names) = names.filter(|names| !names.is_none()) else {
                continue;
            };
            if !csv {
                return Err(only(what));
            }
            if direction != way {
                let way = if way == Direction::To { "TO" } else { "FROM" };
                return Err(unsupported(format!(
                    "COPY {what} only available using COPY {way}"
                )));
            }
            *slot = names;
        }
        let delimiter = char::from(self.delimiter);
        if self.format != Format::Binary && self.null.contains(delimiter) {
            return Err(unsupported(
                "COPY delimiter must not appear in the NULL specification",
            ));
        }
        if csv && self.null.contains(char::from(self.quote)) {
            return Err(unsupported(
                "CSV quote character must not appear in the NULL specification",
            ));
        }
        Ok(())
    }
}
