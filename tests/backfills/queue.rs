//! `SET safeguard.answer = 'queue'`: answers at once, judged later, and asked for once.

use super::Bench;
use crate::stores;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const VIEW: &str = "CREATE VIEW dashboard AS
    SELECT safeguard_classify('p', body) AS label, count(*) AS posts FROM posts GROUP BY 1";
const READ: &str = "SELECT * FROM dashboard ORDER BY label";
const DEPTH: &str = "SELECT policy, mode, depth, judged, failed FROM safeguard.queue";

async fn queueing(rows: usize) -> Bench {
    let bench = Bench::new().await;
    bench.table(rows).await;
    bench.rows("SET safeguard.answer = 'queue'").await;
    bench
}

/// The dashboard says `undecided` until somebody has judged, and asks for each text once however often it is read.
#[tokio::test]
async fn a_view_fills_up_by_itself() {
    let bench = queueing(600).await;
    bench.rows(VIEW).await;
    assert_eq!(bench.rows(READ).await, ["undecided|600"]);
    assert!(bench.script.asked().is_empty(), "at once");
    assert_eq!(bench.rows(READ).await, ["undecided|600"]);
    assert_eq!(bench.rows(DEPTH).await, ["p@1|auto|600|0|0"]);
    let age = "SELECT oldest_at IS NOT NULL, oldest_seconds >= 0 FROM safeguard.queue";
    assert_eq!(bench.rows(age).await, ["true|true"]);
    let reason = "SELECT safeguard_verdict('p', 'text 1')['reason']";
    assert_eq!(bench.rows(reason).await, ["queued"]);
    bench.later(Duration::from_secs(1));
    assert!(bench.step().await);
    // Which of them come first is the scan's business.
    let left = "SELECT posts FROM dashboard WHERE label = 'undecided'";
    assert_eq!(bench.rows(left).await, ["344"]);
    bench.work().await;
    assert_eq!(bench.rows(READ).await, ["allowed|540", "bad|60"]);
    assert_eq!(bench.rows(DEPTH).await, ["p@1|auto|0|600|0"]);
    assert_eq!(bench.script.asked().len(), 600, "each once");
    let empty = "SELECT oldest_at, oldest_seconds FROM safeguard.queue";
    assert_eq!(bench.rows(empty).await, ["NULL|NULL"]);
    let notices = bench
        .rows("SELECT DISTINCT status FROM safeguard.queries")
        .await;
    assert_eq!(notices, ["ok"]);
}

/// The version is the one that was current when the text was queued; each policy, mode and effort is a kind of its own.
#[tokio::test]
async fn texts_are_queued_under_what_was_asked() {
    let bench = queueing(30).await;
    let ask = "SELECT count(safeguard_classify('p', body)) FROM posts";
    bench.rows(ask).await;
    bench.rows("SET safeguard.mode = 'score'").await;
    bench.rows(ask).await;
    let inline =
        "SELECT safeguard_classify(E'---\\nlabels: [allowed, bad]\\n---\\nbad if it sells', 'one')";
    assert_eq!(bench.rows(inline).await, ["undecided"]);
    bench.rows(super::STRICT).await;
    bench.work().await;
    let kinds = "SELECT policy_version, mode, judged FROM safeguard.queue ORDER BY 1, 2";
    assert_eq!(
        bench.rows(kinds).await,
        ["0|score|1", "1|auto|30", "1|score|30"]
    );
    let versions =
        "SELECT policy_version, mode, count(*) FROM safeguard.verdicts GROUP BY 1, 2 ORDER BY 1, 2";
    assert_eq!(
        bench.rows(versions).await,
        ["0|score|1", "1|reason|30", "1|score|30"]
    );
    assert_eq!(bench.rows(inline).await, ["allowed"]);
}

/// What another statement is asking just now is not waited for.
#[tokio::test]
async fn nobody_is_waited_for() {
    let bench = queueing(10).await;
    let waiting = bench.engine.session("bob");
    let sql = "SELECT safeguard_classify('p', 'text 1')";
    let statement = waiting.split(sql).remove(0).unwrap();
    let held = bench.script.hold();
    let (stream, _) = waiting.run(&statement).await.unwrap().split();
    let asking = tokio::spawn(futures::TryStreamExt::try_collect::<Vec<_>>(stream));
    held.asked().await;
    assert_eq!(bench.rows(sql).await, ["undecided"]);
    held.let_go();
    asking.await.unwrap().unwrap();
    assert_eq!(bench.rows(sql).await, ["allowed"]);
    bench.work().await;
    assert_eq!(bench.script.asked().len(), 1, "what is stored is recalled");
    assert_eq!(bench.rows(DEPTH).await, ["p@1|auto|0|1|0"]);
}

