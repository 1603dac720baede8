//! Random schedules against a pretended engine that holds them to all that they promise.

use super::tests::bytes;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What a random row will do.
#[derive(Debug, Clone)]
struct Script {
    /// The step before which it arrives, and before which its caller leaves.
    arrives: usize,
    leaves: Option<usize>,
    lane: Lane,
    prefix: PrefixId,
    prompt: usize,
    decodes: usize,
    expected: usize,
    branches: Vec<usize>,
    /// Fails every step that it is in once it has read so much.
    fails: Option<usize>,
}

fn script() -> impl Strategy<Value = Script> {
    let rare = |n: u32| prop::option::weighted(f64::from(n) / 100.0, 0usize..60);
    let lane = prop_oneof![Just(Lane::Interactive), Just(Lane::Backfill)];
    let branches = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(1usize..6, 1..6)
    ];
    (
        (0usize..40, rare(15), lane, 0u64..4),
        (1usize..200, 0usize..30, 0usize..40),
        (branches, rare(3)),
    )
        .prop_map(
            |((arrives, leaves, lane, prefix), (prompt, decodes, expected), (branches, fails))| {
                Script {
                    arrives,
                    leaves,
                    lane,
                    prefix,
                    prompt,
                    decodes,
                    expected,
                    branches,
                    fails,
                }
            },
        )
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (1usize..8, 0usize..100, 5usize..200, 1usize..6, 2usize..5).prop_flat_map(
        |(rows, more, bytes, window, share)| {
            (0..rows).prop_map(move |kept| Limits {
                step_tokens: 2 * rows + 6 + more,
                rows,
                kept,
                bytes,
                window,
                expected: 20,
                share,
            })
        },
    )
}

/// Header behind an analysis.
const HEADER: usize = 5;

/// A row as the engine would see it.
#[derive(Debug, Default)]
struct Mirror {
    /// Tokens that stand, tokens that were read of them.
    len: usize,
    read: usize,
    decoded: usize,
    branches: usize,
    branching: bool,
    running: bool,
    /// Admitted at least once.
    begun: bool,
    /// Younger rows of its lane that began before it.
    overtaken: usize,
}

struct World {
    limits: Limits,
    scripts: Vec<Script>,
    schedule: Schedule,
    now: usize,
    rows: BTreeMap<RowId, Mirror>,
    done: BTreeSet<RowId>,
    left: BTreeSet<RowId>,
    failed: BTreeSet<RowId>,
    /// Tokens read of the prefixes that are open.
    prefixes: BTreeMap<PrefixId, usize>,
    /// Rows that began while backfill rows waited and none ran.
    in_turn: usize,
    /// Whether the last step tried a suspect.
    alone: bool,
}

impl World {
    fn prefix_tokens(prefix: PrefixId) -> usize {
        [20, 70, 130, 1][prefix as usize]
    }

    fn arrive_and_leave(&mut self) {
        for (id, script) in (0..).zip(&self.scripts) {
            if script.arrives == self.now {
                self.schedule.arrive(Arrival {
                    row: id,
                    lane: script.lane,
                    prefix: script.prefix,
                    prefix_tokens: Self::prefix_tokens(script.prefix),
                    prompt: script.prompt,
                    expected: script.expected,
                });
                let len = script.prompt;
                self.rows.insert(
                    id,
                    Mirror {
                        len,
                        ..Mirror::default()
                    },
                );
            }
            if script.leaves == Some(self.now) && self.rows.remove(&id).is_some() {
                self.left.insert(id);
            }
        }
        self.sync();
    }

    fn sync(&mut self) {
        let rows = &self.rows;
        self.schedule.retain(|id| rows.contains_key(&id));
        self.prefixes
            .retain(|&prefix, _| self.schedule.is_open(prefix));
    }

    fn admit(&mut self) {
        let is_backfill = |id: &RowId| self.scripts[*id as usize].lane == Lane::Backfill;
        let mut waiting = self.rows.iter().filter(|(_, row)| !row.running);
        let backfill_waited = waiting.any(|(id, _)| is_backfill(id));
        let backfill_ran = self.schedule.running.iter().any(|row| is_backfill(&row.id));
        let oldest = self.schedule.running.first().map(|row| row.id);
        let admitted = self.schedule.admit(&bytes);
        for id in &admitted.sent_back {
            assert_ne!(Some(*id), oldest, "the oldest is sent back");
            let row = self.rows.get_mut(id).unwrap();
            assert!(row.running, "only who runs is sent back");
            (row.running, row.read, row.branches, row.branching) = (false, 0, 0, false);
        }
        self.prefixes
            .retain(|&prefix, _| self.schedule.is_open(prefix));
        for prefix in admitted.opened {
            self.prefixes.insert(prefix, 0);
        }
        let mut begun = Vec::new();
        for running in &self.schedule.running {
            let row = self
                .rows
                .get_mut(&running.id)
                .expect("a row that is gone runs");
            if !row.running && !row.begun {
                begun.push(running.id);
            }
            (row.running, row.begun) = (true, true);
        }
        self.hold_lanes(&begun, backfill_waited && !backfill_ran);
        self.hold_limits();
    }

