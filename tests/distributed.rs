//! Statements that classify at workers, in processes of their own as far as the wire knows: the same rows and the same
//! questions as in one process, the same plan where nothing is sent, and an end with a SQLSTATE when a worker is lost.
//!
//! Coordinator and workers share a store, and each has a backend that is a script and counts.

mod program;

use crate::auto::{PUBLISH, Script};
use crate::slt::rows;
use crate::stores;
use futures::TryStreamExt;
use safeguard::backend::{Backend, BackendError, ModelIdentity, Prompt, Reply};
use safeguard::config::WorkerListen;
use safeguard::engine::{End, Engine, Session, WorkerServer};
use safeguard::error::Error;
use safeguard::store::Store;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

/// Rows of the table of all tests.
const ROWS: u64 = 1_200;
/// Different texts among them.
const TEXTS: u64 = 400;
/// How long something may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(60);

async fn engine(store: &Store, backend: Arc<dyn Backend>) -> Engine {
    let engine = Engine::with_backend(store.clone(), backend).await.unwrap();
    safeguard::jobs::complete(engine)
}

/// A statement's rows, and what was said at its end.
async fn run(session: &Session, sql: &str) -> Result<(Vec<String>, Vec<String>), Error> {
    let statement = session.split(sql).remove(0)?;
    let (stream, ended) = session.run(&statement).await?.split();
    let batches: Result<Vec<_>, _> = stream.try_collect().await;
    match batches {
        Ok(batches) => {
            let notices = session.finish(ended, End::Done).await;
            let rows = batches.iter().flat_map(rows).map(|row| row.join("|"));
            Ok((rows.collect(), notices))
        }
        Err(error) => {
            let error = Error::from(error);
            let end = End::Failed(error.sqlstate(), "it failed");
            session.finish(ended, end).await;
            Err(error)
        }
    }
}

/// A worker over this store, until it is dropped.
struct Worker {
    url: Url,
    stop: CancellationToken,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Worker {
    async fn start(engine: &Engine, token: Option<&str>) -> Worker {
        let token = token.map(str::to_owned);
        let listen = WorkerListen::new(Some("127.0.0.1:0"), false, token).unwrap();
        let server = WorkerServer::bind(engine, listen).await.unwrap();
        let url = url(server.address());
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move { server.run(stopped).await.unwrap() });
        Worker { url, stop }
    }
}

fn url(address: SocketAddr) -> Url {
    Url::parse(&format!("http://{address}")).unwrap()
}

/// Everything of a test: files, a store, two workers and who asks them.
struct Fleet {
    dir: tempfile::TempDir,
    store: Store,
    scripts: [Arc<Script>; 3],
    workers: Vec<Worker>,
    session: Session,
}

impl Fleet {
    async fn start() -> Fleet {
        let (dir, store) = (tempfile::tempdir().unwrap(), stores::new());
        let scripts = [Script::new("one"), Script::new("one"), Script::new("one")];
        let mut workers = Vec::new();
        for script in &scripts[..2] {
            let engine = engine(&store, script.clone()).await;
            workers.push(Worker::start(&engine, None).await);
        }
        let urls = workers.iter().map(|worker| worker.url.clone()).collect();
        let session = coordinator(&store, scripts[2].clone(), urls).await;
        let fleet = Fleet {
            dir,
            store,
            scripts,
            workers,
            session,
        };
        write(&fleet.session, fleet.dir.path()).await;
        fleet
    }

    /// Questions that each has put since the last call.
    fn asked(&self) -> [u64; 3] {
        self.scripts.each_ref().map(|script| script.asked().1)
    }
}

async fn coordinator(store: &Store, backend: Arc<dyn Backend>, urls: Vec<Url>) -> Session {
    let engine = engine(store, backend).await;
    let engine = engine.with_workers(urls, None).await.unwrap();
    // Tables that another one made.
    let warned = engine.restore(&engine.session("ann")).await.unwrap();
    assert_eq!(warned, Vec::<String>::new());
    engine.session("ann")
}

/// One process with a store of its own over the same files.
async fn alone(dir: &Path) -> (Session, Arc<Script>) {
    let script = Script::new("one");
    let session = engine(&stores::new(), script.clone()).await.session("ann");
    run(&session, PUBLISH).await.unwrap();
    tables(&session, dir).await;
    (session, script)
}

