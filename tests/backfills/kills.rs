//! A process that works on a backfill is killed at any instant: what was stored is not asked again, and no row is lost.
//!
//! The worker is this test binary, started again for `child` alone. It tells a file which texts it asks, and its standard
//! error how many.

use super::{Bench, Script};
use crate::stores;
use safeguard::backend::{Backend, BackendError, ModelIdentity, Prompt, Reply};
use safeguard::engine::Engine;
use safeguard::jobs::pace::Pace;
use safeguard::jobs::runner::Runner;
use safeguard::store::{State, text_digest};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const ROWS: usize = 50_000;
const WORKERS: usize = 2;
const CHUNK: usize = 256;
const FOLDER: &str = "SAFEGUARD_TEST_BACKFILL";
/// Where the store of that folder is, if it is in PostgreSQL.
const STORE: &str = "SAFEGUARD_TEST_BACKFILL_STORE";

/// In PostgreSQL what the dead asked about is nobody's for as long as their lease holds.
fn kills() -> usize {
    match stores::are_shared() {
        true => 4,
        false => 20,
    }
}

type Digest = [u8; 32];

/// A script that leaves a trace.
#[derive(Debug)]
struct Traced {
    script: Arc<Script>,
    trace: File,
}

#[async_trait::async_trait]
impl Backend for Traced {
    fn model(&self) -> &ModelIdentity {
        self.script.model()
    }

    fn tokens(&self, prompt: &Prompt) -> u64 {
        self.script.tokens(prompt)
    }

    async fn ask(&self, prompt: Prompt) -> Result<Reply, BackendError> {
        (&self.trace).write_all(&text_digest(&prompt.text)).unwrap();
        std::io::stderr().write_all(b".").unwrap();
        self.script.ask(prompt).await
    }
}

/// The process that is killed; nothing where it was not started by the test below.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    if let Ok(url) = std::env::var(STORE) {
        stores::adopt(&dir, url);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let trace = OpenOptions::new()
            .append(true)
            .create(true)
            .open(dir.join("trace"));
        let backend = Arc::new(Traced {
            script: Script::new(),
            trace: trace.unwrap(),
        });
        let store = stores::open(&dir);
        let engine = Engine::with_backend(store.clone(), backend).await.unwrap();
        let pace = Pace {
            workers: WORKERS,
            lease: Duration::from_millis(300),
            watch: Duration::from_millis(50),
            poll: Duration::from_millis(20),
            ..Pace::of(&store)
        };
        let runner = Runner::paced(&engine, &pace);
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while store.backfills().await.unwrap()[0].state == State::Running {
            look.tick().await;
        }
        runner.stop().await;
    });
}

