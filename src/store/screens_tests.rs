//! Screens in the store: what counts, and what does not.

use super::*;
use crate::store::bed::{Bed, on_both};

fn trained(policy_digest: &str, reasoner_digest: &str, on: bool) -> ScreenEvent {
    ScreenEvent {
        event: "trained".into(),
        at: 1,
        policy: "spam".into(),
        policy_version: 1,
        policy_digest: policy_digest.into(),
        screen_digest: [7; 32],
        reasoner: "nano".into(),
        reasoner_digest: reasoner_digest.into(),
        basis: "reasoner".into(),
        source: Some("posts".into()),
        slice: None,
        on,
        target: 0.95,
        delta: 0.05,
        clear_below: on.then_some(0.25),
        recall_bound: Some(0.96),
        precision_target: None,
        convict_above: None,
        precision_bound: None,
        texts: 20_000,
        cleared: 14_000,
        convicted: 0,
        labels: 900,
        violating: 130,
        trained_on: 700,
        more_labels: (!on).then_some(240),
        finding: "in words".into(),
    }
}

async fn the_latest_event_of_a_policys_text_and_a_reasoner_counts(bed: Bed) {
    let store = bed.new_store();
    let weights = || Some(vec![1, 2, 3]);
    let slice = ScreenEvent {
        slice: Some("de".into()),
        on: false,
        ..trained("p1", "r1", true)
    };
    let first = store
        .append_screen(vec![trained("p1", "r1", true), slice], weights())
        .await
        .unwrap();
    let off = ScreenEvent {
        event: "turned_off".into(),
        ..trained("p2", "r1", false)
    };
    store
        .append_screen(vec![trained("p2", "r1", true)], weights())
        .await
        .unwrap();
    let last = store.append_screen(vec![off.clone()], None).await.unwrap();
    assert_eq!((first, last), (1, 3));
    let in_force = ScreenInForce {
        digest: [7; 32],
        clear_below: Some(0.25),
        convict_above: None,
    };
    // Policy's text, reasoner, the screen.
    let cases = [
        ("p1", "r1", Some(&in_force)),
        ("p1", "r2", None),
        ("p2", "r1", None),
        ("p3", "r1", None),
    ];
    for (policy, reasoner, want) in cases {
        let got = store.screen_in_force(policy, reasoner).await.unwrap();
        assert_eq!(got.as_ref(), want, "{policy} {reasoner}");
    }
    let latest = store.latest_screen("p2", "r1").await.unwrap();
    assert_eq!(latest, Some(off));
    let known = store.screen_weights([7; 32]).await.unwrap();
    assert_eq!(known, weights());
    assert_eq!(store.screen_weights([8; 32]).await.unwrap(), None);
    assert!(store.knows_screen([7; 32], "p2", "r1").await.unwrap());
    assert!(!store.knows_screen([7; 32], "p2", "r2").await.unwrap());
}

async fn nothing_is_certified_of_weights_that_are_not_stored(bed: Bed) {
    let store = bed.new_store();
    let events = vec![trained("p1", "r1", true)];
    assert!(store.append_screen(events, None).await.is_err());
    assert_eq!(store.latest_screen("p1", "r1").await.unwrap(), None);
}

on_both!(
    the_latest_event_of_a_policys_text_and_a_reasoner_counts,
    nothing_is_certified_of_weights_that_are_not_stored,
);
