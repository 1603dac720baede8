//! Text files, CSV and JSON lines: where a broken row stands, what a header says, which rows do not fit.
//!
//! Takes a file through its store, gives lines of the file as an editor counts them. DataFusion counts rows, from the
//! beginning of the part that it reads. Reads a file anew for that, which happens once, where a statement fails.

use super::records::{Record, Splitter, Syntax};
use bytes::Bytes;
use datafusion::arrow::{csv, datatypes::SchemaRef, error::ArrowError, json};
use datafusion::common::Result;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectStore, ObjectStoreExt};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;

/// How a text file is read.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub csv: bool,
    /// Whether the first record names the columns.
    pub header: bool,
    /// Whether a row may have fewer fields than columns.
    pub truncated: bool,
    pub syntax: Syntax,
    pub compression: FileCompressionType,
    /// The columns that are in files.
    pub schema: SchemaRef,
}

impl Text {
    /// The file's bytes, unpacked.
    pub(super) async fn bytes(
        &self,
        store: &Arc<dyn ObjectStore>,
        location: &Path,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let found = store.get(location).await?;
        let packed = found.into_stream().map_err(Into::into).boxed();
        self.compression.convert_stream(packed)
    }

    /// The first record that is wanted, of those that begin in a part of the file; records are counted from 0. `None`
    /// also where the file cannot be read.
    pub(super) async fn find(
        &self,
        store: &Arc<dyn ObjectStore>,
        location: &Path,
        start: u64,
        mut wanted: impl FnMut(u64, &Record) -> bool,
    ) -> Option<Record> {
        let mut bytes = self.bytes(store, location).await.ok()?;
        let end = self.syntax.terminator.unwrap_or(b'\n');
        let mut splitter = (start == 0).then(|| Splitter::new(self.syntax, 1));
        let (mut offset, mut line, mut index) = (0, 1, 0);
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk.ok()?;
            let mut rest = &chunk[..];
            if splitter.is_none() {
                // A part begins behind the first line's end that is not before its first byte but one.
                for (place, _) in chunk.iter().enumerate().filter(|(_, byte)| **byte == end) {
                    line += 1;
                    if offset + place as u64 + 1 >= start {
                        splitter = Some(Splitter::new(self.syntax, line));
                        rest = &chunk[place + 1..];
                        break;
                    }
                }
            }
            offset += chunk.len() as u64;
            let Some(splitter) = &mut splitter else {
                continue;
            };
            for record in splitter.push(rest) {
                if wanted(index, &record) {
                    return Some(record);
                }
                index += 1;
            }
        }
        let last = splitter?.end()?;
        wanted(index, &last).then_some(last)
    }

    /// The names that the file's header gives; `None` where it has none that can be read.
    pub(super) async fn names(
        &self,
        store: &Arc<dyn ObjectStore>,
        location: &Path,
    ) -> Option<Vec<String>> {
        let first = self.find(store, location, 0, |_, _| true).await?;
        self.fields(&first.text)
    }

    /// The fields of one row of CSV.
    pub(super) fn fields(&self, row: &[u8]) -> Option<Vec<String>> {
        let mut reader = ::csv::ReaderBuilder::new();
        reader.has_headers(false).delimiter(self.syntax.delimiter);
        reader.quote(self.syntax.quote.unwrap_or(b'"'));
        reader.escape(self.syntax.escape);
        if let Some(terminator) = self.syntax.terminator {
            reader.terminator(::csv::Terminator::Any(terminator));
        }
        let row = reader.from_reader(row).into_records().next()?.ok()?;
        Some(row.iter().map(str::to_owned).collect())
    }

    /// The first row that no columns can be read from: the kind of error, and where and why.
    pub(super) async fn unlike(
        &self,
        store: &Arc<dyn ObjectStore>,
        location: &Path,
    ) -> Option<(&'static str, String)> {
        let (mut first, mut why) = (None, String::new());
        let unlike = |_, record: &Record| {
            if !self.csv {
                let read: Result<serde::de::IgnoredAny, _> =
                    serde_json::from_slice(record.text.trim_ascii_end());
                why = read.err().map(|e| e.to_string()).unwrap_or_default();
                return !why.is_empty();
            }
            let Some(fields) = self.fields(&record.text) else {
                return false;
            };
            let (want, got) = (*first.get_or_insert(fields.len()), fields.len());
            why = format!(", expected {want} got {got}");
            want != got && !(self.truncated && got < want)
        };
        let line = self.find(store, location, 0, unlike).await?.line;
        if self.csv {
            let why = format!("incorrect number of fields for line {line}{why}");
            return Some(("Csv error", why));
        }
        // It is given one line at a time.
        let why = why.replace(" at line 1 column ", " at column ");
        Some(("Json error", format!("line {line}: {why}")))
    }

    /// Why these records cannot be read as rows of the columns.
    ///
    /// # Errors
    /// One of them has another number of fields, or a value that is none of its column's type.
    pub(super) fn check(&self, records: &[Record]) -> Result<(), ArrowError> {
        match self.csv {
            true => self.check_csv(records),
            false => self.check_json(records),
        }
    }

    fn check_csv(&self, records: &[Record]) -> Result<(), ArrowError> {
        let syntax = self.syntax;
        let mut reader = csv::ReaderBuilder::new(Arc::clone(&self.schema))
            .with_batch_size(records.len())
            .with_header(false)
            .with_delimiter(syntax.delimiter)
            .with_truncated_rows(self.truncated);
        if let Some(quote) = syntax.quote {
            reader = reader.with_quote(quote);
        }
        if let Some(escape) = syntax.escape {
            reader = reader.with_escape(escape);
        }
        if let Some(terminator) = syntax.terminator {
            reader = reader.with_terminator(terminator);
        }
        let mut decoder = reader.build_decoder();
        for record in records {
            let mut rest = &record.text[..];
            while !rest.is_empty() {
                let read = decoder.decode(rest)?;
                if read == 0 {
                    break;
                }
                rest = &rest[read..];
            }
        }
        decoder.decode(&[])?;
        decoder.flush().map(drop)
    }

    fn check_json(&self, records: &[Record]) -> Result<(), ArrowError> {
        let reader = json::ReaderBuilder::new(Arc::clone(&self.schema));
        let mut decoder = reader.with_batch_size(records.len()).build_decoder()?;
        for record in records {
            decoder.decode(&record.text)?;
        }
        decoder.flush().map(drop)
    }
}
