use super::*;

/// Tokens of a block of the pretended model.
const BLOCK: usize = 16;

pub(super) fn bytes(shared: usize, tokens: usize) -> usize {
    tokens.div_ceil(BLOCK) - (shared / BLOCK).min(tokens / BLOCK)
}

const ROOMY: Limits = Limits {
    step_tokens: 100,
    rows: 8,
    kept: 2,
    bytes: 10_000,
    window: 4,
    expected: 30,
    share: 4,
};

fn arrival(row: RowId, lane: Lane, prefix: PrefixId, prompt: usize) -> Arrival {
    Arrival {
        row,
        lane,
        prefix,
        prefix_tokens: 150,
        prompt,
        expected: 0,
    }
}

fn running(schedule: &Schedule) -> Vec<RowId> {
    schedule.running.iter().map(|row| row.id).collect()
}

fn row(row: RowId, tokens: usize) -> Part {
    Part::Row { row, tokens }
}

/// Admits, and takes the next step as done.
fn step(schedule: &mut Schedule) -> Vec<Part> {
    schedule.admit(&bytes);
    let parts = schedule.step(&bytes);
    schedule.succeeded(&parts);
    parts
}

#[test]
fn rows_wait_for_their_prefix_and_share_the_budget() {
    let mut schedule = Schedule::new(ROOMY);
    for id in [1, 2] {
        schedule.arrive(arrival(id, Lane::Interactive, 7, 30));
    }
    schedule.arrive(arrival(3, Lane::Interactive, 8, 60));
    let admitted = schedule.admit(&bytes);
    assert_eq!((admitted.opened, admitted.sent_back), (vec![7, 8], vec![]));
    schedule.prefix_is_ready(8);
    let prefix = |tokens| Part::Prefix { prefix: 7, tokens };
    assert_eq!(step(&mut schedule), [prefix(100)]);
    assert_eq!(step(&mut schedule), [prefix(50), row(3, 50)]);
    assert_eq!(step(&mut schedule), [row(1, 30), row(2, 30), row(3, 10)]);
    schedule.read_on(1, 1);
    schedule.read_on(2, 9);
    schedule.branch(3, vec![2, 3]);
    let branches = |count| Part::Branches { row: 3, count };
    assert_eq!(step(&mut schedule), [row(1, 1), row(2, 9), branches(2)]);
    schedule.retain(|_| false);
    assert_eq!(step(&mut schedule), []);
    assert!(!schedule.is_open(7) && !schedule.is_open(8));
}

#[test]
fn decoding_rows_go_with_every_prompt() {
    let mut schedule = Schedule::new(ROOMY);
    schedule.arrive(arrival(1, Lane::Backfill, 7, 10));
    schedule.admit(&bytes);
    schedule.prefix_is_ready(7);
    assert_eq!(step(&mut schedule), [row(1, 10)]);
    schedule.read_on(1, 1);
    schedule.arrive(arrival(2, Lane::Interactive, 7, 250));
    for tokens in [99, 99, 52] {
        assert_eq!(step(&mut schedule), [row(1, 1), row(2, tokens)]);
        schedule.read_on(1, 1);
    }
}

#[test]
fn prompts_of_both_lanes_share_a_step() {
    let mut schedule = Schedule::new(ROOMY);
    for (id, lane) in [(1, Lane::Interactive), (2, Lane::Backfill)] {
        schedule.arrive(arrival(id, lane, 7, 120));
    }
    schedule.admit(&bytes);
    schedule.prefix_is_ready(7);
    assert_eq!(step(&mut schedule), [row(1, 75), row(2, 25)]);
    assert_eq!(step(&mut schedule), [row(1, 45), row(2, 55)]);
}

#[test]
fn lanes_windows_and_lengths_decide_who_goes_first() {
    let mut schedule = Schedule::new(Limits {
        rows: 4,
        kept: 0,
        ..ROOMY
    });
    for (id, prefix, prompt) in [(1, 7, 300), (2, 8, 10), (3, 7, 20), (4, 8, 5), (5, 7, 1)] {
        schedule.arrive(arrival(id, Lane::Backfill, prefix, prompt));
    }
    for id in 11..16 {
        schedule.arrive(arrival(id, Lane::Interactive, 9, 10));
    }
    let mut order = Vec::new();
    for _ in 0..10 {
        schedule.admit(&bytes);
        let first = schedule.running[0].id;
        order.extend(
            running(&schedule)
                .into_iter()
                .find(|id| !order.contains(id)),
        );
        schedule.retain(|id| id != first);
    }
    // Three interactive rows for one backfill row; in the window of four, the first row's policy, short rows first.
    assert_eq!(order, [11, 12, 13, 3, 14, 15, 1, 2, 4, 5]);
}

