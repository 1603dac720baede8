//! Ways out of the roots, each refused; ways in, each open.

use super::*;
use crate::backend::local::Local;
use crate::engine::{Engine, Session};
use crate::store::Store;
use futures::TryStreamExt;
use std::fs;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

/// A root with files and links, beside a folder that is outside.
struct Place {
    dir: TempDir,
    engine: Engine,
}

impl Place {
    async fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        for folder in ["in/sub", "in/links", "in/empty", "out", "in-between"] {
            fs::create_dir_all(base.join(folder)).unwrap();
        }
        for file in [
            "in/a.csv",
            "in/sub/b.csv",
            "in/links/own.csv",
            "out/secret.csv",
            "in-between/c.csv",
        ] {
            fs::write(base.join(file), "a\n1\n").unwrap();
        }
        let link = |to: &str, from: &str| symlink(base.join(to), base.join(from)).unwrap();
        link("out/secret.csv", "in/file-link.csv");
        link("out", "in/folder-link");
        link("out/secret.csv", "in/links/z.csv");
        link("in/a.csv", "in/inner-link.csv");
        link("out/none.csv", "in/dangling.csv");
        link("in", "out/back");
        let store = Store::ephemeral().unwrap();
        let nano = Arc::new(Local::nano().unwrap());
        let engine = Engine::with_backend(store, nano).await.unwrap();
        let engine = engine.with_roots(Some(vec![base.join("in")])).unwrap();
        Place { dir, engine }
    }

    /// `{}` in a statement is the folder of everything.
    fn script(&self, sql: &str) -> String {
        let base = fs::canonicalize(self.dir.path()).unwrap();
        sql.replace("{}", base.to_str().unwrap())
    }

    async fn run(&self, sql: &str) -> Result<usize, Error> {
        run(&self.engine.session("ada"), &self.script(sql)).await
    }

    fn exists(&self, path: &str) -> bool {
        self.dir.path().join(path).exists()
    }
}

/// Rows of the last statement.
async fn run(session: &Session, script: &str) -> Result<usize, Error> {
    let mut rows = 0;
    for statement in session.split(script) {
        let (stream, _) = session.run(&statement?).await?.split();
        let batches: Vec<_> = stream.try_collect().await?;
        rows = batches.iter().map(|batch| batch.num_rows()).sum();
    }
    Ok(rows)
}

/// A table at a location, and everything in it.
fn read(location: &str) -> String {
    format!(
        "CREATE EXTERNAL TABLE IF NOT EXISTS t (a INT) STORED AS CSV LOCATION '{location}' OPTIONS ('format.has_header' 'true'); \
         SELECT * FROM t; DROP TABLE t"
    )
}

/// The same with DataFusion finding out the columns.
fn infer(location: &str) -> String {
    read(location).replace(" (a INT)", "")
}

