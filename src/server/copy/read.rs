//! Rows out of a stream of bytes that is cut anywhere.
//!
//! Lines and fields are found by PostgreSQL's rules, values are read by [`params`](crate::server::params), and columns
//! fill until whoever asks takes them as batches.

use super::fill::Fill;
use super::lines::{Lines, Next};
use super::write::BINARY_HEAD;
use super::{Format, Header, Options, fields};
use crate::config::SERVER_ROW_BYTES_MAX;
use crate::server::encode::Zone;
use crate::server::failure::Failure;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;

/// Bytes of a line or a value that an error's context shows.
const SHOWN_MAX: usize = 100;

/// Reads the rows of one COPY FROM.
pub struct Reader {
    table: String,
    schema: SchemaRef,
    options: Options,
    zone: Zone,
    not_null: Vec<bool>,
    force_not_null: Vec<bool>,
    force_null: Vec<bool>,
    columns: Vec<Fill>,
    /// Rows in `columns`.
    waiting: usize,
    /// Rows built before and not yet taken.
    rest: Option<RecordBatch>,
    rows: u64,
    lines: Lines,
    fields: fields::Fields,
    header: Header,
    binary: Binary,
    /// After an error nothing more is read or given.
    failed: bool,
}

/// A binary stream so far.
#[derive(Default)]
struct Binary {
    bytes: Vec<u8>,
    /// The signature has been read.
    begun: bool,
    /// The trailer has been read.
    ended: bool,
}

fn malformed(message: impl Into<String>) -> Failure {
    Failure::new("22P04", message)
}

impl Reader {
    /// A reader of rows of `schema`, the target columns in the order of the statement. `table` is for errors.
    ///
    /// # Errors
    /// 42703 for an option that names a column that is not there.
    pub fn new(table: &str, schema: SchemaRef, options: Options) -> Result<Reader, Failure> {
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        Ok(Reader {
            table: table.to_owned(),
            zone: Zone::Utc,
            not_null: schema.fields().iter().map(|f| !f.is_nullable()).collect(),
            force_not_null: options.force_not_null.among(&names, Some(table))?,
            force_null: options.force_null.among(&names, Some(table))?,
            columns: schema.fields().iter().map(|f| Fill::new(f)).collect(),
            waiting: 0,
            rest: None,
            rows: 0,
            lines: Lines::new(&options),
            fields: fields::Fields::new(&options),
            header: options.header,
            binary: Binary::default(),
            failed: false,
            schema,
            options,
        })
    }

    /// With the session's time zone, for `timestamptz` without offset.
    #[must_use]
    pub fn in_zone(mut self, zone: Zone) -> Reader {
        self.zone = zone;
        self
    }