/// Policies, and files in which texts come more than once.
async fn write(session: &Session, dir: &Path) {
    run(session, PUBLISH).await.unwrap();
    for file in 0..4 {
        let (from, to) = (file * ROWS / 4 + 1, (file + 1) * ROWS / 4);
        let path = dir.join(format!("posts/{file}.parquet"));
        let copy = format!(
            "COPY (SELECT i AS id, 'text ' || (i % {TEXTS}) || CASE i % 5 WHEN 0 THEN ' bad' ELSE '' END AS body,
             CASE i % 7 WHEN 0 THEN NULL ELSE 'k' || i % 3 END AS kind
             FROM generate_series({from}, {to}) AS g(i)) TO '{}' STORED AS PARQUET",
            path.display()
        );
        run(session, &copy).await.unwrap();
    }
    tables(session, dir).await;
}

async fn tables(session: &Session, dir: &Path) {
    let posts = dir.join("posts");
    let make = format!(
        "CREATE EXTERNAL TABLE posts STORED AS PARQUET LOCATION '{}/'",
        posts.display()
    );
    run(session, &make).await.unwrap();
}

/// What a statement would do, without what it would cost.
async fn plan(session: &Session, sql: &str) -> String {
    let (rows, _) = run(session, &format!("EXPLAIN {sql}")).await.unwrap();
    let plans = rows
        .into_iter()
        .filter(|row| !row.starts_with("safeguard_estimate"));
    plans.collect::<Vec<_>>().join("\n")
}

/// Notices without the time that something took.
fn timeless(notices: &[String]) -> Vec<&str> {
    let timeless = |notice: &'_ String| match notice.starts_with("safeguard: ") {
        true => notice.rfind(", ").unwrap_or(notice.len()),
        false => notice.len(),
    };
    notices.iter().map(|n| &n[..timeless(n)]).collect()
}

