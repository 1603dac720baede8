//! Limits of a day: exact over many at once, over midnight, over processes and over a kill.

use super::*;
use futures::FutureExt;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// 2001-11-28 00:00 UTC: no day on which tests are run.
const TODAY: i64 = 11_654 * DAY;

fn limits(asked_per_day: Option<u64>, tokens_per_day: Option<u64>) -> RolesLimits {
    RolesLimits {
        analyst: RoleLimits {
            asked_per_day,
            tokens_per_day,
        },
        ..RolesLimits::default()
    }
}

/// What a process of a server has, and its clock.
fn process(store: &Store, limits: RolesLimits) -> (Arc<DayLimits>, Arc<AtomicI64>) {
    let clock = Arc::new(AtomicI64::new(TODAY));
    let days = DayLimits::new(store.clone());
    let now = Arc::clone(&clock);
    days.set(limits, Arc::new(move || now.load(Relaxed)));
    (Arc::new(days), clock)
}

async fn ask(days: &DayLimits, tokens: u64) -> Result<Option<Promise>, Spent> {
    days.reserve(Role::Analyst, || tokens).await.unwrap()
}

/// Asks until it is refused; each question costs what it may at the most. Gives how many were put.
async fn exhaust(days: &DayLimits, tokens: u64) -> u64 {
    let mut put = 0;
    while let Ok(promise) = ask(days, tokens).await {
        let promise = promise.expect("a limit");
        promise.settle(Cost {
            questions: 1,
            tokens,
        });
        put += 1;
        assert!(put <= 10_000, "no end");
    }
    put
}

