//! The verdict store: the only files that touch stored verdicts.
//!
//! Takes a directory or a URL, gives [`Store`]: recall of verdicts by key in batches, durable appends with group commit, versions
//! of policies, overrides, calibrations, evaluations, the log of statements, all of it as tables for SQL, and the server's users. SQLite in WAL mode behind it, or a
//! schema of a PostgreSQL database that servers share (`server/`): writer threads, reader connections on tokio's blocking
//! threads, the same statements in both (`db/`). What is not plainly ours is refused and left as it is. Several processes
//! may use one store at once: a verdict is a fact, so the second to store a key stores nothing. Knows DataFusion, and
//! nothing of policies, models or how a verdict is reached.
//!
//! *Appended, never updated*: a key has at most two rows. Attempt 0 is what was found first. If that is undecided and the
//! text is asked again (`retry_undecided`), a verdict becomes attempt 1 and is what recall gives from then on; a second
//! undecided stores nothing. Whatever comes after a verdict under the same key stores nothing. The one exception is
//! [`Store::erase_text`].

mod aloft;
mod backfills;
mod backtests;
#[cfg(test)]
#[path = "bed_tests.rs"]
mod bed;
mod calibrations;
mod chunks;
mod columns;
mod create;
mod cron;
mod days;
mod db;
mod error;
mod evaluations;
mod facts;
mod filter;
mod index;
mod judges;
mod open;
mod overrides;
mod payload;
mod pen;
mod place;
mod presence;
mod queue;
mod quoted;
mod rates;
mod readers;
mod reading;
mod records;
mod relations;
mod scan;
mod screens;
mod server;
mod settling;
mod tables;
mod users;
mod writer;

pub use aloft::Aloft;
pub use backfills::{BackfillRow, Judging, NewBackfill, State, Steer, Steered};
pub use backtests::{BacktestRow, FindingRow, FlipRow, Share, SideRow, Tested};
pub use chunks::{Claimant, Claimed, SpoolJob};
pub use cron::{
    Claims, Due, JobChange, JobKey, JobRow, Missed, NewJob, Outcome, RESTARTED, RunRow, Started,
};
pub use days::DayLease;
pub use error::StoreError;
pub use evaluations::{EvaluatedText, EvaluationRow};
pub use payload::SpoolRow;
pub use presence::Presence;
pub use queue::{Enqueued, QueueClaim};
pub use rates::Rate;
pub use records::{
    CalibrationRow, Digest, OverrideRow, QueryRow, Record, VersionRow, from_hex, now, text_digest,
    to_hex,
};
pub use relations::RelationRow;
pub use screens::{ScreenEvent, ScreenInForce};
pub use settling::{Fate, Settlement, Spent, Then};
pub use tables::{OverrideCheck, StoreSchema, table_name};
pub use users::UserRow;

use crate::config::STORE_COMMIT_ROWS_MAX;
use crate::waits::Wait;
use datafusion::catalog::TableProvider;
use db::Connection;
use place::Place;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use writer::{Work, Writer};

/// SQL that creates the view `safeguard.labels`: the current label of each policy and text, overrides first. To be run in
/// a session whose schema `safeguard` is [`Store::schema_provider`].
pub const LABELS_VIEW: &str = include_str!("../../sql/labels.sql");

/// SQL that creates the view `safeguard.spend`, to be run likewise.
pub const SPEND_VIEW: &str = include_str!("../../sql/spend.sql");

/// SQL that creates views over evaluations, to be run likewise.
pub const EVALUATION_VIEWS: [&str; 4] = [
    include_str!("../../sql/evaluation_calibration.sql"),
    include_str!("../../sql/evaluation_confusion.sql"),
    include_str!("../../sql/evaluation_labels.sql"),
    include_str!("../../sql/evaluation_rules.sql"),
];

/// An open store. Clones share it; it closes when the last clone and the last table made from it are gone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What was waited for.
#[derive(Debug, Default)]
pub struct StoreWaits {
    /// Answers to reads.
    pub reads: Wait,
    /// Commits, with the wait for the writer before them.
    pub writes: Wait,
}

