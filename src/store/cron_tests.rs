//! Claims, starts and ends of runs, as two processes on one store make them.

use super::*;
use crate::config::CRON_WAITING_MAX;
use crate::store::bed::{Bed, on_both};

async fn job(store: &Store, name: &str) -> Due {
    let job = NewJob {
        jobname: Some(name.to_owned()),
        schedule: "* * * * *".to_owned(),
        command: format!("SELECT '{name}'"),
        database: "safeguard".to_owned(),
        username: "ann".to_owned(),
        now: 10,
    };
    let jobid = store.put_job(job).await.unwrap();
    Due {
        jobid,
        since: 10,
        at: 100,
        alone: false,
    }
}

fn claims(owner: &str, due: &[Due]) -> Claims {
    Claims {
        owner: owner.to_owned(),
        now: 1_000,
        seen: Some(1_000),
        due: due.to_vec(),
        missed: Vec::new(),
    }
}

fn at(due: Due, at: i64) -> Due {
    Due { at, ..due }
}

fn done(succeeded: bool) -> Outcome {
    Outcome {
        succeeded,
        message: "SELECT 1".to_owned(),
        rows: 1,
        asked: 2,
        undecided: 3,
        notices: vec!["said".to_owned()],
    }
}

async fn states(store: &Store) -> String {
    let runs = store.runs(None, 100).await.unwrap();
    let states = runs
        .iter()
        .rev()
        .map(|run| format!("{}@{}", run.status, run.due));
    states.collect::<Vec<_>>().join(" ")
}

async fn a_due_time_is_claimed_once_and_runs_of_a_job_never_overlap(bed: Bed) {
    let (one, other) = (bed.open(), bed.open());
    let a = job(&one, "a").await;
    let b = job(&other, "b").await;
    let both = [a, b, at(a, 200)];
    let (first, second) = tokio::join!(
        one.claim(claims("one", &both)),
        other.claim(claims("other", &both))
    );
    assert_eq!(first.unwrap() + second.unwrap(), 3);
    assert_eq!(one.claim(claims("one", &both)).await.unwrap(), 0);
    assert_eq!(other.cron_seen().await.unwrap(), Some(1_000));
    // Whoever has them: one run of each job starts, in order, and no second before the first has ended.
    let mut started = Vec::new();
    for (store, owner) in [(&one, "one"), (&other, "other"), (&one, "one")] {
        started.extend(store.start_runs(owner, 10, 1_001).await.unwrap().0);
    }
    let mut due: Vec<(i64, i64)> = started.iter().map(|run| (run.jobid, run.due)).collect();
    due.sort_unstable();
    assert_eq!(due, [(a.jobid, 100), (b.jobid, 100)]);
    let of_a = started.iter().find(|run| run.jobid == a.jobid).unwrap();
    one.end_run(of_a.runid, done(true), 1_002).await.unwrap();
    let mut next = one.start_runs("one", 10, 1_003).await.unwrap().0;
    next.extend(other.start_runs("other", 10, 1_003).await.unwrap().0);
    assert_eq!(next.len(), 1);
    assert_eq!((next[0].jobid, next[0].due), (a.jobid, 200));
}

