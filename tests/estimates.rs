//! What EXPLAIN says of a statement's classifications: how much they would ask and cost, and how that is known; and that
//! it asks nothing, runs nothing that changes anything, and reads nothing that its caller may not.

use crate::budgets::Bench;
use futures::TryStreamExt;
use safeguard_udfs::called;
use std::sync::Arc;

/// What EXPLAIN says of `sql`, without the plans.
async fn estimates(bench: &Bench, sql: &str) -> String {
    let explained = bench.ok(&format!("EXPLAIN {sql}")).await;
    let own = explained
        .iter()
        .filter_map(|row| row.strip_prefix("safeguard_estimate|"));
    own.collect::<Vec<_>>().join("\n")
}

const EXACT: &str = "exact: the whole input was read";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_would_be_asked_is_said_before() {
    let bench = Bench::new().await;
    let all =
        "SELECT safeguard_classify('p', body), safeguard_score('p', body) FROM t WHERE id <= 100";
    let calls = "safeguard_classify(Utf8(\"p\"), t.body), safeguard_score(Utf8(\"p\"), t.body)";
    let unknown = "unknown: counting has not been timed in mode reason yet";
    assert_eq!(
        estimates(&bench, all).await,
        format!(
            "{calls}\n  rows: 100, distinct texts: 100\n  stored: 0 (0.0%), to be asked: 100\n  \
             prompt tokens: 300\n  time: {unknown}\n  {EXACT}"
        )
    );
    assert_eq!(bench.backend.spent(), (0, 0));
    bench.ok(&all.replace("100", "40")).await;
    bench.backend.spent();
    // It knows how fast the model is now, and what is stored.
    let said = estimates(&bench, all).await;
    let (before, after) = said.split_once("\n  time: about ").unwrap();
    let (_, after) = after.split_once(" s by ").unwrap();
    assert_eq!(
        before,
        format!(
            "{calls}\n  rows: 100, distinct texts: 100\n  stored: 40 (40.0%), to be asked: 60\n  prompt tokens: 180"
        )
    );
    assert_eq!(
        after,
        format!("the latest 40 verdicts of counting\n  {EXACT}")
    );
    assert_eq!(bench.backend.spent(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_shape_is_read_as_far_as_it_can_be() {
    let bench = Bench::new().await;
    let cases = [
        // Each text once, NULLs never, and rows that SQL would not judge are not.
        (
            "SELECT safeguard_classify('p', 'same') FROM t",
            "rows: 400, distinct texts: 1\n  stored: 0 (0.0%), to be asked: 1",
            EXACT,
        ),
        (
            "SELECT safeguard_classify('p', CASE WHEN id > 10 THEN body END) FROM t",
            "rows: 390, distinct texts: 390\n  stored: 0 (0.0%), to be asked: 390",
            EXACT,
        ),
        (
            "SELECT CASE WHEN id > 300 THEN safeguard_classify('p', body) ELSE 'none' END FROM t",
            "rows: 100, distinct texts: 100\n  stored: 0 (0.0%), to be asked: 100",
            EXACT,
        ),
        (
            "SELECT count(*) FROM t WHERE id <= 7 AND safeguard_violates('p', body)",
            "rows: 7, distinct texts: 7\n  stored: 0 (0.0%), to be asked: 7",
            EXACT,
        ),
        (
            "SELECT policy, safeguard_classify(policy, body) FROM t CROSS JOIN (VALUES ('p'), ('q')) AS v(policy)",
            "rows: 800, distinct texts: 800\n  stored: 0 (0.0%), to be asked: 800",
            EXACT,
        ),
        (
            "SELECT safeguard_classify('p', body) FROM t LIMIT 5",
            "rows: 5, distinct texts: 5\n  stored: 0 (0.0%), to be asked: 5",
            EXACT,
        ),
        (
            "SELECT id FROM t WHERE safeguard_violates('p', body) LIMIT 5",
            "rows: 400, distinct texts: 400\n  stored: 0 (0.0%), to be asked: 400",
            "at most: a LIMIT above may be full before all rows are asked about",
        ),
        (
            "INSERT INTO t SELECT id, safeguard_classify('p', body) FROM t WHERE id < 3",
            "rows: 2, distinct texts: 2\n  stored: 0 (0.0%), to be asked: 2",
            EXACT,
        ),
    ];
    for (sql, counts, end) in cases {
        let said = estimates(&bench, sql).await;
        assert!(said.contains(counts), "{sql}:\n{said}");
        assert!(said.ends_with(end), "{sql}:\n{said}");
    }
    // A call that stands on another one's answers.
    let both = "SELECT safeguard_classify('q', body) FROM t WHERE id <= 50 AND safeguard_violates('p', body)";
    let said = estimates(&bench, both).await;
    assert_eq!(
        said.matches("rows: 50, distinct texts: 50").count(),
        2,
        "{said}"
    );
    let most = "at most: the answers of another call leave some of these rows out";
    assert_eq!(said.matches(most).count(), 1, "{said}");
    assert!(
        said.ends_with("statement\n  to be asked: 100 distinct texts of all calls"),
        "{said}"
    );
    // Where they bound nothing, nothing is made up.
    let grouped = "SELECT safeguard_classify('q', l) FROM (SELECT safeguard_classify('p', body) AS l FROM t) GROUP BY l";
    let said = estimates(&bench, grouped).await;
    assert!(
        said.contains("\n  unknown: its rows depend on the answers of another call"),
        "{said}"
    );
    assert_eq!(bench.backend.spent(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_large_input_is_a_sample() {
    let bench = Bench::new().await;
    bench.ok("CREATE TABLE large AS SELECT i AS id, 'text ' || i AS body FROM generate_series(1, 150000) AS g(i)").await;
    let said = estimates(&bench, "SELECT safeguard_classify('p', body) FROM large").await;
    let (_, read) = said.split_once("a sample: the first ").unwrap();
    assert!(
        said.contains("rows: about 150000, distinct texts: about 150000\n"),
        "{said}"
    );
    assert!(said.contains("prompt tokens: about 300000\n"), "{said}");
    assert!(
        read.ends_with(
            " rows were read, of 150000 by statistics; texts that come again make it less"
        ),
        "{said}"
    );
    let filtered = "SELECT safeguard_classify('p', body) FROM large WHERE length(body) > 0";
    let said = estimates(&bench, filtered).await;
    assert!(
        said.contains("a sample: ") || said.contains("at least: "),
        "{said}"
    );
    assert_eq!(bench.backend.spent(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn budgets_say_what_they_would_leave() {
    let bench = Bench::new().await;
    let sql = "SELECT safeguard_classify('p', body) FROM t WHERE id <= 100";
    // So that its rate is known.
    bench
        .ok("SELECT safeguard_classify('p', 'and text number ' || id) FROM t WHERE id <= 10")
        .await;
    bench.backend.spent();
    let cases = [
        (
            "max_rows = 60",
            "safeguard.max_rows = 60 leaves 40 texts undecided: budget",
        ),
        ("max_rows = 100", "safeguard.max_rows = 100 is enough"),
        // 100 questions of 3 + 3 tokens.
        (
            "max_tokens = 300",
            "safeguard.max_tokens = 300 leaves about 50 texts undecided: budget",
        ),
        ("max_tokens = 600", "safeguard.max_tokens = 600 is enough"),
        (
            "max_seconds = 1000000",
            "safeguard.max_seconds = 1000000 is enough",
        ),
        (
            "max_seconds = 0",
            "safeguard.max_seconds = 0 leaves about 100 texts undecided: budget",
        ),
        (
            "answer = 'stored'",
            "safeguard.answer = stored asks nothing: 100 texts would be undecided: budget",
        ),
        (
            "answer = 'queue'",
            "safeguard.answer = queue asks nothing now: 100 texts would be undecided: queued",
        ),
    ];
    for (setting, want) in cases {
        bench.ok(&format!("SET safeguard.{setting}")).await;
        let said = estimates(&bench, sql).await;
        assert!(
            said.ends_with(&format!("statement\n  {want}")),
            "{setting}:\n{said}"
        );
        bench.ok("RESET ALL").await;
    }
    assert_eq!(bench.backend.spent(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn explaining_runs_nothing_else() {
    let bench = Bench::new().await;
    let publish = "SELECT safeguard_classify('p', name) FROM safeguard_publish('r', E'---\\nlabels: [allowed, bad]\\n---\\nbad')";
    let said = estimates(&bench, publish).await;
    assert!(
        said.ends_with(
            "unknown: its rows are those of safeguard_publish, which EXPLAIN does not run"
        ),
        "{said}"
    );
    assert_eq!(
        bench
            .ok("SELECT count(*) FROM safeguard.policies WHERE name = 'r'")
            .await,
        ["0"]
    );
    // Nothing is said of what asks nothing, and a document stays one.
    assert_eq!(estimates(&bench, "SELECT * FROM t").await, "");
    assert_eq!(
        estimates(&bench, "SELECT sum(safeguard_tokens('p', body)) FROM t").await,
        ""
    );
    let json = bench
        .ok("EXPLAIN FORMAT PGJSON SELECT safeguard_classify('p', body) FROM t")
        .await;
    assert_eq!(json.len(), 1, "{json:?}");
    // Nothing is read for whoever only wants to know the columns.
    let statement = bench
        .session
        .split("EXPLAIN SELECT safeguard_classify('none', body) FROM t")
        .remove(0)
        .unwrap();
    let plan = bench.session.plan(&statement).await.unwrap();
    let columns = bench.session.columns(&plan).unwrap();
    assert_eq!(columns.fields().len(), 2);
    let analyzed = bench
        .ok("EXPLAIN ANALYZE SELECT safeguard_classify('p', body) FROM t WHERE id = 1")
        .await;
    assert!(
        analyzed
            .iter()
            .all(|row| !row.contains("safeguard_estimate")),
        "{analyzed:?}"
    );
    assert_eq!(bench.backend.spent().0, 1);
}

/// What a session may not read is not read for an estimate, subqueries included.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_estimate_passes_the_guard() {
    let bench = Bench::new().await;
    let looked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let guard = {
        let looked = Arc::clone(&looked);
        move |plan: &datafusion::logical_expr::LogicalPlan| {
            let judges =
                called(plan).is_some() || plan.inputs().iter().any(|p| called(p).is_some());
            looked
                .lock()
                .unwrap()
                .push((plan.display().to_string(), judges));
            Ok(())
        }
    };
    let bench = bench.guarded(Arc::new(guard));
    estimates(&bench, "SELECT safeguard_classify('p', body) FROM t").await;
    let looked = looked.lock().unwrap();
    let pairs = looked
        .iter()
        .filter(|(shown, _)| shown.contains("AS policy_0"));
    assert_eq!(pairs.count(), 1, "{looked:?}");
}

/// The same over the wire, in both protocols.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn estimates_go_over_the_wire() {
    let wire = crate::wire::Wire::start(crate::wire::config()).await;
    let (client, _) = wire.connect("ann").await;
    let sql = "EXPLAIN SELECT safeguard_classify('keywords', 'text ' || i) FROM generate_series(1, 20) AS g(i)";
    let simple = crate::wire::simple(&client, sql).await;
    assert!(simple.contains("safeguard_estimate|"), "{simple}");
    assert!(simple.contains("rows: 20, distinct texts: 20"), "{simple}");
    let statement = client.prepare(sql).await.unwrap();
    assert_eq!(statement.columns().len(), 2);
    let rows: Vec<_> = client
        .query_raw(&statement, [0_i32; 0])
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let estimates: Vec<String> = rows
        .iter()
        .filter(|row| row.get::<_, &str>(0) == "safeguard_estimate")
        .map(|row| row.get(1))
        .collect();
    assert_eq!(estimates.len(), 1);
    assert!(estimates[0].contains("to be asked: 20"), "{estimates:?}");
    let with = "EXPLAIN SELECT safeguard_classify('keywords', 'text ' || i) FROM generate_series(1, 20) AS g(i) WHERE i > $1";
    let rows = client.query(with, &[&15_i64]).await.unwrap();
    let said = rows
        .iter()
        .map(|row| row.get::<_, String>(1))
        .collect::<Vec<_>>()
        .join("\n");
    assert!(said.contains("to be asked: 5"), "{said}");
    assert_eq!(wire.counts().tokens, 0, "nothing was asked");
}