/// What clones and tables share.
struct Inner {
    place: Place,
    readers: Arc<readers::Readers>,
    /// Of a file; a server is asked.
    index: Option<index::Index>,
    writer: Writer,
    /// Writes verdicts, where that is not the writer's too.
    appender: Option<Writer>,
    pending: Notify,
    waits: StoreWaits,
    /// Last, so that the files go after whatever had them open.
    _scratch: Option<create::Scratch>,
}

impl Drop for Inner {
    /// Readers first: the last connection to close folds the write-ahead log into the file, and only the writer may.
    fn drop(&mut self) {
        self.readers.close();
        if let Some(index) = &self.index {
            index.close();
        }
        if let Some(appender) = &self.appender {
            appender.close();
        }
        self.writer.close();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path()).finish()
    }
}

impl Store {
    /// Opens `verdicts.db` in `dir`, making both (readable by their owner only) where they are missing.
    ///
    /// Errors: [`StoreError::Foreign`], [`StoreError::Newer`] and [`StoreError::Damaged`] refuse a file without having
    /// written to it; [`StoreError::Unopenable`] and [`StoreError::Busy`] say what the system said. Blocks for as long as
    /// a check of the file takes.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        let path = open::prepare(dir)?;
        Store::file(open::writer(&path, open::Durable::Yes)?, path, None)
    }

    /// An empty store that is gone when it is closed. It lives in the system's directory for temporary files, where a
    /// killed process leaves it behind.
    pub fn ephemeral() -> Result<Store, StoreError> {
        let scratch = create::Scratch::new()?;
        let path = open::prepare(scratch.dir())?;
        let writer = open::writer(&path, open::Durable::No)?;
        Store::file(writer, path, Some(scratch))
    }

    fn file(
        writer: rusqlite::Connection,
        path: PathBuf,
        scratch: Option<create::Scratch>,
    ) -> Result<Store, StoreError> {
        let pen = pen::Pen::new(Connection::Sqlite(writer), &path);
        let writer = Writer::start(&path, move |queue| pen.run(queue))?;
        let index = index::Index::new(&path);
        let store = Store::assemble(Place::File(path), Some(index), (writer, None), scratch);
        Ok(store)
    }

    /// Opens the store that servers share at a URL `postgres://user@host:port/database`, making its schema where it is
    /// missing (`safeguard_store`, or what `?search_path=` names). The password is that of the URL or of the variable
    /// `PGPASSWORD`; the way is encrypted unless it stays within this machine or `?sslmode=` says otherwise.
    ///
    /// Errors: [`StoreError::Unopenable`] for a URL that means nothing, [`StoreError::Unreachable`] and
    /// [`StoreError::Denied`]; [`StoreError::Foreign`], [`StoreError::Newer`] and [`StoreError::Damaged`] refuse a schema
    /// without having written to it. Blocks for as long as connecting takes.
    pub fn shared(url: &str) -> Result<Store, StoreError> {
        let server = server::Server::open(url)?;
        let pen = |server| {
            let pen = server::Pen::new(Arc::clone(server));
            Writer::start(server.name(), move |queue| pen.run(queue))
        };
        let writers = (pen(&server)?, Some(pen(&server)?));
        Ok(Store::assemble(Place::Server(server), None, writers, None))
    }

    fn assemble(
        place: Place,
        index: Option<index::Index>,
        (writer, appender): (Writer, Option<Writer>),
        scratch: Option<create::Scratch>,
    ) -> Store {
        let inner = Inner {
            readers: Arc::new(readers::Readers::new(place.clone())),
            place,
            index,
            writer,
            appender,
            pending: Notify::new(),
            waits: StoreWaits::default(),
            _scratch: scratch,
        };
        Store {
            inner: Arc::new(inner),
        }
    }

    /// What time it is for whoever works on this store, in microseconds since 1970-01-01 UTC: this machine's, or where
    /// servers share it the database's, by which leases hold.
    pub fn clock(&self) -> i64 {
        match &self.inner.place {
            Place::File(_) => now(),
            Place::Server(server) => server.now(),
        }
    }

    /// The database file; of a shared store its URL, without a password.
    pub fn path(&self) -> &Path {
        self.inner.place.path()
    }

    /// Told when this process leaves work for the background.
    pub fn pending(&self) -> &Notify {
        &self.inner.pending
    }

    /// What is stored under each key, in the order of `keys`: a verdict, or why there is none, or `None` where the key
    /// was never stored. Sees whatever any process committed before the call. A key that is not stored costs no read of
    /// the file.
    pub async fn recall(&self, keys: &[Digest]) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let keys = keys.to_vec();
        if self.inner.index.is_none() {
            return self.read(move |reader| server::recall(reader, &keys)).await;
        }
        let _waiting = self.inner.waits.reads.begin(Instant::now());
        let inner = Arc::clone(&self.inner);
        blocking(move || match &inner.index {
            Some(index) => index.recall(&inner.readers, &keys),
            None => unreachable!("bug: an index that is gone"),
        })
        .await
    }

    /// Stores records; returns when they are on the disk. Records under a key that is already stored are dropped, except
    /// a verdict after an undecided. Each run of [`STORE_COMMIT_ROWS_MAX`] records is stored whole or not at all. Dropping
    /// the future does not stop what was handed to the writer.
    ///
    /// Panics if a record has both or neither of `label` and `reason`, or `violates` without `label`.
    pub async fn append(&self, mut records: Vec<Record>) -> Result<(), StoreError> {
        for record in &records {
            assert!(
                record.label.is_some() != record.reason.is_some()
                    && record.label.is_some() == record.violates.is_some(),
                "bug: a record is either a verdict or undecided: {record:?}"
            );
        }
        while !records.is_empty() {
            let rest = records.split_off(records.len().min(STORE_COMMIT_ROWS_MAX));
            self.write(Work::Records(records)).await?;
            records = rest;
        }
        Ok(())
    }

    /// Stores a version of a policy. The same number with the same digest again is no error and changes nothing; with
    /// another digest it is [`StoreError::VersionTaken`].
    pub async fn append_version(&self, version: VersionRow) -> Result<(), StoreError> {
        self.write(Work::Version(Box::new(version))).await.map(drop)
    }

    /// Every version of every policy, by name and number.
    pub async fn versions(&self) -> Result<Vec<VersionRow>, StoreError> {
        self.read(read_versions).await
    }

    /// The same, for who cannot wait otherwise: blocks the thread for a read of the file.
    pub fn versions_now(&self) -> Result<Vec<VersionRow>, StoreError> {
        self.inner.read(read_versions)
    }

    /// Stores a person's label. The policy and label are the caller's to check.
    pub async fn append_override(&self, row: OverrideRow) -> Result<(), StoreError> {
        self.write(Work::Overrides(vec![row])).await.map(drop)
    }

    /// Stores what a statement did; gives its id.
    pub async fn append_query(&self, query: QueryRow) -> Result<i64, StoreError> {
        self.write(Work::Query(Box::new(query))).await
    }

    /// Stores a calibration; gives its id.
    pub async fn append_calibration(&self, row: CalibrationRow) -> Result<i64, StoreError> {
        self.write(Work::Calibration(Box::new(row))).await
    }

    /// The latest calibration of a scorer, by any process.
    pub async fn calibration(
        &self,
        scorer_digest: Digest,
    ) -> Result<Option<CalibrationRow>, StoreError> {
        self.read(move |reader| calibrations::latest(reader, &scorer_digest))
            .await
    }

    /// Blanks everything that can quote this text: rationales of its verdicts, text and note of its overrides, its text in
    /// evaluations, text and rationales in backtests, what a backfill said of its failure; and takes it out of what waits to
    /// be judged, the queue and the rows of backfills. Labels and scores stay. The freed bytes are overwritten, and the
    /// write-ahead log is emptied unless a reader still needs
    /// it. Gives the rows changed. Statements in `safeguard.queries` that spell the text out are not found by its digest.
    pub async fn erase_text(&self, text_digest: Digest) -> Result<u64, StoreError> {
        let changed = self.write(Work::Erase(text_digest)).await?;
        Ok(u64::try_from(changed).expect("bug: a negative count of rows"))
    }

    /// The store's tables by name: verdicts, policy_versions, policies, overrides, queries,
    /// calibrations, users (without their verifiers), evaluations, evaluation_rows, backtests, backtest_flips. `check` judges
    /// what is inserted into overrides.
    pub fn tables(&self, check: OverrideCheck) -> Vec<(&'static str, Arc<dyn TableProvider>)> {
        tables::all(self, check)
    }

    /// The store's tables as a schema that takes further tables and views beside them, but neither replaces nor drops
    /// the store's own.
    pub fn schema_provider(&self, check: OverrideCheck) -> Arc<StoreSchema> {
        Arc::new(StoreSchema::new("safeguard", self.tables(check)))
    }

    /// The schema `cron`: its jobs and their runs, and whatever is put beside them.
    pub fn cron_provider(&self) -> Arc<StoreSchema> {
        Arc::new(StoreSchema::new("cron", tables::cron(self)))
    }

    async fn write(&self, work: Work) -> Result<i64, StoreError> {
        self.inner.write(work).await
    }

    /// How long it was waited for.
    pub fn waits(&self) -> &StoreWaits {
        &self.inner.waits
    }

    /// Does `work` whole or not at all, and nothing else of its kind meanwhile, on whichever server; gives what it gave
    /// once that is on the disk. Where it comes to nothing because of others, it is done again.
    async fn transact<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> db::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.transacted(work, Work::Transact).await
    }

    /// The same for what many do at once: the rows that `work` reads to change them, it holds against others itself.
    async fn transact_beside<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> db::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.transacted(work, Work::Beside).await
    }

    /// The same where `work` is one statement in PostgreSQL that does no harm when it is done twice.
    async fn transact_once<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> db::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.transacted(work, Work::Once).await
    }

    /// Whether asking whether there is work is cheaper than trying to take it: a file has one writer.
    fn looks_first(&self) -> bool {
        matches!(self.inner.place, Place::File(_))
    }

    async fn transacted<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> db::Result<T> + Send + 'static,
        kind: fn(writer::Transaction) -> Work,
    ) -> Result<T, StoreError> {
        let given = Arc::new(Mutex::new(None));
        let gives = Arc::clone(&given);
        let work = move |writer: &Connection| {
            let done = work(writer)?;
            *gives.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            Ok(())
        };
        self.write(kind(Box::new(work))).await?;
        let mut given = given.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(given.take().expect("bug: the writer did no work"))
    }

    /// What `read` finds there.
    async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&Connection) -> db::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _waiting = self.inner.waits.reads.begin(Instant::now());
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.read(read)).await
    }
}

