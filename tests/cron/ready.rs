//! The jobs of `sql/jobs`, each scheduled as a user would and run at its next time.

use super::{Process, ephemeral, query};
use crate::auto::Script;
use chrono_tz::Tz;
use safeguard::config::CronConfig;
use safeguard::jobs::cron::{list, runs};
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

/// Runs a file of `sql/jobs` as a user would, and the job that it makes at its next time.
async fn ready(process: &mut Process, file: &str) -> String {
    ready_as(process, file, |script| script).await
}

/// The same of a file that is adapted first.
async fn ready_as(
    process: &mut Process,
    file: &str,
    adapt: impl FnOnce(String) -> String,
) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("sql/jobs")
        .join(file);
    let script = adapt(std::fs::read_to_string(path).unwrap());
    process.sql(&script).await;
    let jobs = list(
        process.engine.store(),
        &CronConfig::default(),
        process.time.load(SeqCst),
    )
    .await
    .unwrap();
    let own = jobs.iter().max_by_key(|job| job.job.since).unwrap();
    let next = own.next.unwrap();
    process.at(next - 1).await;
    process.at(next).await;
    process.scheduler.settle().await.unwrap();
    let run = &runs(process.engine.store(), None, 1).await.unwrap()[0];
    assert_eq!(run.due, next, "{file}");
    format!("{} {}", run.status, run.message.clone().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ready_jobs_do_what_they_say() {
    // `cron.schedule` reads the system's clock: so does the one of the test begin.
    let mut process = Process::new(
        ephemeral(),
        Script::new("one"),
        safeguard::store::now(),
        Tz::GMT,
    )
    .await;
    process
        .sql(
            "CREATE TABLE messages AS
             SELECT 'text ' || i || CASE i % 4 WHEN 0 THEN ' bad' ELSE '' END AS body, now() AS created_at
             FROM generate_series(1, 2000) AS g(i);
             INSERT INTO messages VALUES ('an old text', now() - INTERVAL '30 days')",
        )
        .await;
    assert_eq!(
        ready(&mut process, "nightly_audit.sql").await,
        "succeeded SELECT 4"
    );
    let judged = "SELECT policy, count(*) FROM safeguard.verdicts GROUP BY policy ORDER BY policy";
    assert_eq!(process.said(judged).await, "harassment|2000;spam|2000");
    // Cleared by their scores; some of them are asked again, by reasoning.
    process
        .sql("SET safeguard.mode = 'score'; SELECT safeguard_classify('harassment', 'sure ' || body) FROM messages")
        .await;
    let session = process.engine.session("ann");
    query(
        &session,
        "CREATE OR REPLACE TABLE messages AS SELECT 'sure ' || body AS body FROM messages",
    )
    .await
    .unwrap();
    assert_eq!(
        ready(&mut process, "weekly_audit_of_cleared.sql").await,
        "succeeded DROP TABLE"
    );
    let run = process
        .sql("SELECT asked, \"rows\" FROM cron.job_run_details ORDER BY runid DESC LIMIT 1")
        .await;
    let asked: u64 = run[0][0].parse().unwrap();
    assert!((1..=90).contains(&asked), "two percent of 1500: {asked}");
    // What a screen clears is asked again, in part.
    let trained = "SELECT state FROM safeguard_train_screen('harassment', 0.9, label_budget => 400, source => 'SELECT body AS text FROM messages')";
    assert_eq!(process.said(trained).await, "on");
    assert_eq!(
        ready(&mut process, "audit_screen.sql").await,
        "succeeded SELECT 1"
    );
    let events = "SELECT event, standing FROM safeguard.screens WHERE event <> 'shipped' ORDER BY certificate";
    assert_eq!(
        process.said(events).await,
        "trained|superseded;audited|in force"
    );
    // A verdict that the model stands by has not drifted; one that is nowhere cannot be replayed.
    let pinned = process
        .said("SELECT v.verdict_digest FROM safeguard.verdicts AS v JOIN messages AS m ON safeguard_digest(m.body) = v.text_digest LIMIT 1")
        .await;
    let adapted = |script: String| script.replace("0123456789abcdef", &pinned);
    assert_eq!(
        ready_as(&mut process, "drift_check.sql", adapted).await,
        "succeeded SELECT 0"
    );
    let nowhere = ready(&mut process, "drift_check.sql").await;
    assert!(nowhere.starts_with("failed ERROR: "), "{nowhere}");
    // What is quoted of an author's texts goes.
    process
        .sql(
            "CREATE TABLE posts AS SELECT * FROM (VALUES (7, 'my bad post'), (8, 'another bad post')) AS v(author, body);
             CREATE TABLE erasures AS SELECT 7 AS author;
             SELECT safeguard_classify('harassment', body) FROM posts;
             INSERT INTO safeguard.overrides (policy, text, label) SELECT 'spam', body, 'allowed' FROM posts",
        )
        .await;
    assert_eq!(
        ready(&mut process, "erase_author.sql").await,
        "succeeded SELECT 1"
    );
    assert_eq!(
        process
            .said("SELECT text FROM safeguard.overrides ORDER BY text")
            .await,
        "another bad post;NULL"
    );
    let erased = "SELECT texts, rows_changed FROM safeguard_erase";
    assert_eq!(
        process.said(&format!("{erased}('another bad post')")).await,
        "1|2"
    );
    assert_eq!(
        process.said(&format!("{erased}('another bad post')")).await,
        "1|0"
    );
    let digest = safeguard::store::to_hex(&safeguard::store::text_digest("nowhere"));
    assert_eq!(
        process
            .said(&format!("{erased}(text_digest => '{digest}')"))
            .await,
        "1|0"
    );
    for wrong in [
        "()",
        "('a', source => 'SELECT 1')",
        "(text_digest => 'abc')",
    ] {
        let refused = query(&session, &format!("{erased}{wrong}"))
            .await
            .unwrap_err();
        assert_eq!(refused.sqlstate(), "42000", "{wrong}: {refused}");
    }
}
