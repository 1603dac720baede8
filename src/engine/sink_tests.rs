//! INSERT into folders of files: all or nothing on disks that fail and from sources that fail, over every format.

use super::*;
use crate::backend::local::Local;
use crate::engine::staging::{Step, hidden};
use crate::engine::{Engine, Session};
use crate::store::Store;
use datafusion::arrow::util::display::array_value_to_string;
use futures::TryStreamExt;
use std::path::Path;
use std::sync::Mutex;
use tempfile::TempDir;

/// A disk that fails when it is told to.
#[derive(Default)]
pub(in crate::engine) struct Faults {
    steps: usize,
    /// The step that fails, and whether everything does from then on.
    at: Option<(usize, bool)>,
    last: Option<Step>,
}

pub(in crate::engine) struct Bench {
    pub(in crate::engine) session: Session,
    pub(in crate::engine) unmade: Vec<String>,
    faults: Arc<Mutex<Faults>>,
}

impl Bench {
    /// A program over a data directory, or one that keeps nothing.
    pub(in crate::engine) async fn start(data: Option<&Path>) -> Bench {
        let store = data.map_or_else(Store::ephemeral, Store::open).unwrap();
        let nano = Arc::new(Local::nano().unwrap());
        let mut engine = Engine::with_backend(store, nano).await.unwrap();
        let faults = Arc::new(Mutex::new(Faults::default()));
        let told = Arc::clone(&faults);
        let disk = Disk::failing(Arc::new(move |step, path| {
            let mut told = told.lock().unwrap();
            let now = told.steps;
            (told.steps, told.last) = (now + 1, Some(step));
            match told.at {
                Some((at, crash)) if now == at || (crash && now > at) => {
                    Err(io::Error::other(format!("{step:?} {}", path.display())))
                }
                _ => Ok(()),
            }
        }));
        engine = engine.on(disk).unwrap();
        if let Some(data) = data {
            engine = engine.with_tables(data).unwrap();
        }
        let unmade = engine.restore(&engine.session("safeguard")).await.unwrap();
        Bench {
            session: engine.session("ann"),
            unmade,
            faults,
        }
    }

    /// Steps from now: this one fails, and with `crash` all after it.
    pub(in crate::engine) fn fail(&self, at: Option<(usize, bool)>) {
        *self.faults.lock().unwrap() = Faults {
            at,
            ..Faults::default()
        };
    }

    /// Steps since [`Bench::fail`].
    pub(in crate::engine) fn steps(&self) -> usize {
        self.faults.lock().unwrap().steps
    }

    /// The last statement's cells joined by `|`, rows by `;`, or the SQLSTATE.
    pub(in crate::engine) async fn said(&self, script: &str) -> String {
        self.run(script)
            .await
            .unwrap_or_else(|error| error.sqlstate().to_owned())
    }

    pub(in crate::engine) async fn run(&self, script: &str) -> Result<String, Error> {
        let mut said = String::new();
        for statement in self.session.split(script) {
            let (stream, _) = self.session.run(&statement?).await?.split();
            let batches: Vec<_> = stream.try_collect().await?;
            let mut rows = Vec::new();
            for batch in &batches {
                for row in 0..batch.num_rows() {
                    let cells = batch.columns().iter();
                    let cells = cells.map(|cell| array_value_to_string(cell, row).unwrap());
                    rows.push(cells.collect::<Vec<_>>().join("|"));
                }
            }
            said = rows.join(";");
        }
        Ok(said)
    }
}

/// Steele, Lea and Flood's SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }
}

const ROWS: usize = 2_000;

/// `{}` is a number that the source fails at; none where it is 0.
fn insert(fails_at: usize) -> String {
    format!(
        "INSERT INTO t SELECT i, 'text ' || (7000 / (i - {fails_at})), 'day ' || (i % 4) FROM generate_series(1, {ROWS}) AS g(i)"
    )
}

fn table(kind: &str, folder: &Path) -> String {
    format!(
        "SET datafusion.execution.batch_size = 64;
         CREATE EXTERNAL TABLE t (id BIGINT, body TEXT, day TEXT NOT NULL) STORED AS {kind} LOCATION '{}/'",
        folder.display()
    )
}

