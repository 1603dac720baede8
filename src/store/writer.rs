//! The writers: threads that own a writing connection each and commit in groups.
//!
//! Takes work from a bounded channel, gives each caller its answer when the commit that holds its rows is on the disk.
//! While one commit waits for the disk the next group gathers, so that many callers share few waits. Work that fails is
//! undone alone; a failed commit fails everybody in it, and nothing of it is kept.

use super::db::{self, Connection};
use super::error::StoreError;
use super::records::{CalibrationRow, Digest, OverrideRow, QueryRow, Record, VersionRow};
use super::users::UserRow;
use crate::config::{STORE_COMMIT_ROWS_MAX, STORE_QUEUE_MAX};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// What the writer can be asked to do. Each is done whole or not at all.
pub(super) enum Work {
    /// Append verdicts and undecided.
    Records(Vec<Record>),
    /// The same, which nobody waits for.
    Later(Vec<Record>),
    /// Append a version of a policy.
    Version(Box<VersionRow>),
    /// Append people's labels.
    Overrides(Vec<OverrideRow>),
    /// Append what a statement did. Gives its id.
    Query(Box<QueryRow>),
    /// Append a calibration. Gives its id.
    Calibration(Box<CalibrationRow>),
    /// Blank what quotes a text. Gives the rows changed.
    Erase(Digest),
    /// Store a user, in the place of one of the same name.
    PutUser(Box<UserRow>),
    /// Remove a user. Gives the rows removed.
    RemoveUser(String),
    /// Anything else, within a transaction that no other runs beside.
    Transact(Transaction),
    /// The same, where what is read is held by itself against others.
    Beside(Transaction),
    /// The same, of one statement in PostgreSQL, which may be sent again when its answer is lost.
    Once(Transaction),
}

/// What is done within a transaction; more than once, where a transaction comes to nothing and is made again.
pub(super) type Transaction = Box<dyn Fn(&Connection) -> db::Result<()> + Send>;

impl Work {
    fn rows(&self) -> usize {
        match self {
            Work::Records(records) | Work::Later(records) => records.len(),
            Work::Overrides(overrides) => overrides.len(),
            _ => 1,
        }
    }

    /// Whether what it replaces must not linger in the write-ahead log.
    pub(super) fn erases(&self) -> bool {
        matches!(
            self,
            Work::Erase(_) | Work::PutUser(_) | Work::RemoveUser(_)
        )
    }
}

pub(super) type Outcome = Result<i64, StoreError>;

/// Work, and who waits for it.
pub(super) struct Command {
    pub(super) work: Work,
    pub(super) done: oneshot::Sender<Outcome>,
}

/// The way to the thread.
pub(super) struct Writer {
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread, which does `run` for the store at `path`.
    pub(super) fn start(
        path: &Path,
        run: impl FnOnce(mpsc::Receiver<Command>) + Send + 'static,
    ) -> Result<Writer, StoreError> {
        let (commands, queue) = mpsc::channel(STORE_QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run(queue))
            .map_err(|e| StoreError::Failed {
                path: path.to_path_buf(),
                why: e.to_string(),
            })?;
        Ok(Writer {
            commands: Mutex::new(Some(commands)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Waits for room in the queue, then for the commit.
    pub(super) async fn write(&self, work: Work) -> Outcome {
        let commands = self
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let commands = commands.expect("bug: a write after the store was closed");
        let (done, outcome) = oneshot::channel();
        let sent = commands.send(Command { work, done }).await;
        assert!(sent.is_ok(), "bug: the store's writer has ended");
        outcome
            .await
            .expect("bug: the store's writer ended before it answered")
    }

    /// Hands over what nobody waits for; where there is no room, or nobody to do it any more, it is left.
    pub(super) fn try_write(&self, work: Work) {
        let commands = self.commands.lock();
        let commands = commands.unwrap_or_else(PoisonError::into_inner);
        if let Some(commands) = &*commands {
            let (done, _) = oneshot::channel();
            let _ = commands.try_send(Command { work, done });
        }
    }

    /// Finishes what was handed over, and closes the file.
    pub(super) fn close(&self) {
        drop(
            self.commands
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("bug: the store's writer panicked");
        }
    }
}

/// What is committed together with `first`: whatever else waits by now, up to a limit.
pub(super) fn gathered(first: Command, queue: &mut mpsc::Receiver<Command>) -> Vec<Command> {
    let mut rows = first.work.rows();
    let mut group = vec![first];
    while rows < STORE_COMMIT_ROWS_MAX
        && let Ok(next) = queue.try_recv()
    {
        rows += next.work.rows();
        group.push(next);
    }
    group
}
