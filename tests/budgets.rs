//! Budgets of a statement, on a backend that counts: never exceeded, used up, and what was left is all that the next run
//! asks. With 16 partitions, many calls, subqueries, table functions and second questions.

use crate::slt::rows;
use crate::stores;
use futures::TryStreamExt;
use safeguard::backend::{Answer, Backend, BackendError, ModelIdentity, Prompt, Reply};
use safeguard::engine::{End, Engine, Guard, Session};
use safeguard::error::Error;
use safeguard_udfs::Mode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Tokens that it decodes for an analysis.
const DECODES: u64 = 3;
/// And at the most.
pub(crate) const DECODES_MOST: u64 = 20;

/// Everything is allowed, after a while; a score is never sure of a text that says `vague`. A text that says `endless` is
/// too long, one that says `never` is not answered. A token is a word.
#[derive(Debug)]
pub(crate) struct Counting {
    identity: ModelIdentity,
    asked: AtomicU64,
    tokens: AtomicU64,
}

impl Counting {
    pub(crate) fn new() -> Arc<Counting> {
        Arc::new(Counting {
            identity: ModelIdentity {
                name: "counting".into(),
                digest: "counting".into(),
                demonstration: false,
                template_version: "1".into(),
            },
            asked: AtomicU64::default(),
            tokens: AtomicU64::default(),
        })
    }

    /// Questions put and tokens spent since the last call.
    pub(crate) fn spent(&self) -> (u64, u64) {
        (self.asked.swap(0, Relaxed), self.tokens.swap(0, Relaxed))
    }
}

#[async_trait::async_trait]
impl Backend for Counting {
    fn model(&self) -> &ModelIdentity {
        &self.identity
    }

    fn tokens(&self, prompt: &Prompt) -> u64 {
        match prompt.text.contains("endless") {
            true => 0,
            false => prompt.text.split_whitespace().count() as u64,
        }
    }

    fn decodes_most(&self, prompt: &Prompt) -> u64 {
        if prompt.mode == Mode::Score {
            0
        } else {
            DECODES_MOST
        }
    }

    async fn ask(&self, prompt: Prompt) -> Result<Reply, BackendError> {
        let says = |word| prompt.text.contains(word);
        if says("endless") {
            return Ok(Reply {
                answer: Answer::TooLong { tokens: 9_999 },
                tokens_in: 0,
                tokens_out: 0,
            });
        }
        self.asked.fetch_add(1, Relaxed);
        if says("never") {
            std::future::pending::<()>().await;
        }
        for _ in 0..prompt.text.len() % 5 {
            tokio::task::yield_now().await;
        }
        let reasoned = prompt.mode != Mode::Score;
        let (tokens_in, tokens_out) = (self.tokens(&prompt), if reasoned { DECODES } else { 0 });
        self.tokens.fetch_add(tokens_in + tokens_out, Relaxed);
        let sure = if reasoned || !says("vague") {
            0.99
        } else {
            0.55
        };
        Ok(Reply {
            answer: Answer::Label {
                index: 0,
                probabilities: vec![sure, 1.0 - sure],
                analysis: reasoned.then(|| "fine".to_owned()),
                reasoned,
            },
            tokens_in,
            tokens_out,
        })
    }
}

pub(crate) const POLICIES: [&str; 2] = [
    "SELECT * FROM safeguard_publish('p', E'---\\nlabels: [allowed, bad]\\n---\\nbad if it sells')",
    "SELECT * FROM safeguard_publish('q', E'---\\nlabels: [allowed, bad]\\n---\\nbad if it shouts')",
];

pub(crate) struct Bench {
    pub(crate) backend: Arc<Counting>,
    engine: Engine,
    pub(crate) session: Session,
}

impl Bench {
    /// 400 texts of 3 words in a table `t`, 16 partitions, two policies.
    pub(crate) async fn new() -> Bench {
        let backend = Counting::new();
        let engine = Engine::with_backend(stores::new(), backend.clone());
        let engine = safeguard::jobs::complete(engine.await.unwrap());
        let bench = Bench {
            backend,
            session: engine.session("ann"),
            engine,
        };
        bench
            .ok("SET datafusion.execution.target_partitions = 16")
            .await;
        bench.ok("SET datafusion.execution.batch_size = 32").await;
        bench
            .ok("CREATE TABLE t AS SELECT i AS id, 'text number ' || i AS body FROM generate_series(1, 400) AS g(i)")
            .await;
        for sql in POLICIES {
            bench.ok(sql).await;
        }
        bench
    }

    /// The same, whose plans pass a guard.
    pub(crate) fn guarded(self, guard: Guard) -> Bench {
        let session = self.session.guarded(guard);
        Bench { session, ..self }
    }