/// Every way to store a table, and its folder's name.
fn kinds(dir: &TempDir) -> Vec<(String, PathBuf)> {
    let kinds = [
        "PARQUET",
        "PARQUET PARTITIONED BY (day)",
        "CSV PARTITIONED BY (day)",
        "JSON",
        "DELTA",
        "DELTA PARTITIONED BY (day)",
    ];
    let kinds = kinds.into_iter().enumerate();
    let kinds = kinds.map(|(n, kind)| {
        let folder = dir.path().join(n.to_string());
        let options = match kind.starts_with("CSV") {
            true => "OPTIONS (format.has_header true)",
            false => "",
        };
        (format!("{} {options}", table(kind, &folder)), folder)
    });
    kinds.collect()
}

const COUNT: &str = "SELECT count(*), count(DISTINCT day), sum(id) FROM t";

fn none_hidden(folder: &Path) -> bool {
    hidden(folder).unwrap().is_empty()
}

#[tokio::test]
async fn an_insert_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(7);
    for (make, folder) in kinds(&dir) {
        let bench = Bench::start(None).await;
        bench.run(&make).await.unwrap();
        bench.fail(None);
        assert_eq!(bench.said(&insert(0)).await, ROWS.to_string(), "{make}");
        let steps = bench.steps();
        let mut rows = ROWS;
        let seen = |rows: usize| format!("{rows}|4|{}", rows / ROWS * (ROWS * (ROWS + 1) / 2));
        assert_eq!(bench.said(COUNT).await, seen(rows), "{make}");
        let (mut failed, mut by_source) = (0, 0);
        // The source and each kind of step of the disk.
        for _ in 0..20 {
            let source = random.below(3) == 0;
            let (fails_at, step) = match source {
                true => (1 + random.below(ROWS), None),
                false => (0, Some((random.below(steps), false))),
            };
            bench.fail(step);
            let done = bench.run(&insert(fails_at)).await;
            bench.fail(None);
            match &done {
                Ok(_) => rows += ROWS,
                Err(_) => failed += 1,
            }
            assert!(done.is_err() || !source, "{make}: {fails_at}");
            by_source += usize::from(source);
            let said = bench.said(COUNT).await;
            assert_eq!(said, seen(rows), "{make}: {fails_at} {step:?} {done:?}");
            assert!(none_hidden(&folder), "{make}: {fails_at} {step:?}");
        }
        assert!(
            failed >= 15 && by_source >= 3,
            "{make}: {failed} {by_source}"
        );
    }
}

#[tokio::test]
async fn a_crash_at_any_step_is_rolled_forward_or_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut all, mut nothing, mut parts) = (0, 0, 0);
    let source = "INSERT INTO t SELECT i, 'text', 'day ' || i FROM generate_series(1, 4) AS g(i)";
    let make = |folder: &Path| table("PARQUET PARTITIONED BY (day)", folder);
    let folder = |n: usize| dir.path().join(n.to_string());
    let bench = Bench::start(None).await;
    bench.run(&make(&folder(0))).await.unwrap();
    bench.fail(None);
    assert_eq!(bench.said(source).await, "4");
    for at in 0..bench.steps() {
        let folder = folder(at + 1);
        let crashing = Bench::start(None).await;
        crashing.run(&make(&folder)).await.unwrap();
        crashing.fail(Some((at, true)));
        let done = crashing.run(source).await;
        let moved = std::fs::read_dir(&folder).map_or(0, |entries| {
            let names = entries.map(|entry| entry.unwrap().path());
            names
                .filter(|path| {
                    path.is_dir()
                        && path
                            .read_dir()
                            .unwrap()
                            .any(|file| file.unwrap().path().is_file())
                })
                .filter(|path| !path.display().to_string().contains(staging::HIDDEN))
                .count()
        });
        parts += usize::from(moved > 0 && moved < 4);
        // The next program, and its next statement on the table.
        let next = Bench::start(None).await;
        next.run(&make(&folder)).await.unwrap();
        let said = next.said("SELECT count(*) FROM t").await;
        match (said.as_str(), done.is_ok() || moved > 0) {
            ("4", _) => all += 1,
            ("0", false) => nothing += 1,
            other => panic!("step {at}: {other:?}, {moved} moved, {done:?}"),
        }
        assert!(none_hidden(&folder), "step {at}");
    }
    assert!(
        nothing > 4 && all > 4 && parts == 3,
        "{nothing} {all} {parts}"
    );
}

