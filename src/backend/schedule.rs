//! Which texts run and what the next step of the model reads of each: counts of tokens and bytes, nothing else.
//!
//! Takes texts (rows) as they arrive, and what became of each step; gives the parts of the next step. The rows of one
//! policy share its prefix, which is read once while they wait for it. It knows no ids, tensors, threads or clock: the
//! same calls give the same steps.
//!
//! What it promises, with the names of [`Limits`]:
//! - A row that decodes is in every step. Only where a step failed and its rows are tried again one by one may every
//!   other step leave it out.
//! - A lane is emptied window by window, each sorted by policy and length: fewer than `window` rows that came after a
//!   row are admitted before it.
//! - The interactive lane is admitted first, but while both lanes wait at most `share - 1` of its rows in turn; and
//!   backfill rows leave it `kept` places. Backfill that fills its own places passes its turn.
//! - Nothing overtakes the row whose turn it is: where it finds no room, nothing is admitted until it does.
//! - A row that grows where no bytes are left sends the youngest row back to wait; the oldest is never sent back, so
//!   rows finish. A row that is too large for all the bytes runs alone.

mod lanes;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod random_tests;
mod step;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use lanes::Waiting;
use safeguard_udfs::Lane;
pub use step::Part;

/// Names a row.
pub type RowId = u64;
/// Names a policy's prefix.
pub type PrefixId = u64;
/// Bytes that a sequence of `.1` tokens keeps beside the `.0` that it shares with others.
pub type Bytes<'a> = &'a dyn Fn(usize, usize) -> usize;

/// What a schedule keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of one step; at least twice `rows`, and `rows` and the longest branch of labels.
    pub step_tokens: usize,
    /// Rows that run.
    pub rows: usize,
    /// Of these, places that backfill rows leave free; fewer than `rows`.
    pub kept: usize,
    /// Bytes reserved for running rows and their prefixes.
    pub bytes: usize,
    /// Waiting rows of a lane that are sorted together.
    pub window: usize,
    /// Tokens behind its prompt that a row is given room for when it begins, at most; later it grows.
    pub expected: usize,
    /// One in this many is the backfill lane's, of admissions and of the prompts' tokens; at least 2.
    pub share: usize,
}

/// A row that asks to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Its name, which no other has.
    pub row: RowId,
    /// Which queue it waits in.
    pub lane: Lane,
    /// Its policy's prefix.
    pub prefix: PrefixId,
    /// Tokens of the prefix; at least 1.
    pub prefix_tokens: usize,
    /// Tokens to read behind the prefix; at least 1.
    pub prompt: usize,
    /// Tokens that may follow.
    pub expected: usize,
}

/// What [`Schedule::admit`] changed beside letting rows in.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Prefixes that rows now wait for; where one is at hand, say so with [`Schedule::prefix_is_ready`].
    pub opened: Vec<PrefixId>,
    /// Rows that wait again: their sequences are to be dropped, and read from the beginning when their time comes.
    pub sent_back: Vec<RowId>,
}

/// See the module.
#[derive(Debug)]
pub struct Schedule {
    limits: Limits,
    interactive: Waiting,
    backfill: Waiting,
    /// Ascending by ticket.
    running: Vec<Row>,
    /// The prefixes of the running rows.
    open: Vec<Prefix>,
    /// Interactive rows admitted since a backfill row had its turn, while one waited.
    ahead: usize,
    tickets: u64,
    /// Whether the last step tried a suspect.
    was_alone: bool,
}

/// A row, waiting or running.
#[derive(Debug)]
struct Row {
    id: RowId,
    lane: Lane,
    prefix: PrefixId,
    prefix_tokens: usize,
    expected: usize,
    /// Given at the first admission and kept: seniority.
    ticket: Option<u64>,
    /// Tokens of its own in its sequence.
    read: usize,
    task: Task,
    /// Behind its prompt: few tokens at a time from here.
    answering: bool,
    /// Tokens of its own and bytes that are reserved.
    reserved: (usize, usize),
    /// Was in a step that failed: to be tried alone until it has read this far.
    suspect: Option<usize>,
}

#[derive(Debug)]
enum Task {
    /// Tokens to append.
    Read(usize),
    /// Branches of labels to read behind the sequence, last first; each has so many tokens.
    Branches(Vec<usize>),
}

#[derive(Debug)]
struct Prefix {
    id: PrefixId,
    tokens: usize,
    read: usize,
    ready: bool,
    suspect: bool,
    bytes: usize,
}

