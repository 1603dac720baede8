//! Where tests keep a store: in a file, or where `SAFEGUARD_TEST_STORE=postgres` says so in a PostgreSQL that is started
//! for them. What a store does is the same, for whoever opens it in this process and for programs that are started.

use crate::postgres::shared;
use safeguard::store::Store;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
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
    match url_of(dir) {
        Some(url) => Store::shared(&url).unwrap(),
        None => Store::open(dir).unwrap(),
    }
}

/// The URL of a folder's store, where stores are in PostgreSQL.
pub(crate) fn url_of(dir: &Path) -> Option<String> {
    if !are_shared() {
        return None;
    }
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    Some(stores.entry(dir.to_path_buf()).or_insert_with(url).clone())
}

/// From now on the store of a folder is the one that another process of tests has made.
pub(crate) fn adopt(dir: &Path, url: String) {
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    stores.insert(dir.to_path_buf(), url);
}

/// The program, to be run in a folder. The store that it names there by `--data-dir`, or by not naming one, is the one that
/// [`open`] opens for that path; `--ephemeral` stays what it is.
pub(crate) fn program(
    dir: &Path,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Command {
    let arguments: Vec<OsString> = arguments
        .into_iter()
        .map(|argument| argument.as_ref().to_owned())
        .collect();
    let mut program = Command::new(env!("CARGO_BIN_EXE_safeguard"));
    program
        .args(&arguments)
        .current_dir(dir)
        .env_remove("SAFEGUARD_LOG");
    let named = arguments
        .iter()
        .skip_while(|said| *said != "--data-dir")
        .nth(1);
    let folder = named.map_or_else(|| "safeguard-data".into(), PathBuf::from);
    // These have none.
    let without = |two: &[OsString]| {
        matches!(
            (two[0].to_str(), two[1].to_str()),
            (Some("policy"), Some("import" | "lint")) | (Some("model"), _)
        )
    };
    let none = arguments.get(..2).is_some_and(without)
        || arguments
            .iter()
            .any(|said| said == "--ephemeral" || said == "--store");
    if !none && let Some(url) = url_of(&dir.join(folder)) {
        program.args(["--store", &url]);
    }
    program
}

/// For a program of which nothing is to be kept: `--ephemeral`, or a store that nobody has used or will use.
pub(crate) fn fleeting() -> Vec<String> {
    match are_shared() {
        true => vec!["--store".to_owned(), url()],
        false => vec!["--ephemeral".to_owned()],
    }
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

/// Whether a word is to be found where the users of a folder's store are kept: anywhere in its file, or in a row of theirs.
pub(crate) async fn users_hold(dir: &Path, word: &str) -> bool {
    if !are_shared() {
        let file = std::fs::read(dir.join("verdicts.db")).unwrap();
        return file.windows(word.len()).any(|w| w == word.as_bytes());
    }
    let client = shared_client(dir).await;
    let users =
        "SELECT EXISTS (SELECT 1 FROM users AS u WHERE position($1 IN CAST(u AS TEXT)) > 0)";
    client.query_one(users, &[&word]).await.unwrap().get(0)
}

async fn shared_beside(dir: &Path, sql: &str) {
    shared_client(dir).await.batch_execute(sql).await.unwrap();
}

/// A client of its own, in the schema of a folder's store.
pub(crate) async fn shared_client(dir: &Path) -> tokio_postgres::Client {
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
