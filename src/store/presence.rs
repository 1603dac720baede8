//! Which processes that work on one store are still there.
//!
//! Takes a store, gives a [`Presence`]: a locked file beside the database, under an identifier that others find in rows
//! which that process owns. The system gives up the lock when the process ends, however it ends, so that a killed
//! process is known to be gone at once and without a clock. In a shared store it is a row that is renewed, and a killed
//! process is known to be gone some time later. Knows nothing of what the rows are.

use super::Store;
use super::place::Place;
use super::records::{now, text_digest, to_hex};
use super::server::Lease;
use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What the files' names begin with.
const PREFIX: &str = "present-";
/// Hexadecimal digits of an identifier.
const ID_DIGITS: usize = 16;

/// This process, as others on the same store see it. It is gone when this is dropped.
#[derive(Debug)]
pub struct Presence {
    id: String,
    held: Held,
}

#[derive(Debug)]
enum Held {
    /// The file that holds the lock.
    File(
        PathBuf,
        #[expect(dead_code, reason = "its lock is what counts")] File,
    ),
    /// The row.
    Row(#[expect(dead_code, reason = "it is held")] Lease),
}

impl Presence {
    /// What rows that this process owns are marked with.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Held::File(path, _) = &self.held {
            // A file that stays is one that nobody holds the lock of.
            let _ = fs::remove_file(path);
        }
    }
}

impl Store {
    /// Says that this process works on the store, under a new identifier.
    ///
    /// # Errors
    /// The file beside the database cannot be made or locked.
    pub fn announce(&self) -> io::Result<Presence> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Of two machines that share a store, no number is the same.
        let chance = RandomState::new().build_hasher().finish();
        let seed = format!("{} {} {count} {chance}", std::process::id(), now());
        let id = to_hex(&text_digest(&seed))[..ID_DIGITS].to_owned();
        if let Place::Server(server) = &self.inner.place {
            let lease = Lease::take(server, &id).map_err(io::Error::other)?;
            let held = Held::Row(lease);
            return Ok(Presence { id, held });
        }
        // Locked before it has its name: a file of that name without a lock is one that was left behind.
        let draft = self.beside(&format!("arriving-{id}"));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&draft)?;
        file.lock()?;
        let path = self.beside(&format!("{PREFIX}{id}"));
        fs::rename(&draft, &path)?;
        let held = Held::File(path, file);
        Ok(Presence { id, held })
    }

    /// Whether the process of this identifier is there. Where that cannot be told, it is taken to be.
    pub fn is_present(&self, id: &str) -> bool {
        if let Place::Server(server) = &self.inner.place {
            let present = server.present();
            return present.map_or(true, |ids| ids.iter().any(|held| held == id));
        }
        id.len() == ID_DIGITS
            && id.bytes().all(|b| b.is_ascii_hexdigit())
            && is_held(&self.beside(&format!("{PREFIX}{id}")))
    }

    /// The identifiers of the processes that are there. Files that killed ones left are removed.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn present(&self) -> io::Result<Vec<String>> {
        if let Place::Server(server) = &self.inner.place {
            return server.present().map_err(io::Error::other);
        }
        let mut ids = Vec::new();
        for entry in fs::read_dir(self.folder())? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            if let Some(id) = id.filter(|id| self.is_present(id)) {
                ids.push(id.to_owned());
            }
        }
        Ok(ids)
    }

    fn folder(&self) -> &Path {
        self.path().parent().unwrap_or(Path::new("."))
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }
}

/// Whether somebody holds the lock of a file; one that nobody holds is removed.
fn is_held(path: &Path) -> bool {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
    };
    match file.try_lock() {
        Ok(()) => {
            let _ = fs::remove_file(path);
            false
        }
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_there_until_its_lock_is_gone() {
        let store = Store::ephemeral().unwrap();
        let (one, other) = (store.announce().unwrap(), store.announce().unwrap());
        let mut ids = [one.id().to_owned(), other.id().to_owned()];
        ids.sort();
        let mut present = store.present().unwrap();
        present.sort();
        assert_eq!(present, ids);
        let gone = one.id().to_owned();
        drop(one);
        assert!(!store.is_present(&gone) && store.is_present(other.id()));
        // A killed process leaves its file, and the system takes the lock.
        let left = "0123456789abcdef";
        fs::write(store.beside(&format!("{PREFIX}{left}")), "").unwrap();
        assert!(!store.is_present(left));
        assert!(!store.beside(&format!("{PREFIX}{left}")).exists());
        for nobody in ["", "../verdicts.db", "0123456789abcdeg"] {
            assert!(!store.is_present(nobody), "{nobody}");
        }
    }
}
