//! What fails: the backend, one text, the store, the source, another process.

use super::{Bench, POLICY, STRICT, Script};
use crate::stores;
use safeguard::store::{Claimant, Fate, Settlement, Spent, SpoolRow, Then, text_digest};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(61);

/// A failing backend holds everything up, charges nobody, and is asked again after longer and longer pauses.
#[tokio::test]
async fn a_failing_backend_backs_off_as_a_whole_and_recovers() {
    let bench = Bench::new().await;
    bench.table(600).await;
    bench.begin("").await;
    assert!(bench.step().await);
    for stopped in [false, true] {
        let switch = if stopped {
            &bench.script.gone
        } else {
            &bench.script.down
        };
        switch.store(true, Relaxed);
        for setback in 0..3_u64 {
            assert!(bench.step().await, "a chunk is tried");
            assert!(!bench.step().await, "and then nothing, setback {setback}");
            let pause = Duration::from_millis(1_000 << setback);
            bench.later(pause / 2 - Duration::from_millis(1));
            assert!(!bench.step().await, "not yet, setback {setback}");
            bench.later(pause / 2 + Duration::from_millis(1));
        }
        let stands = bench.backfill("state, judged, failed, reason").await;
        let judged = if stopped { 256 } else { 0 };
        let why = if stopped {
            "backend: model \"script\" has stopped"
        } else {
            "backend: no device"
        };
        assert!(
            stands.starts_with(&format!("running|{judged}|0|{why}; tried again in ")),
            "{stands}"
        );
        switch.store(false, Relaxed);
        assert!(bench.step().await);
        let stands = bench.backfill("state, judged, reason").await;
        assert_eq!(stands, format!("running|{}|NULL", judged + 256));
    }
    bench.work().await;
    assert_eq!(bench.backfill("state, judged, failed").await, "done|600|0");
}

/// A text that fails alone is tried again, given up after a while, and listed; the others are none the worse.
#[tokio::test]
async fn a_poisoned_text_is_charged_to_itself() {
    let bench = Bench::new().await;
    bench.table(600).await;
    *bench.script.poison.lock().unwrap() = Some("text 123");
    bench.begin(", order_by => 'id'").await;
    bench.work().await;
    assert_eq!(
        bench.backfill("state, judged, failed, reason").await,
        "running|599|0|NULL"
    );
    let mut asked = bench.script.asked().len();
    assert_eq!(asked, 600);
    for _ in 0..4 {
        assert!(!bench.step().await, "not at once");
        bench.later(MINUTE);
        bench.work().await;
    }
    asked = bench.script.asked().len();
    assert_eq!(asked, 4, "five times in all, alone");
    assert_eq!(
        bench.backfill("state, judged, failed, coverage < 1").await,
        "done|599|1|true"
    );
    let digest = safeguard::store::to_hex(&text_digest("text 123"));
    assert_eq!(
        bench
            .rows("SELECT * FROM safeguard.backfill_failures")
            .await[0]
            .rsplit_once('|')
            .unwrap()
            .0,
        format!("1|{digest}|123|error|5|no device")
    );
    // Cured, it is all that the next one asks.
    *bench.script.poison.lock().unwrap() = None;
    bench.begin("").await;
    bench.work().await;
    assert_eq!(bench.script.asked().len(), 1);
}

/// Several poisoned texts among good ones are charged, each to itself.
#[tokio::test]
async fn poisoned_texts_that_are_left_alone_are_given_up_in_the_end() {
    let bench = Bench::new().await;
    bench.table(300).await;
    *bench.script.poison.lock().unwrap() = Some("0 bad");
    bench.begin("").await;
    // 30 of them, which fail together when they are all that is left: then it may as well be the backend.
    bench.work().await;
    assert_eq!(
        bench.backfill("state, judged, failed").await,
        "running|270|0"
    );
    for _ in 0..200 {
        bench.later(MINUTE);
        bench.work().await;
    }
    let stands = bench.backfill("state, judged, failed, reason").await;
    assert!(
        stands.starts_with("running|270|0|backend: no device; tried again in"),
        "{stands}"
    );
    *bench.script.poison.lock().unwrap() = Some("text 30 bad");
    bench.later(MINUTE);
    for _ in 0..20 {
        bench.work().await;
        bench.later(MINUTE);
    }
    assert_eq!(bench.backfill("state, judged, failed").await, "done|299|1");
}

