//! What roles may ask in a day, over the wire: exact over connections and partitions, over midnight and restarts.

use super::logins::{add, login};
use super::{Wire, config, simple};
use crate::budgets::{Counting, POLICIES};
use crate::stores;
use futures::future::join_all;
use safeguard::config::{LIMIT_BLOCK_QUESTIONS, RoleLimits, RolesLimits};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use tokio_postgres::Client;

/// 2001-11-28 12:00 UTC, in microseconds. A day without a limit yet begins with the statements of the real clock, so that
/// neither this day nor those after it may be days on which tests are run.
const NOON: i64 = (11_654 * 86_400 + 43_200) * 1_000_000;
const DAY: i64 = 86_400_000_000;

fn limits(asked_per_day: Option<u64>, tokens_per_day: Option<u64>) -> RolesLimits {
    let analyst = RoleLimits {
        asked_per_day,
        tokens_per_day,
    };
    RolesLimits {
        analyst,
        ..RolesLimits::default()
    }
}

/// A server over a folder, with a clock and a backend that count.
async fn server(dir: &Path, limits: RolesLimits, clock: &Arc<AtomicI64>) -> (Wire, Arc<Counting>) {
    let backend = Counting::new();
    let mut config = config();
    config.limits = limits;
    let store = stores::open(dir);
    let wire = Wire::over(config, store, backend.clone()).await;
    let now = Arc::clone(clock);
    let now = Arc::new(move || now.load(Relaxed));
    wire.shared.engine.limit(limits, now);
    (wire, backend)
}

/// An admin who made 300 texts and two policies, and three analysts with 16 partitions.
async fn people(wire: &Wire) -> (Client, Vec<Client>) {
    add(wire, "adm", "admin").await;
    let admin = login(wire, "adm", "correct horse").await.unwrap();
    let sql = "CREATE TABLE t AS SELECT i AS id, 'text number ' || i AS body FROM generate_series(1, 300) AS g(i)";
    assert_eq!(simple(&admin, sql).await, "");
    for sql in POLICIES {
        let published = simple(&admin, sql).await;
        assert!(
            published.contains('@') || published.contains('|'),
            "{published}"
        );
    }
    let mut analysts = Vec::new();
    for name in ["ann", "bea", "cem"] {
        add(wire, name, "analyst").await;
        let client = login(wire, name, "correct horse").await.unwrap();
        let sql = "SET datafusion.execution.target_partitions = 16; SET datafusion.execution.batch_size = 16";
        assert_eq!(simple(&client, sql).await, "");
        analysts.push(client);
    }
    (admin, analysts)
}

