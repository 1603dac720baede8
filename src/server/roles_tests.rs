//! A table of roles and statements, each planned and guarded as the server does it.

use super::*;
use crate::backend::local::Local;
use crate::engine::{Engine, Session};
use crate::error::Error;
use crate::store::Store;
use futures::TryStreamExt;

/// No refusal.
const OK: &str = "";

async fn engine() -> Engine {
    let store = Store::ephemeral().unwrap();
    let nano = Local::nano().unwrap();
    let engine = Engine::with_backend(store, Arc::new(nano)).await.unwrap();
    crate::jobs::complete(engine)
}

fn session(engine: &Engine, role: Role) -> Session {
    let guard = move |plan: &LogicalPlan| check(role, plan).map_err(DataFusionError::from);
    engine.session("ada").guarded(Arc::new(guard))
}

/// Plans and starts statements; reads no rows, so that nothing is asked. The first failure.
async fn run(session: &Session, script: &str) -> Result<(), Failure> {
    for statement in session.split(script) {
        let done: Result<(), Error> = async { session.run(&statement?).await.map(drop) }.await;
        done.map_err(Failure::from)?;
    }
    Ok(())
}

/// What a reader and an analyst are told of it; `OK` where they may.
const CASES: &[(&str, &str, &str)] = &[
    // Labels and the like are everybody's.
    ("SELECT 1", OK, OK),
    ("SELECT * FROM safeguard.labels", OK, OK),
    ("SELECT * FROM safeguard.policies", OK, OK),
    ("SELECT * FROM safeguard.users", OK, OK),
    (
        "SELECT safeguard_classify('spam', body), safeguard_violates('spam', body) FROM posts",
        OK,
        OK,
    ),
    (
        "SELECT id FROM posts WHERE safeguard_score('spam', body) > 0.5",
        OK,
        OK,
    ),
    (
        "SELECT sum(safeguard_tokens('spam', body)) FROM posts",
        OK,
        OK,
    ),
    ("SELECT * FROM generate_series(1, 3)", OK, OK),
    ("SELECT table_name FROM information_schema.tables", OK, OK),
    ("DESCRIBE safeguard.overrides", OK, OK),
    ("EXPLAIN SELECT * FROM posts", OK, OK),
    ("SET safeguard.mode = 'score'; RESET safeguard.mode", OK, OK),
    ("SET datafusion.execution.batch_size = 100", OK, OK),
    // Of the store's tables, what readers may see.
    ("SELECT count(*) FROM safeguard.verdicts", OK, OK),
    (
        "SELECT label, score, judged_at FROM safeguard.verdicts WHERE policy = 'spam'",
        OK,
        OK,
    ),
    (
        "SELECT policy, label FROM (SELECT * FROM safeguard.verdicts) v",
        OK,
        OK,
    ),
    (
        "SELECT label FROM safeguard.overrides WHERE text_digest LIKE 'a%'",
        OK,
        OK,
    ),
    ("SELECT id, asked FROM safeguard.queries", OK, OK),
    ("SELECT policy, accuracy FROM safeguard.evaluations", OK, OK),
    ("SELECT * FROM safeguard.evaluation_labels", OK, OK),
    ("SELECT * FROM safeguard.evaluation_confusion", OK, OK),
    ("SELECT * FROM safeguard.evaluation_calibration", OK, OK),
    (
        "SELECT golden_label, label FROM safeguard.evaluation_rows",
        OK,
        OK,
    ),
    (
        "SELECT golden FROM safeguard.evaluations",
        "permission denied for column \"golden\" of table evaluations",
        OK,
    ),
    (
        "SELECT * FROM safeguard.evaluation_rules",
        "permission denied for column \"rules\" of table evaluation_rows",
        OK,
    ),
    (
        "SELECT count(*) FROM safeguard.evaluation_rows WHERE text LIKE '%x%'",
        "permission denied for column \"text\" of table evaluation_rows",
        OK,
    ),
    (
        "SELECT * FROM safeguard_evaluate('spam')",
        "permission denied for function safeguard_evaluate",
        OK,
    ),
    (
        "SELECT max(score) FROM safeguard.verdicts WHERE label = (SELECT max(label) FROM safeguard.overrides)",
        OK,
        OK,
    ),
    // And what they may not, however it is asked for.
    ("SELECT * FROM safeguard.verdicts", RATIONALE, OK),
    ("SELECT rationale FROM safeguard.verdicts", RATIONALE, OK),
    (
        "SELECT v.rules FROM safeguard.verdicts AS v",
        "permission denied for column \"rules\" of table verdicts",
        OK,
    ),
    (
        "SELECT count(*) FROM safeguard.verdicts WHERE rationale LIKE '%a%'",
        RATIONALE,
        OK,
    ),
    (
        "SELECT count(*) FROM safeguard.verdicts WHERE length(rationale) > 3",
        RATIONALE,
        OK,
    ),
    (
        "SELECT label FROM safeguard.verdicts ORDER BY rationale",
        RATIONALE,
        OK,
    ),
    (
        "SELECT max(rationale) OVER () FROM safeguard.verdicts",
        RATIONALE,
        OK,
    ),
    (
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM safeguard.verdicts WHERE rationale = 'x')",
        RATIONALE,
        OK,
    ),
    (
        "SELECT (SELECT max(rationale) FROM safeguard.verdicts)",
        RATIONALE,
        OK,
    ),
    (
        "SELECT id FROM posts WHERE id IN (SELECT length(rationale) FROM safeguard.verdicts)",
        RATIONALE,
        OK,
    ),
    (
        "WITH w AS (SELECT rationale AS x FROM safeguard.verdicts) SELECT x FROM w UNION ALL SELECT 'a'",
        RATIONALE,
        OK,
    ),
    (
        "SELECT a.label FROM safeguard.verdicts a JOIN safeguard.verdicts b ON a.label = b.rationale",
        RATIONALE,
        OK,
    ),
    (
        "EXPLAIN SELECT rationale FROM safeguard.verdicts",
        RATIONALE,
        OK,
    ),
    ("SELECT * FROM said", RATIONALE, OK),
    ("SELECT label FROM said", OK, OK),
    (
        "SET datafusion.catalog.default_schema = 'safeguard'; SELECT rationale FROM verdicts",
        RATIONALE,
        OK,
    ),
    (
        "SELECT statement FROM safeguard.queries",
        "permission denied for column \"statement\" of table queries",
        OK,
    ),
    (
        "SELECT text FROM safeguard.overrides",
        "permission denied for column \"text\" of table overrides",
        OK,
    ),
    (
        "SELECT 1 FROM safeguard.overrides WHERE note IS NULL",
        "permission denied for column \"note\" of table overrides",
        OK,
    ),
    (
        "SELECT reviewer FROM safeguard.overrides",
        "permission denied for column \"reviewer\" of table overrides",
        OK,
    ),
    (
        "SELECT safeguard_verdict('spam', body) FROM posts",
        VERDICT,
        OK,
    ),
    (
        "SELECT (safeguard_verdict('spam', body)).label FROM posts",
        VERDICT,
        OK,
    ),
    (
        "SELECT 1 FROM posts ORDER BY (safeguard_verdict('spam', body)).rationale",
        VERDICT,
        OK,
    ),
    (
        "SELECT (SELECT (safeguard_verdict('spam', 'x')).rationale)",
        VERDICT,
        OK,
    ),
    ("SELECT why FROM judged", VERDICT, OK),
    (
        "EXPLAIN ANALYZE SELECT 1",
        "permission denied for EXPLAIN ANALYZE",
        OK,
    ),
    // Writing.
    (
        "INSERT INTO safeguard.overrides (policy, text, label) VALUES ('spam', 'x', 'allowed')",
        "permission denied for table overrides",
        OK,
    ),
    (
        "INSERT INTO safeguard.overrides (policy, text, label) SELECT 'spam', * FROM safeguard_publish('a', 'b')",
        OK_OR_PLAN,
        OK_OR_PLAN,
    ),
    (
        "INSERT INTO posts VALUES (3, 'c')",
        "permission denied for table posts",
        "permission denied for table posts",
    ),
    (
        "UPDATE posts SET body = 'x'",
        "permission denied for table posts",
        "permission denied for table posts",
    ),
    (
        "DELETE FROM posts",
        "permission denied for table posts",
        "permission denied for table posts",
    ),
    (
        "TRUNCATE TABLE posts",
        "permission denied for table posts",
        "permission denied for table posts",
    ),
    (
        "EXPLAIN INSERT INTO posts VALUES (3, 'c')",
        "permission denied for table posts",
        "permission denied for table posts",
    ),
    (
        "EXPLAIN ANALYZE INSERT INTO posts VALUES (3, 'c')",
        "permission denied for",
        "permission denied for table posts",
    ),
    (
        "INSERT INTO safeguard.users VALUES ('eve', 'admin', now())",
        "permission denied for table users",
        "permission denied for table users",
    ),
    (
        "CREATE TABLE t AS SELECT 1",
        "permission denied to CREATE TABLE",
        "permission denied to CREATE TABLE",
    ),
    (
        "CREATE TABLE t (a INT)",
        "permission denied to CREATE TABLE",
        "permission denied to CREATE TABLE",
    ),
    (
        "CREATE VIEW v AS SELECT 1",
        "permission denied to CREATE VIEW",
        "permission denied to CREATE VIEW",
    ),
    (
        "CREATE OR REPLACE VIEW safeguard.labels AS SELECT 1",
        "permission denied to CREATE VIEW",
        "permission denied to CREATE VIEW",
    ),
    (
        "CREATE SCHEMA s",
        "permission denied to CREATE SCHEMA",
        "permission denied to CREATE SCHEMA",
    ),
    (
        "CREATE SERVER s FOREIGN DATA WRAPPER postgres OPTIONS (host 'localhost', port '1')",
        "permission denied to CREATE SERVER",
        "permission denied to CREATE SERVER",
    ),
    (
        "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
        "permission denied to CREATE SECRET",
        "permission denied to CREATE SECRET",
    ),
    (
        "DROP SECRET s",
        "permission denied to DROP SECRET",
        "permission denied to DROP SECRET",
    ),
    (
        "CREATE DATABASE d",
        "permission denied to CREATE DATABASE",
        "permission denied to CREATE DATABASE",
    ),
    (
        "DROP TABLE posts",
        "permission denied to DROP TABLE",
        "permission denied to DROP TABLE",
    ),
    (
        "DROP VIEW said",
        "permission denied to DROP VIEW",
        "permission denied to DROP VIEW",
    ),
    (
        "DROP SCHEMA public",
        "permission denied to DROP SCHEMA",
        "permission denied to DROP SCHEMA",
    ),
    (
        "CREATE EXTERNAL TABLE t (a INT) STORED AS CSV LOCATION 'none/'",
        "permission denied to CREATE EXTERNAL TABLE",
        "permission denied to CREATE EXTERNAL TABLE",
    ),
    (
        "CREATE FUNCTION f(INT) RETURNS INT RETURN $1 + 1",
        "permission denied to CREATE FUNCTION",
        "permission denied to CREATE FUNCTION",
    ),
    ("COPY (SELECT 1) TO 'none/x.csv'", COPY, COPY),
    ("COPY posts TO 'none/x.csv'", COPY, COPY),
    ("EXPLAIN COPY posts TO 'none/x.csv'", COPY, COPY),
    // Managing.
    (
        "SELECT * FROM safeguard_publish('mine', E'---\\nlabels: [allowed, bad]\\n---\\nbody')",
        PUBLISH,
        PUBLISH,
    ),
    (
        "SELECT p.version FROM safeguard_publish('mine', E'---\\nlabels: [allowed, bad]\\n---\\nbody') AS p",
        PUBLISH,
        PUBLISH,
    ),
    (
        "SELECT (SELECT max(version) FROM safeguard_publish('mine', E'---\\nlabels: [allowed, bad]\\n---\\nbody'))",
        PUBLISH,
        PUBLISH,
    ),
    (
        "SELECT 1 FROM posts, LATERAL safeguard_publish('mine', E'---\\nlabels: [allowed, bad]\\n---\\nbody') AS p",
        PUBLISH,
        PUBLISH,
    ),
    (
        "EXPLAIN ANALYZE SELECT * FROM safeguard_publish('mine', E'---\\nlabels: [allowed, bad]\\n---\\nbody')",
        "permission denied for",
        PUBLISH,
    ),
    // Training and auditing screens changes what is decided for everybody.
    (
        "SELECT * FROM safeguard_train_screen('spam', 0.9)",
        "permission denied for function safeguard_train_screen",
        "permission denied for function safeguard_train_screen",
    ),
    (
        "SELECT * FROM safeguard_audit_screen('spam', 'posts')",
        "permission denied for function safeguard_audit_screen",
        "permission denied for function safeguard_audit_screen",
    ),
    (
        "SELECT * FROM safeguard_calibrate('spam')",
        "permission denied for function safeguard_calibrate",
        "permission denied for function safeguard_calibrate",
    ),
    // What an edit of a policy changes, and quotes.
    (
        "SELECT * FROM safeguard_backtest('spam', 'hate', 'SELECT body FROM posts', 10)",
        "permission denied for function safeguard_backtest",
        OK,
    ),
    (
        "SELECT * FROM safeguard_diff('spam', 'hate', 'SELECT body FROM posts')",
        "permission denied for function safeguard_diff",
        OK,
    ),
    (
        "SELECT count(*) FROM safeguard_diff('spam', 'hate', 'SELECT body FROM posts', by => 'body')",
        "permission denied for function safeguard_diff",
        OK,
    ),
    (
        "SELECT status FROM safeguard_replay('abcdef')",
        "permission denied for function safeguard_replay",
        OK,
    ),
    ("SELECT safeguard_digest(body) FROM posts", OK, OK),
    (
        "SELECT id, share, share_low FROM safeguard.backtests",
        OK,
        OK,
    ),
    (
        "SELECT backtest, direction, old_label, new_label FROM safeguard.backtest_flips",
        OK,
        OK,
    ),
    (
        "SELECT source FROM safeguard.backtests",
        "permission denied for column \"source\" of table backtests",
        OK,
    ),
    (
        "SELECT note FROM safeguard.backtests",
        "permission denied for column \"note\" of table backtests",
        OK,
    ),
    (
        "SELECT text FROM safeguard.backtest_flips",
        "permission denied for column \"text\" of table backtest_flips",
        OK,
    ),
    (
        "SELECT 1 FROM safeguard.backtest_flips WHERE new_rationale LIKE '%x%'",
        "permission denied for column \"new_rationale\" of table backtest_flips",
        OK,
    ),
    (
        "SELECT old_rationale FROM safeguard.backtest_flips",
        "permission denied for column \"old_rationale\" of table backtest_flips",
        OK,
    ),
    (
        "SELECT new_rules FROM safeguard.backtest_flips",
        "permission denied for column \"new_rules\" of table backtest_flips",
        OK,
    ),
    ("SET datafusion.runtime.temp_directory = '/etc'", TEMP, TEMP),
    (
        "RESET datafusion.runtime.memory_limit",
        "permission denied to set parameter",
        "permission denied to set parameter",
    ),
    (
        "PREPARE p AS SELECT 1",
        "permission denied for Prepare",
        "permission denied for Prepare",
    ),
];