    /// Who began, oldest ticket first, overtook nobody by more than is promised.
    fn hold_lanes(&mut self, begun: &[RowId], backfill_starves: bool) {
        let order = |id: RowId| (self.scripts[id as usize].arrives, id);
        for &id in begun {
            let lane = self.scripts[id as usize].lane;
            let mut again = self
                .rows
                .iter()
                .filter(|(_, row)| row.begun && !row.running);
            let ahead = again.find(|(other, _)| self.scripts[**other as usize].lane == lane);
            assert_eq!(
                ahead.map(|(other, _)| other),
                None,
                "{id} overtakes who was sent back"
            );
            let waiting = self.rows.iter_mut().filter(|(_, row)| !row.begun);
            for (other, row) in waiting {
                if self.scripts[*other as usize].lane == lane && order(*other) < order(id) {
                    row.overtaken += 1;
                    assert!(row.overtaken < self.limits.window, "row {other} starves");
                }
            }
        }
        let running = self.schedule.running.iter();
        let backfill = running.filter(|row| row.lane == Lane::Backfill).count();
        assert!(backfill <= self.limits.rows - self.limits.kept);
        // Backfill that waits and has no row running is never full: its turn comes.
        self.in_turn = match backfill_starves && backfill == 0 {
            true => self.in_turn + begun.len(),
            false => 0,
        };
        assert!(self.in_turn < self.limits.share, "backfill starves");
    }

    fn hold_limits(&self) {
        let running = self.schedule.running.len();
        assert!(running <= self.limits.rows);
        assert!(
            running > 0 || self.rows.is_empty(),
            "rows wait and nothing runs"
        );
        let used = self.schedule.bytes_used();
        assert!(
            used <= self.limits.bytes || running == 1,
            "{used} bytes for {running} rows"
        );
        let rows = self.schedule.running.iter();
        let by_hand: usize = rows
            .map(|row| bytes(row.prefix_tokens, row.prefix_tokens + row.length()))
            .sum();
        let prefixes: usize = self
            .prefixes
            .keys()
            .map(|&p| bytes(0, Self::prefix_tokens(p)))
            .sum();
        assert!(by_hand + prefixes <= used, "more is held than reserved");
    }

    /// One step, and what the engine would make of it.
    fn step(&mut self) {
        let parts = self.schedule.step(&bytes);
        assert!(!parts.is_empty() || self.rows.is_empty(), "no progress");
        self.hold_step(&parts);
        let culprit = parts.iter().any(|part| self.is_broken(part));
        if culprit {
            return self.fail(&parts);
        }
        self.schedule.succeeded(&parts);
        for part in &parts {
            match *part {
                Part::Prefix { prefix, tokens } => {
                    *self.prefixes.get_mut(&prefix).unwrap() += tokens
                }
                Part::Row { row, tokens } => self.read(row, tokens),
                Part::Branches { row, count } => self.branched(row, count),
            }
        }
    }

    fn is_broken(&self, part: &Part) -> bool {
        match *part {
            Part::Prefix { .. } => false,
            Part::Row { row, tokens } => {
                let fails = self.scripts[row as usize].fails;
                fails.is_some_and(|at| self.rows[&row].read + tokens > at)
            }
            Part::Branches { row, .. } => self.scripts[row as usize].fails.is_some(),
        }
    }

    fn fail(&mut self, parts: &[Part]) {
        self.schedule.failed(parts);
        for part in parts {
            match (part, parts.len()) {
                (Part::Row { row, .. } | Part::Branches { row, .. }, 1) => {
                    self.rows.remove(row);
                    self.failed.insert(*row);
                }
                (Part::Row { row, .. } | Part::Branches { row, .. }, _) => {
                    let row = self.rows.get_mut(row).unwrap();
                    (row.read, row.branches, row.branching) = (0, 0, false);
                }
                (Part::Prefix { prefix, .. }, _) => *self.prefixes.get_mut(prefix).unwrap() = 0,
            }
        }
        self.sync();
    }

