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

/// From now on the store of a folder fails what is said as `INSERT ON verdicts`.
pub(crate) async fn fill(dir: &Path, what: &str) {
    if !are_shared() {
        let full = format!(
            "CREATE TRIGGER full BEFORE {what} BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        );
        beside(dir).execute_batch(&full).unwrap();
        return;
    }
    let full = format!(
        "CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'database or disk is full'; END $$;
         CREATE TRIGGER full_disk BEFORE {what} FOR EACH ROW EXECUTE FUNCTION full_disk()"
    );
    shared_beside(dir, &full).await;
}

/// No longer.
pub(crate) async fn drain(dir: &Path, table: &str) {
    match are_shared() {
        true => shared_beside(dir, &format!("DROP TRIGGER full_disk ON {table}")).await,
        false => beside(dir).execute_batch("DROP TRIGGER full").unwrap(),
    }
}

fn beside(dir: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(dir.join("verdicts.db")).unwrap()
}

/// Whether the store of a folder has a text with this word: anywhere in its files; in PostgreSQL, where what is gone is
/// overwritten some time later, among those that wait.
pub(crate) async fn hold(dir: &Path, word: &str) -> bool {
    if !are_shared() {
        return std::fs::read_dir(dir).unwrap().any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            bytes.windows(word.len()).any(|w| w == word.as_bytes())
        });
    }
    let client = shared_client(dir).await;
    let waiting = "SELECT EXISTS (SELECT 1 FROM queue WHERE position($1 IN text) > 0)";
    let found = client.query_one(waiting, &[&word.as_bytes()]).await;
    found.unwrap().get(0)
}

async fn shared_beside(dir: &Path, sql: &str) {
    shared_client(dir).await.batch_execute(sql).await.unwrap();
}

/// A client of its own, in the schema of a folder's store.
async fn shared_client(dir: &Path) -> tokio_postgres::Client {
    let url = {
        let stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        stores[dir].clone()
    };
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(shared::folder().unwrap())
        .user("postgres")
        .dbname("postgres");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let schema = url.rsplit_once('=').unwrap().1;
    let within = format!("SET search_path = {schema}");
    client.batch_execute(&within).await.unwrap();
    client
}
