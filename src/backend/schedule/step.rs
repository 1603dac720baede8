//! What one step reads of the rows that run, and what its outcome means for them.
//!
//! Takes the running rows; gives the parts of a step within the budget of tokens: rows with one token to read first
//! (they decode), then what else rows behind their prompts have to read, then prefixes and prompts, oldest first, cut
//! where the budget ends. After a step that failed its rows are suspects: each is tried alone, every other step, until
//! it has passed the place; who fails alone is the culprit.

use super::{Bytes, Prefix, PrefixId, Row, RowId, Schedule, Task};
use safeguard_udfs::Lane;

/// What one step reads of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The next tokens of a prefix.
    Prefix {
        /// Which.
        prefix: PrefixId,
        /// How many.
        tokens: usize,
    },
    /// The next tokens of a row.
    Row {
        /// Which.
        row: RowId,
        /// How many.
        tokens: usize,
    },
    /// The next branches of a row's labels, whole: each is a sequence of its own, behind a copy of the row's. The last
    /// one may use up the row's own.
    Branches {
        /// Whose.
        row: RowId,
        /// How many.
        count: usize,
    },
}

/// A prompt or a prefix that could be read on.
struct Unread {
    lane: Lane,
    part: Part,
    tokens: usize,
    given: usize,
}

impl Schedule {
    /// The next step; empty only where nothing runs. Says the same again until the outcome is known.
    pub fn step(&self, bytes: Bytes) -> Vec<Part> {
        let alone = self.suspect(bytes);
        let together = || self.together(bytes);
        let parts = match &alone {
            Some(_) if self.was_alone => together(),
            Some(_) => Vec::new(),
            None => together(),
        };
        if parts.is_empty() {
            return alone.into_iter().collect();
        }
        parts
    }

    /// The first suspect's next part.
    fn suspect(&self, bytes: Bytes) -> Option<Part> {
        let step_tokens = self.limits.step_tokens;
        self.running.iter().find_map(|row| {
            let prefix = self.prefix_of(row);
            match (&row.task, prefix.ready) {
                (_, false) => prefix.suspect.then(|| Part::Prefix {
                    prefix: prefix.id,
                    tokens: (prefix.tokens - prefix.read).min(step_tokens),
                }),
                (..) if row.suspect.is_none() => None,
                (Task::Read(unread), _) => Some(Part::Row {
                    row: row.id,
                    tokens: step_tokens.min(*unread),
                }),
                (Task::Branches(paths), _) => {
                    let mut left = step_tokens;
                    let count = BranchRoom::new(self).take(row, paths, &mut left, bytes);
                    Some(Part::Branches { row: row.id, count })
                }
            }
        })
    }

    /// Everything but suspects, as far as the budget goes.
    fn together(&self, bytes: Bytes) -> Vec<Part> {
        let (mut left, mut parts) = (self.limits.step_tokens, Vec::new());
        let able = |row: &&Row| row.suspect.is_none() && self.prefix_of(row).ready;
        for row in self.running.iter().filter(able) {
            if matches!(row.task, Task::Read(1)) {
                parts.push(Part::Row {
                    row: row.id,
                    tokens: 1,
                });
                left -= 1;
            }
        }
        let mut room = BranchRoom::new(self);
        for row in self.running.iter().filter(able).filter(|row| row.answering) {
            match &row.task {
                Task::Read(unread) if *unread > 1 && left > 0 => {
                    let tokens = left.min(*unread);
                    parts.push(Part::Row {
                        row: row.id,
                        tokens,
                    });
                    left -= tokens;
                }
                Task::Read(_) => {}
                Task::Branches(paths) => {
                    let count = room.take(row, paths, &mut left, bytes);
                    if count > 0 {
                        parts.push(Part::Branches { row: row.id, count });
                    }
                }
            }
        }
        parts.extend(self.prompts(left));
        parts
    }

    /// Prefixes and prompts, `left` tokens of them: the interactive lane's first, but for the backfill lane's share.
    fn prompts(&self, mut left: usize) -> impl Iterator<Item = Part> {
        let mut unread = self.unread();
        let any = |unread: &[Unread], lane| unread.iter().any(|u| u.lane == lane);
        let shared = any(&unread, Lane::Interactive) && any(&unread, Lane::Backfill);
        let kept = match shared {
            true => (left / self.limits.share).max(1).min(left),
            false => 0,
        };
        left -= kept;
        give(&mut unread, Lane::Interactive, &mut left);
        left += kept;
        give(&mut unread, Lane::Backfill, &mut left);
        give(&mut unread, Lane::Interactive, &mut left);
        unread.into_iter().filter(|u| u.given > 0).map(|u| {
            let tokens = u.given;
            match u.part {
                Part::Prefix { prefix, .. } => Part::Prefix { prefix, tokens },
                Part::Row { row, .. } => Part::Row { row, tokens },
                Part::Branches { .. } => u.part,
            }
        })
    }