/// A store that takes no verdicts: nothing is judged, nothing is lost, and it goes on by itself.
#[tokio::test]
async fn a_store_that_cannot_be_written_holds_it_up() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::over(stores::open(dir.path()), Script::new()).await;
    bench.table(300).await;
    bench.begin("").await;
    assert!(bench.step().await);
    stores::fill(dir.path(), "INSERT ON verdicts").await;
    bench.work().await;
    let stands = bench.backfill("state, judged, failed, reason").await;
    assert!(
        stands.starts_with("running|0|0|verdict store: store "),
        "{stands}"
    );
    assert!(
        stands.contains("database or disk is full") && stands.contains("; tried again in"),
        "{stands}"
    );
    stores::drain(dir.path(), "verdicts").await;
    bench.later(MINUTE);
    bench.work().await;
    assert_eq!(
        bench.backfill("state, judged, failed, reason").await,
        "done|300|0|NULL"
    );
    // Even what is claimed and counted cannot be written: the worker says so and keeps nothing in hand that is not stored.
    bench
        .rows("CREATE TABLE more AS SELECT 'more ' || id AS body FROM posts")
        .await;
    bench
        .row("SELECT * FROM safeguard_backfill('p', 'SELECT body FROM more')")
        .await;
    assert!(bench.step().await);
    stores::fill(dir.path(), "UPDATE ON backfill_chunks").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let failed = bench.worker.step(&stop).await.unwrap_err();
    assert!(
        failed.to_string().contains("database or disk is full"),
        "{failed}"
    );
    let second = "SELECT state, judged, failed FROM safeguard.backfills WHERE id = 2";
    assert_eq!(bench.row(second).await, "running|0|0");
    stores::drain(dir.path(), "backfill_chunks").await;
    bench.work().await;
    assert_eq!(bench.row(second).await, "done|300|0");
}

/// The version is the one that was current when it was asked for.
#[tokio::test]
async fn a_policy_that_is_published_meanwhile_changes_nothing() {
    let bench = Bench::new().await;
    bench.table(600).await;
    bench.begin("").await;
    assert!(bench.step().await && bench.step().await);
    assert_eq!(bench.row(STRICT).await, "2");
    bench.work().await;
    assert_eq!(
        bench
            .backfill("state, policy, policy_version, judged")
            .await,
        "done|p@1|1|600"
    );
    let versions = "SELECT policy_version, count(*) FROM safeguard.verdicts GROUP BY 1";
    assert_eq!(bench.rows(versions).await, ["1|600"]);
}

/// Once spooled, the source may go; before that, its backfill fails and says why, and can be resumed.
#[tokio::test]
async fn a_source_that_is_dropped_meanwhile_changes_nothing_once_it_is_spooled() {
    let bench = Bench::new().await;
    bench.table(300).await;
    bench.begin("").await;
    bench.begin("").await;
    assert!(bench.step().await);
    bench.rows("DROP TABLE posts").await;
    bench.work().await;
    assert_eq!(bench.backfill("state, judged").await, "done|300");
    let second = "SELECT state, reason FROM safeguard.backfills WHERE id = 2";
    assert_eq!(
        bench.row(second).await,
        "failed|source: table 'safeguard.public.posts' not found"
    );
    bench.table(300).await;
    assert!(
        bench
            .row("SELECT state FROM safeguard_backfill_resume(2)")
            .await
            == "spooling"
    );
    bench.work().await;
    assert_eq!(bench.row(second).await, "done|NULL");
}

fn claimant(worker: &str, now: i64) -> Claimant {
    Claimant {
        worker: worker.into(),
        model_digest: "script".into(),
        now,
        lease_until: now + 30_000_000,
    }
}

/// A process that is killed while it spools leaves half a spool, which the next one throws away.
#[tokio::test]
async fn half_a_spool_is_dropped_and_read_anew() {
    let bench = Bench::new().await;
    bench.table(600).await;
    bench.begin("").await;
    let (store, now) = (bench.engine.store(), bench.clock.load(Relaxed));
    let dead = claimant("dead", now);
    let job = store.claim_spool(dead.clone()).await.unwrap().unwrap();
    let row = SpoolRow {
        id: None,
        text: "of the dead".into(),
        weight: None,
        old: None,
    };
    assert!(
        store
            .spool(job.id, dead.clone(), 0, vec![(false, vec![row.clone()])])
            .await
            .unwrap()
    );
    assert!(!bench.step().await, "its lease holds");
    bench.later(Duration::from_secs(31));
    bench.work().await;
    assert_eq!(bench.backfill("state, rows, judged").await, "done|600|600");
    assert!(
        !bench
            .script
            .asked()
            .iter()
            .any(|text| **text == *"of the dead")
    );
    // Whoever comes back late has nothing to say.
    assert!(
        !store
            .spool(job.id, dead.clone(), 1, vec![(false, vec![row])])
            .await
            .unwrap()
    );
    assert!(
        !store
            .end_spool(job.id, dead, (1, 0.0, false))
            .await
            .unwrap()
    );
}

