//! What people may do with a backfill, what they may not, and what is said.

use super::Bench;
use std::time::Duration;

#[tokio::test]
async fn a_backfill_is_paused_resumed_and_cancelled() {
    let bench = Bench::new().await;
    bench.table(600).await;
    bench.begin("").await;
    let steer = |what: &str| format!("SELECT id, state, judged FROM safeguard_backfill_{what}");
    // While it is spooling.
    assert_eq!(bench.row(&steer("pause(1)")).await, "1|paused|0");
    assert!(!bench.step().await);
    assert_eq!(bench.row(&steer("resume(1)")).await, "1|spooling|0");
    assert!(bench.step().await && bench.step().await);
    // While it is running.
    assert_eq!(bench.row(&steer("pause(1)")).await, "1|paused|256");
    assert!(!bench.step().await);
    let refused = bench.refused(&steer("pause(1)")).await;
    assert_eq!(refused, "55000 backfill 1 is paused and cannot be paused");
    assert_eq!(bench.row(&steer("resume(1)")).await, "1|running|256");
    let refused = bench.refused(&steer("resume(1)")).await;
    assert_eq!(refused, "55000 backfill 1 is running and cannot be resumed");
    assert!(bench.step().await);
    assert_eq!(bench.row(&steer("cancel(1)")).await, "1|cancelled|512");
    assert!(!bench.step().await);
    for what in ["pause", "resume", "cancel"] {
        let refused = bench.refused(&steer(&format!("{what}(1)"))).await;
        assert!(
            refused.starts_with("55000 backfill 1 is cancelled and cannot be "),
            "{refused}"
        );
        let refused = bench.refused(&steer(&format!("{what}(7)"))).await;
        assert_eq!(refused, "42704 backfill 7 does not exist");
    }
    assert_eq!(
        bench.backfill("state, judged, ended_at IS NOT NULL").await,
        "cancelled|512|true"
    );
    assert_eq!(bench.script.asked().len(), 512);
}

/// Pausing takes the work out of a worker's hands; what it had stored by then is recalled.
#[tokio::test]
async fn work_in_hand_ends_with_a_pause() {
    use safeguard::jobs::pace::Pace;
    use safeguard::jobs::worker::Worker;
    let bench = Bench::new().await;
    bench.table(300).await;
    bench.begin("").await;
    assert!(bench.step().await);
    let quick = Pace {
        watch: Duration::ZERO,
        ..super::paced(&bench.clock)
    };
    let worker = Worker::new(bench.engine.clone(), quick);
    let stop = tokio_util::sync::CancellationToken::new();
    let held = bench.script.hold();
    let (worked, ()) = tokio::join!(worker.step(&stop), async {
        held.asked().await;
        bench
            .row("SELECT state FROM safeguard_backfill_pause(1)")
            .await;
    });
    assert!(worked.unwrap(), "it ended, although nothing was answered");
    assert_eq!(bench.backfill("state, judged").await, "paused|0");
    drop(held);
    bench
        .row("SELECT state FROM safeguard_backfill_resume(1)")
        .await;
    bench.work().await;
    assert_eq!(bench.backfill("state, judged").await, "done|300");
}

#[tokio::test]
async fn a_budget_of_tokens_pauses_and_another_one_resumes() {
    let bench = Bench::new().await;
    bench.table(600).await;
    bench.begin(", budget => 1000").await;
    bench.work().await;
    let stands = bench.backfill("state, reason, judged > 100, judged < 600, tokens_in + tokens_out > 990, tokens_in + tokens_out <= 1000").await;
    assert_eq!(
        stands,
        "paused|budget: its tokens are spent|true|true|true|true"
    );
    let before = bench.script.asked().len();
    bench
        .row("SELECT state FROM safeguard_backfill_resume(1)")
        .await;
    bench.work().await;
    assert!(bench.script.asked().is_empty(), "nothing is left of it");
    assert_eq!(bench.backfill("state").await, "paused");
    bench
        .row("SELECT state FROM safeguard_backfill_resume(1, budget => 100000)")
        .await;
    bench.work().await;
    assert_eq!(
        bench.backfill("state, judged, reason, budget").await,
        "done|600|NULL|100000"
    );
    assert_eq!(bench.script.asked().len() + before, 600, "each once");
}

