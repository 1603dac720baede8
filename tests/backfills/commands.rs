//! Backfills by the command line: begun by `safeguard sql`, listed and worked off by `safeguard job`.

use crate::input::sql;
use crate::stores;
use safeguard::backend::Backend;
use safeguard::backend::local::Local;
use safeguard::store::{Judging, NewBackfill};
use std::path::Path;
use std::process::Stdio;

/// Exit code, standard output and standard error of `safeguard job ..`, without the line about the model.
fn job(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let said = ["job"].iter().chain(arguments);
    let output = stores::program(dir, said.chain(&["--data-dir", "data"]))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    let err: Vec<&str> = err
        .lines()
        .filter(|line| !line.starts_with("safeguard-nano"))
        .collect();
    let out = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), out, err.join("\n"))
}

const BEGIN: &str = "SELECT id, policy, rows, state FROM safeguard_backfill('keywords', 'SELECT id, body FROM posts')";
/// More than can be judged while the program that begins it ends.
const ROWS: usize = 1_200;

#[test]
fn what_sql_begins_a_job_ends() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let table = format!(
        "CREATE TABLE posts AS SELECT i AS id, 'a walk to the bank, number ' || i AS body FROM generate_series(1, {ROWS}) AS g(i)"
    );
    let score = "SET safeguard.mode = 'score'";
    let begun = sql(
        dir,
        &["--data-dir", "data", "-c", score, "-c", &table, "-c", BEGIN],
    );
    let rows = format!("id,policy,rows,state\n1,keywords@1,{ROWS},spooling\n");
    assert_eq!((begun.code, begun.out), (0, rows));
    let left = "%): safeguard job run or safeguard serve goes on with it\n";
    assert!(
        begun
            .err
            .starts_with("NOTICE:  backfill 1 is not finished (")
            && begun.err.ends_with(left),
        "{}",
        begun.err
    );
    // The source is gone with the program that made it, and its rows are not.
    let (code, out, _) = job(dir, &["list"]);
    let all = format!(" of {ROWS} rows (");
    assert!(
        code == 0 && out.starts_with("backfill 1 (keywords@1): running, ") && out.contains(&all),
        "{out}"
    );
    let (code, out, err) = job(dir, &["run"]);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    let said = err.lines().last().unwrap_or_default();
    let done = format!("backfill 1 (keywords@1): done, {ROWS} of {ROWS} rows (100%)");
    assert_eq!(said, done);
    let stored =
        "SELECT count(*) FROM safeguard.verdicts WHERE mode = 'score' AND label = 'violates'";
    let stored = sql(dir, &["--data-dir", "data", "-c", stored]);
    assert!(
        stored.out.ends_with(&format!("\n{ROWS}\n")),
        "{} {}",
        stored.out,
        stored.err
    );
    let (code, _, err) = job(dir, &["run"]);
    assert_eq!((code, err.as_str()), (0, ""), "nothing is left");
    // Nothing of it is kept.
    let begun = sql(dir, &["--ephemeral", "-c", &table, "-c", BEGIN]);
    assert!(
        begun.err.ends_with("%): it is gone with --ephemeral\n"),
        "{}",
        begun.err
    );
}

#[test]
fn a_job_that_fails_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Whether there is a schema nobody knows before it is asked for, which makes one.
    if !stores::are_shared() {
        let (code, _, err) = job(dir, &["list"]);
        assert_eq!(
            (code, err.as_str()),
            (1, "ERROR:  22023: there is no store in data")
        );
    }
    let model = Local::nano().unwrap().model().clone();
    let new = |digest: &str| NewBackfill {
        judging: Judging {
            reference: "keywords@1".to_owned(),
            policy: "keywords@1".to_owned(),
            policy_version: 1,
            policy_digest: "d".to_owned(),
            model: model.name.to_string(),
            model_digest: digest.to_owned(),
            mode: "score".to_owned(),
            effort: "low".to_owned(),
        },
        settings: "{}".to_owned(),
        source: "SELECT 1".to_owned(),
        selection: "SELECT * FROM gone".to_owned(),
        order_by: None,
        note: None,
        only: None,
        from: None,
        rows: 7,
        budget: None,
        requested_by: "ann".to_owned(),
        requested_at: 1,
    };
    let store = stores::open(&dir.join("data"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for digest in ["another", &model.digest] {
        runtime
            .block_on(store.submit_backfill(new(digest)))
            .unwrap();
    }
    drop(store);
    let (code, _, err) = job(dir, &["run"]);
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(
        (code, lines.as_slice()),
        (
            1,
            &[
                "backfill 1 waits for the model that it was asked for, safeguard-nano: this is another",
                "backfill 1 (keywords@1): spooling, 0 of 7 rows (0%)",
                "backfill 2 (keywords@1): failed, 0 of 7 rows (0%): source: table 'safeguard.public.gone' not found",
            ][..]
        )
    );
}