#[tokio::test]
async fn a_failing_backend_and_a_poisoned_text_are_waited_for_and_given_up() {
    let bench = queueing(300).await;
    let ask = "SELECT count(safeguard_classify('p', body)) FROM posts";
    bench.rows(ask).await;
    bench.script.down.store(true, Relaxed);
    bench.work().await;
    let stands = bench.row("SELECT depth, reason FROM safeguard.queue").await;
    assert!(
        stands.starts_with("300|backend: no device; tried again in"),
        "{stands}"
    );
    bench.script.down.store(false, Relaxed);
    *bench.script.poison.lock().unwrap() = Some("text 123");
    bench.script.asked();
    for _ in 0..6 {
        bench.later(Duration::from_secs(61));
        bench.work().await;
    }
    assert_eq!(bench.rows(DEPTH).await, ["p@1|auto|0|299|1"]);
    assert_eq!(bench.script.asked().len(), 299 + 5);
    // Whoever asks again puts it into the queue again.
    bench.rows(ask).await;
    assert_eq!(bench.rows(DEPTH).await, ["p@1|auto|1|299|1"]);
}

/// A text is in the file only as long as it waits, and not once it is erased.
#[tokio::test]
async fn texts_are_gone_when_they_are_judged_or_erased() {
    let dir = tempfile::tempdir().unwrap();
    let store = stores::open(dir.path());
    let bench = Bench::over(store, super::Script::new()).await;
    bench.rows("SET safeguard.answer = 'queue'").await;
    let found = |word: &'static str| stores::hold(dir.path(), word);
    bench
        .rows("SELECT safeguard_classify('p', 'word' || t) FROM (VALUES ('one'), ('two')) AS v(t)")
        .await;
    assert!(found("wordone").await && found("wordtwo").await);
    let erased = bench
        .engine
        .store()
        .erase_text(safeguard::store::text_digest("wordone"));
    assert_eq!(erased.await.unwrap(), 1);
    assert!(!found("wordone").await);
    bench.work().await;
    assert_eq!(bench.script.asked(), ["wordtwo".into()]);
    // Erasing another empties the write-ahead log, in which the row that is gone still stood.
    bench.engine.store().erase_text([0; 32]).await.unwrap();
    assert!(!found("wordtwo").await);
}

/// A repetition that is compared is asked now or not at all; a calibration that is there decides which scores stand.
#[tokio::test]
async fn mode_auto_takes_what_it_would_take() {
    let bench = Bench::new().await;
    bench
        .rows(
            "CREATE TABLE golden AS SELECT i || CASE i % 2 WHEN 0 THEN ' bad' ELSE '' END AS text,
                 CASE i % 2 WHEN 0 THEN 'bad' ELSE 'allowed' END AS label
             FROM generate_series(1, 100) AS g(i)",
        )
        .await;
    bench
        .rows("SELECT * FROM safeguard_calibrate('p', 0.9, 'golden')")
        .await;
    bench.script.asked();
    bench.rows("SET safeguard.answer = 'queue'").await;
    let golden = "SELECT safeguard_classify('p', '4 bad')";
    assert_eq!(bench.rows(golden).await, ["bad"], "its score stands");
    let new = "SELECT safeguard_classify('p', 'new')";
    assert_eq!(bench.rows(new).await, ["undecided"]);
    bench.work().await;
    assert_eq!(bench.rows(new).await, ["allowed"]);
    bench
        .rows("INSERT INTO golden VALUES ('unseen', 'allowed')")
        .await;
    let calibrate = bench
        .refused("SELECT * FROM safeguard_calibrate('p', 0.8, 'golden')")
        .await;
    assert!(
        calibrate.starts_with("0A000 safeguard.answer = queue asks nobody now"),
        "{calibrate}"
    );
}
