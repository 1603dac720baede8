//! Opening the file: made whole or not at all, refused rather than repaired, never overwritten.
//!
//! A new store is built under another name and linked into place, so that `verdicts.db` is never half a store, and an
//! empty or short file there is damage rather than a beginning. An existing file is first read through a connection that
//! cannot write: only a file that is plainly ours is then opened for writing. Files are read through SQLite alone: opening
//! and closing one by other means would drop the locks that this process holds on it.

use super::error::StoreError;
use crate::config::{STORE_BUSY_MS, STORE_CHECK_BYTES_MAX, STORE_WAL_BYTES_MAX};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Marks the file as ours, in its header: "SGsq".
const APPLICATION_ID: i64 = 0x5347_7371;

/// What takes a file from each `user_version` to the next.
const MIGRATIONS: &[&str] = &[include_str!("../../sql/store/1.sql")];

/// The `user_version` that this program writes.
const KNOWN: i64 = MIGRATIONS.len() as i64;

/// Tables and views that a store of the known version has.
const PARTS: [&str; 6] = [
    "judges",
    "verdicts",
    "policy_versions",
    "policies",
    "overrides",
    "queries",
];

/// Bytes of SQLite's smallest page.
const PAGE_MIN: u64 = 512;

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Durable {
    /// Nothing committed is lost to a power cut.
    Yes,
    /// The file is thrown away anyway.
    No,
}

/// Makes the directory and the file where they are missing, and checks the file where it is not. Gives its path.
pub(super) fn prepare(dir: &Path) -> Result<PathBuf, StoreError> {
    let path = dir.join("verdicts.db");
    let unopenable = |e: io::Error| StoreError::Unopenable {
        path: path.clone(),
        why: e.to_string(),
    };
    make_dir(dir).map_err(unopenable)?;
    match fs::metadata(&path) {
        Ok(file) if !file.is_file() => return Err(unopenable(io::Error::other("not a file"))),
        Ok(file) => check(&path, file.len())?,
        Err(e) if e.kind() == ErrorKind::NotFound => create(&path)?,
        Err(e) => return Err(unopenable(e)),
    }
    Ok(path)
}

/// The one connection that writes. `path` must have been prepared.
pub(super) fn writer(path: &Path, durable: Durable) -> Result<Connection, StoreError> {
    let open = || {
        let mut writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        settle(&writer, durable)?;
        migrate(&mut writer)?;
        Ok(writer)
    };
    open().map_err(|e| StoreError::sqlite(path, e))
}

/// A connection that reads. `path` must have been prepared.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        // Not opened read-only: the last reader to leave must be able to tidy the shared memory.
        let reader = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        reader.pragma_update(None, "query_only", true)?;
        Ok(reader)
    };
    open().map_err(|e| StoreError::sqlite(path, e))
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_millis(STORE_BUSY_MS))?;
    Ok(connection)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Refuses a file that is not a whole store of a known version. Writes nothing to it.
fn check(path: &Path, bytes: u64) -> Result<(), StoreError> {
    let path_buf = || path.to_path_buf();
    if bytes == 0 {
        return Err(StoreError::Damaged {
            path: path_buf(),
            why: "file is empty".into(),
        });
    }
    if bytes < PAGE_MIN {
        // SQLite would take it for a database without pages.
        return Err(StoreError::Foreign {
            path: path_buf(),
            why: "file is not a database".into(),
        });
    }
    let sqlite = |e| StoreError::sqlite(path, e);
    let probe = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(sqlite)?;
    probe
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(sqlite)?;
    let pragma = |name| probe.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application = pragma("application_id").map_err(sqlite)?;
    let found = pragma("user_version").map_err(sqlite)?;
    if application != APPLICATION_ID {
        let why = format!("application_id is {application}, not {APPLICATION_ID}");
        return Err(StoreError::Foreign {
            path: path_buf(),
            why,
        });
    }
    if found > KNOWN {
        return Err(StoreError::Newer {
            path: path_buf(),
            found,
            known: KNOWN,
        });
    }
    let damaged = |why| StoreError::Damaged {
        path: path_buf(),
        why,
    };
    if found < 1 {
        return Err(damaged(format!("format {found}")));
    }
    if bytes <= STORE_CHECK_BYTES_MAX {
        let verdict: String = probe
            .query_row("PRAGMA quick_check(1)", (), |row| row.get(0))
            .map_err(sqlite)?;
        if verdict != "ok" {
            return Err(damaged(verdict.replace('\n', " ")));
        }
    }
    if found == KNOWN {
        for part in PARTS {
            // Reads the schema and the first page of each; a missing table is no error of SQLite's file layer.
            let first = probe.query_row(&format!("SELECT 1 FROM {part} LIMIT 1"), (), |_| Ok(()));
            match first {
                Ok(()) | Err(rusqlite::Error::QueryReturnedNoRows) => {}
                Err(e) => match StoreError::sqlite(path, e) {
                    StoreError::Failed { why, .. } => return Err(damaged(why)),
                    other => return Err(other),
                },
            }
        }
    }
    Ok(())
}

