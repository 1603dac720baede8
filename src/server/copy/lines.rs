//! Lines out of a stream of bytes, as COPY's text and csv formats end them.
//!
//! Follows PostgreSQL's `CopyReadLineText`: the first line decides which newline ends lines, a backslash hides the next
//! byte (text), quotes hide newlines (csv), and `\.` ends the data.

use super::{Format, Options};
use crate::config::SERVER_ROW_BYTES_MAX;
use crate::server::failure::Failure;
use std::ops::Range;

/// What ends a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newline {
    Unknown,
    Lf,
    Cr,
    CrLf,
}

/// What the next bytes are.
pub enum Next {
    /// A line, without its end; where it is in [`Lines::bytes`].
    Line(Range<usize>),
    /// More bytes are needed.
    More,
    /// `\.`, or the end of the stream.
    End,
}

/// Bytes that have come, and how far they have been read.
pub struct Lines {
    bytes: Vec<u8>,
    /// Where the line begins.
    start: usize,
    /// Where looking goes on.
    at: usize,
    newline: Newline,
    csv: bool,
    quote: u8,
    /// Not set where it is the quote itself.
    escape: Option<u8>,
    in_quote: bool,
    after_escape: bool,
    ended: bool,
    /// Lines begun so far, those within quotes too.
    number: u64,
    /// Bytes at which to look closer.
    stops: [bool; 256],
}

fn malformed(message: &str) -> Failure {
    Failure::new("22P04", message)
}

impl Lines {
    /// Before the first byte.
    pub fn new(options: &Options) -> Lines {
        let csv = options.format == Format::Csv;
        let mut stops = [false; 256];
        for byte in [b'\n', b'\r', b'\\'] {
            stops[usize::from(byte)] = true;
        }
        if csv {
            stops[usize::from(options.quote)] = true;
            stops[usize::from(options.escape)] = true;
        }
        Lines {
            bytes: Vec::new(),
            start: 0,
            at: 0,
            newline: Newline::Unknown,
            csv,
            quote: options.quote,
            escape: (options.escape != options.quote).then_some(options.escape),
            in_quote: false,
            after_escape: false,
            ended: false,
            number: 0,
            stops,
        }
    }

    /// Takes more bytes; those of lines already given are forgotten.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.ended {
            return;
        }
        self.bytes.drain(..self.start);
        self.at -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes of a line.
    pub fn bytes(&self, line: Range<usize>) -> &[u8] {
        &self.bytes[line]
    }

    /// The number of the line given last, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line. `last` says that no more bytes will come.
    pub fn next(&mut self, last: bool) -> Result<Next, Failure> {
        if self.ended {
            return Ok(Next::End);
        }
        loop {
            if self.at - self.start > SERVER_ROW_BYTES_MAX {
                return Err(Failure::new(
                    "54000",
                    format!("a line exceeds the limit of {SERVER_ROW_BYTES_MAX} bytes"),
                ));
            }
            let rest = &self.bytes[self.at..];
            let stop = rest.iter().position(|byte| self.stops[usize::from(*byte)]);
            // Letters between two escapes end the row of escapes.
            if stop != Some(0) && !rest.is_empty() {
                self.after_escape = false;
            }
            let Some(stop) = stop else {
                self.at = self.bytes.len();
                if !last {
                    return Ok(Next::More);
                }
                self.ended = true;
                return Ok(match self.start < self.at {
                    true => self.line(self.at, self.at),
                    false => Next::End,
                });
            };
            self.at += stop;
            if let Some(next) = self.look(last)? {
                return Ok(next);
            }
        }
    }

    /// Ends the line at `end`; the next begins at `next`.
    fn line(&mut self, end: usize, next: usize) -> Next {
        let line = self.start..end;
        self.number += 1;
        (self.start, self.at) = (next, next);
        (self.in_quote, self.after_escape) = (false, false);
        Next::Line(line)
    }

    /// Looks at the byte at which looking stopped; none to go on behind it.
    fn look(&mut self, last: bool) -> Result<Option<Next>, Failure> {
        let byte = self.bytes[self.at];
        if self.csv {
            if self.in_quote && Some(byte) == self.escape {
                self.after_escape = !self.after_escape;
            }
            if byte == self.quote && !self.after_escape {
                self.in_quote = !self.in_quote;
            }
            if Some(byte) != self.escape {
                self.after_escape = false;
            }
            if self.in_quote {
                let counted = if self.newline == Newline::Lf {
                    b'\n'
                } else {
                    b'\r'
                };
                self.number += u64::from(byte == counted);
                self.at += 1;
                return Ok(None);
            }
        }
        match byte {
            b'\n' => self.at_lf().map(Some),
            b'\r' => self.at_cr(last),
            b'\\' if !self.csv || self.at == self.start => self.at_backslash(last),
            _ => {
                self.at += 1;
                Ok(None)
            }
        }
    }

    fn at_lf(&mut self) -> Result<Next, Failure> {
        if matches!(self.newline, Newline::Cr | Newline::CrLf) {
            return Err(match self.csv {
                true => malformed("unquoted newline found in data")
                    .with_hint("Use quoted CSV field to represent newline."),
                false => malformed("literal newline found in data")
                    .with_hint("Use \"\\n\" to represent newline."),
            });
        }
        self.newline = Newline::Lf;
        Ok(self.line(self.at, self.at + 1))
    }

    fn at_cr(&mut self, last: bool) -> Result<Option<Next>, Failure> {
        let next = self.bytes.get(self.at + 1);
        if self.newline != Newline::Cr && next.is_none() && !last {
            return Ok(Some(Next::More));
        }
        if matches!(self.newline, Newline::Unknown | Newline::CrLf) && next == Some(&b'\n') {
            self.newline = Newline::CrLf;
            return Ok(Some(self.line(self.at, self.at + 2)));
        }
        if matches!(self.newline, Newline::Unknown | Newline::Cr) {
            self.newline = Newline::Cr;
            return Ok(Some(self.line(self.at, self.at + 1)));
        }
        Err(match self.csv {
            true => malformed("unquoted carriage return found in data")
                .with_hint("Use quoted CSV field to represent carriage return."),
            false => malformed("literal carriage return found in data")
                .with_hint("Use \"\\r\" to represent carriage return."),
        })
    }

    fn at_backslash(&mut self, last: bool) -> Result<Option<Next>, Failure> {
        let after = &self.bytes[self.at + 1..];
        match after {
            [] if !last => return Ok(Some(Next::More)),
            [b'.'] if !last => return Ok(Some(Next::More)),
            [b'.'] | [b'.', b'\n' | b'\r', ..] => {
                self.ended = true;
                let end = self.at;
                return Ok(Some(match self.start < end {
                    true => self.line(end, end),
                    false => Next::End,
                }));
            }
            [b'.', ..] if !self.csv => return Err(malformed("end-of-copy marker corrupt")),
            _ => {}
        }
        // In text a backslash hides the next byte, whatever it is.
        let hidden = usize::from(!self.csv && !after.is_empty());
        self.at += 1 + hidden;
        Ok(None)
    }
}