async fn jobs_that_changed_or_went_are_not_due(bed: Bed) {
    let store = bed.new_store();
    let due = job(&store, "a").await;
    assert_eq!(store.claim(claims("one", &[due])).await.unwrap(), 1);
    // Another schedule: what waited is gone, and times of before do not count.
    let change = JobChange {
        schedule: Some("@daily".to_owned()),
        ..JobChange::default()
    };
    assert!(store.alter_job(due.jobid, change, 10).await.unwrap());
    assert_eq!(states(&store).await, "");
    assert_eq!(store.claim(claims("one", &[due])).await.unwrap(), 0);
    let due = Due { since: 11, ..due };
    assert_eq!(store.claim(claims("one", &[due])).await.unwrap(), 1);
    // Another command: what waits runs it.
    let change = JobChange {
        command: Some("SELECT 2".to_owned()),
        ..JobChange::default()
    };
    assert!(
        store
            .alter_job(due.jobid, change.clone(), 20)
            .await
            .unwrap()
    );
    let (started, waiting) = store.start_runs("one", 10, 30).await.unwrap();
    assert_eq!((started[0].command.as_str(), waiting), ("SELECT 2", 0));
    assert!(!store.alter_job(99, change, 20).await.unwrap());
    let off = JobChange {
        active: Some(false),
        ..JobChange::default()
    };
    assert!(store.alter_job(due.jobid, off, 40).await.unwrap());
    let due = Due { since: 40, ..due };
    assert_eq!(store.claim(claims("one", &[at(due, 50)])).await.unwrap(), 0);
    // Scheduled again under its name it is the same job, and on.
    assert_eq!(job(&store, "a").await.jobid, due.jobid);
    assert!(store.jobs().await.unwrap()[0].active);
    assert!(store.remove_job(JobKey::Name("a".into())).await.unwrap());
    assert!(!store.remove_job(JobKey::Id(due.jobid)).await.unwrap());
    assert_ne!(job(&store, "b").await.jobid, due.jobid);
    // What ran stays on record.
    assert_eq!(states(&store).await, "running@100");
}

async fn runs_wait_up_to_a_limit_and_intervals_wait_once(bed: Bed) {
    let store = bed.new_store();
    let due = job(&store, "a").await;
    let many: Vec<Due> = (0..=CRON_WAITING_MAX as i64)
        .map(|n| at(due, 100 + n))
        .collect();
    assert_eq!(
        store.claim(claims("one", &many)).await.unwrap(),
        CRON_WAITING_MAX
    );
    assert!(
        states(&store)
            .await
            .ends_with(&format!("missed@{}", 100 + CRON_WAITING_MAX))
    );
    let other = Due {
        alone: true,
        ..job(&store, "b").await
    };
    let both = [other, at(other, 200)];
    assert_eq!(store.claim(claims("one", &both)).await.unwrap(), 1);
}

async fn missed_times_are_recorded_once_and_runs_of_the_dead_end(bed: Bed) {
    let store = bed.new_store();
    let due = job(&store, "a").await;
    let missed = Missed {
        jobid: due.jobid,
        since: due.since,
        first: 50,
        message: "2 times".to_owned(),
    };
    for _ in 0..2 {
        let claims = Claims {
            missed: vec![missed.clone()],
            ..claims("one", &[])
        };
        assert_eq!(store.claim(claims).await.unwrap(), 0);
    }
    store
        .claim(claims("dead", &[due, at(due, 200)]))
        .await
        .unwrap();
    store.start_runs("dead", 10, 300).await.unwrap();
    assert_eq!(states(&store).await, "missed@50 running@100 starting@200");
    assert_eq!(store.run_owners().await.unwrap(), ["dead"]);
    assert_eq!(store.abandon_runs("dead", RESTARTED, 400).await.unwrap(), 2);
    assert_eq!(states(&store).await, "missed@50 failed@100 failed@200");
    // What is said after the end does not count.
    store.end_run(2, done(true), 500).await.unwrap();
    let run = &store.runs(Some(JobKey::Name("a".into())), 1).await.unwrap()[0];
    assert_eq!(run.message.as_deref(), Some(RESTARTED));
    assert_eq!(store.last_due().await.unwrap(), [(due.jobid, 200)]);
    assert_eq!(store.trim_runs(401).await.unwrap(), 2);
    assert_eq!(states(&store).await, "missed@50");
}

on_both!(
    a_due_time_is_claimed_once_and_runs_of_a_job_never_overlap,
    jobs_that_changed_or_went_are_not_due,
    runs_wait_up_to_a_limit_and_intervals_wait_once,
    missed_times_are_recorded_once_and_runs_of_the_dead_end,
);