const RATIONALE: &str = "permission denied for column \"rationale\" of table verdicts";
const VERDICT: &str = "permission denied for function safeguard_verdict";
const PUBLISH: &str = "permission denied for function safeguard_publish";
const COPY: &str = "permission denied to COPY to or from a file";
const TEMP: &str = "permission denied to set parameter \"datafusion.runtime.temp_directory\"";
/// Does not plan for anybody.
const OK_OR_PLAN: &str = "policy";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_may_what_it_may() {
    let engine = engine().await;
    let setup = "CREATE TABLE posts (id BIGINT, body TEXT) AS VALUES (1, 'a'), (2, 'b');
        CREATE VIEW said AS SELECT rationale, label FROM safeguard.verdicts;
        CREATE VIEW judged AS SELECT id, (safeguard_verdict('spam', body)).rationale AS why FROM posts";
    run(&session(&engine, Role::Admin), setup).await.unwrap();
    let mut wrong = Vec::new();
    for (script, reader, analyst) in CASES {
        for (role, expected) in [(Role::Reader, *reader), (Role::Analyst, *analyst)] {
            let done = run(&session(&engine, role), script).await;
            let right = match &done {
                Ok(()) => expected == OK,
                Err(failure) if expected == OK_OR_PLAN => failure.message.contains(expected),
                Err(failure) => {
                    expected != OK
                        && failure.sqlstate == "42501"
                        && failure.message.starts_with(expected)
                        && failure.hint.is_some()
                }
            };
            if !right {
                wrong.push(format!("{role}: {script}\n  {done:?}\n  not {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Nothing of it happened.
    let admin = session(&engine, Role::Admin);
    run(&admin, "SELECT id, body FROM posts; SELECT * FROM said")
        .await
        .unwrap();
    let known = engine.store().versions().await.unwrap();
    assert!(known.iter().all(|version| version.name != "mine"));
}

/// A source is read under the rights of whoever named it, when the rows of the function that has it are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_is_read_with_its_callers_rights() {
    let engine = engine().await;
    let analyst = session(&engine, Role::Analyst);
    let source = "SELECT name AS text FROM safeguard_publish(''mine'', E''---\\nlabels: [allowed, bad]\\n---\\nbody'')";
    let calls = [
        format!("SELECT * FROM safeguard_backtest('spam', 'hate', '{source}', 10)"),
        format!("SELECT * FROM safeguard_diff('spam', 'hate', '{source}')"),
        format!(
            "SELECT * FROM safeguard_diff('spam', 'hate', 'SELECT text FROM ({source})', by => 'text')"
        ),
    ];
    for call in calls {
        let statement = analyst.split(&call).remove(0).unwrap();
        let (rows, _) = analyst.run(&statement).await.unwrap().split();
        let failed = rows.try_collect::<Vec<_>>().await.unwrap_err();
        let failed = Failure::from(Error::from(failed));
        assert_eq!(
            (failed.sqlstate, &*failed.message),
            ("42501", PUBLISH),
            "{call}"
        );
    }
    let known = engine.store().versions().await.unwrap();
    assert!(known.iter().all(|version| version.name != "mine"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_may_everything() {
    let engine = engine().await;
    let admin = session(&engine, Role::Admin);
    let setup = "CREATE TABLE posts (id BIGINT, body TEXT) AS VALUES (1, 'a'), (2, 'b');
        CREATE VIEW said AS SELECT rationale, label FROM safeguard.verdicts;
        CREATE VIEW judged AS SELECT id, (safeguard_verdict('spam', body)).rationale AS why FROM posts";
    run(&admin, setup).await.unwrap();
    for (script, _, _) in CASES {
        if let Err(failure) = run(&admin, script).await {
            assert_ne!(failure.sqlstate, "42501", "{script}: {failure}");
        }
        // What one case dropped the next may need.
        let _ = run(&admin, setup).await;
    }
}

#[test]
fn hints_name_who_may() {
    let hint = |failure: Failure| failure.hint.unwrap();
    let runtime = "DataFusion.Runtime.memory_limit";
    let denied = check_setting(Role::Analyst, runtime, Some("1")).unwrap_err();
    assert_eq!(hint(denied), "only the role admin may");
    assert_eq!(
        hint(of_function(Role::Reader, "safeguard_verdict").unwrap_err()),
        "only the roles analyst and admin may"
    );
    assert_eq!(check_setting(Role::Admin, runtime, Some("1")), Ok(()));
    for (name, value, may) in [
        ("safeguard.mode", Some("score"), true),
        ("Safeguard.Answer", Some("wait"), false),
        (ANSWER, Some(STORED), true),
        (ANSWER, None, true),
    ] {
        let found = check_setting(Role::Reader, name, value);
        assert_eq!(found.is_ok(), may, "{name} {value:?}");
    }
}
