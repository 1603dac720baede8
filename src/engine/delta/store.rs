//! The store through which one statement writes: what is written is remembered, and the entry of the log is its commit.
//!
//! Takes a statement, gives an object store for deltalake. Reads go through. Knows no order of steps: that is `writing`'s.

use super::writing::{Part, Writing, given_up};
use async_trait::async_trait;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
    UploadPart,
};
use futures::stream::BoxStream;
use std::fmt;
use std::sync::Arc;

/// A store through which one statement writes.
#[derive(Debug, Clone)]
pub(super) struct Written(pub(super) Arc<Writing>);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for one statement", self.0.inner())
    }
}

#[async_trait]
impl ObjectStore for Written {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        match self.0.part(location, &options.mode) {
            Part::Entry(version) => self.0.commit(version, location, payload).await,
            Part::Rows => {
                self.0.opening(location)?;
                let put = self.0.inner().put_opts(location, payload, options).await?;
                self.0.opened(location).await?;
                Ok(put)
            }
            Part::Other => self.0.inner().put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if self.0.part(location, &PutMode::Overwrite) != Part::Rows {
            return self.0.inner().put_multipart_opts(location, options).await;
        }
        self.0.opening(location)?;
        let inner = self.0.inner().put_multipart_opts(location, options).await?;
        Ok(Box::new(Upload {
            inner,
            writing: Arc::clone(&self.0),
            file: location.clone(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.inner().get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.inner().delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.inner().list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.inner().list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.inner().list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.inner().copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.inner().rename_opts(from, to, options).await
    }
}

/// A large file of rows.
#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    writing: Arc<Writing>,
    file: Path,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        if !self.writing.is_writing() {
            self.inner.abort().await?;
            return Err(given_up());
        }
        let done = self.inner.complete().await?;
        self.writing.opened(&self.file).await?;
        Ok(done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
