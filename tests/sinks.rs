//! INSERT into folders and Delta tables and CREATE TABLE AS in a program that is killed: all rows or none, and nothing left
//! behind.
//!
//! The program runs as a child and is killed with SIGKILL when as much lies on the disk as a case says.

use crate::input::sql;
use crate::stores;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

const ROWS: usize = 200_000;

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

fn is_staged(file: &Path) -> bool {
    file.display().to_string().contains("/.safeguard-")
}

fn start(dir: &Path, statement: &str) -> Child {
    let two = ["sql", "--data-dir", "data", "-c", TABLE, "-c", DELTA];
    stores::program(dir, two.into_iter().chain(["-c", statement]))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills the program once `when` holds of the files; whether it came to that before its end.
fn kill(dir: &Path, statement: &str, when: impl Fn(&[PathBuf]) -> bool) -> bool {
    let mut child = start(dir, statement);
    let killed = loop {
        if when(&files(dir)) {
            break true;
        }
        if child.try_wait().unwrap().is_some() {
            break false;
        }
        std::thread::yield_now();
    };
    child.kill().unwrap();
    child.wait().unwrap();
    killed
}

const TABLE: &str = "CREATE EXTERNAL TABLE IF NOT EXISTS t (id BIGINT, body TEXT, day BIGINT) STORED AS CSV PARTITIONED BY (day) LOCATION 'posts/' OPTIONS (format.has_header true)";

const DELTA: &str = "CREATE EXTERNAL TABLE IF NOT EXISTS d (id BIGINT, body TEXT, day BIGINT) STORED AS DELTA PARTITIONED BY (day) LOCATION 'lake/'";

/// What the next program sees, as CSV.
fn seen(dir: &Path, select: &str) -> String {
    let said = sql(
        dir,
        &["--data-dir", "data", "-c", TABLE, "-c", DELTA, "-c", select],
    );
    assert_eq!(said.code, 0, "{select}: {}", said.err);
    said.out.lines().skip(1).collect::<Vec<_>>().join(";")
}

#[test]
fn a_killed_insert_is_whole_or_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let insert = format!(
        "INSERT INTO t SELECT i, 'text number ' || i, i % 40 FROM generate_series(1, {ROWS}) AS g(i)"
    );
    let staged = |files: &[PathBuf]| files.iter().filter(|file| is_staged(file)).count();
    let placed = |files: &[PathBuf]| {
        files
            .iter()
            .filter(|f| f.starts_with(dir.join("posts")) && !is_staged(f))
            .count()
    };
    let (mut rows, mut middle) = (0, 0);
    for case in 0..10 {
        let before = placed(&files(dir));
        let killed = kill(dir, &insert, |files| match case {
            0..5 => staged(files) > case * 10,
            // While they are being moved.
            _ => placed(files) > before + (case - 5) * 9,
        });
        let (lies, hidden) = (placed(&files(dir)) - before, staged(&files(dir)));
        middle += usize::from(killed && hidden > 0);
        let now: usize = seen(dir, "SELECT count(*) FROM t").parse().unwrap();
        assert!(
            now == rows || now == rows + ROWS,
            "case {case}: {now} after {rows}"
        );
        // What was moved in part is finished.
        assert!(lies == 0 || now == rows + ROWS, "case {case}: {lies} moved");
        assert_eq!(staged(&files(dir)), 0, "case {case}");
        assert_eq!(placed(&files(dir)) % 40, 0, "case {case}");
        rows = now;
    }
    assert!(middle >= 5, "{middle} kills came in the middle");
    seen(dir, &insert);
    let check = "SELECT count(*), count(DISTINCT id), count(DISTINCT day) FROM t";
    assert_eq!(seen(dir, check), format!("{},{ROWS},40", rows + ROWS));
}