#[tokio::test]
async fn what_cannot_be_begun_is_refused_at_once() {
    let bench = Bench::new().await;
    bench.table(10_001).await;
    let source = "'SELECT id, body, views FROM posts', text => 'body'";
    let cases = [
        (
            format!("'q', {source}"),
            "42704 policy \"q\" does not exist",
        ),
        (
            format!("'p', {source}"),
            "22023 a backfill of 10001 rows, about ",
        ),
        (format!("'p', {source}, order_by => 'likes desc'"), "42703 "),
        (
            format!("'p', {source}, order_by => 'views down'"),
            "22023 order_by 'views down' is not a column, or a column and asc or desc",
        ),
        (
            format!("'p', {source}, weight => 'body'"),
            "42804 column body is ",
        ),
        (
            format!("'p', {source}, budget => 0"),
            "22023 budget 0 is not a number of tokens above 0",
        ),
        (
            format!("'p', {source}, only => 'some'"),
            "22023 only 'some' is not: affected",
        ),
        (
            format!("'p', {source}, only => 'affected'"),
            "22023 there is no version before p@1; name one: from => 'name@1'",
        ),
        (
            format!("'p', {source}, from => 'p@1'"),
            "22023 from says which verdicts tell affected rows from others: it goes with only => 'affected'",
        ),
        (
            "'p', 'SELECT 1'".to_owned(),
            "42P18 0 columns of the source could be the text",
        ),
        (
            "'p', 'DROP TABLE posts'".to_owned(),
            "42000 a source must be one query",
        ),
        (
            "'p', 'SELECT body FROM nothing'".to_owned(),
            "42P01 table 'safeguard.public.nothing' not found",
        ),
    ];
    for (arguments, said) in cases {
        let sql = format!("SELECT * FROM safeguard_backfill({arguments})");
        let refused = bench.refused(&sql).await;
        assert!(refused.starts_with(said), "{arguments}: {refused}");
    }
    let none = "SELECT count(*) FROM safeguard.backfills";
    assert_eq!(bench.row(none).await, "0");
    let noted = bench.begin(", note => 'the audit of May'").await;
    assert!(noted.starts_with("1|p@1|10001|"), "{noted}");
    assert_eq!(
        bench
            .backfill("note, source, requested_by, mode, effort")
            .await,
        "the audit of May|SELECT id, body, views FROM posts|ann|auto|low"
    );
}

/// The requester's settings are those of the work, whoever does it.
#[tokio::test]
async fn settings_are_those_of_whoever_asked() {
    let bench = Bench::new().await;
    bench.table(20).await;
    for set in [
        "mode = 'score'",
        "effort = 'high'",
        "max_rows = 3",
        "answer = 'stored'",
    ] {
        bench.rows(&format!("SET safeguard.{set}")).await;
    }
    bench
        .rows("SET datafusion.catalog.default_schema = 'safeguard'")
        .await;
    let source = "SELECT * FROM safeguard_backfill('p', 'SELECT policy AS body FROM policies UNION ALL SELECT body FROM public.posts')";
    let refused = bench.refused(source).await;
    assert!(refused.starts_with("42703"), "{refused}");
    let source = source.replace("policy AS", "name AS");
    bench.row(&source).await;
    bench
        .rows("SET datafusion.catalog.default_schema = 'public'")
        .await;
    bench.work().await;
    assert!(bench.backfill("state, mode, effort").await == "done|score|high");
    let judges = "SELECT DISTINCT mode, effort FROM safeguard.verdicts";
    assert_eq!(bench.rows(judges).await, ["score|high"]);
    let asked = bench.script.asked().len();
    assert!(asked > 20, "budgets are a statement's: {asked}");
}

/// A policy text that is not published can be backfilled too, and an erased text is not judged.
#[tokio::test]
async fn an_erased_text_is_gone_from_what_is_still_to_be_judged() {
    let bench = Bench::new().await;
    bench.table(300).await;
    let inline = "SELECT policy FROM safeguard_backfill(E'---\\nlabels: [allowed, bad]\\n---\\nbad if it sells', 'SELECT id, body, views FROM posts', text => 'body', weight => 'views')";
    let policy = bench.row(inline).await;
    assert!(policy.starts_with("inline@"), "{policy}");
    assert!(bench.step().await);
    let store = bench.engine.store();
    let erased = store
        .erase_text(safeguard::store::text_digest("text 123"))
        .await;
    assert_eq!(erased.unwrap(), 1);
    assert_eq!(bench.backfill("rows").await, "299");
    bench.work().await;
    assert_eq!(
        bench.backfill("state, judged, weight_coverage").await,
        "done|299|1.0"
    );
    let asked = bench.script.asked();
    assert!(asked.len() == 299 && !asked.iter().any(|text| **text == *"text 123"));
}

/// While a worker has a text in hand it may be erased: what is left of its chunk is written without it.
#[tokio::test]
async fn a_text_that_is_erased_in_flight_is_not_written_again() {
    let bench = Bench::new().await;
    bench.table(100).await;
    bench.begin("").await;
    assert!(bench.step().await);
    *bench.script.poison.lock().unwrap() = Some("text 1");
    let held = bench.script.hold();
    let (stop, digest) = (
        tokio_util::sync::CancellationToken::new(),
        safeguard::store::text_digest("text 11"),
    );
    let (worked, ()) = tokio::join!(bench.worker.step(&stop), async {
        held.asked().await;
        assert_eq!(bench.engine.store().erase_text(digest).await.unwrap(), 1);
        held.let_go();
    });
    assert!(worked.unwrap());
    *bench.script.poison.lock().unwrap() = None;
    bench.script.asked();
    bench.later(Duration::from_secs(61));
    bench.work().await;
    let asked = bench.script.asked();
    assert!(!asked.iter().any(|text| **text == *"text 11"), "{asked:?}");
    assert_eq!(
        bench.backfill("state, rows, judged, failed").await,
        "done|99|99|0"
    );
}
