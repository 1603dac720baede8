//! One PostgreSQL for all stores of a test process: each has a schema of its own there.
//!
//! It is started by the first who asks, and ends with the process.

use super::cluster::Cluster;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// What all of them together need, and what makes them quick.
const SETTINGS: &str = "listen_addresses=
    max_connections=600
    log_statement=none
    track_functions=none
    shared_buffers=64MB";

static SHARED: LazyLock<Option<Cluster>> = LazyLock::new(|| {
    let cluster = Cluster::with(super::cluster::PORT, SETTINGS, &[])?;
    PROCESS.store(cluster.process(), Ordering::Relaxed);
    // Nothing that is static is dropped.
    assert_eq!(unsafe { libc::atexit(end) }, 0);
    Some(cluster)
});

static PROCESS: AtomicI32 = AtomicI32::new(0);
static SCHEMAS: AtomicU64 = AtomicU64::new(0);

extern "C" fn end() {
    let process = PROCESS.load(Ordering::Relaxed);
    unsafe {
        libc::kill(process, libc::SIGQUIT);
        libc::waitpid(process, std::ptr::null_mut(), 0);
    }
    if let Some(cluster) = &*SHARED {
        let _ = std::fs::remove_dir_all(cluster.folder());
    }
}

/// The folder of its socket; `None` where PostgreSQL is not installed.
pub(crate) fn folder() -> Option<PathBuf> {
    SHARED
        .as_ref()
        .map(|cluster| cluster.folder().to_path_buf())
}

/// The URL of a store that nobody has used; `None` where PostgreSQL is not installed.
pub(crate) fn url() -> Option<String> {
    let folder = folder()?;
    let number = SCHEMAS.fetch_add(1, Ordering::Relaxed);
    Some(format!(
        "postgres://postgres@/postgres?host={}&search_path=store_{number}",
        folder.display()
    ))
}