/// A chunk whose worker is dead is taken by another when its lease is over, and is its own from then on.
#[tokio::test]
async fn a_lease_that_is_over_gives_the_chunk_to_another() {
    let bench = Bench::new().await;
    bench.table(600).await;
    bench.begin("").await;
    assert!(bench.step().await);
    let (store, now) = (bench.engine.store(), bench.clock.load(Relaxed));
    let claimed = store
        .claim_chunk(claimant("dead", now))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((claimed.position, claimed.rows.len()), (0, 256));
    bench.work().await;
    assert_eq!(bench.backfill("state, judged").await, "running|344");
    // It is not dead yet, and holds it for longer.
    bench.later(Duration::from_secs(29));
    let at = (claimed.backfill, claimed.position);
    let alive = claimant("dead", bench.clock.load(Relaxed));
    assert!(store.renew_chunk(at, alive).await.unwrap());
    bench.later(Duration::from_secs(29));
    assert!(!bench.step().await);
    bench.later(Duration::from_secs(2));
    let other = store
        .claim_chunk(claimant("other", bench.clock.load(Relaxed)))
        .await
        .unwrap();
    assert_eq!(other.unwrap().position, 0);
    let late = claimant("dead", bench.clock.load(Relaxed));
    assert!(!store.renew_chunk(at, late).await.unwrap());
    let texts = claimed.rows.iter().map(|row| text_digest(&row.text));
    let settlement = |worker: &str| Settlement {
        worker: worker.into(),
        now: bench.clock.load(Relaxed),
        fates: HashMap::new(),
        spent: Spent::default(),
        then: Then::Again,
        interval: |_, _| (0.0, 1.0),
    };
    let late = Settlement {
        fates: texts.map(|text| (text, Fate::Judged(None))).collect(),
        ..settlement("dead")
    };
    assert_eq!(store.settle_chunk(at, late).await.unwrap(), None);
    assert_eq!(bench.backfill("judged, undecided").await, "344|0");
    store
        .settle_chunk(at, settlement("other"))
        .await
        .unwrap()
        .unwrap();
    bench.work().await;
    assert_eq!(
        bench.backfill("state, judged, undecided").await,
        "done|600|0"
    );
}

/// Work in hand is given up when it is cancelled or paused, and given back when its worker is told to stop.
#[tokio::test]
async fn a_worker_that_stops_gives_back_what_it_has() {
    let bench = Bench::new().await;
    bench.table(300).await;
    bench.begin("").await;
    assert!(bench.step().await);
    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    assert!(bench.worker.step(&stop).await.unwrap());
    assert_eq!(bench.backfill("state, judged").await, "running|0");
    bench.work().await;
    assert_eq!(bench.backfill("state, judged, asked").await, "done|300|300");
}

/// Two engines on one folder share the work, and no text is asked twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_runners_never_have_the_same_chunk() {
    use safeguard::jobs::pace::Pace;
    use safeguard::jobs::runner::Runner;
    let dir = tempfile::tempdir().unwrap();
    let one = Bench::over(stores::open(dir.path()), Script::new()).await;
    one.table(8_000).await;
    one.begin("").await;
    assert!(one.step().await, "spooled");
    let two = Bench::over(stores::open(dir.path()), Script::new()).await;
    let pace = Pace {
        workers: 3,
        poll: Duration::from_millis(2),
        ..Pace::default()
    };
    // Nobody goes on before both have work in hand.
    let held = [&one, &two].map(|bench| bench.script.hold());
    let runners = [&one, &two].map(|bench| Runner::paced(&bench.engine, &pace));
    for held in &held {
        held.asked().await;
    }
    drop(held);
    let mut seen = 0;
    while one.backfill("state").await != "done" {
        let judged: u64 = one.backfill("judged").await.parse().unwrap();
        assert!(judged >= seen, "{judged} after {seen}");
        seen = judged;
        tokio::task::yield_now().await;
    }
    for runner in runners {
        runner.stop().await;
    }
    let asked = [one.script.asked(), two.script.asked()];
    let [first, second] = [asked[0].len(), asked[1].len()];
    assert_eq!(first + second, 8_000, "each text once");
    assert!(first > 0 && second > 0, "{first} and {second}");
    let distinct: std::collections::HashSet<&Arc<str>> = asked.iter().flatten().collect();
    assert_eq!(distinct.len(), 8_000);
    assert_eq!(one.backfill("judged, asked, recalled").await, "8000|8000|0");
}

/// A version that another process published is learnt when there is work for it; a model that is another waits.
#[tokio::test]
async fn work_of_another_process_is_done_here_if_the_model_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let here = Bench::over(stores::open(dir.path()), Script::new()).await;
    let there = Bench::over(stores::open(dir.path()), Script::new()).await;
    assert_eq!(there.row(STRICT).await, "2");
    there.table(20).await;
    there.begin("").await;
    assert!(there.step().await, "spooled where the table is");
    here.work().await;
    assert_eq!(here.backfill("state, policy, judged").await, "done|p@2|20");
    assert_eq!(here.script.asked().len(), 20);
    let mut other = Script::new();
    Arc::get_mut(&mut other).unwrap().identity.digest = "another".into();
    let other = Bench::over(stores::open(dir.path()), other).await;
    there
        .rows("CREATE TABLE more AS SELECT 'more ' || id AS body FROM posts")
        .await;
    there
        .row("SELECT * FROM safeguard_backfill('p', 'SELECT body FROM more')")
        .await;
    assert!(there.step().await);
    assert!(!other.step().await, "not its model");
    assert!(here.step().await);
    assert_eq!(
        here.row(POLICY).await,
        "3",
        "an older text under a new number"
    );
}