const STATEMENTS: [&str; 6] = [
    "SELECT id, safeguard_classify('p', body) FROM posts ORDER BY id",
    "SELECT id, safeguard_verdict('p', body)['rationale'] AS why, upper(kind) FROM posts
     WHERE safeguard_violates('p', body) AND id % 2 = 0 ORDER BY id",
    "SELECT safeguard_classify('p', body) AS label, kind, count(*), min(id) FROM posts
     GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT id, CASE WHEN kind = 'k1' THEN safeguard_classify('p', body) ELSE 'none' END FROM posts ORDER BY id",
    "SELECT a.id, b.label FROM posts a
     JOIN (SELECT id, safeguard_classify('p', body) AS label FROM posts WHERE kind = 'k2') b ON a.id = b.id
     ORDER BY a.id",
    "SELECT count(*) FROM (SELECT safeguard_classify('p', body) AS label FROM posts) WHERE label = 'bad'",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_workers_give_the_rows_of_one_process_for_as_many_questions() {
    for sql in STATEMENTS {
        let fleet = Fleet::start().await;
        let (one, script) = alone(fleet.dir.path()).await;
        let (expected, said) = run(&one, sql).await.unwrap();
        let (found, told) = run(&fleet.session, sql).await.unwrap();
        assert_eq!(found, expected, "{sql}");
        assert_eq!(timeless(&told), timeless(&said), "{sql}");
        let (asked, here) = (fleet.asked(), script.asked().1);
        assert!(here > 0, "{sql}");
        assert_eq!(asked.iter().sum::<u64>(), here, "{sql}: {asked:?}");
        assert!(
            asked[0] > 0 && asked[1] > 0 && asked[2] == 0,
            "{sql}: {asked:?}"
        );
        let shown = plan(&fleet.session, sql).await;
        assert!(shown.contains("Stage 2"), "{sql}:\n{shown}");
        // What is stored is recalled, by whoever asks.
        let (again, told) = run(&fleet.session, sql).await.unwrap();
        assert_eq!(again, expected, "{sql}");
        assert!(
            told.iter().any(|n| n.contains(" 0 asked")),
            "{sql}: {told:?}"
        );
        assert_eq!(fleet.asked(), [0; 3], "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_of_workers_are_inserted_and_analyzed() {
    let fleet = Fleet::start().await;
    let labels = fleet.dir.path().join("labels/");
    let make = format!(
        "CREATE EXTERNAL TABLE labels (id BIGINT, label TEXT) STORED AS PARQUET LOCATION '{}/'",
        labels.display()
    );
    run(&fleet.session, &make).await.unwrap();
    let insert = "INSERT INTO labels SELECT id, safeguard_classify('p', body) FROM posts";
    let (written, _) = run(&fleet.session, insert).await.unwrap();
    assert_eq!(written, [ROWS.to_string()]);
    let asked = fleet.asked();
    assert!(asked[2] == 0 && asked[0] + asked[1] > 0, "{asked:?}");
    let count = "SELECT count(*), count(DISTINCT id) FROM labels";
    let (counted, _) = run(&fleet.session, count).await.unwrap();
    assert_eq!(counted, [format!("{ROWS}|{ROWS}")]);
    let analyze = "EXPLAIN ANALYZE SELECT safeguard_classify('p', body) FROM posts";
    let (analyzed, _) = run(&fleet.session, analyze).await.unwrap();
    let analyzed = analyzed.join("\n");
    assert!(analyzed.contains("ClassifyExec"), "{analyzed}");
    assert!(analyzed.contains("recalled="), "{analyzed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_one_process_has_to_do_stays_one_process_s() {
    let fleet = Fleet::start().await;
    let (one, _) = alone(fleet.dir.path()).await;
    let csv = fleet.dir.path().join("notes.csv");
    std::fs::write(&csv, "id,body\n1,a\n2,b\n").unwrap();
    for session in [&fleet.session, &one] {
        let make = format!(
            "CREATE EXTERNAL TABLE notes STORED AS CSV LOCATION '{}' OPTIONS (format.has_header true)",
            csv.display()
        );
        run(session, &make).await.unwrap();
    }
    // No workers, no difference; and with them, statements that nobody else can do.
    let none = coordinator(&fleet.store, fleet.scripts[2].clone(), Vec::new()).await;
    for sql in STATEMENTS {
        assert_eq!(plan(&none, sql).await, plan(&one, sql).await, "{sql}");
    }
    for sql in [
        "SELECT count(*) FROM posts WHERE kind = 'k1'",
        "SELECT id, safeguard_classify('p', body) FROM posts LIMIT 3",
        "SELECT id, safeguard_classify('p', body) FROM posts ORDER BY id LIMIT 3",
        "SELECT safeguard_classify('p', body) FROM notes",
        "SELECT safeguard_classify('p', statement) FROM safeguard.queries",
        "SELECT safeguard_classify('p', body), safeguard_classify('p', kind) FROM posts",
    ] {
        assert_eq!(
            plan(&fleet.session, sql).await,
            plan(&one, sql).await,
            "{sql}"
        );
    }
    let whole = STATEMENTS[0];
    for (name, value) in [
        ("safeguard.max_rows", "5"),
        ("safeguard.max_tokens", "5"),
        ("safeguard.max_seconds", "5"),
        ("safeguard.max_undecided_ratio", "0.5"),
        ("safeguard.answer", "stored"),
        ("datafusion.execution.time_zone", "Europe/Berlin"),
    ] {
        let before = fleet.session.setting(name).unwrap();
        for session in [&fleet.session, &one] {
            session.set(name, value).unwrap();
        }
        assert_eq!(
            plan(&fleet.session, whole).await,
            plan(&one, whole).await,
            "{name}"
        );
        for session in [&fleet.session, &one] {
            session.set(name, &before).unwrap();
        }
    }
    assert!(plan(&fleet.session, whole).await.contains("Stage 2"));
    // How workers are spoken to is not a client's to say.
    let spoken = |value| fleet.session.set("distributed.compression", value);
    spoken("none").unwrap();
    assert_eq!(plan(&fleet.session, whole).await, plan(&one, whole).await);
    spoken("lz4").unwrap();
    assert!(plan(&fleet.session, whole).await.contains("Stage 2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_cannot_be_asked_says_why() {
    let fleet = Fleet::start().await;
    let own = || Script::new("one");
    let other_store = engine(&stores::new(), own()).await;
    let other_model = engine(&fleet.store, Script::new("two")).await;
    let same = engine(&fleet.store, own()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let roots: Vec<PathBuf> = vec![elsewhere.path().canonicalize().unwrap()];
    let confined = same.clone().with_roots(Some(roots)).unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = url(closed.local_addr().unwrap());
    drop(closed);
    let cases = [
        (Worker::start(&other_store, None).await, "55000", "store"),
        (Worker::start(&other_model, None).await, "55000", "two"),
        (
            Worker::start(&same, Some("0123456789abcdef")).await,
            "28000",
            "token",
        ),
        (
            Worker::start(&confined, None).await,
            "42501",
            "outside of the content roots",
        ),
    ];
    let addresses = cases
        .iter()
        .map(|(w, state, says)| (w.url.clone(), *state, *says));
    for (address, sqlstate, says) in addresses.chain([(gone, "08001", "cannot reach")]) {
        let session = coordinator(&fleet.store, own(), vec![address]).await;
        let error = run(&session, STATEMENTS[0]).await.unwrap_err();
        assert_eq!(error.sqlstate(), sqlstate, "{error}");
        assert!(error.to_string().contains(says), "{sqlstate}: {error}");
    }
    let unknown = "SELECT safeguard_classify('q', body) FROM posts";
    let error = run(&fleet.session, unknown).await.unwrap_err();
    assert_eq!(error.sqlstate(), "42704", "{error}");
    std::fs::write(fleet.dir.path().join("posts/9.parquet"), b"PAR1 is no file").unwrap();
    let error = run(&fleet.session, STATEMENTS[0]).await.unwrap_err();
    assert_eq!(error.sqlstate(), "XX001", "{error}");
    assert!(error.to_string().contains("9.parquet"), "{error}");
}

/// A backend that tells how many questions are with it, and answers only the first few.
#[derive(Debug)]
struct Watched {
    inner: Arc<Script>,
    with_it: watch::Sender<u64>,
    asked: watch::Sender<u64>,
    answers: u64,
}

struct Asked<'a>(&'a watch::Sender<u64>);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

#[async_trait::async_trait]
impl Backend for Watched {
    fn model(&self) -> &ModelIdentity {
        self.inner.model()
    }

    fn tokens(&self, prompt: &Prompt) -> u64 {
        self.inner.tokens(prompt)
    }

    fn decodes_most(&self, prompt: &Prompt) -> u64 {
        self.inner.decodes_most(prompt)
    }

    async fn ask(&self, prompt: Prompt) -> Result<Reply, BackendError> {
        self.with_it.send_modify(|n| *n += 1);
        let _asked = Asked(&self.with_it);
        let mut number = 0;
        self.asked.send_modify(|n| {
            *n += 1;
            number = *n;
        });
        if number > self.answers {
            std::future::pending::<()>().await;
        }
        self.inner.ask(prompt).await
    }
}

fn watched(answers: u64) -> Arc<Watched> {
    Arc::new(Watched {
        inner: Script::new("one"),
        with_it: watch::Sender::new(0),
        asked: watch::Sender::new(0),
        answers,
    })
}

async fn until(counter: &watch::Sender<u64>, fits: impl FnMut(&u64) -> bool) {
    let mut seen = counter.subscribe();
    let waited = tokio::time::timeout(PATIENCE, seen.wait_for(fits)).await;
    waited.expect("waited too long").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_statement_that_is_given_up_is_given_up_by_its_workers() {
    let fleet = Fleet::start().await;
    let backend = watched(0);
    let holding = engine(&fleet.store, backend.clone()).await;
    let worker = Worker::start(&holding, None).await;
    let session = coordinator(&fleet.store, Script::new("one"), vec![worker.url.clone()]).await;
    let running = tokio::spawn(async move { run(&session, STATEMENTS[0]).await });
    until(&backend.with_it, |n| *n > 0).await;
    running.abort();
    until(&backend.with_it, |n| *n == 0).await;
}

/// Hands bytes on until it is cut.
async fn relay(to: Url, cut: CancellationToken) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = url(listener.local_addr().unwrap());
    let to = to.socket_addrs(|| None).unwrap()[0];
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = cut.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (mut near, _) = accepted.unwrap();
            let cut = cut.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    () = cut.cancelled() => {}
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                }
            });
        }
    });
    here
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_is_lost_fails_the_statement_and_no_verdict() {
    let fleet = Fleet::start().await;
    let cut = CancellationToken::new();
    let backend = watched(2);
    let lost = engine(&fleet.store, backend.clone()).await;
    let lost = Worker::start(&lost, None).await;
    let urls = vec![
        fleet.workers[0].url.clone(),
        relay(lost.url.clone(), cut.clone()).await,
    ];
    let session = coordinator(&fleet.store, Script::new("one"), urls).await;
    let running = tokio::spawn(async move { run(&session, STATEMENTS[0]).await });
    until(&backend.asked, |n| *n >= 3).await;
    cut.cancel();
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.sqlstate(), "08006", "{error}");
    assert!(error.hint().is_some(), "{error}");
    // What was judged is stored: the next try asks the rest.
    let stored = "SELECT count(*) FROM safeguard.verdicts";
    let (stored, _) = run(&fleet.session, stored).await.unwrap();
    let stored: u64 = stored[0].parse().unwrap();
    fleet.asked();
    let (rows, _) = run(&fleet.session, STATEMENTS[0]).await.unwrap();
    assert_eq!(rows.len() as u64, ROWS);
    let after: u64 = fleet.asked().iter().sum();
    assert!(
        stored + after <= TEXTS,
        "{stored} stored and then {after} asked"
    );
}
