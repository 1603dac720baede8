//! The program with its store in a PostgreSQL that others share: by the command line, and as a server that is killed.

use super::shared;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// A server that does not listen by then will not.
const LISTEN_SECONDS: u64 = 120;

fn program(dir: &Path, url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_safeguard"));
    let (subcommand, rest) = args.split_first().unwrap();
    command
        .args(subcommand.split(' '))
        .args(["--store", url])
        .args(rest)
        .current_dir(dir)
        .stdin(Stdio::null());
    command
}

/// What it wrote, and what it said.
fn told(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

/// Two machines, as far as their folders go.
#[test]
fn one_program_recalls_what_another_asked() {
    let Some(url) = shared::url() else { return };
    let ask = "SELECT safeguard_classify('hate', 'have a nice day') AS label";
    for (nth, said) in ["1 row, 0 recalled", "1 row, 1 recalled, 0 asked"]
        .into_iter()
        .enumerate()
    {
        let dir = tempfile::tempdir().unwrap();
        let output = program(dir.path(), &url, &["sql", "--format", "csv", "-c", ask]).output();
        let (rows, notices) = told(&output.unwrap());
        assert_eq!(rows.trim(), "label\nallowed", "run {nth}");
        assert!(notices.contains(said), "run {nth}: {notices}");
        assert!(!dir.path().join("safeguard-data/verdicts.db").exists());
    }
    let dir = tempfile::tempdir().unwrap();
    let plan = "EXPLAIN SELECT label FROM safeguard.verdicts WHERE policy = 'hate'";
    let output = program(dir.path(), &url, &["sql", "--format", "csv", "-c", plan]).output();
    let (rows, _) = told(&output.unwrap());
    assert!(
        rows.contains("postgres=[SELECT v.label FROM verdicts AS v"),
        "{rows}"
    );
}

#[test]
fn users_policies_and_work_are_everybodys() {
    let Some(url) = shared::url() else { return };
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let add = ["user add", "ann", "--role", "analyst", "--password-stdin"];
    let mut add = program(here.path(), &url, &add)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    add.stdin
        .take()
        .unwrap()
        .write_all(b"a long password\n")
        .unwrap();
    told(&add.wait_with_output().unwrap());
    let (users, _) = told(
        &program(there.path(), &url, &["user list"])
            .output()
            .unwrap(),
    );
    assert!(
        users
            .lines()
            .any(|line| line.starts_with("ann") && line.ends_with("analyst")),
        "{users}"
    );
    let policy = here.path().join("mine.md");
    std::fs::write(
        &policy,
        "---\nlabels: [allowed, bad]\n---\n- H1: bad if it sells\n",
    )
    .unwrap();
    let publish = ["policy publish", "mine", "mine.md", "--note", "new"];
    told(&program(here.path(), &url, &publish).output().unwrap());
    let (policies, _) = told(
        &program(there.path(), &url, &["policy list"])
            .output()
            .unwrap(),
    );
    assert!(policies.contains("mine"), "{policies}");
    let (jobs, _) = told(&program(there.path(), &url, &["job list"]).output().unwrap());
    assert_eq!(jobs, "");
}

/// `safeguard serve` over a shared store; killed when it goes out of scope.
struct Server(Child, u16);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(dir: &Path, url: &str) -> Server {
        let mut child = program(dir, url, &["serve", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(port) = line.strip_prefix("listening on 127.0.0.1:") {
                    let _ = sender.send(port.trim().parse().unwrap());
                }
            }
        });
        let port = receiver.recv_timeout(Duration::from_secs(LISTEN_SECONDS));
        Server(child, port.expect("no line `listening on ..`"))
    }

    async fn connect(&self) -> Client {
        let config = format!("host=127.0.0.1 port={} user=ann dbname=safeguard", self.1);
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

async fn value(client: &Client, sql: &str) -> String {
    let found = client.simple_query(sql).await.unwrap();
    let row = found.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_server_stored_the_next_one_has() {
    let Some(url) = shared::url() else { return };
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let ask = "SELECT safeguard_classify('hate', 'have a nice day')";
    let count = "SELECT count(*) FROM safeguard.verdicts";
    {
        let server = Server::start(dirs[0].path(), &url);
        let client = server.connect().await;
        assert_eq!(value(&client, ask).await, "allowed");
    }
    let server = Server::start(dirs[1].path(), &url);
    let client = server.connect().await;
    let kept = value(&client, count).await;
    assert_ne!(kept, "0");
    assert_eq!(value(&client, ask).await, "allowed");
    assert_eq!(value(&client, count).await, kept, "it was recalled");
}
