//! The store that a command is about: the one in a data directory, or one that servers share.

use super::args::DataDir;
use crate::store::{Store, StoreError};

impl DataDir {
    /// Whether opening it would not make one. Of a shared store only asking tells, and its URL is no name to mistype.
    pub(super) fn is_there(&self) -> bool {
        self.shared.url.is_some() || self.dir.join("verdicts.db").is_file()
    }

    /// Opens it.
    pub(super) fn open(&self) -> Result<Store, StoreError> {
        match &self.shared.url {
            Some(url) => Store::shared(url),
            None => Store::open(&self.dir),
        }
    }
}
