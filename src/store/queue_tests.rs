//! The queue in the file.

use super::*;
use crate::store::Fate;
use crate::store::bed::{Bed, on_both};
use std::collections::HashMap;

fn kind(policy: &str) -> Judging {
    Judging {
        reference: format!("{policy}@1"),
        policy: format!("{policy}@1"),
        policy_version: 1,
        policy_digest: "d".to_owned(),
        model: "m".to_owned(),
        model_digest: "md".to_owned(),
        mode: "auto".to_owned(),
        effort: "low".to_owned(),
    }
}

fn new(policy: &str, texts: &[&str]) -> Enqueued {
    Enqueued {
        judging: kind(policy),
        retry_undecided: false,
        texts: texts.iter().map(|text| Arc::from(*text)).collect(),
        now: 1,
    }
}

fn by(worker: &str, now: i64) -> Claimant {
    Claimant {
        worker: worker.into(),
        model_digest: "md".into(),
        now,
        lease_until: now + 10,
    }
}

fn settlement(worker: &str, judged: &[&str], then: Then) -> Settlement {
    let fates = judged
        .iter()
        .map(|text| (text_digest(text), Fate::Judged(None)));
    Settlement {
        worker: worker.into(),
        now: 100,
        fates: fates.collect::<HashMap<_, _>>(),
        spent: crate::store::Spent::default(),
        then,
        interval: |_, _| (0.0, 1.0),
    }
}

async fn a_full_queue_takes_what_is_there_already_and_no_more(bed: Bed) {
    let store = bed.new_store();
    let taken = |texts: &'static [&'static str]| store.enqueue_within(new("a", texts), 3);
    assert_eq!(taken(&["one", "two"]).await.unwrap(), [true, true]);
    assert_eq!(
        taken(&["three", "four", "one"]).await.unwrap(),
        [true, false, true]
    );
    assert_eq!(taken(&["five"]).await.unwrap(), [false]);
    assert_eq!(store.queue_depth("md").await.unwrap(), 3);
    assert_eq!(store.queue_depth("other").await.unwrap(), 0);
    let other = store.enqueue_within(new("b", &["one"]), 3).await.unwrap();
    assert_eq!(other, [false], "the limit is the whole queue's");
    let claim = store.claim_queue(by("w", 1)).await.unwrap().unwrap();
    assert_eq!(claim.texts.len(), 3);
    let done = settlement("w", &["one"], Then::Again);
    store.settle_queue(claim.judge, done).await.unwrap();
    assert_eq!(taken(&["five"]).await.unwrap(), [true]);
}

async fn kinds_take_turns_and_texts_are_one_workers(bed: Bed) {
    let store = bed.new_store();
    for policy in ["a", "b"] {
        store.enqueue(new(policy, &["one", "two"])).await.unwrap();
    }
    let first = store.claim_queue(by("v", 5)).await.unwrap().unwrap();
    let second = store.claim_queue(by("w", 6)).await.unwrap().unwrap();
    assert_eq!(
        [&*first.judging.policy, &*second.judging.policy],
        ["a@1", "b@1"]
    );
    assert!(store.claim_queue(by("x", 7)).await.unwrap().is_none());
    // What comes in the meantime is taken beside it.
    store.enqueue(new("a", &["three"])).await.unwrap();
    let third = store.claim_queue(by("x", 8)).await.unwrap().unwrap();
    assert_eq!(third.texts, [("three".into(), 0)]);
    assert!(store.renew_queue(first.judge, by("v", 14)).await.unwrap());
    assert!(store.claim_queue(by("y", 15)).await.unwrap().is_none());
    let turn = store.claim_queue(by("y", 30)).await.unwrap().unwrap();
    assert_eq!(turn.judging.policy, "b@1", "it has waited longest");
    let late = store.claim_queue(by("y", 31)).await.unwrap().unwrap();
    assert_eq!(late.texts.len(), 3, "the leases of a are over");
    // Whoever had them before takes nothing out of the queue any more.
    let stale = settlement("v", &["one", "two"], Then::Again);
    store.settle_queue(first.judge, stale).await.unwrap();
    assert_eq!(store.queue_depth("md").await.unwrap(), 5);
    let retry = settlement("y", &["one"], Then::Retry(50));
    store.settle_queue(late.judge, retry).await.unwrap();
    assert!(!store.renew_queue(late.judge, by("y", 32)).await.unwrap());
    assert!(store.claim_queue(by("y", 39)).await.unwrap().is_none());
    let turn = store.claim_queue(by("y", 60)).await.unwrap().unwrap();
    assert_eq!(turn.judging.policy, "b@1");
    let again = store.claim_queue(by("y", 61)).await.unwrap().unwrap();
    assert_eq!(again.texts, [("two".into(), 1), ("three".into(), 1)]);
}

on_both!(
    a_full_queue_takes_what_is_there_already_and_no_more,
    kinds_take_turns_and_texts_are_one_workers,
);
