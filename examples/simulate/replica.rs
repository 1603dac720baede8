//! A replica of the model: how long its replies take, by how many texts it has at once.
//!
//! Two parts. The *curve* is measured before the day begins: the program's own packing (`backend::schedule`: continuous
//! decoding, prompts read in pieces beside it, the policy's prefix shared) is given a full house of questions again and
//! again, and each step that it packs takes the time that the factors say. Real: which texts run, what each step reads.
//! Modelled: the time of a step. (vLLM packs by a scheduler of its own, of the same kind.) The *replica* then serves the day
//! by this curve: all that it has go on at the same pace, which is the curve's for so many. A step by step replay of a
//! day would be 10^8 steps.

use crate::agenda::{Micros, SECOND};
use crate::options::Options;
use crate::world::World;
use safeguard::backend::schedule::{Arrival, Limits, Part, RowId, Schedule};
use safeguard_udfs::Lane;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

/// Bytes of keys and values of a token: 24 layers of 8 heads of 64, bf16, as in the released 20b.
const TOKEN_BYTES: usize = 24 * 2 * 8 * 64 * 2;
/// Bytes for sequences beside the weights on 80 GB; a guess.
const KEYS_BYTES: usize = 48 << 30;
/// Prompt tokens of one step: what vLLM takes on large GPUs.
const STEP_TOKENS: usize = 8_192;
/// Tokens that end an analysis and name the label.
const ANSWER_TOKENS: u64 = 7;
/// The parts of one question's work are counted in this many.
const WORK: f64 = 1e9;

/// Seconds that a question of mean work takes, by how many are there.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    levels: Vec<(f64, f64)>,
}

impl Curve {
    /// By the program's own packing.
    pub fn measure(options: &Options, world: &World) -> Curve {
        let mut levels = Vec::new();
        let mut at_once = 1;
        loop {
            levels.push((at_once as f64, measured(options, world, at_once)));
            if at_once == options.batch {
                return Curve { levels };
            }
            at_once = (at_once * 2).min(options.batch);
        }
    }

    /// Seconds of a question where `n` are there.
    pub fn seconds(&self, n: usize) -> f64 {
        let n = (n.max(1)) as f64;
        let last = self.levels[self.levels.len() - 1];
        if n >= last.0 {
            // The others wait in line.
            return last.1 * n / last.0;
        }
        let above = self.levels.partition_point(|(level, _)| *level <= n);
        let ((a, slow), (b, slower)) = (self.levels[above - 1], self.levels[above]);
        slow + (slower - slow) * (n - a) / (b - a)
    }

    /// Questions in a second where `n` are there.
    pub fn rate(&self, n: usize) -> f64 {
        n as f64 / self.seconds(n)
    }

    /// The most questions in a second.
    pub fn most(&self) -> f64 {
        self.levels
            .iter()
            .map(|(n, seconds)| n / seconds)
            .fold(0.0, f64::max)
    }
}

/// What one running text has to do yet.
struct Running {
    /// Of what it is told to read.
    unread: usize,
    read: usize,
    decode: u64,
}

/// Seconds that a question takes where there are always so many.
fn measured(options: &Options, world: &World, at_once: usize) -> f64 {
    let bytes = |shared: usize, tokens: usize| (tokens - shared) * TOKEN_BYTES;
    let mut schedule = Schedule::new(Limits {
        step_tokens: STEP_TOKENS.max(2 * options.batch),
        rows: options.batch,
        kept: 0,
        bytes: KEYS_BYTES,
        window: options.batch,
        expected: options.decode_tokens as usize,
        share: 8,
    });
    let mut rows: BTreeMap<RowId, Running> = BTreeMap::new();
    let (mut next, mut done) = (0_u64, 0_usize);
    let (mut now, mut begun) = (0.0, 0.0);
    let (warm, wanted) = (at_once, 3 * at_once.max(16));
    while done < warm + wanted {
        while rows.len() < at_once {
            arrive(&mut schedule, &mut rows, options, world, next);
            next += 1;
        }
        let admitted = schedule.admit(&bytes);
        // A policy that is in the cache is not read; what misses it reads it with its text.
        admitted
            .opened
            .into_iter()
            .for_each(|prefix| schedule.prefix_is_ready(prefix));
        for row in admitted.sent_back {
            if let Some(row) = rows.get_mut(&row) {
                (row.unread, row.read) = (row.read + row.unread, 0);
            }
        }
        let parts = schedule.step(&bytes);
        now += step_seconds(options, &parts);
        schedule.succeeded(&parts);
        let before = done;
        for part in &parts {
            done += usize::from(read(&mut schedule, &mut rows, part));
        }
        if done > before {
            schedule.retain(|row| rows.contains_key(&row));
            if before < warm && done >= warm {
                (begun, done) = (now, warm);
            }
        }
    }
    (now - begun) * at_once as f64 / (done - warm) as f64
}

fn arrive(
    schedule: &mut Schedule,
    rows: &mut BTreeMap<RowId, Running>,
    options: &Options,
    world: &World,
    name: RowId,
) {
    let size = world.size(name);
    let misses = crate::world::unit(crate::world::mix(7, name)) >= options.prefix_hits;
    let prompt = if misses { size.prompt } else { size.text } as usize;
    schedule.arrive(Arrival {
        row: name,
        lane: Lane::Interactive,
        prefix: 1,
        prefix_tokens: options.policy_tokens as usize,
        prompt,
        expected: options.decode_tokens as usize,
    });
    let decode = size.decode + ANSWER_TOKENS;
    rows.insert(
        name,
        Running {
            unread: prompt,
            read: 0,
            decode,
        },
    );
}

