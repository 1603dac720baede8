//! Backfills and the queue, on a backend that is a script: what is judged, how often, and what becomes of what fails.
//!
//! Workers are stepped by hand on a clock of the test's own, so that nothing waits. `kills` has processes of its own.

mod affected;
mod commands;
mod faults;
mod kills;
mod limits;
mod queue;
mod servers;
mod steering;

use crate::slt::rows;
use crate::stores;
use futures::TryStreamExt;
use safeguard::backend::{Answer, Backend, BackendError, ModelIdentity, Prompt, Reply};
use safeguard::engine::{Engine, Session};
use safeguard::error::Error;
use safeguard::jobs::pace::{Clock, Pace};
use safeguard::jobs::worker::Worker;
use safeguard::store::Store;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Labels a text `bad` if it says so, and fails when it is told to. Says H1 of what is bad, H2 of what is odd.
#[derive(Debug)]
pub(crate) struct Script {
    identity: ModelIdentity,
    /// Texts in the order in which they were asked.
    asked: Mutex<Vec<Arc<str>>>,
    /// Texts that say this word fail.
    poison: Mutex<Option<&'static str>>,
    /// Every question fails.
    down: AtomicBool,
    /// The backend has stopped.
    gone: AtomicBool,
    /// Questions wait behind it.
    gate: Mutex<Option<Gate>>,
}

#[derive(Debug, Clone)]
struct Gate {
    asked: Arc<Notify>,
    open: watch::Receiver<()>,
}

/// Holds questions back until it is dropped.
pub(crate) struct Held {
    asked: Arc<Notify>,
    _open: watch::Sender<()>,
}

impl Held {
    /// Waits for a question.
    async fn asked(&self) {
        self.asked.notified().await;
    }

    fn let_go(self) {}
}

impl Script {
    pub(crate) fn new() -> Arc<Script> {
        Arc::new(Script {
            identity: ModelIdentity {
                name: "script".into(),
                digest: "script".into(),
                demonstration: false,
                template_version: "1".into(),
            },
            asked: Mutex::default(),
            poison: Mutex::default(),
            down: AtomicBool::default(),
            gone: AtomicBool::default(),
            gate: Mutex::default(),
        })
    }

    fn hold(&self) -> Held {
        let asked = Arc::new(Notify::new());
        let (shut, open) = watch::channel(());
        *self.gate.lock().unwrap() = Some(Gate {
            asked: Arc::clone(&asked),
            open,
        });
        Held { asked, _open: shut }
    }