#[tokio::test]
async fn an_insert_that_is_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(None).await;
    let folder = dir.path().join("t");
    bench
        .run(&table("CSV PARTITIONED BY (day)", &folder))
        .await
        .unwrap();
    let endless = "INSERT INTO t SELECT i, 'text', 'day' || i % 3 FROM generate_series(1, 1000000000000) AS g(i)";
    let statement = bench.session.split(endless).remove(0).unwrap();
    let (mut rows, _) = bench.session.run(&statement).await.unwrap().split();
    let written = || {
        hidden(&folder).unwrap().iter().any(|dir| {
            dir.join("rows")
                .read_dir()
                .is_ok_and(|mut d| d.next().is_some())
        })
    };
    while !written() {
        tokio::select! {
            biased;
            row = rows.try_next() => panic!("it ended: {row:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    drop(rows);
    assert_eq!(bench.said("SELECT count(*) FROM t").await, "0");
    assert!(none_hidden(&folder));
}

#[tokio::test]
async fn what_a_table_cannot_take_is_said_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().display();
    std::fs::create_dir_all(dir.path().join("posts/a")).unwrap();
    std::fs::write(dir.path().join("posts/a/x.csv"), "id\n1\n").unwrap();
    let bench = Bench::start(None).await;
    let make = format!(
        "CREATE EXTERNAL TABLE one STORED AS CSV LOCATION '{base}/posts/a/x.csv';
         CREATE EXTERNAL TABLE pattern STORED AS CSV LOCATION '{base}/posts/*/x.csv';
         CREATE EXTERNAL TABLE packed (id BIGINT) STORED AS CSV LOCATION '{base}/packed/' OPTIONS (format.has_header true, format.compression gzip);
         {}", table("PARQUET PARTITIONED BY (day)", &dir.path().join("t"))
    );
    bench.run(&make).await.unwrap();
    for (sql, want) in [
        ("INSERT INTO one VALUES (2)", "0A000"),
        ("INSERT INTO pattern VALUES (2)", "0A000"),
        (
            "INSERT INTO t VALUES (1, 'a', 'x'), (2, 'b', NULL)",
            "23502",
        ),
        (
            "INSERT INTO t SELECT i, 'a', CASE i WHEN 1 THEN 'x' END FROM generate_series(1, 2) AS g(i)",
            "23502",
        ),
        ("SELECT count(*) FROM t", "0"),
        ("INSERT INTO t VALUES (1, NULL, 'a/b=c d%')", "1"),
        ("SELECT * FROM t", "1||a/b=c d%"),
        (
            "INSERT INTO packed SELECT i FROM generate_series(1, 3) AS g(i)",
            "3",
        ),
        ("SELECT sum(id) FROM packed", "6"),
        // Reads what was there when it began.
        ("INSERT INTO packed SELECT id FROM packed", "3"),
        ("SELECT sum(id) FROM packed", "12"),
        (
            "INSERT INTO packed SELECT id FROM packed WHERE id > 100",
            "0",
        ),
        ("SELECT sum(id) FROM packed", "12"),
    ] {
        assert_eq!(bench.said(sql).await, want, "{sql}");
    }
    let packed = std::fs::read_dir(dir.path().join("packed")).unwrap();
    let names: Vec<_> = packed.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        names
            .iter()
            .all(|name| name.to_string_lossy().ends_with(".csv.gz")),
        "{names:?}"
    );
    bench
        .run("EXPLAIN INSERT INTO t VALUES (1, 'a', 'x')")
        .await
        .unwrap();
    assert!(none_hidden(&dir.path().join("t")));
}

#[tokio::test]
async fn what_is_not_published_is_in_no_listing() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("a.csv", "id\n1\n"),
        ("sub/.safeguard-0/rows/b.csv", "id\n2\n"),
    ] {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let base = dir.path().display();
    for roots in [None, Some(vec![dir.path().canonicalize().unwrap()])] {
        let mut bench = Bench::start(None).await;
        let engine = bench.session.engine.clone().with_roots(roots).unwrap();
        bench.session = engine.session("ann");
        for (n, location) in ["", "*.csv"].into_iter().enumerate() {
            let sql = format!(
                "CREATE EXTERNAL TABLE t{n} STORED AS CSV LOCATION '{base}/{location}'; SELECT id FROM t{n}"
            );
            assert_eq!(bench.said(&sql).await, "1", "{sql}");
        }
    }
}