    /// The rows as text, and the notices.
    async fn run(&self, sql: &str) -> Result<(Vec<String>, Vec<String>), Error> {
        let statement = self.session.split(sql).remove(0)?;
        let (stream, ended) = self.session.run(&statement).await?.split();
        let batches: Result<Vec<_>, _> = stream.try_collect().await;
        match batches {
            Ok(batches) => {
                let cells = batches.iter().flat_map(rows).map(|row| row.join("|"));
                let cells = cells.collect();
                Ok((cells, self.session.finish(ended, End::Done).await))
            }
            Err(error) => {
                let error = Error::from(error);
                let end = End::Failed(error.sqlstate(), "it failed");
                self.session.finish(ended, end).await;
                Err(error)
            }
        }
    }

    pub(crate) async fn ok(&self, sql: &str) -> Vec<String> {
        self.run(sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
            .0
    }

    async fn error(&self, sql: &str) -> String {
        match self.run(sql).await {
            Ok((rows, _)) => panic!("{sql}: {rows:?}"),
            Err(e) => format!("{} {e}", e.sqlstate()),
        }
    }
}

/// Counts the undecided in each shape, so that it is 0 when all were asked.
fn shapes() -> Vec<(&'static str, String, u64)> {
    let unions: Vec<String> = (0..16)
        .map(|part| {
            format!("SELECT safeguard_classify('p', body) AS l FROM t WHERE id % 16 = {part}")
        })
        .collect();
    vec![
        (
            "one call over 16 partitions",
            "SELECT count(*) FILTER (WHERE safeguard_classify('p', body) = 'undecided') FROM t".into(),
            400,
        ),
        (
            "16 calls",
            format!(
                "SELECT count(*) FILTER (WHERE l = 'undecided') FROM ({})",
                unions.join(" UNION ALL ")
            ),
            400,
        ),
        (
            "two policies",
            "SELECT sum(CASE safeguard_classify('p', body) WHEN 'undecided' THEN 1 ELSE 0 END
                      + CASE safeguard_classify('q', body) WHEN 'undecided' THEN 1 ELSE 0 END) FROM t"
                .into(),
            800,
        ),
        (
            "a call within a join, and one in a subquery",
            "SELECT (SELECT count(*) FROM t WHERE safeguard_classify('q', body) = 'undecided')
                  + (SELECT count(*) FROM t AS a JOIN t AS b ON a.id = b.id
                     WHERE safeguard_classify('p', a.body) = 'undecided')"
                .into(),
            800,
        ),
        (
            "a table function beside a call",
            "SELECT sum(n) FROM (
                 SELECT count(*) FILTER (WHERE safeguard_classify('p', body) = 'undecided') AS n FROM t
                 UNION ALL
                 SELECT sampled - 400 AS n FROM safeguard_backtest('q@1', 'q@1', 'SELECT body AS text FROM t', 400)
                 WHERE section = 'total')"
                .into(),
            800,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cap_is_exact_and_the_next_run_asks_the_rest() {
    for (name, sql, all) in shapes() {
        // Budget, questions that it makes, tokens. A question reserves 3 + 20 tokens and costs 6.
        for (budget, asked) in [
            ("max_rows = 0", 0),
            ("max_rows = 1", 1),
            ("max_rows = 137", 137),
            ("max_rows = 10000", all),
            ("max_tokens = 22", 0),
            ("max_tokens = 23", 1),
            ("max_tokens = 1000", 163),
            ("max_tokens = 1000000", all),
            ("max_seconds = 0", 0),
            ("max_seconds = 1000", all),
        ] {
            let bench = Bench::new().await;
            bench.ok(&format!("SET safeguard.{budget}")).await;
            let first = bench.ok(&sql).await;
            assert_eq!(
                bench.backend.spent(),
                (asked, 6 * asked),
                "{name}, {budget}"
            );
            if !name.contains("table function") {
                assert_eq!(first, [(all - asked).to_string()], "{name}, {budget}");
            }
            // The same again asks as much again, and without a budget what is left, each once.
            bench.ok(&sql).await;
            let second = (all - asked).min(asked);
            assert_eq!(bench.backend.spent().0, second, "{name}, {budget}");
            bench.ok("RESET ALL").await;
            assert_eq!(bench.ok(&sql).await, ["0"], "{name}, {budget}");
            assert_eq!(
                bench.backend.spent().0,
                all - asked - second,
                "{name}, {budget}"
            );
            assert_eq!(bench.ok(&sql).await, ["0"], "{name}, {budget}");
            assert_eq!(bench.backend.spent().0, 0, "{name}, {budget}");
        }
    }
}

/// Texts that are too long are not asked, and take nothing of a budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_not_asked_is_given_back() {
    let texts = "(SELECT CASE id % 2 WHEN 0 THEN 'endless ' || body ELSE body END AS body FROM t)";
    let sql = format!(
        "SELECT sum(CASE WHEN r IS NULL THEN 1 ELSE 0 END), count(r), count(DISTINCT r)
         FROM (SELECT safeguard_verdict('p', body)['reason'] AS r FROM {texts})"
    );
    for budget in ["max_rows = 150", "max_tokens = 917"] {
        let bench = Bench::new().await;
        bench.ok(&format!("SET safeguard.{budget}")).await;
        assert_eq!(bench.ok(&sql).await, ["150|250|2"], "{budget}");
        assert_eq!(bench.backend.spent(), (150, 900), "{budget}");
    }
}

/// Mode auto: a text that is scored and then reasoned about is one text and two questions.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn second_questions_are_paid_for() {
    let golden = "CREATE TABLE golden AS SELECT 'clear text ' || i AS text, 'allowed' AS label FROM generate_series(1, 200) AS g(i)";
    let sql = "SELECT count(*) FILTER (WHERE safeguard_classify('p', 'vague ' || body) = 'undecided') FROM t";
    // A score costs 4 tokens, an analysis 7 and at the most 24.
    for (budget, texts, tokens) in [
        ("max_rows = 150", 150, 150 * 11),
        ("max_rows = 400", 400, 400 * 11),
        ("max_tokens = 100000", 400, 400 * 11),
    ] {
        let bench = Bench::new().await;
        bench.ok(golden).await;
        bench
            .ok("SELECT * FROM safeguard_calibrate('p', 0.9, 'golden')")
            .await;
        bench.backend.spent();
        bench.ok(&format!("SET safeguard.{budget}")).await;
        assert_eq!(bench.ok(sql).await, [(400 - texts).to_string()], "{budget}");
        assert_eq!(bench.backend.spent(), (2 * texts, tokens), "{budget}");
        bench.ok("RESET ALL").await;
        assert_eq!(bench.ok(sql).await, ["0"], "{budget}");
        assert_eq!(bench.backend.spent().0, 2 * (400 - texts), "{budget}");
    }
    let bench = Bench::new().await;
    bench.ok(golden).await;
    bench
        .ok("SELECT * FROM safeguard_calibrate('p', 0.9, 'golden')")
        .await;
    bench.backend.spent();
    bench.ok("SET safeguard.max_tokens = 1000").await;
    bench.ok(sql).await;
    let (_, spent) = bench.backend.spent();
    assert!((977..=1000).contains(&spent), "{spent} of 1000 tokens");
    bench.ok("RESET ALL").await;
    assert_eq!(bench.ok(sql).await, ["0"]);
    assert_eq!(
        spent + bench.backend.spent().1,
        400 * 11,
        "each question once"
    );
}

