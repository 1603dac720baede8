//! The rows of a text file, one after the other, with the line on which each begins.
//!
//! Takes bytes as they come, gives whole records: a line of JSON, or a row of CSV, which a quoted value may spread over
//! several lines. Splits as DataFusion's readers do: empty lines and comments are no records. Knows no columns.

/// How the records of a file are told apart.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Syntax {
    /// `None` where a line is a record, whatever it holds.
    pub quote: Option<u8>,
    pub delimiter: u8,
    pub escape: Option<u8>,
    pub comment: Option<u8>,
    /// `None` for a line's end of any kind.
    pub terminator: Option<u8>,
}

/// One record, with its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The line of the file on which it begins, from 1.
    pub line: u64,
    pub text: Vec<u8>,
    /// Whether the file ends before the quote does that is open in it.
    pub open: bool,
}

/// Where in a record the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// A field begins.
    Field,
    Plain,
    Quoted,
    /// Behind an escape within quotes.
    Escaped,
}

/// Cuts bytes into records.
#[derive(Debug)]
pub(super) struct Splitter {
    syntax: Syntax,
    at: At,
    text: Vec<u8>,
    /// Of the next byte.
    line: u64,
    /// Of the record's first byte.
    begun: u64,
    after_return: bool,
}

impl Splitter {
    /// For bytes that begin with this line of a file.
    pub(super) fn new(syntax: Syntax, line: u64) -> Splitter {
        Splitter {
            syntax,
            at: At::Field,
            text: Vec::new(),
            line,
            begun: line,
            after_return: false,
        }
    }

    /// The records that end in these bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Record> {
        let mut records = Vec::new();
        for byte in bytes {
            self.text.push(*byte);
            let ends = self.step(*byte);
            if self.ends_line(*byte) {
                self.line += 1;
            }
            if ends {
                records.extend(self.take());
            }
        }
        records
    }

    /// What stands behind the last line's end.
    pub(super) fn end(&mut self) -> Option<Record> {
        self.take()
    }

    fn take(&mut self) -> Option<Record> {
        let text = std::mem::take(&mut self.text);
        let begun = std::mem::replace(&mut self.begun, self.line);
        let at = std::mem::replace(&mut self.at, At::Field);
        let open = matches!(at, At::Quoted | At::Escaped);
        let empty = text.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
        let comment = self.syntax.comment.is_some() && text.first().copied() == self.syntax.comment;
        (!empty && !comment).then_some(Record {
            line: begun,
            text,
            open,
        })
    }

    /// Whether the record ends with this byte.
    fn step(&mut self, byte: u8) -> bool {
        let syntax = self.syntax;
        if self.at == At::Escaped {
            self.at = At::Quoted;
            return false;
        }
        if self.at == At::Quoted {
            if syntax.escape == Some(byte) {
                self.at = At::Escaped;
            } else if syntax.quote == Some(byte) {
                // A doubled quote begins another quoted part, which is the same value.
                self.at = At::Field;
            }
            return false;
        }
        let ends = match syntax.terminator {
            Some(terminator) => byte == terminator,
            None => matches!(byte, b'\n' | b'\r'),
        };
        self.at = match byte {
            _ if self.at == At::Field && syntax.quote == Some(byte) => At::Quoted,
            _ if byte == syntax.delimiter && syntax.quote.is_some() => At::Field,
            _ => At::Plain,
        };
        ends
    }

    fn ends_line(&mut self, byte: u8) -> bool {
        let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
        match self.syntax.terminator {
            Some(terminator) => byte == terminator,
            None => byte == b'\r' || (byte == b'\n' && !after_return),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_begin_on_the_lines_that_an_editor_shows() {
        let csv = Syntax {
            quote: Some(b'"'),
            delimiter: b',',
            comment: Some(b'#'),
            ..Syntax::default()
        };
        let escaped = Syntax {
            escape: Some(b'\\'),
            ..csv
        };
        let json = Syntax::default();
        let cut = Syntax {
            terminator: Some(b'|'),
            ..csv
        };
        // Syntax, bytes, records with their lines.
        type Case<'a> = (Syntax, &'a str, &'a [(u64, &'a str)]);
        let cases: &[Case<'_>] = &[
            (csv, "a,b\n1,2\n", &[(1, "a,b\n"), (2, "1,2\n")]),
            (csv, "a\n\n\nb", &[(1, "a\n"), (4, "b")]),
            (csv, "a\r\nb\r\n", &[(1, "a\r"), (2, "b\r")]),
            (csv, "a\rb\r", &[(1, "a\r"), (2, "b\r")]),
            (csv, "#a\nb\n", &[(2, "b\n")]),
            (csv, "\"a\nb\",c\nd\n", &[(1, "\"a\nb\",c\n"), (3, "d\n")]),
            (
                csv,
                "\"a\"\"\nb\"\nd\n",
                &[(1, "\"a\"\"\nb\"\n"), (3, "d\n")],
            ),
            (csv, "a\"b\nc\n", &[(1, "a\"b\n"), (2, "c\n")]),
            (
                escaped,
                "\"a\\\"\nb\"\nd\n",
                &[(1, "\"a\\\"\nb\"\n"), (3, "d\n")],
            ),
            (json, "\"a\n\"b\n", &[(1, "\"a\n"), (2, "\"b\n")]),
            (cut, "a|b|", &[(1, "a|"), (2, "b|")]),
            (csv, "", &[]),
        ];
        for (syntax, bytes, want) in cases {
            // Whole, and byte by byte.
            for size in [bytes.len().max(1), 1] {
                let mut splitter = Splitter::new(*syntax, 1);
                let chunks = bytes.as_bytes().chunks(size);
                let mut got: Vec<Record> = chunks.flat_map(|chunk| splitter.push(chunk)).collect();
                got.extend(splitter.end());
                let got: Vec<(u64, String)> = got
                    .into_iter()
                    .map(|record| (record.line, String::from_utf8(record.text).unwrap()))
                    .collect();
                let want: Vec<(u64, String)> =
                    want.iter().map(|(n, t)| (*n, (*t).to_owned())).collect();
                assert_eq!(got, want, "{bytes:?} by {size}");
            }
        }
    }

    #[test]
    fn a_quote_that_is_never_closed_is_seen() {
        let csv = Syntax {
            quote: Some(b'"'),
            delimiter: b',',
            ..Syntax::default()
        };
        for (bytes, open) in [
            ("1,\"a\n2,b\n", true),
            ("1,\"a\"\"\n", true),
            ("1,\"a\"", false),
            ("1,a\"", false),
        ] {
            let mut splitter = Splitter::new(csv, 1);
            assert!(splitter.push(bytes.as_bytes()).is_empty(), "{bytes:?}");
            assert_eq!(splitter.end().unwrap().open, open, "{bytes:?}");
        }
    }
}