/// A COPY of one row.
fn write(location: &str) -> String {
    format!("COPY (VALUES (1)) TO '{location}' STORED AS CSV")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_outside_is_refused() {
    let place = Place::new().await;
    let outside = [
        "/etc/passwd",
        "/etc/none",
        "/etc/",
        "/etc",
        "/",
        "/proc/self/environ",
        "file:///etc/passwd",
        "file:///etc/none",
        "Cargo.toml",
        "../none.csv",
        "{}/out/secret.csv",
        "{}/out/none.csv",
        "{}/out/",
        "{}/in/../out/secret.csv",
        "file://{}/in/../out/secret.csv",
        "file://{}/in/%2e%2e/out/secret.csv",
        "{}/in/file-link.csv",
        "{}/in/dangling.csv",
        "{}/in/folder-link/secret.csv",
        "{}/in/folder-link/none.csv",
        "{}/in/folder-link/",
        "{}/in/folder-link",
        "{}/out/*.csv",
        "{}/in/folder-link/*.csv",
        // The name of one folder begins with that of another.
        "{}/in-between/c.csv",
        "{}/",
    ];
    for location in outside {
        let shown = place.script(location);
        for (verb, sql) in [
            ("read", read(location)),
            ("read", infer(location)),
            ("write", write(location)),
        ] {
            let error = place.run(&sql).await.expect_err(&sql);
            assert_eq!(error.sqlstate(), "42501", "{sql}\n{error}");
            let expected = format!("cannot {verb} {shown}: it is outside of the content roots");
            assert_eq!(error.to_string(), expected, "{sql}");
        }
    }
    // Characters that the local store leaves out of names: no location has them.
    for location in ["{}/in/.\n./out/secret.csv", "{}/in/.\t./.\n./etc/passwd"] {
        for sql in [read(location), infer(location), write(location)] {
            let error = place.run(&sql).await.expect_err(&sql);
            assert!(error.to_string().contains("illegal character"), "{error}");
        }
    }
    for gone in ["out/none.csv", "out/x.csv"] {
        assert!(!place.exists(gone), "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_with_a_way_out_is_refused_when_it_is_read() {
    let place = Place::new().await;
    for location in [
        "{}/in/links/",
        "{}/in/",
        "{}/in/links/*.csv",
        "{}/in/link*/z.csv",
    ] {
        for sql in [read(location), infer(location)] {
            let error = place.run(&sql).await.expect_err(&sql);
            assert_eq!(error.sqlstate(), "42501", "{sql}\n{error}");
            let why = error.to_string();
            assert!(
                why.ends_with(": it is outside of the content roots"),
                "{why}"
            );
            assert!(why.starts_with("cannot read "), "{why}");
        }
    }
    // A way out that is made after the table is.
    let session = place.engine.session("ada");
    let table = place.script(
        "CREATE EXTERNAL TABLE later (a INT) STORED AS CSV LOCATION '{}/in/sub/' OPTIONS ('format.has_header' 'true')",
    );
    run(&session, &table).await.unwrap();
    assert_eq!(run(&session, "SELECT * FROM later").await.unwrap(), 1);
    let base = place.script("{}");
    symlink(
        format!("{base}/out/secret.csv"),
        format!("{base}/in/sub/c.csv"),
    )
    .unwrap();
    let error = run(&session, "SELECT * FROM later").await.unwrap_err();
    assert_eq!(error.sqlstate(), "42501", "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_elsewhere_is_no_way_to_write() {
    let place = Place::new().await;
    let session = place.engine.session("ada");
    let base = place.script("{}");
    let table = format!(
        "CREATE EXTERNAL TABLE w (a INT) STORED AS CSV LOCATION '{base}/in/sub/'; INSERT INTO w VALUES (7)"
    );
    run(&session, &table).await.unwrap();
    // The folder becomes a link: what was inside is outside now.
    fs::rename(format!("{base}/in/sub"), format!("{base}/in/old")).unwrap();
    symlink(format!("{base}/out"), format!("{base}/in/sub")).unwrap();
    let before = fs::read_dir(format!("{base}/out")).unwrap().count();
    for sql in ["INSERT INTO w VALUES (8)", "SELECT * FROM w"] {
        let error = run(&session, sql).await.unwrap_err();
        assert_eq!(error.sqlstate(), "42501", "{sql}\n{error}");
    }
    assert_eq!(fs::read_dir(format!("{base}/out")).unwrap().count(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_inside_is_read_and_written() {
    let place = Place::new().await;
    for (location, rows) in [
        ("{}/in/a.csv", 1),
        ("file://{}/in/a.csv", 1),
        ("{}/in/sub/", 1),
        ("{}/in/sub/../a.csv", 1),
        ("{}/in/inner-link.csv", 1),
        ("{}/out/back/a.csv", 1),
        ("{}/in/sub/*.csv", 1),
    ] {
        let sql = read(location).replace("; DROP TABLE t", "");
        assert_eq!(place.run(&sql).await.unwrap(), rows, "{location}");
        place.run("DROP TABLE t").await.unwrap();
    }
    for location in ["{}/in/new.csv", "{}/in/made/deep/new.csv", "{}/in/empty/"] {
        place.run(&write(location)).await.unwrap();
    }
    assert!(place.exists("in/new.csv") && place.exists("in/made/deep/new.csv"));
    for none in [
        "{}/in/none.csv",
        // Dots are taken out of a location before links are followed: this is in/out, not out.
        "{}/in/folder-link/../out/secret.csv",
    ] {
        let error = place.run(&read(none)).await.unwrap_err();
        assert_eq!(error.sqlstate(), "58P01", "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_schemes_are_outside_or_not_supported() {
    let place = Place::new().await;
    for (location, state) in [
        ("s3://user:secret@bucket/x.csv", "42501"),
        ("https://example.org/x.csv", "42501"),
        ("gs://bucket/x/", "42501"),
        ("ftp://user:secret@host/x.csv", "0A000"),
        ("file://host/etc/passwd", "0A000"),
    ] {
        for sql in [read(location), write(location)] {
            let error = place.run(&sql).await.expect_err(&sql);
            assert_eq!(error.sqlstate(), state, "{sql}\n{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}

#[tokio::test]
async fn the_local_user_reads_where_the_program_may() {
    let place = Place::new().await;
    let engine = place.engine.clone().with_roots(None).unwrap();
    let sql = place.script(&read("{}/out/secret.csv"));
    run(&engine.session("ada"), &sql).await.unwrap();
}

#[tokio::test]
async fn a_store_keeps_to_the_roots_by_itself() {
    let place = Place::new().await;
    let base = fs::canonicalize(place.dir.path()).unwrap();
    let at = |name: &str| Path::from_absolute_path(base.join(name)).unwrap();
    let roots = Roots::new(Some(vec![base.join("in")]));
    let store = Rooted::new(&roots, LocalFileSystem::new(), &Disk::default());
    use datafusion::object_store::ObjectStoreExt;
    let denied =
        |done: Result<()>| matches!(done, Err(object_store::Error::PermissionDenied { .. }));
    let (secret, link, inside) = (at("out/secret.csv"), at("in/file-link.csv"), at("in/a.csv"));
    assert!(denied(store.head(&secret).await.map(drop)));
    let ranges = [0..1, 2..3];
    assert!(denied(store.get_ranges(&link, &ranges).await.map(drop)));
    assert!(denied(store.put(&secret, "x".into()).await.map(drop)));
    assert!(denied(store.put(&link, "x".into()).await.map(drop)));
    assert!(denied(store.put_multipart(&link).await.map(drop)));
    assert!(denied(store.copy(&secret, &at("in/x.csv")).await));
    assert!(denied(store.copy(&inside, &at("out/x.csv")).await));
    assert!(denied(store.rename(&inside, &at("out/x.csv")).await));
    assert!(denied(store.delete(&secret).await));
    // A link outside that leads inside: what it leads to may be read, the link is not ours to remove.
    assert!(store.head(&at("out/back/a.csv")).await.is_ok());
    assert!(denied(
        store.list_with_delimiter(Some(&at("in"))).await.map(drop)
    ));
    let offset = store.list_with_offset(Some(&at("out")), &at("out/a"));
    assert!(denied(offset.try_collect::<Vec<_>>().await.map(drop)));
    // A link inside that leads outside may be removed, and only the link is.
    store.delete(&link).await.unwrap();
    assert!(place.exists("out/secret.csv") && !place.exists("in/file-link.csv"));
    let meta = store.head(&at("in/inner-link.csv")).await.unwrap();
    assert_eq!(meta.location, at("in/inner-link.csv"));
    assert_eq!(fs::read(base.join("out/secret.csv")).unwrap(), b"a\n1\n");
}
