//! An object store that holds back what is written until it is said that all of it is right.
//!
//! Takes a store, gives one to write through: objects are sent, in parts where they are large, and come to be only with
//! [`Held::publish`]. What is not published never was: a reader sees nothing, and no part stays. One object comes to be as a
//! whole; of several each for itself.

use async_trait::async_trait;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// An object that was written and is not there yet.
#[derive(Debug)]
enum Pending {
    Whole(Path, PutPayload, PutOptions),
    Parts(Box<dyn MultipartUpload>),
}

type Waiting = Arc<Mutex<Vec<Pending>>>;

/// A store that holds back what is written.
#[derive(Debug, Clone)]
pub struct Held {
    inner: Arc<dyn ObjectStore>,
    waiting: Waiting,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, held back", self.inner)
    }
}

const UNTOLD: PutResult = PutResult {
    e_tag: None,
    version: None,
};

impl Held {
    /// A store with nothing to publish.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Held {
        let waiting = Waiting::default();
        Held { inner, waiting }
    }

    /// Has everything come to be that was written through this store.
    ///
    /// # Errors
    /// The store's; what came to be before stays.
    pub async fn publish(&self) -> Result<()> {
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        for pending in waiting {
            match pending {
                Pending::Whole(path, payload, options) => {
                    self.inner.put_opts(&path, payload, options).await?;
                }
                Pending::Parts(mut upload) => {
                    upload.complete().await?;
                }
            }
        }
        Ok(())
    }
}

fn wait(waiting: &Waiting, pending: Pending) {
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.push(pending);
}

#[async_trait]
impl ObjectStore for Held {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        wait(
            &self.waiting,
            Pending::Whole(location.clone(), payload, options),
        );
        Ok(UNTOLD)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(Upload {
            upload: Some(upload),
            waiting: Arc::clone(&self.waiting),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations.boxed())
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

/// An object that is being written in parts.
#[derive(Debug)]
struct Upload {
    upload: Option<Box<dyn MultipartUpload>>,
    waiting: Waiting,
}

impl Upload {
    fn upload(&mut self) -> &mut Box<dyn MultipartUpload> {
        let upload = self.upload.as_mut();
        upload.expect("bug: an upload that was completed goes on")
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload().put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        if let Some(upload) = self.upload.take() {
            wait(&self.waiting, Pending::Parts(upload));
        }
        Ok(UNTOLD)
    }

    async fn abort(&mut self) -> Result<()> {
        match self.upload.take() {
            Some(mut upload) => upload.abort().await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::object_store::memory::InMemory;
    use datafusion::object_store::{ObjectStoreExt, PutPayload};
    use futures::TryStreamExt;

    async fn seen(store: &InMemory) -> Vec<String> {
        let mut seen: Vec<String> = store
            .list(None)
            .map_ok(|meta| meta.location.to_string())
            .try_collect()
            .await
            .unwrap();
        seen.sort();
        seen
    }

    #[tokio::test]
    async fn nothing_is_there_before_it_is_published() {
        let store = Arc::new(InMemory::new());
        for publish in [false, true] {
            let held = Held::new(Arc::clone(&store) as Arc<dyn ObjectStore>);
            held.put(&Path::from("a"), PutPayload::from_static(b"whole"))
                .await
                .unwrap();
            let mut parts = held.put_multipart(&Path::from("b")).await.unwrap();
            parts
                .put_part(PutPayload::from_static(b"in "))
                .await
                .unwrap();
            parts
                .put_part(PutPayload::from_static(b"parts"))
                .await
                .unwrap();
            parts.complete().await.unwrap();
            assert_eq!(seen(&store).await, Vec::<String>::new());
            if publish {
                held.publish().await.unwrap();
            }
        }
        assert_eq!(seen(&store).await, ["a", "b"]);
        let read = store.get(&Path::from("b")).await.unwrap();
        assert_eq!(read.bytes().await.unwrap(), "in parts");
    }
}
