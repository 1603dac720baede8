//! The store through which one statement writes: what is written is remembered, and the entry of the log is its commit.
//!
//! Takes a statement, gives an object store for deltalake. Reads go through. Knows no order of steps: that is `writing`'s.

use super::writing::{Part, Writing, given_up, nothing};
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
                if let Err(error) = self.rows(location, payload, options).await {
                    self.0.breaks(error);
                }
                Ok(nothing())
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
        let inner = self.0.inner().put_multipart_opts(location, options);
        let inner = match inner.await {
            Ok(inner) => inner,
            Err(error) => {
                self.0.breaks(error);
                return Err(given_up());
            }
        };
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

impl Written {
    async fn rows(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<()> {
        if self.0.is_broken() {
            return Err(given_up());
        }
        self.0.opening(location)?;
        self.0.inner().put_opts(location, payload, options).await?;
        self.0.opened(location).await
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
        let (part, writing) = (self.inner.put_part(data), Arc::clone(&self.writing));
        Box::pin(async move {
            if let Err(error) = part.await {
                writing.breaks(error);
            }
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let done = match self.writing.is_writing() && !self.writing.is_broken() {
            true => self.inner.complete().await.map(drop),
            false => self.inner.abort().await.and(Err(given_up())),
        };
        let done = match done {
            Ok(()) => self.writing.opened(&self.file).await,
            failed => failed,
        };
        if let Err(error) = done {
            self.writing.breaks(error);
        }
        Ok(nothing())
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
