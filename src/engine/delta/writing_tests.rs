//! Commits to stores that are elsewhere and do not answer, or answer late.

use super::super::store::Written;
use super::*;
use async_trait::async_trait;
use datafusion::object_store::memory::InMemory;
use datafusion::object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions,
};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use std::fmt;

/// What becomes of a put of an entry.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Done,
    /// It is done, and the answer is lost.
    Unheard,
    /// It is not done.
    Lost,
    /// It is done by a retry of the client's, which finds the entry that its first try made.
    Twice,
}

#[derive(Debug)]
struct Elsewhere(InMemory, Fate);

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("elsewhere")
    }
}

#[async_trait]
impl ObjectStore for Elsewhere {
    async fn put_opts(
        &self,
        at: &Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let lost = || failed(io::Error::other("no answer"));
        if !at.as_ref().ends_with(".json") {
            return self.0.put_opts(at, bytes, options).await;
        }
        match self.1 {
            Fate::Done => self.0.put_opts(at, bytes, options).await,
            Fate::Lost => Err(lost()),
            Fate::Unheard => self.0.put_opts(at, bytes, options).await.and(Err(lost())),
            Fate::Twice => {
                self.0.put_opts(at, bytes.clone(), options.clone()).await?;
                self.0.put_opts(at, bytes, options).await
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

async fn names(store: &Arc<dyn ObjectStore>) -> Vec<String> {
    let found: Vec<ObjectMeta> = store.list(None).try_collect().await.unwrap();
    let mut names: Vec<String> = found.iter().map(|meta| meta.location.to_string()).collect();
    names.sort();
    names
}

const ROWS: &str = "t/day=1/part.parquet";
const ENTRY: &str = "t/_delta_log/00000000000000000001.json";

#[tokio::test]
async fn an_answer_that_does_not_come_is_looked_for() {
    for (fate, there, unsure, left) in [
        (Fate::Done, true, false, vec![ENTRY, ROWS]),
        (Fate::Unheard, true, false, vec![ENTRY, ROWS]),
        (Fate::Twice, true, false, vec![ENTRY, ROWS]),
        // It may be done yet: what an entry may name is not removed.
        (Fate::Lost, false, true, vec![ROWS]),
    ] {
        let store: Arc<dyn ObjectStore> = Arc::new(Elsewhere(InMemory::new(), fate));
        let writing = Writing::new(Arc::clone(&store), Path::from("t"), None, u64::MAX);
        let begun = writing.begin("1", Some(0)).unwrap();
        let through = Written(Arc::clone(&writing));
        through.put(&Path::from(ROWS), "rows".into()).await.unwrap();
        let create = PutOptions::from(PutMode::Create);
        let done = through
            .put_opts(&Path::from(ENTRY), "entry".into(), create)
            .await;
        assert_eq!(done.is_ok(), there, "{fate:?}: {done:?}");
        assert_eq!(
            (writing.is_committed(), writing.is_unsure()),
            (there, unsure),
            "{fate:?}"
        );
        drop(begun);
        tokio::task::yield_now().await;
        assert_eq!(names(&store).await, left, "{fate:?}");
    }
}

#[tokio::test]
async fn what_is_given_up_is_removed_and_takes_nothing_more() {
    let store: Arc<dyn ObjectStore> = Arc::new(Elsewhere(InMemory::new(), Fate::Done));
    let others = Path::from("t/day=1/others.parquet");
    store.put(&others, "rows".into()).await.unwrap();
    let writing = Writing::new(Arc::clone(&store), Path::from("t"), None, u64::MAX);
    let begun = writing.begin("1", Some(0)).unwrap();
    let through = Written(Arc::clone(&writing));
    through.put(&Path::from(ROWS), "rows".into()).await.unwrap();
    let large = Path::from("t/day=1/large.parquet");
    let mut upload = through.put_multipart(&large).await.unwrap();
    upload.put_part("rows".into()).await.unwrap();
    drop(begun);
    while names(&store).await.len() > 1 {
        tokio::task::yield_now().await;
    }
    // Delta's writer is not told.
    upload.complete().await.unwrap();
    through.put(&Path::from(ROWS), "rows".into()).await.unwrap();
    assert!(writing.is_broken());
    let create = PutOptions::from(PutMode::Create);
    let entry = Path::from(ENTRY);
    let late = through.put_opts(&entry, "entry".into(), create).await;
    assert!(late.is_err());
    assert_eq!(names(&store).await, [others.to_string()]);
}

#[tokio::test]
async fn the_entry_of_another_is_not_ours() {
    let store: Arc<dyn ObjectStore> = Arc::new(Elsewhere(InMemory::new(), Fate::Done));
    store
        .put(&Path::from(ENTRY), "theirs".into())
        .await
        .unwrap();
    let writing = Writing::new(Arc::clone(&store), Path::from("t"), None, 1);
    let _begun = writing.begin("1", Some(0)).unwrap();
    let through = Written(Arc::clone(&writing));
    let create = || PutOptions::from(PutMode::Create);
    let done = through
        .put_opts(&Path::from(ENTRY), "ours".into(), create())
        .await;
    assert!(matches!(done, Err(Error::AlreadyExists { .. })), "{done:?}");
    assert!(!writing.is_committed() && !writing.is_unsure());
    // A table that somebody else made is not made anew in a later version.
    let next = Path::from("t/_delta_log/00000000000000000002.json");
    assert!(
        through
            .put_opts(&next, "ours".into(), create())
            .await
            .is_err()
    );
}
