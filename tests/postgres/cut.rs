//! A line to a database that can be cut after any byte.

use super::cluster::PORT;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{UnixListener, UnixStream};

/// Listens in a folder of its own for a database in another.
pub(super) struct Cut {
    folder: tempfile::TempDir,
    /// Bytes that went to the database.
    sent: Arc<AtomicU64>,
    /// At which sum of them every line is cut.
    limit: Arc<AtomicU64>,
}

impl Cut {
    pub(super) async fn start(database: &Path) -> Cut {
        let folder = tempfile::tempdir().unwrap();
        let socket = format!(".s.PGSQL.{PORT}");
        let listener = UnixListener::bind(folder.path().join(&socket)).unwrap();
        let (sent, limit) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(u64::MAX)),
        );
        let (counted, cut, there) = (Arc::clone(&sent), Arc::clone(&limit), database.join(socket));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = UnixStream::connect(&there).await.unwrap();
                tokio::spawn(carry(near, far, Arc::clone(&counted), Arc::clone(&cut)));
            }
        });
        Cut {
            folder,
            sent,
            limit,
        }
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    /// Cuts when `bytes` more have gone to the database.
    pub(super) fn after(&self, bytes: u64) {
        self.limit.store(self.sent().saturating_add(bytes), SeqCst);
    }
}

async fn carry(near: UnixStream, far: UnixStream, sent: Arc<AtomicU64>, limit: Arc<AtomicU64>) {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let back = tokio::spawn(async move { copy(&mut from_far, &mut to_near).await });
    let mut buffer = vec![0; 4096];
    while let Ok(read @ 1..) = from_near.read(&mut buffer).await {
        let left = limit.load(SeqCst).saturating_sub(sent.load(SeqCst));
        let go = read.min(usize::try_from(left).unwrap_or(usize::MAX));
        sent.fetch_add(go as u64, SeqCst);
        if to_far.write_all(&buffer[..go]).await.is_err() || go < read {
            // Both ways at once, as a machine does that is gone.
            back.abort();
            return;
        }
    }
}