impl Inner {
    /// Blocks. A connection that turns out to be lost is replaced once.
    fn read<T>(&self, read: impl Fn(&Connection) -> db::Result<T>) -> Result<T, StoreError> {
        let reader = self.readers.take_short()?;
        let found = match read(&reader) {
            Err(error) if error.is_lost() => {
                drop(reader);
                read(&*self.readers.take_short()?)
            }
            found => found,
        };
        found.map_err(|e| StoreError::of(self.place.path(), e))
    }

    async fn write(&self, work: Work) -> Result<i64, StoreError> {
        let _waiting = self.waits.writes.begin(Instant::now());
        match (&work, &self.appender) {
            (Work::Records(_), Some(appender)) => appender.write(work).await,
            _ => self.writer.write(work).await,
        }
    }
}

/// Runs what waits for the disk where waiting is allowed.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match spawn_blocking(read).await {
        Ok(result) => result,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being shut down: whoever waits here will not wake again.
            Err(_) => std::future::pending().await,
        },
    }
}

fn read_versions(reader: &Connection) -> db::Result<Vec<VersionRow>> {
    let mut select = reader.prepare_cached(
        "SELECT name, version, digest, text, labels, title, published_at, published_by, note
         FROM policy_versions ORDER BY name, version",
    )?;
    select
        .query_map((), |row| {
            Ok(VersionRow {
                name: row.get(0)?,
                version: row.get(1)?,
                digest: row.get(2)?,
                text: row.get(3)?,
                labels: row.get(4)?,
                title: row.get(5)?,
                published_at: row.get(6)?,
                published_by: row.get(7)?,
                note: row.get(8)?,
            })
        })?
        .collect()
}

#[cfg(test)]
mod tests;
