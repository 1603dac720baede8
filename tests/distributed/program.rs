//! The program itself: workers as processes, over one data folder, with a token.

use crate::stores;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const TOKEN: &str = "a token of the tests";
const SELECT: &str =
    "SELECT id, safeguard_classify('keywords', body) AS label FROM posts ORDER BY id";

/// A worker, until it is dropped.
struct Worker {
    child: Child,
    address: String,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_safeguard"));
    command
        .current_dir(dir)
        .env("SAFEGUARD_WORKER_TOKEN", TOKEN.replace(' ', "-"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn worker(dir: &Path) -> Worker {
    let mut child = program(dir)
        .args(["worker", "--listen", "127.0.0.1:0", "--data-dir", "data"])
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = lines.map_while(Result::ok);
    let address = said.find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
    let address = address.expect("a worker that does not listen");
    // What it says later must find a reader.
    std::thread::spawn(move || said.for_each(drop));
    Worker { child, address }
}

/// Exit code, stdout and stderr of statements.
fn sql(
    dir: &Path,
    workers: &str,
    token: Option<&str>,
    statements: &[&str],
) -> (i32, String, String) {
    let mut command = program(dir);
    if let Some(token) = token {
        command.env("SAFEGUARD_WORKER_TOKEN", token);
    }
    command.args(["sql", "--format", "csv", "--data-dir", "data"]);
    if !workers.is_empty() {
        command.args(["--workers", workers]);
    }
    for statement in statements {
        command.args(["-c", statement]);
    }
    let done = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        done.status.code().unwrap(),
        text(done.stdout),
        text(done.stderr),
    )
}

#[test]
fn processes_classify_for_another_one() {
    // Stores of PostgreSQL are in the tests of engines.
    if stores::are_shared() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let make =
        "CREATE EXTERNAL TABLE posts (id BIGINT, body TEXT) STORED AS PARQUET LOCATION 'posts/'";
    let insert = "INSERT INTO posts SELECT i, 'money for number ' || (i % 9) FROM generate_series(1, 40) AS g(i)";
    let (code, _, said) = sql(dir, "", None, &[make, insert]);
    assert_eq!(code, 0, "{said}");
    let (one, other) = (worker(dir), worker(dir));
    let workers = format!("http://{},http://{}", one.address, other.address);
    let (code, _, said) = sql(dir, &workers, Some("another-token-of-the-tests"), &[SELECT]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("28000"), "{said}");
    let (code, spread, said) = sql(dir, &workers, None, &[SELECT]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("40 rows, 9 distinct texts"), "{said}");
    let (code, alone, said) = sql(dir, "", None, &[SELECT]);
    assert_eq!((code, &alone), (0, &spread), "{said}");
    assert!(
        said.contains("9 recalled") && said.contains(" 0 asked"),
        "{said}"
    );
    drop(one);
    let (code, _, said) = sql(dir, &workers, None, &[SELECT]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("08001"), "{said}");
}