    fn hold_step(&mut self, parts: &[Part]) {
        let (mut tokens, mut seen) = (0, BTreeSet::new());
        for part in parts {
            let (id, more) = match *part {
                Part::Prefix { prefix, tokens } => {
                    let left = Self::prefix_tokens(prefix) - self.prefixes[&prefix];
                    assert!(tokens > 0 && tokens <= left);
                    ((true, prefix), tokens)
                }
                Part::Row { row, tokens } => {
                    let mirror = &self.rows[&row];
                    assert!(mirror.running && !mirror.branching, "{row} does not run");
                    assert!(self.is_ready(row), "{row} is read too early");
                    assert!(tokens > 0 && mirror.read + tokens <= mirror.len);
                    ((false, row), tokens)
                }
                Part::Branches { row, count } => {
                    let mirror = &self.rows[&row];
                    assert!(mirror.running && mirror.branching && count > 0);
                    let paths = &self.scripts[row as usize].branches;
                    let tokens = paths[mirror.branches..mirror.branches + count].iter().sum();
                    ((false, row), tokens)
                }
            };
            assert!(seen.insert(id), "{part:?} twice in a step");
            tokens += more;
        }
        assert!(tokens <= self.limits.step_tokens, "{tokens} tokens");
        for lane in [Lane::Interactive, Lane::Backfill] {
            let mut cut = false;
            for row in self.schedule.running.iter().filter(|row| row.lane == lane) {
                let given = parts.iter().find_map(|part| match part {
                    Part::Row { row: id, tokens } if *id == row.id => Some(*tokens),
                    _ => None,
                });
                let unread = self.rows[&row.id].len - self.rows[&row.id].read;
                if !row.answering && unread > 1 && self.is_ready(row.id) && row.suspect.is_none() {
                    assert!(!cut || given.is_none(), "row {} goes ahead", row.id);
                    cut |= given.unwrap_or(0) < unread;
                }
            }
        }
        // Who decodes is in the step; a step for suspects may come between two others.
        let tried = self.schedule.is_alone(parts);
        for row in self
            .schedule
            .running
            .iter()
            .filter(|row| row.suspect.is_none())
        {
            let mirror = &self.rows[&row.id];
            let decodes = mirror.read > 0 && mirror.len == mirror.read + 1 && !mirror.branching;
            let late = decodes && !seen.contains(&(false, row.id));
            assert!(!late || (tried && !self.alone), "row {} stalls", row.id);
        }
        self.alone = tried;
    }

    fn is_ready(&self, row: RowId) -> bool {
        let prefix = self.scripts[row as usize].prefix;
        self.prefixes[&prefix] == Self::prefix_tokens(prefix)
    }

    fn read(&mut self, id: RowId, tokens: usize) {
        let (script, row) = (&self.scripts[id as usize], self.rows.get_mut(&id).unwrap());
        row.read += tokens;
        if row.read < row.len {
            return;
        }
        let answer = script.prompt + script.decodes + HEADER;
        if row.decoded < script.decodes {
            row.decoded += 1;
            row.len += 1;
            self.schedule.read_on(id, 1);
        } else if row.len < answer {
            row.len += HEADER;
            self.schedule.read_on(id, HEADER);
        } else if script.branches.is_empty() {
            self.finish(id);
        } else {
            row.branching = true;
            self.schedule.branch(id, script.branches.clone());
        }
    }

    fn branched(&mut self, id: RowId, count: usize) {
        let row = self.rows.get_mut(&id).unwrap();
        row.branches += count;
        if row.branches == self.scripts[id as usize].branches.len() {
            self.finish(id);
        }
    }

    fn finish(&mut self, id: RowId) {
        self.rows.remove(&id);
        assert!(self.done.insert(id), "{id} is answered twice");
    }
}

/// Runs the scripts to their end, holding the schedule to all that it promises.
fn run(limits: Limits, scripts: Vec<Script>) {
    let rows = scripts.len() as u64;
    let mut world = World {
        limits,
        schedule: Schedule::new(limits),
        scripts,
        now: 0,
        rows: BTreeMap::new(),
        done: BTreeSet::new(),
        left: BTreeSet::new(),
        failed: BTreeSet::new(),
        prefixes: BTreeMap::new(),
        in_turn: 0,
        alone: false,
    };
    while world.now < 60 || !world.rows.is_empty() {
        world.arrive_and_leave();
        world.admit();
        world.step();
        world.sync();
        world.now += 1;
        assert!(world.now < 100 + 400 * rows as usize, "it does not end");
    }
    let ended = world.done.len() + world.left.len() + world.failed.len();
    assert_eq!(ended as u64, rows, "every row ends in one way");
    for id in &world.failed {
        assert!(
            world.scripts[*id as usize].fails.is_some(),
            "{id} is no culprit"
        );
    }
    assert!(world.schedule.running.is_empty() && world.schedule.open.is_empty());
    assert!(world.schedule.interactive.is_empty() && world.schedule.backfill.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_row_is_lost_doubled_or_starved(
        limits in any_limits(),
        scripts in prop::collection::vec(script(), 0..24),
    ) {
        run(limits, scripts);
    }
}