#[test]
fn a_killed_create_table_is_there_with_all_rows_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let make = format!(
        "CREATE TABLE made AS SELECT i AS id, 'text number ' || i AS body FROM generate_series(1, {ROWS}) AS g(i)"
    );
    let own = dir.join("data/tables");
    let mut middle = 0;
    for case in 0..4 {
        let killed = kill(dir, &make, |_| files(&own).len() > case);
        let left = files(&own).len();
        let made = seen(
            dir,
            "SELECT count(*) FROM safeguard.relations WHERE name = 'made'",
        );
        match made.as_str() {
            "0" => {
                assert!(files(&own).is_empty(), "case {case}");
                middle += usize::from(killed && left > 0);
            }
            _ => {
                assert_eq!(seen(dir, "SELECT count(*) FROM made"), ROWS.to_string());
                seen(dir, "DROP TABLE made");
                assert!(files(&own).is_empty(), "case {case}");
            }
        }
    }
    assert!(middle >= 2, "{middle} kills came in the middle");
    seen(dir, &make);
    assert_eq!(
        seen(dir, "SELECT count(*), count(DISTINCT id) FROM made"),
        format!("{ROWS},{ROWS}")
    );
    seen(dir, "INSERT INTO made VALUES (0, 'one more')");
    assert_eq!(
        seen(dir, "SELECT count(*) FROM made"),
        (ROWS + 1).to_string()
    );
    // What does not keep anything does not see it.
    let other = sql(dir, &["--ephemeral", "-c", "SELECT * FROM made"]);
    assert!(other.err.contains("42P01"), "{}", other.err);
}

#[test]
fn a_killed_insert_into_delta_is_whole_or_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let lake = dir.join("lake");
    let insert = format!(
        "INSERT INTO d SELECT i, 'text number ' || i, i % 40 FROM generate_series(1, {ROWS}) AS g(i)"
    );
    assert_eq!(seen(dir, "SELECT count(*) FROM d"), "0");
    let parts = |files: &[PathBuf]| {
        let part = |file: &&PathBuf| {
            file.starts_with(&lake) && file.extension().is_some_and(|e| e == "parquet")
        };
        files.iter().filter(part).count()
    };
    let entries = |files: &[PathBuf]| {
        let entry = |file: &&PathBuf| file.starts_with(lake.join("_delta_log"));
        files.iter().filter(entry).count()
    };
    let (mut rows, mut orphans) = (0, 0);
    for case in 0..10 {
        let before = files(dir);
        kill(dir, &insert, |files| match case {
            0..7 => parts(files) > parts(&before) + case * 5,
            // While or after the entry is written.
            7 | 8 => files
                .iter()
                .any(|file| is_staged(file) && file.ends_with("entry")),
            _ => entries(files) > entries(&before),
        });
        let after = files(dir);
        let lost = entries(&after) == entries(&before) && parts(&after) > parts(&before);
        orphans += usize::from(lost);
        let now: usize = seen(dir, "SELECT count(*) FROM d").parse().unwrap();
        let committed = entries(&after) > entries(&before);
        assert_eq!(now, rows + usize::from(committed) * ROWS, "case {case}");
        rows = now;
        let left = files(dir);
        assert_eq!(parts(&left), rows / ROWS * 40, "case {case}");
        assert!(!left.iter().any(|file| is_staged(file)), "case {case}");
    }
    assert!(orphans >= 5, "{orphans} kills came in the middle");
    seen(dir, &insert);
    let check = "SELECT count(*), count(DISTINCT id), count(DISTINCT day) FROM d";
    assert_eq!(seen(dir, check), format!("{},{ROWS},40", rows + ROWS));
}

#[test]
fn programs_that_insert_into_delta_at_once_all_succeed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(seen(dir, "SELECT count(*) FROM d"), "0");
    let insert = "INSERT INTO d SELECT i, 'text', i % 3 FROM generate_series(1, 1000) AS g(i)";
    let statements = [insert; 5].join("; ");
    let mut programs: Vec<Child> = (0..3).map(|_| start(dir, &statements)).collect();
    for program in &mut programs {
        assert!(program.wait().unwrap().success());
    }
    let check = "SELECT count(*), sum(id) FROM d";
    assert_eq!(seen(dir, check), format!("15000,{}", 15 * 500_500));
}