/// Builds a new store beside `path` and links it into place. Another process that was quicker is no error: its store is
/// then checked like any other.
fn create(path: &Path) -> Result<(), StoreError> {
    let unopenable = |e: io::Error| StoreError::Unopenable {
        path: path.to_path_buf(),
        why: e.to_string(),
    };
    let draft = draft_beside(path).map_err(unopenable)?;
    let made = build(&draft)
        .map_err(|e| StoreError::sqlite(path, e))
        .and_then(|()| match link(&draft, path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(unopenable(e)),
            _ => Ok(()),
        });
    for leftover in ["", "-wal", "-shm"] {
        let mut name = draft.clone().into_os_string();
        name.push(leftover);
        // Where the draft was renamed rather than linked there is nothing to remove; anything else only wastes space.
        let _ = fs::remove_file(name);
    }
    made?;
    sync_dir(path).map_err(unopenable)?;
    let bytes = fs::metadata(path).map_err(unopenable)?.len();
    check(path, bytes)
}

/// An empty file of a name that no other process builds under.
fn draft_beside(path: &Path) -> io::Result<PathBuf> {
    loop {
        let draft = path.with_extension(format!("db.new-{}", unique()));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(&draft) {
            Ok(_) => return Ok(draft),
            // A killed process of the same number may have left one: take the next.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

/// A whole, closed store in the one file `draft`.
fn build(draft: &Path) -> rusqlite::Result<()> {
    let mut connection = connect(draft, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    settle(&connection, Durable::Yes)?;
    migrate(&mut connection)?;
    connection.close().map_err(|(_, e)| e)
}

/// Gives `draft` its name without ever replacing what has that name.
fn link(draft: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(draft, path) {
        // File systems without links: the check and the rename are two steps, for two processes that start within them.
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::Unsupported | ErrorKind::PermissionDenied
            ) =>
        {
            if path.exists() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            fs::rename(draft, path)
        }
        done => done,
    }
}

#[cfg(unix)]
fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

#[cfg(not(unix))]
fn sync_dir(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Settings of the writing connection.
fn settle(writer: &Connection, durable: Durable) -> rusqlite::Result<()> {
    let waited = Instant::now();
    loop {
        // SQLite does not wait for a lock when two connections change the journal mode at once.
        match writer.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)) {
            Ok(mode) => {
                let mode: String = mode;
                if mode != "wal" {
                    return Err(rusqlite::Error::SqliteFailure(
                        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
                        Some(format!(
                            "no write-ahead log here: journal mode stays {mode}"
                        )),
                    ));
                }
                break;
            }
            Err(e)
                if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && waited.elapsed() < Duration::from_millis(STORE_BUSY_MS) =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(e),
        }
    }
    let synchronous = if durable == Durable::Yes {
        "FULL"
    } else {
        "OFF"
    };
    writer.pragma_update(None, "synchronous", synchronous)?;
    writer.pragma_update(None, "foreign_keys", true)?;
    // Erased rationales must not linger in freed space.
    writer.pragma_update(None, "secure_delete", true)?;
    let wal = i64::try_from(STORE_WAL_BYTES_MAX).expect("bug: a limit that SQLite cannot hold");
    writer.pragma_update_and_check(None, "journal_size_limit", wal, |_| Ok(()))
}

/// Brings a file to the known version, in one transaction, which another process may have been quicker to do.
fn migrate(writer: &mut Connection) -> rusqlite::Result<()> {
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(found).unwrap_or(MIGRATIONS.len());
    if done < MIGRATIONS.len() {
        for step in &MIGRATIONS[done..] {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", KNOWN)?;
    }
    transaction.commit()
}

/// Differs between calls, threads and processes alive at once.
fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A directory that is removed with what is in it when dropped.
pub(super) struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    pub(super) fn new() -> Result<Scratch, StoreError> {
        let base = std::env::temp_dir();
        loop {
            // A killed process of the same number may have left one: take the next.
            let dir = base.join(format!("safeguard-{}", unique()));
            let mut builder = DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            match builder.create(&dir) {
                Ok(()) => return Ok(Scratch { dir }),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => {
                    return Err(StoreError::Unopenable {
                        path: dir,
                        why: e.to_string(),
                    });
                }
            }
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.dir) {
            tracing::warn!("cannot remove {}: {e}", self.dir.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::tests::verdict;

    /// A closed store of many pages.
    async fn sound() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store
            .append((0..2_000).map(verdict).collect())
            .await
            .unwrap();
        let path = store.path().to_path_buf();
        (dir, path)
    }

    fn spoil(path: &Path, sql: &str) {
        Connection::open(path).unwrap().execute_batch(sql).unwrap();
    }

    #[tokio::test]
    async fn what_is_not_a_sound_store_is_refused_and_left() {
        let truncate = |path: &Path, part: u64| {
            let bytes = fs::metadata(path).unwrap().len();
            OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(bytes * part / 4)
                .unwrap();
        };
        type Spoil<'a> = Box<dyn Fn(&Path) + 'a>;
        let cases: Vec<(&str, Spoil<'_>, &str)> = vec![
            ("sound", Box::new(|_| {}), ""),
            (
                "garbage",
                Box::new(|path| fs::write(path, "x".repeat(9_000)).unwrap()),
                "is not a safeguard store: file is not a database (left as it is)",
            ),
            (
                "short garbage",
                Box::new(|path| fs::write(path, "x").unwrap()),
                "is not a safeguard store: file is not a database (left as it is)",
            ),
            (
                "empty",
                Box::new(|path| fs::write(path, "").unwrap()),
                "is damaged: file is empty (left as it is)",
            ),
            (
                "another program's",
                Box::new(|path| {
                    fs::remove_file(path).unwrap();
                    spoil(path, "CREATE TABLE verdicts (x)");
                }),
                "is not a safeguard store: application_id is 0, not 1397191537 (left as it is)",
            ),
            (
                "another program's, marked",
                Box::new(|path| spoil(path, "PRAGMA application_id = 42")),
                "is not a safeguard store: application_id is 42, not 1397191537 (left as it is)",
            ),
            (
                "newer",
                Box::new(|path| spoil(path, "PRAGMA user_version = 99")),
                "has format 99, written by a newer safeguard; this one knows up to 1 (left as it is)",
            ),
            (
                "no format",
                Box::new(|path| spoil(path, "PRAGMA user_version = 0")),
                "is damaged: format 0 (left as it is)",
            ),
            (
                "cut to three quarters",
                Box::new(|path| truncate(path, 3)),
                "is damaged: ",
            ),
            (
                "cut to a quarter",
                Box::new(|path| truncate(path, 1)),
                "is damaged: ",
            ),
            (
                "a page lost",
                Box::new(|path| {
                    let mut bytes = fs::read(path).unwrap();
                    let middle = bytes.len() / 2 / 4_096 * 4_096;
                    bytes[middle..middle + 4_096].fill(0);
                    fs::write(path, bytes).unwrap();
                }),
                "is damaged: ",
            ),
            (
                "a table lost",
                Box::new(|path| spoil(path, "DROP TABLE queries")),
                "is damaged: no such table: queries",
            ),
        ];
        for (name, spoil, expected) in cases {
            let (dir, path) = sound().await;
            spoil(&path);
            let before = fs::read(&path).unwrap();
            let opened = Store::open(dir.path());
            if expected.is_empty() {
                assert!(opened.is_ok(), "{name}: {opened:?}");
                continue;
            }
            let message = opened.expect_err(name).to_string();
            let expected = format!("store {} {expected}", path.display());
            assert!(
                message.starts_with(&expected),
                "{name}: {message:?}, not {expected:?}"
            );
            assert!(message.ends_with("(left as it is)"), "{name}: {message:?}");
            assert_eq!(
                fs::read(&path).unwrap(),
                before,
                "{name}: the file was changed"
            );
        }
    }

    #[tokio::test]
    async fn a_newer_version_in_the_log_is_refused_too() {
        let (dir, path) = sound().await;
        let store = Store::open(dir.path()).unwrap();
        spoil(&path, "PRAGMA user_version = 99");
        let log = path.with_extension("db-wal");
        let copy = tempfile::tempdir().unwrap();
        for file in [&path, &log] {
            fs::copy(file, copy.path().join(file.file_name().unwrap())).unwrap();
        }
        drop(store);
        let before = fs::read(copy.path().join("verdicts.db")).unwrap();
        let refused = Store::open(copy.path()).unwrap_err();
        assert!(
            matches!(
                refused,
                StoreError::Newer {
                    found: 99,
                    known: 1,
                    ..
                }
            ),
            "{refused}"
        );
        assert_eq!(fs::read(copy.path().join("verdicts.db")).unwrap(), before);
        assert!(
            fs::metadata(copy.path().join("verdicts.db-wal"))
                .unwrap()
                .len()
                > 0
        );
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        fs::create_dir_all(dir.path().join("dir/verdicts.db")).unwrap();
        for place in [file.clone(), file.join("below"), dir.path().join("dir")] {
            let refused = Store::open(&place).expect_err("refused").to_string();
            let expected = format!(
                "store {} cannot be opened for reading and writing: ",
                place.join("verdicts.db").display()
            );
            assert!(
                refused.starts_with(&expected),
                "{refused:?}, not {expected:?}"
            );
        }
        assert_eq!(fs::read(&file).unwrap(), b"x");
    }

    #[cfg(unix)]
    #[test]
    fn a_read_only_directory_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        drop(Store::open(&closed).unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&closed), 0o700);
        assert_eq!(mode(&closed.join("verdicts.db")), 0o600);
        assert_eq!(
            fs::read_dir(&closed).unwrap().count(),
            1,
            "one file and nothing beside it"
        );
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
        // Root may write anywhere: then there is nothing to refuse.
        let powerless = fs::File::create(closed.join("probe")).is_err();
        let opened = Store::open(&closed);
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(
            matches!(opened, Err(StoreError::Unopenable { .. })),
            powerless,
            "{opened:?}"
        );
    }

    #[test]
    fn many_may_create_one_store_at_once() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let open = || Store::open(dir.path()).map(drop);
            let openings: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            for opening in openings {
                opening.join().unwrap().unwrap();
            }
        });
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no draft is left"
        );
    }
}
