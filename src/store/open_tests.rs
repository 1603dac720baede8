//! Files that are refused and left, and stores that are made whole.

use super::*;
use crate::store::Store;
use crate::store::tests::verdict;
use std::fs::OpenOptions;

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

/// Spoils a sound store, and checks that it is refused so, and left.
async fn check_refused(name: &str, spoil: impl Fn(&Path), expected: &str) {
    let (dir, path) = sound().await;
    spoil(&path);
    let before = fs::read(&path).unwrap();
    let message = Store::open(dir.path()).expect_err(name).to_string();
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

#[tokio::test]
async fn a_sound_store_opens() {
    let (dir, _) = sound().await;
    Store::open(dir.path()).unwrap();
}

#[tokio::test]
async fn what_is_something_else_is_refused() {
    let garbage = |bytes| move |path: &Path| fs::write(path, "x".repeat(bytes)).unwrap();
    let no_database = "is not a safeguard store: file is not a database (left as it is)";
    check_refused("garbage", garbage(9_000), no_database).await;
    check_refused("short garbage", garbage(1), no_database).await;
    let table = |path: &Path| {
        fs::remove_file(path).unwrap();
        spoil(path, "CREATE TABLE verdicts (x)");
    };
    let unmarked = "is not a safeguard store: application_id is 0, not 1397191537 (left as it is)";
    check_refused("another program's", table, unmarked).await;
    let newer = format!(
        "has format 99, written by a newer safeguard; this one knows up to {KNOWN} (left as it is)"
    );
    let cases = [
        (
            "another program's, marked",
            "PRAGMA application_id = 42",
            "is not a safeguard store: application_id is 42, not 1397191537 (left as it is)",
        ),
        ("newer", "PRAGMA user_version = 99", &newer),
    ];
    for (name, sql, expected) in cases {
        check_refused(name, |path| spoil(path, sql), expected).await;
    }
}

#[tokio::test]
async fn what_is_damaged_is_refused() {
    let cut = |part: u64| {
        move |path: &Path| {
            let bytes = fs::metadata(path).unwrap().len();
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(bytes * part / 4).unwrap();
        }
    };
    let lose_a_page = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2 / 4_096 * 4_096;
        bytes[middle..middle + 4_096].fill(0);
        fs::write(path, bytes).unwrap();
    };
    check_refused("cut to three quarters", cut(3), "is damaged: ").await;
    check_refused("cut to a quarter", cut(1), "is damaged: ").await;
    check_refused(
        "cut to nothing",
        cut(0),
        "is damaged: file is empty (left as it is)",
    )
    .await;
    check_refused("a page lost", lose_a_page, "is damaged: ").await;
    let cases = [
        (
            "no format",
            "PRAGMA user_version = 0",
            "is damaged: format 0 (left as it is)",
        ),
        (
            "a table lost",
            "DROP TABLE queries",
            "is damaged: no such table: queries",
        ),
    ];
    for (name, sql, expected) in cases {
        check_refused(name, |path| spoil(path, sql), expected).await;
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
                known: KNOWN,
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

/// What version 1 of the format wrote is there in the known one, and takes what it did not know.
#[tokio::test]
async fn an_older_store_is_brought_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("verdicts.db");
    spoil(&path, MIGRATIONS[0]);
    spoil(
        &path,
        &format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1"),
    );
    let old = verdict(1);
    let hex = |digest| crate::store::to_hex(&digest);
    spoil(
        &path,
        &format!(
            "INSERT INTO judges VALUES (1, 'spam', 1, 'aa', 'score', 'score', 'low', 'nano', 'bb');
             INSERT INTO verdicts VALUES (1, x'{}', 0, 1, x'{}', 'allowed', 0, 0.25, NULL, 7, 0, 9, NULL, NULL)",
            hex(old.verdict_digest),
            hex(old.text_digest),
        ),
    );
    for _ in 0..2 {
        let store = Store::open(dir.path()).unwrap();
        store.append(vec![verdict(2)]).await.unwrap();
        let keys = [old.verdict_digest, verdict(2).verdict_digest];
        let found = store.recall(&keys).await.unwrap();
        let known = found[0].as_ref().unwrap();
        assert_eq!((known.score, known.gap), (Some(0.25), None));
        assert_eq!(**found[1].as_ref().unwrap(), verdict(2));
        assert_eq!(store.calibration([0; 32]).await.unwrap(), None);
    }
    let version = Connection::open(&path).unwrap();
    let version: i64 = version
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, KNOWN);
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
    // Whoever closes while another still checks the file may leave the (empty) log to the next who opens it.
    let ours = ["verdicts.db", "verdicts.db-wal", "verdicts.db-shm"];
    for file in fs::read_dir(dir.path()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(ours.contains(&name.as_str()), "{name} is left");
    }
}