#[tokio::test]
async fn without_a_limit_nothing_is_counted() {
    let store = Store::ephemeral().unwrap();
    let (days, _) = process(&store, RolesLimits::default());
    assert!(ask(&days, 1 << 40).await.unwrap().is_none());
    let (days, _) = process(&store, limits(Some(0), None));
    let spent = ask(&days, 1).await.unwrap_err();
    assert_eq!(spent.until, TODAY + DAY);
    assert_eq!(
        spent.note,
        "limits.analyst.asked_per_day = 0 has no room left for this day; it begins anew at 2001-11-29 00:00 UTC"
    );
    assert!(
        days.reserve(Role::Admin, || 1)
            .await
            .unwrap()
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_limit_is_exact_and_begins_anew_at_midnight() {
    let cases = [
        ((Some(700), None), 5, 700),
        ((Some(3), None), 5, 3),
        ((None, Some(600_000)), 1_000, 600),
        ((None, Some(999)), 1_000, 0),
        // More than a block at once.
        ((None, Some(600_000)), 280_000, 2),
        ((Some(700), Some(10_000)), 1_000, 10),
        ((Some(7), Some(10_000)), 1_000, 7),
    ];
    for ((asked, tokens), cost, want) in cases {
        let store = Store::ephemeral().unwrap();
        let (days, clock) = process(&store, limits(asked, tokens));
        assert_eq!(exhaust(&days, cost).await, want, "{asked:?} {tokens:?}");
        clock.store(TODAY + DAY - 1, Relaxed);
        assert_eq!(exhaust(&days, cost).await, 0, "{asked:?} {tokens:?}");
        clock.store(TODAY + DAY, Relaxed);
        assert_eq!(exhaust(&days, cost).await, want, "{asked:?} {tokens:?}");
    }
}

#[tokio::test]
async fn what_is_under_way_at_midnight_is_yesterdays() {
    let store = Store::ephemeral().unwrap();
    let (days, clock) = process(&store, limits(Some(2), None));
    let late = ask(&days, 1).await.unwrap().unwrap();
    clock.store(TODAY + DAY, Relaxed);
    assert_eq!(exhaust(&days, 1).await, 2);
    late.settle(Cost::default());
    assert_eq!(exhaust(&days, 1).await, 0, "it is not today's to give back");
    // Whoever waited past midnight is of the day in which it is put.
    let (days, clock) = process(&Store::ephemeral().unwrap(), limits(Some(1), None));
    let first = ask(&days, 1).await.unwrap().unwrap();
    let waits = tokio::spawn({
        let days = Arc::clone(&days);
        async move { ask(&days, 1).await }
    });
    // It waits then.
    tokio::task::yield_now().await;
    clock.store(TODAY + DAY, Relaxed);
    drop(first);
    let second = waits.await.unwrap().unwrap().unwrap();
    assert!(
        ask(&days, 1).now_or_never().is_none(),
        "today's is promised"
    );
    second.settle(Cost {
        questions: 1,
        tokens: 1,
    });
    assert_eq!(exhaust(&days, 1).await, 0);
    clock.store(TODAY, Relaxed);
    assert_eq!(exhaust(&days, 1).await, 1, "yesterday's was given back");
}

#[tokio::test]
async fn a_restart_forgets_nothing_and_a_kill_spends_its_block() {
    let dir = tempfile::tempdir().unwrap();
    let limits = limits(Some(1_000), None);
    let open = || Store::open(dir.path()).unwrap();
    {
        let (days, _) = process(&open(), limits);
        for _ in 0..10 {
            ask(&days, 1).await.unwrap().unwrap().settle(Cost {
                questions: 1,
                tokens: 1,
            });
        }
        days.rest(Role::Analyst).await;
    }
    {
        // Ten are put, and the process ends without a word.
        let (days, _) = process(&open(), limits);
        for _ in 0..10 {
            let mut put = ask(&days, 1).await.unwrap().unwrap();
            put.put(Cost {
                questions: 1,
                tokens: 1,
            });
        }
    }
    let (days, _) = process(&open(), limits);
    assert_eq!(exhaust(&days, 1).await, 1_000 - 10 - LIMIT_BLOCK_QUESTIONS);
}

#[tokio::test]
async fn processes_share_a_limit() {
    let store = Store::ephemeral().unwrap();
    let limits = limits(Some(300), None);
    let (one, _) = process(&store, limits);
    let (two, clock) = process(&store, limits);
    let first = ask(&one, 1).await.unwrap().unwrap();
    assert_eq!(exhaust(&two, 1).await, 300 - LIMIT_BLOCK_QUESTIONS);
    first.settle(Cost {
        questions: 1,
        tokens: 1,
    });
    one.rest(Role::Analyst).await;
    assert_eq!(exhaust(&two, 1).await, 0, "it looks again in a while");
    clock.fetch_add(LIMIT_RETRY_MS * 1_000, Relaxed);
    assert_eq!(exhaust(&two, 1).await, LIMIT_BLOCK_QUESTIONS - 1);
    assert_eq!(exhaust(&one, 1).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_ask_exactly_as_many() {
    let store = Store::ephemeral().unwrap();
    let (days, _) = process(&store, limits(Some(400), Some(1_000_000)));
    let ask = |i: u64| {
        let days = Arc::clone(&days);
        tokio::spawn(async move {
            let Ok(promise) = ask(&days, 2_048).await else {
                return (0, 0);
            };
            let mut promise = promise.unwrap();
            promise.put(Cost {
                questions: 1,
                tokens: 48,
            });
            tokio::task::yield_now().await;
            // Every fifth is not asked after all.
            let spent = match i % 5 {
                0 => Cost::default(),
                _ => Cost {
                    questions: 1,
                    tokens: 48 + i % 7,
                },
            };
            promise.settle(spent);
            (spent.questions, spent.tokens)
        })
    };
    let all: Vec<_> = (0..2_000).map(ask).collect();
    let mut sum = (0, 0);
    for one in all {
        let spent = one.await.unwrap();
        sum = (sum.0 + spent.0, sum.1 + spent.1);
    }
    assert_eq!(sum.0, 400);
    days.rest(Role::Analyst).await;
    let left = DayLease {
        day: TODAY / DAY,
        role: "analyst",
        asked_per_day: Some(400),
        tokens_per_day: Some(1_000_000),
        asked: 1_000_000,
        tokens: 1_000_000,
    };
    let left = store.lease_day(left).await.unwrap();
    assert_eq!(
        left,
        (0, 1_000_000 - sum.1),
        "what is counted is what was spent"
    );
}
