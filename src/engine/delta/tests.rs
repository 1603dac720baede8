//! Delta tables: all or nothing on disks that fail, nothing outside of the roots, and what is said of what cannot be read.

use super::*;
use crate::engine::sink::tests::Bench;
use crate::engine::staging::hidden;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Every file of rows below a folder, by its name.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("_delta_log") {
            found.extend(files(&path));
        } else if path.is_file() {
            found.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    found
}

fn entries(folder: &Path) -> Vec<String> {
    let log = fs::read_dir(folder.join("_delta_log"))
        .into_iter()
        .flatten();
    let paths = log.map(|entry| entry.unwrap().path());
    let entries = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
    entries
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

/// Files of rows that no entry of the log names, and what is hidden.
fn orphans(folder: &Path) -> Vec<String> {
    let entries = entries(folder);
    let named = |file: &String| entries.iter().any(|entry| entry.contains(file.as_str()));
    let lost = files(folder).into_iter().filter(|file| !named(file));
    let hidden = hidden(folder).unwrap();
    lost.chain(hidden.iter().map(|dir| dir.display().to_string()))
        .collect()
}

pub(super) fn table(folder: &Path) -> String {
    format!(
        "SET datafusion.execution.batch_size = 64;
         CREATE EXTERNAL TABLE t (id BIGINT, body TEXT, day TEXT) STORED AS DELTA PARTITIONED BY (day) LOCATION '{}'",
        folder.display()
    )
}

pub(super) fn opened(folder: &Path) -> String {
    format!(
        "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{}'",
        folder.display()
    )
}

pub(super) const FOUR: &str =
    "INSERT INTO t SELECT i, 'text', 'day ' || i FROM generate_series(1, 4) AS g(i)";

#[tokio::test]
async fn a_crash_at_any_step_leaves_all_rows_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = |n: usize| dir.path().join(n.to_string());
    let bench = Bench::start(None).await;
    bench.run(&table(&folder(0))).await.unwrap();
    bench.fail(None);
    assert_eq!(bench.said(FOUR).await, "4");
    let (mut all, mut nothing, mut left) = (0, 0, 0);
    for at in 0..bench.steps() {
        let folder = folder(at + 1);
        let crashing = Bench::start(None).await;
        crashing.run(&table(&folder)).await.unwrap();
        crashing.fail(Some((at, true)));
        let done = crashing.run(FOUR).await;
        left += usize::from(!orphans(&folder).is_empty());
        let next = Bench::start(None).await;
        next.run(&opened(&folder)).await.unwrap();
        match (next.said("SELECT count(*) FROM t").await.as_str(), &done) {
            ("4", Ok(_)) => all += 1,
            ("0", Err(_)) => nothing += 1,
            other => panic!("step {at}: {other:?}"),
        }
        assert_eq!(orphans(&folder), [""; 0], "step {at}: {done:?}");
        assert_eq!(next.said(FOUR).await, "4");
    }
    assert!(
        nothing > 10 && all > 1 && left > 5,
        "{nothing} {all} {left}"
    );
}

#[tokio::test]
async fn a_crash_while_a_table_is_made_leaves_it_whole_or_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let folder = |n: usize| dir.path().join(n.to_string());
    let bench = Bench::start(None).await;
    bench.fail(None);
    bench.run(&table(&folder(0))).await.unwrap();
    let (mut made, mut missing) = (0, 0);
    for at in 0..bench.steps() {
        let folder = folder(at + 1);
        let crashing = Bench::start(None).await;
        crashing.fail(Some((at, true)));
        let done = crashing.run(&table(&folder)).await;
        let next = Bench::start(None).await;
        match (next.said(&opened(&folder)).await.as_str(), &done) {
            ("", Ok(_)) => made += 1,
            ("58P01", Err(_)) => missing += 1,
            other => panic!("step {at}: {other:?}"),
        }
        assert!(
            !folder.exists() || hidden(&folder).unwrap().is_empty(),
            "{at}"
        );
        next.run(&format!("DROP TABLE IF EXISTS t; {}", table(&folder)))
            .await
            .unwrap();
        assert_eq!(next.said("SELECT count(*) FROM t").await, "0");
    }
    assert!(made > 0 && missing > 4, "{made} {missing}");
}

