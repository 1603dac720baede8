//! INSERT into folders and CREATE TABLE AS in a program that is killed: all rows or none, and nothing left behind.
//!
//! The program runs as a child and is killed with SIGKILL when as much lies on the disk as a case says.

use crate::input::sql;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

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
    Command::new(env!("CARGO_BIN_EXE_safeguard"))
        .args(["sql", "--data-dir", "data", "-c", TABLE, "-c", statement])
        .current_dir(dir)
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

/// What the next program sees, as CSV.
fn seen(dir: &Path, select: &str) -> String {
    let said = sql(dir, &["--data-dir", "data", "-c", TABLE, "-c", select]);
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