    /// Every prefix and prompt that could be read on, oldest first. A prefix is in the first lane that waits for it.
    fn unread(&self) -> Vec<Unread> {
        let mut all: Vec<Unread> = Vec::new();
        for row in &self.running {
            let prefix = self.prefix_of(row);
            let (part, tokens) = if !prefix.ready {
                let tokens = prefix.tokens - prefix.read;
                (
                    Part::Prefix {
                        prefix: prefix.id,
                        tokens,
                    },
                    tokens,
                )
            } else if let (Task::Read(tokens), false, None) =
                (&row.task, row.answering, row.suspect)
            {
                let tokens = *tokens;
                (
                    Part::Row {
                        row: row.id,
                        tokens,
                    },
                    tokens,
                )
            } else {
                continue;
            };
            if (!prefix.ready && prefix.suspect) || (prefix.ready && tokens < 2) {
                continue;
            }
            match all.iter_mut().find(|other| other.part == part) {
                Some(known) if row.lane == Lane::Interactive => known.lane = Lane::Interactive,
                Some(_) => {}
                None => all.push(Unread {
                    lane: row.lane,
                    part,
                    tokens,
                    given: 0,
                }),
            }
        }
        all
    }

    /// The step is done. Rows that have read all they had are to be told what comes next ([`Self::read_on`],
    /// [`Self::branch`]) or to leave before the next step.
    pub fn succeeded(&mut self, parts: &[Part]) {
        self.was_alone = self.is_alone(parts);
        for part in parts {
            match *part {
                Part::Prefix { prefix, tokens } => {
                    if let Some(open) = self.open.iter_mut().find(|open| open.id == prefix) {
                        open.read += tokens;
                        if open.read == open.tokens {
                            (open.ready, open.suspect) = (true, false);
                        }
                    }
                }
                Part::Row { row, tokens } => {
                    if let Some(row) = self.row_mut(row) {
                        row.read += tokens;
                        row.task = match &row.task {
                            Task::Read(unread) => Task::Read(unread - tokens),
                            Task::Branches(_) => panic!("bug: a row read while it branched"),
                        };
                        row.suspect = row.suspect.filter(|&until| row.read < until);
                    }
                }
                Part::Branches { row, count } => {
                    if let Some(Row {
                        task: Task::Branches(paths),
                        ..
                    }) = self.row_mut(row)
                    {
                        paths.truncate(paths.len() - count);
                    }
                }
            }
        }
    }

    /// The step failed: all its sequences are lost and begin anew, one at a time until the place is passed. Where it had
    /// one part only, that part is the culprit: its rows should leave.
    pub fn failed(&mut self, parts: &[Part]) {
        self.was_alone = self.is_alone(parts);
        for part in parts {
            match *part {
                Part::Prefix { prefix, .. } => {
                    if let Some(open) = self.open.iter_mut().find(|open| open.id == prefix) {
                        (open.read, open.suspect) = (0, true);
                    }
                }
                Part::Row { row, tokens } => {
                    if let Some(row) = self.row_mut(row) {
                        row.suspect = Some(row.read + tokens).max(row.suspect);
                        row.restart();
                    }
                }
                Part::Branches { row, .. } => {
                    if let Some(row) = self.row_mut(row) {
                        row.suspect = Some(usize::MAX);
                        row.restart();
                    }
                }
            }
        }
    }

    /// A row that has read everything has so many more tokens to read.
    pub fn read_on(&mut self, row: RowId, unread: usize) {
        if let Some(row) = self.row_mut(row) {
            row.task = Task::Read(unread);
            row.answering = true;
        }
    }

    /// A row that has read everything has branches to read behind it, of so many tokens each, in this order.
    pub fn branch(&mut self, row: RowId, mut paths: Vec<usize>) {
        if let Some(row) = self.row_mut(row) {
            paths.reverse();
            row.task = Task::Branches(paths);
            row.answering = true;
        }
    }

    pub(super) fn is_alone(&self, parts: &[Part]) -> bool {
        let [part] = parts else { return false };
        self.running.iter().any(|row| match *part {
            Part::Prefix { prefix, .. } => row.prefix == prefix && self.prefix_of(row).suspect,
            Part::Row { row: id, .. } | Part::Branches { row: id, .. } => {
                row.id == id && row.suspect.is_some()
            }
        })
    }

    fn row_mut(&mut self, row: RowId) -> Option<&mut Row> {
        self.running.iter_mut().find(|running| running.id == row)
    }

    pub(super) fn prefix_of(&self, row: &Row) -> &Prefix {
        let open = self.open.iter().find(|open| open.id == row.prefix);
        open.expect("bug: a running row's prefix is not open")
    }
}

/// Gives the tokens that are left to the prompts of one lane, in order.
fn give(unread: &mut [Unread], lane: Lane, left: &mut usize) {
    for prompt in unread.iter_mut().filter(|prompt| prompt.lane == lane) {
        let more = (prompt.tokens - prompt.given).min(*left);
        prompt.given += more;
        *left -= more;
    }
}

/// Bytes left for the copies that branches read behind.
struct BranchRoom {
    left: usize,
    /// The first branch always finds room: else a row could never be done.
    first: bool,
}

impl BranchRoom {
    fn new(schedule: &Schedule) -> BranchRoom {
        let left = schedule.limits.bytes.saturating_sub(schedule.bytes_used());
        BranchRoom { left, first: true }
    }

    /// How many of a row's next branches find room, in tokens and in bytes.
    fn take(&mut self, row: &Row, paths: &[usize], tokens: &mut usize, bytes: Bytes) -> usize {
        let length = row.prefix_tokens + row.read;
        let mut count = 0;
        for (after, path) in paths.iter().enumerate().rev() {
            // The last branch of all continues the row's own sequence, whose room is reserved.
            let copy = match after {
                0 => 0,
                _ => bytes(length, length + path),
            };
            if path > tokens || (copy > self.left && !self.first) {
                break;
            }
            self.left = self.left.saturating_sub(copy);
            self.first = false;
            *tokens -= path;
            count += 1;
        }
        count
    }
}