/// Undecided texts of each analyst, all at once, each with texts of their own.
async fn all_ask(analysts: &[Client]) -> u64 {
    let ask = |(at, client)| async move {
        let sql = format!(
            "SELECT count(*) FILTER (WHERE safeguard_classify('p', '{at} ' || body) = 'undecided') FROM t"
        );
        simple(client, &sql).await.parse::<u64>().unwrap()
    };
    join_all(analysts.iter().enumerate().map(ask))
        .await
        .iter()
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_roles_day_is_exact_over_connections_and_partitions() {
    // 900 texts. A question costs 4 + 3 tokens, and 4 + 20 at the most.
    for (limit, asked) in [
        (limits(Some(0), None), 0),
        (limits(Some(100), None), 100),
        (limits(Some(700), None), 700),
        (limits(None, Some(2_000)), 283),
        (limits(Some(200), Some(2_000)), 200),
        (limits(None, None), 900),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicI64::new(NOON));
        let (wire, backend) = server(dir.path(), limit, &clock).await;
        let (admin, analysts) = people(&wire).await;
        assert_eq!(all_ask(&analysts).await, 900 - asked, "{limit:?}");
        assert_eq!(backend.spent(), (asked, 7 * asked), "{limit:?}");
        // Nothing more today, by anybody of the role; what is stored is theirs, and an admin has other limits.
        assert_eq!(all_ask(&analysts).await, 900 - asked, "{limit:?}");
        assert_eq!(backend.spent(), (0, 0), "{limit:?}");
        let other = "SELECT safeguard_classify('q', 'hello there')";
        let (theirs, its) = (
            simple(&analysts[1], other).await,
            simple(&admin, other).await,
        );
        assert_eq!(
            (theirs == "undecided", its.as_str()),
            (asked < 900, "allowed")
        );
        backend.spent();
        // Tomorrow the rest, as far as the limit goes.
        clock.fetch_add(DAY, Relaxed);
        let rest = (900 - asked).min(asked);
        assert_eq!(all_ask(&analysts).await, 900 - asked - rest, "{limit:?}");
        assert_eq!(backend.spent().0, rest, "{limit:?}");
        // What is counted is what was asked, once nobody asks.
        let days = simple(
            &admin,
            "SELECT role, asked FROM safeguard.limit_days ORDER BY day",
        )
        .await;
        match limit.analyst.asked_per_day {
            Some(_) => assert_eq!(days, format!("analyst|{asked};analyst|{rest}")),
            None if limit.analyst.tokens_per_day.is_some() => {
                assert!(days.starts_with("analyst|0;"))
            }
            None => assert_eq!(days, ""),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_meets_a_limit_is_told_which_and_until_when() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicI64::new(NOON));
    let (wire, _) = server(dir.path(), limits(Some(2), Some(1_000)), &clock).await;
    let (admin, _) = people(&wire).await;
    let mut ann = wire.client("ann");
    ann.password("correct horse");
    let (ann, mut notices) = wire.connect_with(&ann).await.unwrap();
    let sql = "SELECT safeguard_verdict('p', body)['reason'] AS r, count(*) FROM t WHERE id <= 5 GROUP BY r ORDER BY r";
    assert_eq!(simple(&ann, sql).await, "budget|3;NULL|2");
    let mut told = notices.recv().await.unwrap();
    while told.message().contains(" so far, ") {
        told = notices.recv().await.unwrap();
    }
    assert_eq!(
        told.message(),
        "limits.analyst.asked_per_day = 2 has no room left for this day; it begins anew at 2001-11-29 00:00 UTC"
    );
    while !notices
        .recv()
        .await
        .unwrap()
        .message()
        .starts_with("safeguard: 5 rows")
    {}
    let explain = "EXPLAIN SELECT safeguard_classify('p', body) FROM t WHERE id <= 8";
    let said = simple(&ann, explain).await;
    let want = "limits.analyst.asked_per_day = 2, with 0 left today, leaves about 6 texts undecided: budget";
    assert!(said.contains(want), "{said}");
    let want = "limits.analyst.tokens_per_day = 1000, with 988 left today, is enough";
    assert!(said.contains(want), "{said}");
    for (client, shown) in [(&ann, ["2", "1000"]), (&admin, ["none", "none"])] {
        assert_eq!(
            simple(client, "SHOW safeguard.asked_per_day").await,
            shown[0]
        );
        assert_eq!(
            simple(client, "SHOW safeguard.tokens_per_day").await,
            shown[1]
        );
    }
    let refused = simple(&ann, "SET safeguard.asked_per_day = 10").await;
    assert!(refused.starts_with("55P02"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_forgets_no_day() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicI64::new(NOON));
    let limit = limits(Some(500), None);
    let sql = |at: u64, texts: u64| {
        format!(
            "SELECT count(*) FILTER (WHERE safeguard_classify('p', '{at} ' || body) <> 'undecided') FROM t WHERE id <= {texts}"
        )
    };
    {
        let (wire, _) = server(dir.path(), limit, &clock).await;
        let (_, analysts) = people(&wire).await;
        assert_eq!(simple(&analysts[0], &sql(0, 30)).await, "30");
        drop(analysts);
        wire.shutdown.soft.cancel();
    }
    {
        // In the middle of a statement its process is gone: what it had counted ahead is spent.
        let (wire, backend) = server(dir.path(), limit, &clock).await;
        let ann = login(&wire, "ann", "correct horse").await.unwrap();
        let never =
            "SELECT safeguard_classify('p', 'never ' || i) FROM generate_series(1, 3) AS g(i)";
        let asking = tokio::spawn(async move { simple(&ann, never).await });
        let mut asked = 0;
        while asked < 3 {
            asked += backend.spent().0;
            tokio::task::yield_now().await;
        }
        asking.abort();
        // Nobody gives anything back any more.
        std::mem::forget(wire);
    }
    let (wire, backend) = server(dir.path(), limit, &clock).await;
    let ann = login(&wire, "ann", "correct horse").await.unwrap();
    add(&wire, "adm", "admin").await;
    let admin = login(&wire, "adm", "correct horse").await.unwrap();
    let left = 500 - 30 - LIMIT_BLOCK_QUESTIONS;
    let table = "CREATE TABLE t AS SELECT i AS id, 'text number ' || i AS body FROM generate_series(1, 300) AS g(i)";
    assert_eq!(simple(&admin, table).await, "");
    assert_eq!(simple(&ann, &sql(2, 300)).await, left.to_string());
    assert_eq!(backend.spent().0, left);
}

/// Jobs are their admin's: what runs in the server's own sessions counts as one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn jobs_count_as_an_admins() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicI64::new(NOON));
    let limit = RolesLimits {
        admin: RoleLimits {
            asked_per_day: Some(3),
            tokens_per_day: None,
        },
        ..RolesLimits::default()
    };
    let (wire, backend) = server(dir.path(), limit, &clock).await;
    let (admin, _) = people(&wire).await;
    let sql = "SELECT safeguard_classify('p', body) FROM t WHERE id <= 5";
    let job = (wire.shared.host().session)("adm");
    let statement = job.split(sql).remove(0).unwrap();
    let (rows, ended) = job.run(&statement).await.unwrap().split();
    let rows: Vec<_> = futures::TryStreamExt::try_collect(rows).await.unwrap();
    assert!(!rows.is_empty());
    job.finish(ended, safeguard::engine::End::Done).await;
    assert_eq!(backend.spent().0, 3);
    let sql = sql.replace("safeguard_classify('p', body)", "count(safeguard_classify('p', body)) FILTER (WHERE safeguard_classify('p', body) = 'undecided')");
    assert_eq!(simple(&admin, &sql).await, "2");
    assert_eq!(backend.spent().0, 0);
}
