//! A PostgreSQL of one test.

use super::skip;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio_postgres::{Client, NoTls};

/// One that is not ready by then will not be.
const READY_SECONDS: u64 = 60;
/// The user that it runs as where tests run as root, which it refuses.
const USER: &str = "postgres";
/// Of the socket's name alone, where nothing listens on it.
pub(crate) const PORT: u16 = 5432;

/// Killed when it goes out of scope.
pub(crate) struct Cluster {
    child: Child,
    port: u16,
    log: Arc<(Mutex<String>, Condvar)>,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts one; `None` where PostgreSQL is not installed.
    pub(crate) fn start() -> Option<Cluster> {
        Cluster::with(PORT, "listen_addresses=", &[])
    }

    /// The same, with a port, lines of its configuration (`{}` is its folder) and files in that folder.
    pub(crate) fn with(port: u16, settings: &str, files: &[(&str, &str)]) -> Option<Cluster> {
        let Some(bin) = bin() else {
            skip("a PostgreSQL server");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        run(Command::new("chmod").arg("755").arg(folder.path()));
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            run(Command::new("chmod").arg("600").arg(path));
        }
        if is_root() {
            run(Command::new("chown").arg("-R").arg(USER).arg(folder.path()));
        }
        let mut init = as_user(&bin.join("initdb"));
        let init = init.args([
            "--no-sync",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-U",
            USER,
        ]);
        run(init.arg("-D").arg(&data));
        let here = folder.path().display().to_string();
        let settings = settings
            .lines()
            .map(|line| line.trim().replace("{}", &here));
        let mut child = as_user(&bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args([
                "-c",
                "fsync=off",
                "-c",
                "log_statement=all",
                "-c",
                &format!("port={port}"),
            ])
            .arg("-c")
            .arg(format!(
                "unix_socket_directories={}",
                folder.path().display()
            ))
            .args(settings.flat_map(|line| ["-c".to_owned(), line]))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let (ready, wait) = mpsc::channel();
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("ready to accept connections") {
                    let _ = ready.send(());
                }
                let (text, more) = kept.as_ref();
                let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
                more.notify_all();
            }
        });
        let cluster = Cluster {
            child,
            port,
            log,
            folder,
        };
        let waited = wait.recv_timeout(Duration::from_secs(READY_SECONDS));
        assert!(
            waited.is_ok(),
            "PostgreSQL did not start:\n{}",
            cluster.said()
        );
        Some(cluster)
    }

    /// The folder of its socket.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its number.
    pub(crate) fn process(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// What it said so far.
    fn said(&self) -> String {
        let text = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone()
    }

    /// What it said up to now, every statement that it was asked among it.
    pub(crate) async fn log(&self) -> String {
        let mark = format!("SELECT 'mark {}'", self.said().len());
        self.client().await.batch_execute(&mark).await.unwrap();
        let (text, more) = self.log.as_ref();
        let text = text.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = Duration::from_secs(READY_SECONDS);
        let waited = more.wait_timeout_while(text, limit, |text| !text.contains(&mark));
        let (text, _) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(text.contains(&mark), "{text}");
        text.clone()
    }

    /// A client of its own, by the side of ours.
    pub(crate) async fn client(&self) -> Client {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(self.folder())
            .port(self.port)
            .user(USER)
            .dbname(USER);
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// The statement that attaches it.
    pub(crate) fn create_server(&self, name: &str) -> String {
        create_server(name, self.folder())
    }

    /// Kills it and its children, as a machine that fails does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The statement that attaches what listens in a folder.
pub(crate) fn create_server(name: &str, folder: &Path) -> String {
    format!(
        "CREATE SERVER {name} FOREIGN DATA WRAPPER postgres OPTIONS (host '{}', port '{PORT}', dbname '{USER}', user '{USER}')",
        folder.display()
    )
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the server's programs are: Debian keeps them beside the path.
fn bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").is_file())
        .collect();
    found.sort();
    found.pop()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|id| id.stdout.starts_with(b"0\n"))
}

fn as_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--reuid={USER}"))
        .arg(format!("--regid={USER}"));
    command.arg("--clear-groups").arg(program);
    command
}

fn run(command: &mut Command) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let _ = child.stderr.take().unwrap().read_to_string(&mut said);
    assert!(child.wait().unwrap().success(), "{command:?}: {said}");
}