#[tokio::test]
async fn an_insert_that_is_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("t");
    let bench = Bench::start(None).await;
    bench.run(&table(&folder)).await.unwrap();
    bench
        .run("SET datafusion.execution.batch_size = 8192")
        .await
        .unwrap();
    let endless =
        "INSERT INTO t SELECT i, 'text ' || i, 'a' FROM generate_series(1, 1000000000000) AS g(i)";
    let statement = bench.session.split(endless).remove(0).unwrap();
    let (mut rows, _) = bench.session.run(&statement).await.unwrap().split();
    let begun = || {
        hidden(&folder).unwrap().iter().any(|dir| {
            let lines = fs::read_to_string(dir.join(writing::FILES));
            lines.is_ok_and(|lines| lines.lines().count() > 1)
        })
    };
    while !begun() {
        tokio::select! {
            biased;
            row = futures::TryStreamExt::try_next(&mut rows) => panic!("it ended: {row:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    drop(rows);
    assert_eq!(bench.said("SELECT count(*) FROM t").await, "0");
    // Delta's writer is a task of its own, which ends when it sees that nobody wants its files.
    while !orphans(&folder).is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(entries(&folder).len(), 1);
    assert_eq!(bench.said(FOUR).await, "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn appends_at_the_same_time_all_succeed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("t");
    let first = Bench::start(None).await;
    first.run(&table(&folder)).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let folder = folder.clone();
        writers.spawn(async move {
            let bench = Bench::start(None).await;
            bench.run(&opened(&folder)).await.unwrap();
            for _ in 0..6 {
                assert_eq!(bench.run(FOUR).await.unwrap(), "4");
            }
        });
    }
    writers.join_all().await;
    let count = "SELECT count(*), count(DISTINCT day), sum(id) FROM t";
    assert_eq!(first.said(count).await, "96|4|240");
    assert_eq!(entries(&folder).len(), 25);
    assert_eq!(orphans(&folder), [""; 0]);
}

/// A table of four rows, in a root beside a folder that is outside.
async fn in_a_root(dir: &TempDir) -> (Bench, PathBuf) {
    let base = dir.path().canonicalize().unwrap();
    fs::create_dir_all(base.join("in")).unwrap();
    fs::create_dir_all(base.join("out")).unwrap();
    let bench = Bench::start(None).await;
    bench.run(&table(&base.join("in/t"))).await.unwrap();
    bench.run(FOUR).await.unwrap();
    bench.run("DROP TABLE t").await.unwrap();
    let engine = bench.session.engine.clone();
    let engine = engine.with_roots(Some(vec![base.join("in")])).unwrap();
    let mut bench = bench;
    bench.session = engine.session("ann");
    (bench, base)
}

#[cfg(unix)]
#[tokio::test]
async fn nothing_outside_of_the_roots_is_read_or_written() {
    use std::os::unix::fs::symlink;
    let outside = "it is outside of the content roots";
    let moved = |base: &Path, what: &str| {
        fs::rename(base.join("in/t").join(what), base.join("out/moved")).unwrap();
        symlink(base.join("out/moved"), base.join("in/t").join(what)).unwrap();
    };
    type Break = Box<dyn Fn(&Path)>;
    let log = "_delta_log/00000000000000000001.json";
    let cases: [(&str, Break); 6] = [
        (
            "a link in place of the log",
            Box::new(move |base| moved(base, "_delta_log")),
        ),
        (
            "a link in place of an entry",
            Box::new(move |base| moved(base, log)),
        ),
        (
            "a link in place of a partition",
            Box::new(move |base| moved(base, "day=day%201")),
        ),
        (
            "an absolute path in the log",
            Box::new(move |base| {
                let at = base.join("in/t").join(log);
                fs::rename(base.join("in/t/day=day%202"), base.join("out/day")).unwrap();
                let out = format!("file://{}/out/day/", base.display());
                let entry = fs::read_to_string(&at).unwrap();
                assert!(entry.contains("day=day%25202/"), "{entry}");
                fs::write(at, entry.replace("day=day%25202/", &out)).unwrap();
            }),
        ),
        (
            "a path upwards in the log",
            Box::new(move |base| {
                let at = base.join("in/t").join(log);
                fs::rename(base.join("in/t/day=day%202"), base.join("out/day")).unwrap();
                let entry = fs::read_to_string(&at).unwrap();
                fs::write(at, entry.replace("day=day%25202/", "../../out/day/")).unwrap();
            }),
        ),
        ("nothing", Box::new(|_| {})),
    ];
    for (what, apply) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (bench, base) = in_a_root(&dir).await;
        apply(&base);
        let read = format!("{}; SELECT sum(id) FROM t", opened(&base.join("in/t")));
        match (bench.run(&read).await, what) {
            (Ok(sum), "nothing") => assert_eq!(sum, "10"),
            (Err(error), _) if what != "nothing" => {
                assert!(error.to_string().contains(outside), "{what}: {error}");
                assert_eq!(error.sqlstate(), "42501", "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
        let out = |sql: &str| sql.replace("{}", &base.join("out/new").display().to_string());
        for sql in [
            "CREATE EXTERNAL TABLE u STORED AS DELTA LOCATION '{}'",
            "CREATE EXTERNAL TABLE u (a INT) STORED AS DELTA LOCATION '{}/'",
        ] {
            let error = bench.run(&out(sql)).await.unwrap_err();
            assert!(error.to_string().contains(outside), "{error}");
            assert_eq!(error.sqlstate(), "42501");
        }
        assert!(!base.join("out/new").exists());
    }
}

#[cfg(unix)]
#[tokio::test]
async fn rows_are_not_written_through_links_out_of_the_roots() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, base) = in_a_root(&dir).await;
    bench.run(&opened(&base.join("in/t"))).await.unwrap();
    let there = base.join("in/t/day=day%204");
    fs::rename(&there, base.join("out/day")).unwrap();
    std::os::unix::fs::symlink(base.join("out/day"), &there).unwrap();
    let before = files(&base.join("out"));
    assert_eq!(
        bench.said("INSERT INTO t VALUES (1, 'a', 'day 4')").await,
        "42501"
    );
    assert_eq!(files(&base.join("out")), before);
    assert_eq!(
        bench.said("INSERT INTO t VALUES (1, 'a', 'day 5')").await,
        "1"
    );
    // What a hidden folder of somebody else's names outside stays.
    let hidden = base.join("in/t/.safeguard-9");
    fs::create_dir(&hidden).unwrap();
    fs::write(hidden.join("owner"), "").unwrap();
    let victim = base.join("in/victim.parquet");
    fs::write(&victim, "x").unwrap();
    let through = format!(
        "0\n../victim.parquet\n{}\nday=day%204/none.parquet\n",
        victim.display()
    );
    fs::write(hidden.join(writing::FILES), through).unwrap();
    assert_eq!(
        bench.said("INSERT INTO t VALUES (1, 'a', 'day 5')").await,
        "1"
    );
    assert!(victim.exists() && !hidden.exists());
    assert_eq!(files(&base.join("out")), before);
}
