//! Places of a pool: which are free, and how some of them are written with few copies.
//!
//! Takes and gives places as numbers. Those taken together come from the longest free ranges, so that the rows of one
//! step lie side by side and are written as a few runs: a scatter would write one row after another on a GPU. Pure
//! numbers; knows neither tensors nor what lies in a place.

use std::collections::BTreeMap;
use std::ops::Range;

/// The free places, as ranges that do not touch: first place to length.
#[derive(Debug, Default)]
pub struct Free {
    ranges: BTreeMap<u32, u32>,
    count: usize,
}

/// Rows that go to places side by side.
#[derive(Debug, PartialEq)]
pub struct Run {
    /// The first place.
    pub place: usize,
    /// Which rows, in the order of their places.
    pub rows: Range<usize>,
}

impl Free {
    /// How many places are free.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes `count` places; there are as many.
    pub fn take(&mut self, count: usize) -> Vec<u32> {
        assert!(count <= self.count, "bug: more places than are free");
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let longest = self.ranges.iter().max_by_key(|(_, len)| **len);
            let (&first, &len) = longest.expect("bug: free places are in no range");
            let part = len.min((count - taken.len()) as u32);
            self.ranges.remove(&first);
            if part < len {
                self.ranges.insert(first + part, len - part);
            }
            taken.extend(first..first + part);
        }
        self.count -= count;
        taken
    }

    /// Gives a range back, or adds it.
    pub fn give(&mut self, places: Range<u32>) {
        self.count += places.len();
        let Range { mut start, mut end } = places;
        if let Some(len) = self.ranges.remove(&end) {
            end += len;
        }
        if let Some((&first, &len)) = self.ranges.range(..start).next_back()
            && first + len == start
        {
            start = first;
        }
        self.ranges.insert(start, end - start);
    }
}

/// The rows in the order of their places, and the runs that they make.
pub fn runs(places: &[u32]) -> (Vec<u32>, Vec<Run>) {
    let mut rows: Vec<u32> = (0..places.len() as u32).collect();
    rows.sort_by_key(|row| places[*row as usize]);
    let mut runs: Vec<Run> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let place = places[*row as usize] as usize;
        match runs.last_mut() {
            Some(run) if run.place + run.rows.len() == place => run.rows.end = at + 1,
            _ => runs.push(Run {
                place,
                rows: at..at + 1,
            }),
        }
    }
    (rows, runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_taken_together_lies_together() {
        let mut free = Free::default();
        free.give(0..1000);
        let (a, b) = (free.take(100), free.take(50));
        assert_eq!((a[0], b[0], b[49]), (0, 100, 149));
        a.iter().for_each(|place| free.give(*place..place + 1));
        assert_eq!(free.ranges, BTreeMap::from([(0, 100), (150, 850)]));
        assert_eq!(
            free.take(900),
            [(150..1000).collect::<Vec<_>>(), (0..50).collect()].concat()
        );
        let (rows, runs) = runs(&[7, 3, 8, 4, 20]);
        let run = |place, rows| Run { place, rows };
        assert_eq!(rows, [1, 3, 0, 2, 4]);
        assert_eq!(runs, [run(3, 0..2), run(7, 2..4), run(20, 4..5)]);
    }

    proptest! {
        #[test]
        fn no_place_is_lost_or_twice_taken(steps in proptest::collection::vec((0..40usize, any::<u64>()), 1..60)) {
            let mut free = Free::default();
            free.give(0..300);
            let mut taken: Vec<u32> = Vec::new();
            for (count, salt) in steps {
                let count = count.min(free.count());
                let new = free.take(count);
                assert_eq!(new.len(), count);
                taken.extend(new);
                let all: BTreeSet<u32> = taken.iter().copied().collect();
                assert_eq!((all.len(), all.len() + free.count()), (taken.len(), 300));
                for at in 0..taken.len() / 3 {
                    let place = taken.swap_remove((salt as usize + at * 7) % taken.len());
                    free.give(place..place + 1);
                }
            }
            taken.iter().for_each(|place| free.give(*place..place + 1));
            assert_eq!(free.ranges, BTreeMap::from([(0, 300)]));
        }
    }
}
