//! Where tests keep a store: in a file, or where `SAFEGUARD_TEST_STORE=postgres` says so in a PostgreSQL that is started
//! for them. What a store does is the same.

use crate::postgres::shared;
use safeguard::store::Store;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

/// URLs of stores by the folder that they would be in.
static STORES: LazyLock<Mutex<HashMap<PathBuf, String>>> = LazyLock::new(Mutex::default);

/// Whether stores are in PostgreSQL.
pub(crate) fn are_shared() -> bool {
    let said = std::env::var("SAFEGUARD_TEST_STORE");
    match said.as_deref() {
        Ok("postgres") => true,
        Ok(other) => panic!("SAFEGUARD_TEST_STORE is postgres or not set, not {other}"),
        Err(_) => false,
    }
}

/// The URL of a store that nobody has used.
fn url() -> String {
    shared::url().expect("SAFEGUARD_TEST_STORE=postgres needs PostgreSQL; .ci/clients installs it")
}

/// The store of a folder.
pub(crate) fn open(dir: &Path) -> Store {
    if !are_shared() {
        return Store::open(dir).unwrap();
    }
    let url = {
        let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        stores.entry(dir.to_path_buf()).or_insert_with(url).clone()
    };
    Store::shared(&url).unwrap()
}

/// A store of its own.
pub(crate) fn new() -> Store {
    match are_shared() {
        true => Store::shared(&url()).unwrap(),
        false => Store::ephemeral().unwrap(),
    }
}
