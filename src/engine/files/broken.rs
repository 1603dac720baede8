//! Broken rows of text files left out, and said.
//!
//! Takes the store in which the files are, gives one whose files hold only rows that fit the columns, unpacked. Says at
//! the end of a file how many rows it left out. Every column counts, whether the statement reads it or not: the same
//! rows are left out of each statement.

use super::records::{Record, Splitter};
use super::text::Text;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::common::DataFusionError;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    self, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use safeguard_udfs::Tally;
use std::fmt;
use std::sync::Arc;

/// A store whose text files hold no broken rows.
#[derive(Debug)]
pub(super) struct Whole {
    pub inner: Arc<dyn ObjectStore>,
    pub text: Text,
    /// What a location begins with.
    pub base: String,
    /// `None` where no statement runs.
    pub tally: Option<Arc<Tally>>,
}

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} without broken rows", self.inner)
    }
}

/// One file on its way.
struct Filter {
    text: Text,
    splitter: Splitter,
    /// Whether the next record names the columns.
    header: bool,
    file: String,
    left_out: u64,
    /// The line of the first.
    first: u64,
    tally: Option<Arc<Tally>>,
}

impl Filter {
    fn push(&mut self, bytes: &[u8]) -> Bytes {
        let records = self.splitter.push(bytes);
        self.keep(records)
    }

    fn end(&mut self) -> Bytes {
        let mut kept = Vec::new();
        while let Some(last) = self.splitter.end() {
            if !last.open {
                kept.extend(self.keep(vec![last]));
                break;
            }
            // A quote that is never closed breaks its line, and not all that follow.
            self.leave_out(last.line);
            let rest = last.text.iter().position(|byte| *byte == b'\n');
            let Some(rest) = rest.and_then(|at| last.text.get(at + 1..)) else {
                break;
            };
            self.splitter = Splitter::new(self.text.syntax, last.line + 1);
            let records = self.splitter.push(rest);
            kept.extend(self.keep(records));
        }
        self.say();
        kept.into()
    }

    fn keep(&mut self, mut records: Vec<Record>) -> Bytes {
        let mut kept = Vec::new();
        if self.header && !records.is_empty() {
            self.header = false;
            kept.extend(records.remove(0).text);
        }
        if records.is_empty() {
            return kept.into();
        }
        // Where all fit, one look is enough.
        let all = self.text.check(&records).is_ok();
        for record in records {
            if all || self.text.check(std::slice::from_ref(&record)).is_ok() {
                kept.extend(record.text);
                continue;
            }
            self.leave_out(record.line);
        }
        kept.into()
    }

    fn leave_out(&mut self, line: u64) {
        if self.left_out == 0 {
            self.first = line;
        }
        self.left_out += 1;
    }

    fn say(&mut self) {
        let Some(tally) = self.tally.take() else {
            return;
        };
        if self.left_out > 0 {
            let rows = if self.left_out == 1 { "row" } else { "rows" };
            tally.note(format!(
                "{}: {} broken {rows} left out, the first on line {}",
                self.file, self.left_out, self.first
            ));
        }
    }
}

impl Drop for Filter {
    /// A statement that needs no more rows (LIMIT) says what it has left out so far.
    fn drop(&mut self) {
        self.say();
    }
}

fn generic(error: DataFusionError) -> object_store::Error {
    object_store::Error::Generic {
        store: "text",
        source: Box::new(error),
    }
}

#[async_trait]
impl ObjectStore for Whole {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.inner.get_opts(location, options.clone()).await?;
        if options.head {
            return Ok(found);
        }
        let payload = GetResultPayload::Stream(stream::empty().boxed());
        let payload = std::mem::replace(&mut found.payload, payload);
        let whole = GetResult {
            payload,
            meta: found.meta.clone(),
            range: found.range.clone(),
            attributes: found.attributes.clone(),
        };
        let packed = whole.into_stream().map_err(DataFusionError::from).boxed();
        let bytes = self.text.compression.convert_stream(packed);
        let mut filter = Filter {
            splitter: Splitter::new(self.text.syntax, 1),
            header: self.text.header,
            text: self.text.clone(),
            file: format!("{}{location}", self.base),
            left_out: 0,
            first: 0,
            tally: self.tally.clone(),
        };
        let ended = stream::once(async { Ok(None) });
        let rows = bytes.map_err(generic)?.map_ok(Some).chain(ended);
        let rows = rows.map(move |chunk| match chunk.map_err(generic)? {
            Some(bytes) => Ok(filter.push(&bytes)),
            None => Ok(filter.end()),
        });
        // An empty chunk in the middle reads as the end.
        let rows = rows.try_filter(|bytes| std::future::ready(!bytes.is_empty()));
        found.payload = GetResultPayload::Stream(rows.boxed());
        Ok(found)
    }

    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