/// The room a sequence of `tokens` is given: sizes double, so that it seldom asks for more.
fn size_class(tokens: usize) -> usize {
    const SMALLEST: usize = 128;
    tokens.max(SMALLEST).next_power_of_two()
}

impl Row {
    fn new(arrival: Arrival) -> Row {
        Row {
            id: arrival.row,
            lane: arrival.lane,
            prefix: arrival.prefix,
            prefix_tokens: arrival.prefix_tokens,
            expected: arrival.expected,
            ticket: None,
            read: 0,
            task: Task::Read(arrival.prompt),
            answering: false,
            reserved: (0, 0),
            suspect: None,
        }
    }

    /// Tokens that its sequence will have when its task is done.
    fn length(&self) -> usize {
        self.read
            + match &self.task {
                Task::Read(unread) => *unread,
                Task::Branches(paths) => paths.iter().copied().max().unwrap_or(0),
            }
    }

    /// Its sequence is gone: what was read is to be read again.
    fn restart(&mut self) {
        self.task = match &self.task {
            Task::Read(unread) => Task::Read(self.read + unread),
            Task::Branches(_) => Task::Read(self.read),
        };
        self.read = 0;
        self.answering = false;
    }

    /// Room for `tokens` of its own: in tokens, and in bytes.
    fn room(&self, tokens: usize, bytes: Bytes) -> (usize, usize) {
        let tokens = size_class(tokens);
        let shared = self.prefix_tokens;
        (tokens, bytes(shared, shared + tokens))
    }
}

/// Whether the next row of a lane can be admitted.
enum Room {
    Yes,
    /// Not in its lane.
    LaneFull,
    /// Not in any.
    No,
}

impl Schedule {
    /// Nothing waits and nothing runs. Panics where no schedule can keep to the limits.
    pub fn new(limits: Limits) -> Schedule {
        let Limits {
            step_tokens,
            rows,
            kept,
            window,
            share,
            ..
        } = limits;
        assert!(
            rows > 0 && step_tokens >= 2 * rows && kept < rows && window > 0 && share > 1,
            "bug: limits that no schedule can keep: {limits:?}"
        );
        Schedule {
            limits,
            interactive: Waiting::default(),
            backfill: Waiting::default(),
            running: Vec::new(),
            open: Vec::new(),
            ahead: 0,
            tickets: 0,
            was_alone: false,
        }
    }

    /// A row to be run; it waits until it is admitted.
    pub fn arrive(&mut self, arrival: Arrival) {
        let expected = arrival.expected.min(self.limits.expected);
        let row = Row::new(Arrival {
            expected,
            ..arrival
        });
        self.waiting(arrival.lane).push(row);
    }

    /// Drops all rows that are not to be kept, wherever they are.
    pub fn retain(&mut self, keep: impl Fn(RowId) -> bool) {
        self.interactive.retain(&keep);
        self.backfill.retain(&keep);
        self.running.retain(|row| keep(row.id));
        self.close_prefixes();
    }

    /// Whether a running row stands on this prefix or waits for it.
    pub fn is_open(&self, prefix: PrefixId) -> bool {
        self.open.iter().any(|open| open.id == prefix)
    }

    /// The running rows of a prefix.
    pub fn rows_of(&self, prefix: PrefixId) -> impl Iterator<Item = RowId> {
        let of = self.running.iter().filter(move |row| row.prefix == prefix);
        of.map(|row| row.id)
    }

    /// A prefix need not be read: its sequence is at hand.
    pub fn prefix_is_ready(&mut self, prefix: PrefixId) {
        if let Some(open) = self.open.iter_mut().find(|open| open.id == prefix) {
            open.ready = true;
            open.suspect = false;
        }
    }

    /// Gives growing rows their room, then lets in what waits as far as there is room. To be called before each step.
    pub fn admit(&mut self, bytes: Bytes) -> Admitted {
        let mut admitted = Admitted {
            opened: Vec::new(),
            sent_back: self.grow(bytes),
        };
        let mut backfill_full = false;
        while let Some(lane) = self.turn(backfill_full) {
            match self.room(lane, bytes) {
                Room::Yes => admitted.opened.extend(self.let_in(lane, bytes)),
                Room::LaneFull => backfill_full = true,
                Room::No => break,
            }
        }
        admitted
    }

    /// The lane whose turn it is.
    fn turn(&mut self, backfill_full: bool) -> Option<Lane> {
        let window = self.limits.window;
        let interactive = self.interactive.next(window).is_some();
        let backfill = !backfill_full && self.backfill.next(window).is_some();
        match (interactive, backfill) {
            (false, false) => None,
            (true, true) if self.ahead + 1 < self.limits.share => Some(Lane::Interactive),
            (_, true) => Some(Lane::Backfill),
            (true, false) => Some(Lane::Interactive),
        }
    }