#[test]
fn backfill_leaves_places_and_interactive_rows_take_them() {
    let mut schedule = Schedule::new(ROOMY);
    for id in 0..20 {
        schedule.arrive(arrival(id, Lane::Backfill, 7, 10));
    }
    schedule.admit(&bytes);
    assert_eq!(running(&schedule).len(), 6);
    for id in 20..24 {
        schedule.arrive(arrival(id, Lane::Interactive, 7, 10));
    }
    schedule.admit(&bytes);
    assert_eq!(running(&schedule), [0, 1, 2, 3, 4, 5, 20, 21]);
    schedule.retain(|id| id != 20 && id != 1);
    schedule.admit(&bytes);
    let kept = [0, 2, 3, 4, 5, 21, 22, 6];
    assert_eq!(running(&schedule), kept, "the third, then backfill's turn");
}

#[test]
fn a_row_larger_than_all_runs_alone_and_is_not_overtaken() {
    let mut schedule = Schedule::new(Limits {
        bytes: 40,
        kept: 0,
        ..ROOMY
    });
    for (id, prompt) in [(1, 10), (2, 5_000), (3, 10), (4, 10)] {
        schedule.arrive(arrival(id, Lane::Interactive, id, prompt));
    }
    // 10 blocks of prefix and 9 of room for a small one.
    for expected in [&[1][..], &[2], &[3, 4], &[]] {
        schedule.admit(&bytes);
        assert_eq!(running(&schedule), expected);
        schedule.retain(|id| !expected.contains(&id));
    }
}

#[test]
fn growth_sends_the_youngest_back_never_the_oldest() {
    // The prefix has 10 blocks; a row has 9 of room, and 17 once it is longer than 128 tokens.
    let mut schedule = Schedule::new(Limits {
        bytes: 40,
        kept: 0,
        ..ROOMY
    });
    for id in [1, 2, 3] {
        schedule.arrive(arrival(id, Lane::Interactive, 7, 90));
    }
    schedule.admit(&bytes);
    schedule.prefix_is_ready(7);
    assert_eq!(running(&schedule), [1, 2, 3]);
    for _ in 0..3 {
        step(&mut schedule);
    }
    for id in [1, 2, 3] {
        schedule.read_on(id, if id == 2 { 60 } else { 1 });
    }
    assert_eq!(schedule.admit(&bytes).sent_back, [3], "the second grows");
    step(&mut schedule);
    schedule.read_on(1, 60);
    schedule.read_on(2, 1);
    assert_eq!(schedule.admit(&bytes).sent_back, [2], "the oldest grows");
    schedule.retain(|id| id != 1);
    assert_eq!(schedule.admit(&bytes).opened, [7], "nobody stood on it");
    assert_eq!(running(&schedule), [2, 3], "it asks for what it grew to");
    assert_eq!(schedule.running[0].reserved, (256, 17));
    assert!(matches!(schedule.running[0].task, Task::Read(151)));
}

#[test]
fn after_a_failure_each_is_tried_alone_every_other_step() {
    let mut schedule = Schedule::new(ROOMY);
    for id in [1, 2, 3] {
        schedule.arrive(arrival(id, Lane::Interactive, 7, 10));
    }
    schedule.admit(&bytes);
    schedule.prefix_is_ready(7);
    step(&mut schedule);
    for id in [1, 2] {
        schedule.read_on(id, 1);
    }
    schedule.branch(3, vec![1, 1]);
    let failed = schedule.step(&bytes);
    assert_eq!(failed.len(), 3);
    schedule.failed(&failed);
    schedule.arrive(arrival(4, Lane::Interactive, 7, 10));
    assert_eq!(step(&mut schedule), [row(1, 11)]);
    schedule.read_on(1, 1);
    assert_eq!(step(&mut schedule), [row(1, 1), row(4, 10)]);
    schedule.read_on(1, 1);
    schedule.read_on(4, 1);
    assert_eq!(step(&mut schedule), [row(2, 11)]);
    schedule.retain(|id| id == 3);
    assert_eq!(step(&mut schedule), [row(3, 10)]);
    schedule.branch(3, vec![1, 1]);
    assert_eq!(schedule.step(&bytes), [Part::Branches { row: 3, count: 2 }]);
}