fn start(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "backfills::kills::child", "--nocapture"])
        .env(FOLDER, dir)
        .envs(stores::url_of(dir).map(|url| (STORE, url)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn asked(dir: &Path) -> Vec<Digest> {
    let trace = std::fs::read(dir.join("trace")).unwrap_or_default();
    trace
        .chunks_exact(32)
        .map(|digest| digest.try_into().unwrap())
        .collect()
}

/// What the store says when nobody works on it.
struct Seen {
    stored: HashSet<Digest>,
    judged: u64,
    state: String,
    /// Chunks that the dead have claimed.
    claimed: BTreeSet<usize>,
}

/// What is stored, how far the backfill is, and what is claimed, as the database has it.
type Found = (Vec<Digest>, (i64, String), Vec<i64>);

const VERDICTS: &str = "SELECT text_digest FROM verdicts";
const STATE: &str = "SELECT judged, state FROM backfills";
const CLAIMED: &str =
    "SELECT position FROM backfill_chunks WHERE claimed_by IS NOT NULL AND done = 0";

fn in_file(dir: &Path) -> Found {
    let store = rusqlite::Connection::open(dir.join("verdicts.db")).unwrap();
    let mut verdicts = store.prepare(VERDICTS).unwrap();
    let verdicts = verdicts.query_map((), |row| row.get(0)).unwrap();
    let verdicts = verdicts.map(Result::unwrap).collect();
    let state = store.query_row(STATE, (), |row| Ok((row.get(0)?, row.get(1)?)));
    let mut claimed = store.prepare(CLAIMED).unwrap();
    let claimed = claimed.query_map((), |row| row.get(0)).unwrap();
    let claimed = claimed.map(Result::unwrap).collect();
    (verdicts, state.unwrap(), claimed)
}

async fn in_postgres(dir: &Path) -> Found {
    let client = stores::shared_client(dir).await;
    let verdicts = client.query(VERDICTS, &[]).await.unwrap();
    let digest =
        |row: &tokio_postgres::Row| -> Digest { row.get::<_, &[u8]>(0).try_into().unwrap() };
    let state = client.query_one(STATE, &[]).await.unwrap();
    let claimed = client.query(CLAIMED, &[]).await.unwrap();
    (
        verdicts.iter().map(digest).collect(),
        (state.get(0), state.get(1)),
        claimed.iter().map(|row| row.get(0)).collect(),
    )
}

async fn look(dir: &Path) -> Seen {
    let (verdicts, (judged, state), claimed) = match stores::are_shared() {
        true => in_postgres(dir).await,
        false => in_file(dir),
    };
    let stored: HashSet<Digest> = verdicts.iter().copied().collect();
    assert_eq!(stored.len(), verdicts.len(), "a verdict is there twice");
    let claimed = claimed.into_iter().map(usize::try_from);
    Seen {
        stored,
        judged: u64::try_from(judged).unwrap(),
        state,
        claimed: claimed.map(Result::unwrap).collect(),
    }
}

fn text(i: usize) -> String {
    format!("row {i}")
}

fn weight(i: usize) -> usize {
    i * 7_919 % 50_021
}

/// A store with a backfill that is spooled.
async fn prepare(dir: &Path) {
    let bench = Bench::over(stores::open(dir), Script::new()).await;
    bench
        .rows(&format!(
            "CREATE TABLE posts AS SELECT i AS id, 'row ' || i AS body, (i * 7919) % 50021 AS views
             FROM generate_series(1, {ROWS}) AS g(i)"
        ))
        .await;
    bench
        .begin(", weight => 'views', note => 'it will be killed'")
        .await;
    assert!(bench.step().await);
}

/// Claims follow the weight: within one run a chunk comes no more than a few places after a less weighty one, but for
/// those that the dead held.
fn assert_in_order(run: &[Digest], chunks: &HashMap<Digest, usize>, before: &BTreeSet<usize>) {
    let mut first = Vec::new();
    for digest in run {
        let chunk = chunks[digest];
        if !before.contains(&chunk) && !first.contains(&chunk) {
            first.push(chunk);
        }
    }
    for (at, chunk) in first.iter().enumerate().skip(4) {
        assert!(first[at - 4] < *chunk, "{first:?}");
    }
}

#[test]
fn a_killed_backfill_goes_on_and_asks_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (runtime, kills) = (tokio::runtime::Runtime::new().unwrap(), kills());
    runtime.block_on(prepare(dir));
    let mut ranked: Vec<usize> = (1..=ROWS).collect();
    ranked.sort_by_key(|i| std::cmp::Reverse(weight(*i)));
    let chunks: HashMap<Digest, usize> = ranked
        .iter()
        .enumerate()
        .map(|(rank, i)| (text_digest(&text(*i)), rank / CHUNK))
        .collect();
    let mut random = safeguard::change::stats::Random::new(20);
    let (mut seen, mut middle) = (runtime.block_on(look(dir)), 0);
    for _ in 0..kills {
        let before = asked(dir).len();
        let mut child = start(dir);
        let wanted = usize::try_from(random.below(4_000)).unwrap();
        // As many signs as were drawn, or as there are.
        let mut signs = vec![0; wanted];
        let _ = child.stderr.as_mut().unwrap().read_exact(&mut signs);
        child.kill().unwrap();
        child.wait().unwrap();
        let now = runtime.block_on(look(dir));
        let run = &asked(dir)[before..];
        let again = run
            .iter()
            .filter(|digest| seen.stored.contains(*digest))
            .count();
        assert_eq!(again, 0, "asked although it was stored");
        assert_in_order(run, &chunks, &seen.claimed);
        assert!(now.stored.is_superset(&seen.stored), "a verdict is lost");
        assert!(
            now.judged >= seen.judged,
            "{} after {}",
            now.judged,
            seen.judged
        );
        assert!(now.judged <= now.stored.len() as u64);
        middle += usize::from(now.stored.len() > seen.stored.len() && now.state == "running");
        seen = now;
    }
    let mut last = start(dir);
    let mut rest = Vec::new();
    last.stderr
        .as_mut()
        .unwrap()
        .read_to_end(&mut rest)
        .unwrap();
    assert!(last.wait().unwrap().success());
    let (asked, end) = (asked(dir), runtime.block_on(look(dir)));
    assert_eq!((end.state.as_str(), end.judged), ("done", ROWS as u64));
    assert!(end.stored.len() == ROWS && end.stored.iter().all(|d| chunks.contains_key(d)));
    let most = ROWS + kills * WORKERS * CHUNK;
    assert!(
        asked.len() >= ROWS && asked.len() <= most,
        "{} asked",
        asked.len()
    );
    assert!(
        middle >= kills / 2,
        "{middle} kills of {kills} came in the middle"
    );
    assert!(end.claimed.is_empty());
}