    /// Texts asked since the last call.
    fn asked(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

#[async_trait::async_trait]
impl Backend for Script {
    fn model(&self) -> &ModelIdentity {
        &self.identity
    }

    fn tokens(&self, prompt: &Prompt) -> u64 {
        prompt.text.split_whitespace().count() as u64
    }

    fn decodes_most(&self, _: &Prompt) -> u64 {
        3
    }

    async fn ask(&self, prompt: Prompt) -> Result<Reply, BackendError> {
        if self.gone.load(Relaxed) {
            return Err(BackendError::Stopped("script".into()));
        }
        self.asked.lock().unwrap().push(Arc::clone(&prompt.text));
        let gate = self.gate.lock().unwrap().clone();
        if let Some(mut gate) = gate {
            gate.asked.notify_one();
            // Ends when the gate is dropped.
            while gate.open.changed().await.is_ok() {}
        }
        let says = |word| prompt.text.contains(word);
        let poison = *self.poison.lock().unwrap();
        if self.down.load(Relaxed) || poison.is_some_and(says) {
            return Err(BackendError::Model("no device".to_owned()));
        }
        let strict = prompt.policy.text.contains("be strict");
        let bad = says("bad") || says("odd") && strict;
        let cited = match (says("bad"), says("odd")) {
            (true, _) => "it breaks H1",
            (false, true) => "H2 is near",
            (false, false) => "it breaks nothing",
        };
        let answer = match says("endless") {
            true => Answer::TooLong { tokens: 9_999 },
            false => Answer::Label {
                index: usize::from(bad),
                probabilities: if bad { vec![0.1, 0.9] } else { vec![0.9, 0.1] },
                analysis: Some(cited.to_owned()),
                reasoned: true,
            },
        };
        Ok(Reply {
            answer,
            tokens_in: self.tokens(&prompt),
            tokens_out: 3,
        })
    }
}

const POLICY: &str = "SELECT version FROM safeguard_publish('p', E'---\\nlabels: [allowed, bad]\\n---\\n- H1: bad if it sells\\n- H2: odd things are allowed')";
const STRICT: &str = "SELECT version FROM safeguard_publish('p', E'---\\nlabels: [allowed, bad]\\n---\\n- H1: bad if it sells\\n- H2: odd things are bad, be strict')";

/// An engine over a script, with a policy, a worker and a clock.
pub(crate) struct Bench {
    pub engine: Engine,
    pub script: Arc<Script>,
    session: Session,
    worker: Worker,
    clock: Arc<AtomicI64>,
}

impl Bench {
    async fn new() -> Bench {
        Bench::over(stores::new(), Script::new()).await
    }

    async fn over(store: Store, script: Arc<Script>) -> Bench {
        let backend: Arc<Script> = Arc::clone(&script);
        let engine = Engine::with_backend(store, backend).await.unwrap();
        let engine = safeguard::jobs::complete(engine);
        // 2100-01-01 08:00 UTC: what the real clock counts today must be of no day of this one.
        let clock = Arc::new(AtomicI64::new(4_102_473_600_000_000));
        let session = engine.session("ann");
        let bench = Bench {
            worker: Worker::new(engine.clone(), paced(&clock)),
            engine,
            script,
            session,
            clock,
        };
        bench.rows(POLICY).await;
        bench
    }

    async fn answer(&self, sql: &str) -> Result<Vec<Vec<String>>, Error> {
        let statement = self.session.split(sql).remove(0)?;
        let (stream, ended) = self.session.run(&statement).await?.split();
        let batches: Vec<_> = stream.try_collect().await?;
        self.session
            .finish(ended, safeguard::engine::End::Done)
            .await;
        Ok(batches.iter().flat_map(rows).collect())
    }

    /// Rows, cells joined by `|`.
    async fn rows(&self, sql: &str) -> Vec<String> {
        let rows = self.answer(sql).await;
        let rows = rows.unwrap_or_else(|e| panic!("{sql}: {} {e}", e.sqlstate()));
        rows.iter().map(|row| row.join("|")).collect()
    }

    /// The one row.
    async fn row(&self, sql: &str) -> String {
        let mut rows = self.rows(sql).await;
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.remove(0)
    }

    /// SQLSTATE and message of a statement that fails.
    async fn refused(&self, sql: &str) -> String {
        match self.answer(sql).await {
            Ok(rows) => panic!("{sql}: {rows:?}"),
            Err(error) => format!("{} {error}", error.sqlstate()),
        }
    }

    /// Columns of backfill 1.
    async fn backfill(&self, columns: &str) -> String {
        self.row(&format!(
            "SELECT {columns} FROM safeguard.backfills WHERE id = 1"
        ))
        .await
    }

    /// One piece of work; whether there was one.
    async fn step(&self) -> bool {
        self.worker.step(&CancellationToken::new()).await.unwrap()
    }

    /// Works until there is nothing to do now.
    async fn work(&self) {
        while self.step().await {}
    }

    /// Time goes by.
    fn later(&self, span: Duration) {
        let span = i64::try_from(span.as_micros()).unwrap();
        self.clock.fetch_add(span, Relaxed);
    }

    /// A table with so many rows, each of its text once: `id`, `body`, `views`; every tenth is bad, every seventh odd.
    async fn table(&self, rows: usize) {
        self.rows(&format!(
            "CREATE TABLE posts AS
             SELECT i AS id, views, 'text ' || i || CASE WHEN i % 10 = 0 THEN ' bad' ELSE '' END
                 || CASE WHEN i % 7 = 0 THEN ' odd' ELSE '' END AS body
             FROM (SELECT i, (i * 7919) % 10007 AS views FROM generate_series(1, {rows}) AS g(i)) AS t"
        ))
        .await;
    }

    async fn begin(&self, more: &str) -> String {
        self.row(&format!(
            "SELECT * FROM safeguard_backfill('p', 'SELECT id, body, views FROM posts', text => 'body'{more})"
        ))
        .await
    }
}

fn paced(clock: &Arc<AtomicI64>) -> Pace {
    let clock = Arc::clone(clock);
    Pace {
        clock: Clock::of(move || clock.load(Relaxed)),
        lease: Duration::from_secs(30),
        ..Pace::default()
    }
}

/// What a backfill is from its beginning to its end, in the order of the weights.
#[tokio::test]
async fn a_backfill_judges_every_row_once_the_weightiest_first() {
    let bench = Bench::new().await;
    bench.table(1_000).await;
    let begun = bench.begin(", weight => 'views'").await;
    assert!(begun.starts_with("1|p@1|1000|2"), "{begun}");
    assert!(begun.ends_with("|NULL|spooling"), "{begun}");
    assert!(bench.step().await, "it is spooled");
    assert_eq!(
        bench
            .backfill("state, rows, chunks, judged, coverage, rate, started_at")
            .await,
        "running|1000|4|0|0.0|NULL|NULL"
    );
    let weights: Vec<i64> = (1..=1_000).map(|i| i * 7_919 % 10_007).collect();
    let mut sorted = weights.clone();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let id = |text: &str| text.split(' ').nth(1).unwrap().parse::<usize>().unwrap();
    for chunk in sorted.chunks(256) {
        bench.later(Duration::from_secs(2));
        assert!(bench.step().await);
        let asked: BTreeSet<i64> = bench
            .script
            .asked()
            .iter()
            .map(|t| weights[id(t) - 1])
            .collect();
        assert_eq!(
            asked,
            chunk.iter().copied().collect(),
            "the weightiest that are left"
        );
    }
    assert_eq!(
        bench
            .backfill("state, judged, asked, recalled, undecided, failed, coverage, weight_coverage, rate > 100, seconds_left")
            .await,
        "done|1000|1000|0|0|0|1.0|1.0|true|NULL"
    );
    assert!(!bench.step().await, "nothing is left");
    let labels = "SELECT label, count(*) FROM safeguard.verdicts GROUP BY label ORDER BY label";
    assert_eq!(bench.rows(labels).await, ["allowed|900", "bad|100"]);
    let tokens = bench.backfill("tokens_in, tokens_out").await;
    assert!(tokens.ends_with("|3000"), "{tokens}");
    // The next one knows how long it takes, and asks nothing.
    let again = bench.begin("").await;
    assert!(!again.contains("NULL"), "{again}");
    bench.work().await;
    assert_eq!(
        bench
            .row("SELECT state, recalled, asked FROM safeguard.backfills WHERE id = 2")
            .await,
        "done|1000|0"
    );
}

/// Rows without a text are none; a text that stands in many rows is asked once; what lies in the text is a fact.
#[tokio::test]
async fn rows_are_counted_and_texts_asked() {
    let bench = Bench::new().await;
    bench
        .rows(
            "CREATE TABLE posts AS SELECT i AS id, i AS views,
                 CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN 'endless' ELSE 'same' END AS body
             FROM generate_series(1, 400) AS g(i)",
        )
        .await;
    bench.begin(", order_by => 'id desc'").await;
    bench.work().await;
    assert_eq!(
        bench
            .backfill("state, rows, judged, asked, undecided, weight_coverage")
            .await,
        // One question a chunk for each text that is not stored yet.
        "done|300|300|1|100|NULL"
    );
    let asked = bench.script.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
}

/// One that is empty is done at once.
#[tokio::test]
async fn an_empty_source_is_done() {
    let bench = Bench::new().await;
    bench
        .rows("CREATE TABLE posts (id INT, body TEXT, views INT)")
        .await;
    bench.begin("").await;
    bench.work().await;
    assert_eq!(
        bench.backfill("state, rows, judged, coverage").await,
        "done|0|0|NULL"
    );
}