    /// What a CopyInResponse says: the overall format and each column's.
    pub fn column_format(&self) -> (i8, Vec<i16>) {
        super::column_format(self.options.format, self.columns.len())
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// 22P04 for a malformed file, 22P02 and its like for a value, 23502 for a null where none may be, 54000 for a row
    /// beyond the limit; `context` says where. The reader is of no use afterwards.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.guarded(|reader| match reader.options.format {
            Format::Binary => {
                reader.binary.bytes.extend_from_slice(bytes);
                reader.read_tuples()
            }
            _ => {
                reader.lines.push(bytes);
                reader.read_lines(false)
            }
        })
    }

    /// `most_rows` rows, once as many are there.
    pub fn take_batch(&mut self, most_rows: usize) -> Option<RecordBatch> {
        let built = self.rest.as_ref().map_or(0, RecordBatch::num_rows);
        let most = most_rows.max(1);
        if self.failed || built + self.waiting < most {
            return None;
        }
        if built < most {
            self.rest = self.gather().ok()?;
        }
        let rest = self.rest.take()?;
        let batch = rest.slice(0, most.min(rest.num_rows()));
        if rest.num_rows() > most {
            self.rest = Some(rest.slice(most, rest.num_rows() - most));
        }
        Some(batch)
    }

    /// Ends the stream (CopyDone); the remaining rows, if any.
    ///
    /// # Errors
    /// As [`Reader::push`], of a stream that ends too early.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>, Failure> {
        self.guarded(|reader| match reader.options.format {
            Format::Binary => reader.end_tuples(),
            _ => reader.read_lines(true),
        })?;
        self.gather()
    }

    /// Rows read so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn guarded(
        &mut self,
        work: impl FnOnce(&mut Reader) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.failed {
            return Err(Failure::new("55000", "COPY has failed before"));
        }
        let done = work(self);
        self.failed = done.is_err();
        done
    }

    /// All rows that were not taken.
    fn gather(&mut self) -> Result<Option<RecordBatch>, Failure> {
        let rest = self.rest.take();
        if self.waiting == 0 {
            return Ok(rest);
        }
        let arrays = self.columns.iter_mut().map(Fill::take);
        let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
        let count = RecordBatchOptions::new().with_row_count(Some(self.waiting));
        let wrong =
            |error: datafusion::arrow::error::ArrowError| Failure::new("XX000", error.to_string());
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &count);
        let batch = batch.map_err(wrong)?;
        self.waiting = 0;
        match rest {
            Some(rest) => concat_batches(&self.schema, [&rest, &batch])
                .map(Some)
                .map_err(wrong),
            None => Ok(Some(batch)),
        }
    }

    // Text and csv.

    fn read_lines(&mut self, last: bool) -> Result<(), Failure> {
        loop {
            let number = self.lines.number() + 1;
            let next = self.lines.next(last);
            match next.map_err(|failure| self.at(failure, &format!("line {number}")))? {
                Next::Line(line) => self.read_line(line)?,
                Next::More | Next::End => return Ok(()),
            }
        }
    }

    fn read_line(&mut self, line: std::ops::Range<usize>) -> Result<(), Failure> {
        let number = self.lines.number();
        let header = std::mem::replace(&mut self.header, Header::None);
        if header == Header::Line {
            return Ok(());
        }
        let bytes = self.lines.bytes(line.clone());
        let whole = |reader: &Reader, failure| {
            let shown = shown(reader.lines.bytes(line.clone()));
            reader.at(failure, &format!("line {number}: {shown}"))
        };
        if let Err(failure) = self.fields.split(bytes) {
            return Err(whole(self, failure));
        }
        if header == Header::Match {
            return self.check_header().map_err(|failure| whole(self, failure));
        }
        let count = self.columns.len();
        // A line of nothing is the one row that a table without columns has.
        let found = match count {
            0 if line.is_empty() => 0,
            _ => self.fields.len(),
        };
        if found > count {
            return Err(whole(
                self,
                malformed("extra data after last expected column"),
            ));
        }
        for at in 0..found {
            let value = self
                .fields
                .value(at, self.force_not_null[at], self.force_null[at]);
            let result = match (value, self.not_null[at]) {
                (None, true) => Err(self.null_violation(at)),
                (value, _) => self.columns[at].push_text(value, &self.zone),
            };
            if let Err(failure) = result {
                let null = || "null input".to_owned();
                let shown = self.fields.get(at).map_or_else(null, shown);
                let name = self.schema.field(at).name();
                return Err(self.at(failure, &format!("line {number}, column {name}: {shown}")));
            }
        }
        if let Some(field) = self.schema.fields().get(found) {
            let missing = format!("missing data for column \"{}\"", field.name());
            return Err(whole(self, malformed(missing)));
        }
        self.waiting += 1;
        self.rows += 1;
        Ok(())
    }

    fn check_header(&self) -> Result<(), Failure> {
        let (found, expected) = (self.fields.len(), self.columns.len());
        if found != expected {
            return Err(malformed(format!(
                "wrong number of fields in header line: got {found}, expected {expected}"
            )));
        }
        for (at, field) in self.schema.fields().iter().enumerate() {
            let (name, place) = (field.name(), at + 1);
            match self.fields.get(at) {
                None => {
                    return Err(malformed(format!(
                        "column name mismatch in header line field {place}: got null value (\"{}\"), expected \"{name}\"",
                        self.options.null
                    )));
                }
                Some(found) if found != name.as_bytes() => {
                    return Err(malformed(format!(
                        "column name mismatch in header line field {place}: got {}, expected \"{name}\"",
                        shown(found)
                    )));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn null_violation(&self, at: usize) -> Failure {
        let name = self.schema.field(at).name();
        let table = &self.table;
        Failure::new(
            "23502",
            format!(
                "null value in column \"{name}\" of relation \"{table}\" violates not-null constraint"
            ),
        )
    }

    /// With the place in the file.
    fn at(&self, failure: Failure, place: &str) -> Failure {
        Failure {
            context: Some(format!("COPY {}, {place}", self.table).into()),
            ..failure
        }
    }

    // Binary.

    fn read_tuples(&mut self) -> Result<(), Failure> {
        let bytes = std::mem::take(&mut self.binary.bytes);
        let mut at = 0;
        if !self.binary.begun {
            match binary_head(&bytes)? {
                Some(length) => at = length,
                None => {
                    self.binary.bytes = bytes;
                    return Ok(());
                }
            }
            self.binary.begun = true;
        }
        while let Some(length) = self.read_tuple(&bytes[at..])? {
            at += length;
        }
        self.binary.bytes = bytes;
        self.binary.bytes.drain(..at);
        Ok(())
    }

    /// Reads a row at the beginning of `bytes`; gives its length, none if it is not all there.
    fn read_tuple(&mut self, bytes: &[u8]) -> Result<Option<usize>, Failure> {
        let line = self.rows + 1;
        if self.binary.ended {
            return match bytes {
                [] => Ok(None),
                _ => Err(malformed("received copy data after EOF marker")),
            };
        }
        let Some((count, _)) = bytes.split_first_chunk::<2>() else {
            return Ok(None);
        };
        let (count, expected) = (i16::from_be_bytes(*count), self.columns.len());
        if count == -1 {
            self.binary.ended = true;
            return Ok(Some(2));
        }
        if usize::try_from(count) != Ok(expected) {
            let wrong = format!("row field count is {count}, expected {expected}");
            return Err(self.at(malformed(wrong), &format!("line {line}")));
        }
        // First see that all of it is there: columns fill together or not at all.
        let mut end = 2;
        for _ in 0..expected {
            let Some((size, _)) = bytes[end..].split_first_chunk::<4>() else {
                return Ok(None);
            };
            let size = i32::from_be_bytes(*size);
            if size < -1 {
                return Err(self.at(malformed("invalid field size"), &format!("line {line}")));
            }
            end += 4 + size.max(0) as usize;
            if end > SERVER_ROW_BYTES_MAX {
                let most = format!("a row exceeds the limit of {SERVER_ROW_BYTES_MAX} bytes");
                return Err(self.at(Failure::new("54000", most), &format!("line {line}")));
            }
            if end > bytes.len() {
                return Ok(None);
            }
        }
        let mut from = 2;
        for at in 0..expected {
            let (size, _) = bytes[from..]
                .split_first_chunk()
                .expect("bug: a size was seen here");
            from += 4;
            let value = match i32::from_be_bytes(*size) {
                -1 => None,
                size => {
                    let value = &bytes[from..from + size as usize];
                    from += value.len();
                    Some(value)
                }
            };
            let result = match (value, self.not_null[at]) {
                (None, true) => Err(self.null_violation(at)),
                (value, _) => self.columns[at].push_binary(value, &self.zone),
            };
            if let Err(failure) = result {
                let name = self.schema.field(at).name();
                return Err(self.at(failure, &format!("line {line}, column {name}")));
            }
        }
        self.waiting += 1;
        self.rows += 1;
        Ok(Some(end))
    }

    fn end_tuples(&mut self) -> Result<(), Failure> {
        if !self.binary.begun {
            return Err(malformed("COPY file signature not recognized"));
        }
        // Without a trailer a stream may end between two rows.
        match self.binary.bytes.is_empty() {
            true => Ok(()),
            false => Err(malformed("unexpected EOF in COPY data")),
        }
    }
}

/// The length of a binary file's header, if all of it is there.
fn binary_head(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    let signature = &BINARY_HEAD[..11];
    let seen = bytes.len().min(signature.len());
    if bytes[..seen] != signature[..seen] {
        return Err(malformed("COPY file signature not recognized"));
    }
    let Some((flags, rest)) = bytes.get(11..).and_then(|b| b.split_first_chunk::<4>()) else {
        return Ok(None);
    };
    let flags = u32::from_be_bytes(*flags);
    if flags & (1 << 16) != 0 {
        return Err(malformed("invalid COPY file header (WITH OIDS)"));
    }
    if flags >> 16 != 0 {
        return Err(malformed("unrecognized critical flags in COPY file header"));
    }
    let Some((extension, rest)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let extension = i32::from_be_bytes(*extension);
    match usize::try_from(extension) {
        Ok(length) if length <= SERVER_ROW_BYTES_MAX => {
            Ok((rest.len() >= length).then_some(BINARY_HEAD.len() + length))
        }
        _ => Err(malformed("invalid COPY file header (wrong length)")),
    }
}

/// A line or value for an error, cut.
fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN_MAX)];
    let text = String::from_utf8_lossy(cut);
    let more = if cut.len() < bytes.len() { "..." } else { "" };
    format!("\"{text}{more}\"").replace('\0', "\u{fffd}")
}