/// What writes is a statement like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_writes_has_the_same_budgets() {
    let bench = Bench::new().await;
    bench.ok("CREATE TABLE labels (l TEXT)").await;
    bench.ok("SET safeguard.max_rows = 137").await;
    for (at, sql) in [
        "CREATE TABLE made AS SELECT safeguard_classify('p', '{} ' || body) AS l FROM t",
        "INSERT INTO labels SELECT safeguard_classify('p', '{} ' || body) FROM t",
        "EXPLAIN ANALYZE SELECT safeguard_classify('p', '{} ' || body) FROM t",
        "CREATE VIEW seen AS SELECT safeguard_classify('p', '{} ' || body) AS l FROM t",
        "SELECT count(l) FROM seen",
    ]
    .into_iter()
    .enumerate()
    {
        bench.ok(&sql.replace("{}", &at.to_string())).await;
        let asked = if sql.starts_with("CREATE VIEW") {
            0
        } else {
            137
        };
        assert_eq!(bench.backend.spent().0, asked, "{sql}");
    }
    for table in ["made", "labels"] {
        let left = format!("SELECT count(*) FILTER (WHERE l = 'undecided') FROM {table}");
        assert_eq!(bench.ok(&left).await, ["263"], "{table}");
    }
}

/// When its time is over, a statement ends, whatever the backend does.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn time_ends_what_is_under_way() {
    let bench = Bench::new().await;
    bench.ok("SET safeguard.max_seconds = 0.05").await;
    let sql = "SELECT safeguard_verdict('p', 'never ' || body)['reason'] AS r, count(*) FROM t GROUP BY r";
    assert_eq!(bench.ok(sql).await, ["budget|400"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn too_many_undecided_fail_any_statement() {
    let bench = Bench::new().await;
    bench.ok("CREATE TABLE few AS VALUES ('endless', 'allowed'), ('fine', 'allowed'), ('good', 'allowed')").await;
    bench.ok("CREATE TABLE golden AS SELECT CASE id % 4 WHEN 0 THEN 'endless ' ELSE '' END || body AS text, 'allowed' AS label FROM t").await;
    let few = "SELECT safeguard_classify('p', column1) FROM few";
    let many = "SELECT safeguard_classify('q', text) FROM golden";
    let evaluate = "SELECT * FROM safeguard_evaluate('p', golden => 'golden')";
    let lookup = "SELECT * FROM safeguard_backtest('q@1', 'q@1', 'SELECT text FROM golden WHERE NOT starts_with(text, ''endless'')', 9)";
    let ratio = |ratio: &str| format!("SET safeguard.max_undecided_ratio = {ratio}");
    bench.ok(&ratio("0.2")).await;
    assert_eq!(
        bench.error(few).await,
        "53400 1 of 3 texts are undecided, above safeguard.max_undecided_ratio = 0.2"
    );
    let hint = bench.run(few).await.unwrap_err().hint();
    assert_eq!(
        hint.as_deref(),
        Some("safeguard_verdict(policy, text)['reason'] says why a text is undecided")
    );
    for sql in [many, evaluate] {
        let error = bench.error(sql).await;
        assert!(error.starts_with("53400 "), "{sql}: {error}");
        assert!(
            error.ends_with("above safeguard.max_undecided_ratio = 0.2"),
            "{sql}: {error}"
        );
    }
    // What was looked up and not found was not asked for.
    bench.ok(lookup).await;
    // No table takes rows of a statement that fails at its end; COPY's file may stay, as after any failure.
    bench.ok("CREATE TABLE memory (l TEXT)").await;
    bench.ok("CREATE TABLE kept AS VALUES ('before')").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("few.csv");
    let writing = [
        format!("INSERT INTO memory {few}"),
        format!("INSERT INTO kept {few}"),
        format!("CREATE TABLE made AS {few}"),
        format!("COPY ({few}) TO '{}' STORED AS CSV", file.display()),
        format!("EXPLAIN ANALYZE INSERT INTO kept {few}"),
    ];
    for sql in &writing {
        let error = bench.error(sql).await;
        assert!(
            error
                .ends_with("1 of 3 texts are undecided, above safeguard.max_undecided_ratio = 0.2"),
            "{sql}: {error}"
        );
    }
    let rows = "SELECT (SELECT count(*) FROM memory), (SELECT count(*) FROM kept)";
    assert_eq!(bench.ok(rows).await, ["0|1"]);
    bench.ok(&ratio("0.34")).await;
    for sql in [few, evaluate]
        .into_iter()
        .chain(writing.iter().map(String::as_str))
    {
        bench.ok(sql).await;
    }
    assert_eq!(bench.ok(rows).await, ["3|7"]);
    assert_eq!(bench.ok("SELECT count(*) FROM made").await, ["3"]);
    assert!(file.exists());
}

/// What a statement and a day have cost, as SQL shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn spending_is_counted() {
    let bench = Bench::new().await;
    let session = bench.engine.session("bob");
    assert_eq!(session.user(), "bob");
    bench
        .ok("SELECT count(safeguard_classify('p', body)) FROM t")
        .await;
    bench.ok("SET safeguard.mode = 'score'").await;
    bench
        .ok("SELECT count(safeguard_classify('p', body)) FROM t WHERE id <= 100")
        .await;
    bench
        .ok("SELECT count(safeguard_classify('q', body)) FROM t WHERE id <= 50")
        .await;
    let spend = "SELECT policy, stage, \"rows\", tokens_in, tokens_out, seconds > 0,
                        day = date_trunc('day', now())
                     OR day = date_trunc('day', now() - INTERVAL '1 minute')
                 FROM safeguard.spend ORDER BY policy, stage";
    assert_eq!(
        bench.ok(spend).await,
        [
            "p|reason|400|1200|1200|true|true",
            "p|score|100|300|0|true|true",
            "q|score|50|150|0|true|true"
        ]
    );
    let shares = "SELECT count(*), round(sum(share), 6), bool_and(abs(reasoning_share - CASE policy WHEN 'q' THEN 0.0
                    ELSE (SELECT sum(seconds) FILTER (WHERE stage = 'reason') / sum(seconds) FROM safeguard.verdicts WHERE policy = 'p')
                    END) < 1e-6) FROM safeguard.spend";
    assert_eq!(bench.ok(shares).await, ["3|1.0|true"]);
    let queries = "SELECT asked, role, model, busy_seconds > 0 AND busy_seconds <= seconds FROM safeguard.queries ORDER BY id";
    assert_eq!(
        bench.ok(queries).await,
        [
            "400|NULL|counting|true",
            "100|NULL|counting|true",
            "50|NULL|counting|true"
        ]
    );
}
