//! What real PostgreSQL clients do against `safeguard serve`: psql, psycopg, asyncpg, SQLAlchemy and pgJDBC.
//!
//! Each test starts a server of its own on a free port and runs one script of `tests/clients`, which prints a line a
//! probe and fails where one failed; the same scripts hold against PostgreSQL 15 (`--oracle`). A client that is not on
//! this machine is reported as skipped, unless `SAFEGUARD_CLIENTS=require`; `.ci/clients` installs and requires them.

use crate::stores;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// A server that does not listen by then will not.
const LISTEN_SECONDS: u64 = 60;
/// A suite that has not ended by then hangs; each probe has its own, shorter deadline.
const SUITE_SECONDS: u64 = 900;
const POSTGRES_JAR: &str = "/usr/share/java/postgresql.jar";

/// A server on a free port; killed when it goes out of scope.
struct Server {
    child: Child,
    port: String,
    /// Its standard error so far.
    said: Arc<Mutex<String>>,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts one in a folder of its own, which is its content root too.
    fn start() -> Server {
        let folder = tempfile::tempdir().unwrap();
        let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"];
        let mut child = stores::program(folder.path(), serve)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(String::new()));
        let (sender, receiver) = mpsc::channel();
        let kept = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("listening on 127.0.0.1:") {
                    let _ = sender.send(address.trim().to_owned());
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let port = receiver.recv_timeout(Duration::from_secs(LISTEN_SECONDS));
        let server = |port| Server {
            child,
            port,
            said,
            _folder: folder,
        };
        match port {
            Ok(port) => server(port),
            Err(_) => panic!(
                "no line `listening on ..`:\n{}",
                server(String::new()).log()
            ),
        }
    }

    fn log(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// The Python that has the drivers, if there is one.
pub(crate) fn python() -> Option<PathBuf> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/venv/bin/python");
    std::env::var_os("SAFEGUARD_CLIENTS_PYTHON")
        .map(PathBuf::from)
        .or_else(|| made.is_file().then_some(made))
}

/// Whether a program starts.
fn starts(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    let command = command.arg(argument).stdin(Stdio::null());
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether clients are required, on a machine that does nothing else meanwhile.
pub(crate) fn required() -> bool {
    std::env::var_os("SAFEGUARD_CLIENTS").is_some_and(|value| value == "require")
}

/// A client that is not here: a failure where clients are required.
pub(crate) fn skip(what: &str) {
    assert!(!required(), "{what} is missing; .ci/clients installs it");
    eprintln!("skipped: {what} is not on this machine");
}

/// Waits for the end of `child`, or kills it at the deadline.
fn finish(mut child: Child) -> Option<Output> {
    let mut readers = Vec::new();
    let pipes: [Box<dyn Read + Send>; 2] = [
        Box::new(child.stdout.take().unwrap()),
        Box::new(child.stderr.take().unwrap()),
    ];
    let (sender, receiver) = mpsc::channel();
    for mut pipe in pipes {
        let sender = sender.clone();
        readers.push(std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = pipe.read_to_end(&mut text);
            let _ = sender.send(());
            text
        }));
    }
    let deadline = Instant::now() + Duration::from_secs(SUITE_SECONDS);
    let in_time = (0..2).all(|_| {
        let left = deadline.saturating_duration_since(Instant::now());
        receiver.recv_timeout(left).is_ok()
    });
    if !in_time {
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    let mut texts = readers.into_iter().map(|reader| reader.join().unwrap());
    let (stdout, stderr) = (texts.next().unwrap(), texts.next().unwrap());
    in_time.then_some(Output {
        status,
        stdout,
        stderr,
    })
}

/// Runs a suite against a server of its own; every line that it prints must be `ok ..`.
fn suite(program: &Path, before: &[&str], script: &str) {
    // One at a time: the probes measure how soon a cancelled statement ends.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut server = Server::start();
    let stop = if required() { "1" } else { "10" };
    let child = Command::new(program)
        .args(before)
        .arg(scripts().join(script))
        .args(["127.0.0.1", &server.port, "postgres", "postgres"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PROBE_STOP_SECONDS", stop)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let Some(output) = finish(child) else {
        panic!(
            "{script} did not end in {SUITE_SECONDS} s:\n{}",
            server.log()
        );
    };
    let lines = String::from_utf8_lossy(&output.stdout);
    let gaps = gaps(script);
    let named = |line: &str, end: char| gaps.iter().any(|gap| line.split(end).next() == Some(gap));
    // What is known to be missing is said in a file, which must stay true both ways.
    let failed: Vec<&str> = lines
        .lines()
        .filter(
            |line| match (line.strip_prefix("ok "), line.strip_prefix("FAIL ")) {
                (Some(name), _) => named(name, ' '),
                (_, Some(failure)) => !named(failure, ':'),
                _ => false,
            },
        )
        .collect();
    let held = lines.lines().filter(|l| l.starts_with("ok ")).count();
    println!("{script}: {held} probes held, {} known gaps", gaps.len());
    let alive = server.child.try_wait().unwrap().is_none();
    assert!(
        failed.is_empty() && held > 0 && alive,
        "{script}: {held} probes held, the server {}\n{}\n{}\nserver:\n{}",
        if alive { "lives" } else { "died" },
        failed.join("\n"),
        String::from_utf8_lossy(&output.stderr),
        server.log()
    );
}

/// Probes of a suite that are known to fail: `tests/clients/known_gaps.txt`.
fn gaps(script: &str) -> Vec<String> {
    let file = std::fs::read_to_string(scripts().join("known_gaps.txt")).unwrap();
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    let named = lines.filter_map(|line| line.split_once(' '));
    let mine = named.filter(|(suite, _)| *suite == script);
    mine.filter_map(|(_, rest)| Some(rest.split(' ').next()?.to_owned()))
        .collect()
}

fn python_suite(script: &str) {
    match python() {
        Some(python) => suite(&python, &[], script),
        None => skip("a Python with the drivers of tests/clients/requirements.txt"),
    }
}

#[test]
fn psycopg() {
    python_suite("psycopg_probe.py");
}

#[test]
fn asyncpg() {
    python_suite("asyncpg_probe.py");
}

#[test]
fn sqlalchemy() {
    python_suite("sqlalchemy_probe.py");
}

#[test]
fn psql() {
    if !starts("psql", "--version") {
        return skip("psql");
    }
    python_suite("psql_probe.py");
}

#[test]
fn jdbc() {
    if !starts("java", "-version") {
        return skip("java");
    }
    if !Path::new(POSTGRES_JAR).is_file() {
        return skip("pgJDBC");
    }
    suite(Path::new("java"), &["-cp", POSTGRES_JAR], "JdbcProbe.java");
}
