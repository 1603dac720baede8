//! Fields out of a line, as COPY's text and csv formats spell them.
//!
//! Follows PostgreSQL's `CopyReadAttributesText` and `CopyReadAttributesCSV`. The buffers are used again for each line.

use super::{Format, Options};
use crate::server::failure::Failure;
use std::ops::Range;

/// The fields of one line.
pub struct Fields {
    csv: bool,
    delimiter: u8,
    quote: u8,
    escape: u8,
    null: Vec<u8>,
    /// Bytes that are not themselves.
    special: [bool; 256],
    /// The fields' bytes, one after another.
    bytes: Vec<u8>,
    /// Where each is; none for NULL.
    places: Vec<Option<Range<usize>>>,
}

impl Fields {
    /// Before the first line.
    pub fn new(options: &Options) -> Fields {
        let csv = options.format == Format::Csv;
        let mut special = [false; 256];
        special[usize::from(options.delimiter)] = true;
        special[usize::from(if csv { options.quote } else { b'\\' })] = true;
        Fields {
            csv,
            delimiter: options.delimiter,
            quote: options.quote,
            escape: options.escape,
            null: options.null.as_bytes().to_vec(),
            special,
            bytes: Vec::new(),
            places: Vec::new(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The bytes of a field; none for NULL.
    pub fn get(&self, at: usize) -> Option<&[u8]> {
        let place = self.places.get(at)?.clone()?;
        Some(&self.bytes[place])
    }

    /// The bytes of a field for a column that never takes the null string for NULL, or takes it even from quotes.
    pub fn value(&self, at: usize, never: bool, always: bool) -> Option<&[u8]> {
        match self.get(at) {
            None if never => Some(&self.null),
            Some(value) if always && value == self.null => None,
            value => value,
        }
    }

    /// Takes a line apart.
    ///
    /// # Errors
    /// 22P04 for a quote that never ends.
    pub fn split(&mut self, line: &[u8]) -> Result<(), Failure> {
        self.bytes.clear();
        self.places.clear();
        let mut at = 0;
        loop {
            let from = self.bytes.len();
            let (end, quoted) = match self.csv {
                true => self.csv_field(line, at)?,
                false => (self.text_field(line, at), false),
            };
            let null = !quoted && line[at..end] == self.null[..];
            self.places.push((!null).then_some(from..self.bytes.len()));
            if end >= line.len() {
                return Ok(());
            }
            at = end + 1;
        }
    }

    /// Copies bytes that are themselves; gives where the first that is not stands.
    fn run(&mut self, line: &[u8], at: usize) -> usize {
        let rest = &line[at..];
        let stop = rest
            .iter()
            .position(|byte| self.special[usize::from(*byte)]);
        let stop = stop.unwrap_or(rest.len());
        self.bytes.extend_from_slice(&rest[..stop]);
        at + stop
    }

    /// Reads a field with backslashes; gives where it ends.
    fn text_field(&mut self, line: &[u8], mut at: usize) -> usize {
        loop {
            at = self.run(line, at);
            match line.get(at) {
                None => return at,
                Some(byte) if *byte == self.delimiter => return at,
                Some(_) => at = self.escaped(line, at + 1),
            }
        }
    }

    /// Reads what follows a backslash; gives where that ends.
    fn escaped(&mut self, line: &[u8], at: usize) -> usize {
        let Some(byte) = line.get(at) else {
            // A backslash at the end of the data is dropped, as in PostgreSQL.
            return at;
        };
        let digits = |from: usize, most: usize, base: u32| {
            let digits = line[from..].iter().take(most);
            digits
                .map_while(|digit| char::from(*digit).to_digit(base))
                .fold((from, 0), |(end, value), digit| {
                    (end + 1, value * base + digit)
                })
        };
        let (value, end) = match byte {
            b'0'..=b'7' => {
                let (end, value) = digits(at, 3, 8);
                (value as u8, end)
            }
            b'x' => match digits(at + 1, 2, 16) {
                (end, _) if end == at + 1 => (b'x', end),
                (end, value) => (value as u8, end),
            },
            b'b' => (0x08, at + 1),
            b'f' => (0x0c, at + 1),
            b'n' => (b'\n', at + 1),
            b'r' => (b'\r', at + 1),
            b't' => (b'\t', at + 1),
            b'v' => (0x0b, at + 1),
            other => (*other, at + 1),
        };
        self.bytes.push(value);
        end
    }

    /// Reads a field, parts of which may be quoted; gives where it ends and whether any is.
    fn csv_field(&mut self, line: &[u8], mut at: usize) -> Result<(usize, bool), Failure> {
        let mut quoted = false;
        loop {
            at = self.run(line, at);
            match line.get(at) {
                None => return Ok((at, quoted)),
                Some(byte) if *byte == self.delimiter => return Ok((at, quoted)),
                Some(_) => {
                    quoted = true;
                    at = self.quoted(line, at + 1)?;
                }
            }
        }
    }

    /// Reads to behind the closing quote.
    fn quoted(&mut self, line: &[u8], mut at: usize) -> Result<usize, Failure> {
        loop {
            let Some(byte) = line.get(at) else {
                return Err(Failure::new("22P04", "unterminated CSV quoted field"));
            };
            let next = line.get(at + 1).copied();
            let hides = next.filter(|next| [self.quote, self.escape].contains(next));
            if let Some(hidden) = hides.filter(|_| *byte == self.escape) {
                self.bytes.push(hidden);
                at += 2;
                continue;
            }
            if *byte == self.quote {
                return Ok(at + 1);
            }
            self.bytes.push(*byte);
            at += 1;
        }
    }
}