    fn room(&mut self, lane: Lane, bytes: Bytes) -> Room {
        let Limits {
            rows,
            kept,
            bytes: bytes_max,
            window,
            ..
        } = self.limits;
        if self.running.is_empty() {
            return Room::Yes;
        }
        let (used, mine) = (self.bytes_used(), |row: &&Row| row.lane == lane);
        let lane_rows = self.running.iter().filter(mine).count();
        let lane_bytes: usize = self.running.iter().filter(mine).map(|r| r.reserved.1).sum();
        let open: Vec<PrefixId> = self.open.iter().map(|open| open.id).collect();
        let Some(next) = self.waiting(lane).next(window) else {
            return Room::No;
        };
        let own = next.room(next.length() + next.expected, bytes).1;
        let prefix = match open.contains(&next.prefix) {
            true => 0,
            false => bytes(0, next.prefix_tokens),
        };
        let lane_bytes_max = bytes_max / rows * (rows - kept);
        let lane_full = lane == Lane::Backfill
            && lane_rows > 0
            && (lane_rows >= rows - kept || lane_bytes + own > lane_bytes_max);
        if lane_full {
            Room::LaneFull
        } else if self.running.len() < rows && used + own + prefix <= bytes_max {
            Room::Yes
        } else {
            Room::No
        }
    }

    /// Admits the next row of a lane; its prefix, where it is the first to need it.
    fn let_in(&mut self, lane: Lane, bytes: Bytes) -> Option<PrefixId> {
        let mut row = self.waiting(lane).take()?;
        self.ahead = match lane {
            Lane::Backfill => 0,
            Lane::Interactive if self.backfill.is_empty() => 0,
            Lane::Interactive => self.ahead + 1,
        };
        row.reserved = row.room(row.length() + row.expected, bytes);
        let ticket = *row.ticket.get_or_insert_with(|| {
            self.tickets += 1;
            self.tickets
        });
        let (prefix, tokens) = (row.prefix, row.prefix_tokens);
        let at = self
            .running
            .partition_point(|older| older.ticket < Some(ticket));
        self.running.insert(at, row);
        if self.is_open(prefix) {
            return None;
        }
        self.open.push(Prefix {
            id: prefix,
            tokens,
            read: 0,
            ready: false,
            suspect: false,
            bytes: bytes(0, tokens),
        });
        Some(prefix)
    }

    /// Gives rows that will be longer than their room the next size, oldest first; the rows sent back for it.
    fn grow(&mut self, bytes: Bytes) -> Vec<RowId> {
        let (mut at, mut sent_back) = (0, Vec::new());
        while at < self.running.len() {
            let row = &self.running[at];
            let room = row.room(row.length(), bytes);
            if room.0 <= row.reserved.0 {
                at += 1;
                continue;
            }
            let used = self.bytes_used() - row.reserved.1 + room.1;
            if used <= self.limits.bytes || self.running.len() == 1 {
                self.running[at].reserved = room;
                at += 1;
                continue;
            }
            // The youngest, a backfill row rather than another; the row itself only where all others are older.
            let younger = self.running.iter().enumerate().skip(at + 1);
            let youngest = younger
                .max_by_key(|(place, row)| (row.lane == Lane::Backfill, *place))
                .map_or(at, |(place, _)| place);
            sent_back.push(self.send_back(youngest));
        }
        sent_back
    }

    /// Makes a running row wait again, in front of its lane; it will ask for the room that it is known to need.
    fn send_back(&mut self, place: usize) -> RowId {
        let mut row = self.running.remove(place);
        self.close_prefixes();
        let (id, lane) = (row.id, row.lane);
        let wanted = row.length().max(row.reserved.0);
        row.restart();
        row.reserved = (0, 0);
        row.expected = wanted.saturating_sub(row.length());
        self.waiting(lane).push_front(row);
        id
    }

    fn waiting(&mut self, lane: Lane) -> &mut Waiting {
        match lane {
            Lane::Interactive => &mut self.interactive,
            Lane::Backfill => &mut self.backfill,
        }
    }

    fn bytes_used(&self) -> usize {
        let rows = self.running.iter().map(|row| row.reserved.1);
        rows.chain(self.open.iter().map(|open| open.bytes)).sum()
    }

    fn close_prefixes(&mut self) {
        let running = &self.running;
        self.open
            .retain(|open| running.iter().any(|row| row.prefix == open.id));
    }
}