fn step_seconds(options: &Options, parts: &[Part]) -> f64 {
    let (mut decoding, mut prompts) = (0, 0);
    for part in parts {
        match part {
            Part::Row { tokens: 1, .. } => decoding += 1,
            Part::Row { tokens, .. } | Part::Prefix { tokens, .. } => prompts += tokens,
            Part::Branches { count, .. } => decoding += count,
        }
    }
    options.step_ms / 1e3
        + f64::from(decoding as u32) * options.row_us / 1e6
        + prompts as f64 / options.prefill_rate
}

/// Takes in what a step read of a row; whether that was its last.
fn read(schedule: &mut Schedule, rows: &mut BTreeMap<RowId, Running>, part: &Part) -> bool {
    let Part::Row { row: name, tokens } = *part else {
        return false;
    };
    let Some(row) = rows.get_mut(&name) else {
        return false;
    };
    row.unread -= tokens;
    row.read += tokens;
    if row.unread > 0 {
        return false;
    }
    if row.decode == 0 {
        rows.remove(&name);
        return true;
    }
    row.decode -= 1;
    row.unread = 1;
    schedule.read_on(name, 1);
    false
}

/// How a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Up,
    /// Connections are refused.
    Lost,
    /// It takes requests and answers nothing.
    Hung,
}

/// One replica, over the day.
#[derive(Debug)]
pub struct Replica {
    pub state: State,
    curve: Arc<Curve>,
    /// Mean work over all questions.
    mean: f64,
    /// Work that a question would have got done that was there ever since.
    done: f64,
    at: Micros,
    /// Questions that are there: each with its name and the `done` at which it is answered.
    here: BinaryHeap<Reverse<(u64, usize, u64)>>,
    count: usize,
    /// When its next reply is put down.
    pub planned: Option<Micros>,
    /// Of all questions, in questions of mean work.
    pub worked: f64,
}

impl Replica {
    pub fn new(options: &Options, curve: &Arc<Curve>) -> Replica {
        let (text, decode) = (options.text_tokens, options.decode_tokens);
        Replica {
            state: State::Up,
            curve: Arc::clone(curve),
            mean: weight(options, text + 12, decode),
            done: 0.0,
            at: 0,
            here: BinaryHeap::new(),
            count: 0,
            planned: None,
            worked: 0.0,
        }
    }

    /// Questions that it has.
    pub fn questions(&self) -> usize {
        self.count
    }

    /// Goes on to this time.
    pub fn advance(&mut self, now: Micros) {
        if self.state == State::Up && self.count > 0 {
            let passed = (now - self.at) as f64 / SECOND as f64;
            let own = passed / self.curve.seconds(self.count);
            self.done += own;
            self.worked += own * self.count as f64;
        }
        self.at = now;
    }

    /// A question of `work` comes; its name is a place and a serial number.
    pub fn add(&mut self, now: Micros, (place, serial): (usize, u64), work: f64) {
        self.advance(now);
        self.count += 1;
        let end = (self.done + work / self.mean) * WORK;
        self.here.push(Reverse((end as u64, place, serial)));
    }

    /// A question leaves without an answer. Its name stays in the heap until its time has come.
    pub fn leave(&mut self, now: Micros) {
        self.advance(now);
        self.count -= 1;
    }

    /// When the next is answered; names that are not `here` any more are dropped.
    pub fn next(&mut self, is_here: impl Fn(usize, u64) -> bool) -> Option<Micros> {
        if self.state != State::Up {
            return None;
        }
        while let Some(Reverse((end, place, serial))) = self.here.peek() {
            if is_here(*place, *serial) {
                let left = (*end as f64 / WORK - self.done).max(0.0);
                let wait = left * self.curve.seconds(self.count) * SECOND as f64;
                return Some(self.at + wait as Micros + 1);
            }
            self.here.pop();
        }
        None
    }

    /// The question that is answered by now, if there is one; call it until there is none.
    pub fn answered(&mut self, is_here: impl Fn(usize, u64) -> bool) -> Option<usize> {
        while let Some(Reverse((end, place, serial))) = self.here.peek().copied() {
            let here = is_here(place, serial);
            if here && (self.state != State::Up || end as f64 / WORK > self.done) {
                return None;
            }
            self.here.pop();
            if here {
                self.count -= 1;
                return Some(place);
            }
        }
        None
    }

    /// Every question that is there, and none any more.
    pub fn clear(&mut self, now: Micros, is_here: impl Fn(usize, u64) -> bool) -> Vec<usize> {
        self.advance(now);
        self.count = 0;
        let all = std::mem::take(&mut self.here).into_sorted_vec();
        let live = all
            .into_iter()
            .filter(|Reverse((_, place, serial))| is_here(*place, *serial));
        live.map(|Reverse((_, place, _))| place).collect()
    }
}

/// The work of a question, in seconds of a full replica.
pub fn weight(options: &Options, prompt: u64, decode: u64) -> f64 {
    let step = options.step_ms / 1e3 / options.batch as f64 + options.row_us / 1e6;
    let missed = (1.0 - options.prefix_hits) * options.policy_tokens as f64;
    (prompt as f64 + missed) / options.prefill_rate + (decode + ANSWER_TOKENS) as f64 * step
}
