//! Which rows an edited policy touches: those whose verdict cites a rule that changed, and a sample of the others.
//!
//! Takes rows as a source gives them, looks up what is stored of them under the earlier version, asks nobody; gives the
//! rows that must be judged again: not judged or undecided before, or judged by a rule that the new version says otherwise
//! or no longer has. Of the others it draws a sample by which what this leaves out can be estimated. The same seed draws
//! the same sample.

use crate::change::stats::Random;
use crate::config::{
    BACKFILL_CONTROL_MAX, BACKFILL_CONTROL_MIN, BACKFILL_CONTROL_ONE_IN, STORE_COMMIT_ROWS_MAX,
};
use crate::engine::{Asking, Engine};
use crate::policy::Version;
use crate::policy::changed_rules;
use crate::store::SpoolRow;
use safeguard_udfs::{Answer, ClassifyError, Decision, SafeguardSettings, Statement};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Tells affected rows from others, and draws the sample.
pub(super) struct Affected {
    engine: Engine,
    asking: Asking,
    changed: HashSet<Arc<str>>,
    others: Sample<SpoolRow>,
}

impl Affected {
    /// Between two versions of a policy, of which `from` names the old one. `settings` are those of the verdicts that
    /// count.
    pub fn new(
        engine: &Engine,
        from: &str,
        (old, new): (&Version, &Version),
        settings: SafeguardSettings,
        seed: u64,
    ) -> Affected {
        Affected {
            engine: engine.clone(),
            asking: Asking {
                policy: from.into(),
                settings: Arc::new(SafeguardSettings {
                    answer: Answer::Stored,
                    // A screen cites no rules.
                    screen: false,
                    ..settings
                }),
                fresh: false,
            },
            changed: changed_rules(&old.policy, &new.policy)
                .codes()
                .cloned()
                .collect(),
            others: Sample::new(seed, BACKFILL_CONTROL_MAX),
        }
    }

    /// The affected ones of these rows.
    ///
    /// # Errors
    /// The store fails.
    pub async fn of(&mut self, rows: Vec<SpoolRow>) -> Result<Vec<SpoolRow>, ClassifyError> {
        let distinct: HashSet<Arc<str>> = rows.iter().map(|row| Arc::clone(&row.text)).collect();
        let distinct: Vec<Arc<str>> = distinct.into_iter().collect();
        let mut known: HashMap<Arc<str>, Decision> = HashMap::with_capacity(distinct.len());
        for some in distinct.chunks(STORE_COMMIT_ROWS_MAX) {
            let statement = Statement::new(self.asking.settings.as_ref().clone());
            let decisions = self.engine.judge(&self.asking, some, &statement).await?;
            known.extend(some.iter().cloned().zip(decisions));
        }
        let mut affected = Vec::new();
        for mut row in rows {
            match known.get(&row.text) {
                Some(Ok(verdict)) if !verdict.rules.iter().any(|r| self.changed.contains(r)) => {
                    row.old = Some(Arc::clone(&verdict.label));
                    self.others.add(row);
                }
                _ => affected.push(row),
            }
        }
        Ok(affected)
    }

    /// The sample of the rows that are not affected.
    pub fn control(self) -> Vec<SpoolRow> {
        let wanted = self.others.seen / BACKFILL_CONTROL_ONE_IN as u64;
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        self.others.draw(wanted.max(BACKFILL_CONTROL_MIN))
    }
}

/// A random sample without replacement of a stream whose length is not known: those with the smallest random numbers.
struct Sample<T> {
    random: Random,
    most: usize,
    seen: u64,
    kept: BTreeMap<(u64, u64), T>,
}

impl<T> Sample<T> {
    fn new(seed: u64, most: usize) -> Sample<T> {
        Sample {
            random: Random::new(seed),
            most,
            seen: 0,
            kept: BTreeMap::new(),
        }
    }

    fn add(&mut self, item: T) {
        let key = (self.random.next(), self.seen);
        self.seen += 1;
        if self.kept.len() == self.most {
            match self.kept.last_key_value() {
                Some((last, _)) if key < *last => drop(self.kept.pop_last()),
                _ => return,
            }
        }
        self.kept.insert(key, item);
    }

    /// So many of them, or as many as there are and were kept.
    fn draw(self, wanted: usize) -> Vec<T> {
        self.kept.into_values().take(wanted).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::stats::{CONFIDENCE, wilson};

    fn drawn(seed: u64, rows: u32, wanted: usize) -> Vec<u32> {
        let mut sample = Sample::new(seed, BACKFILL_CONTROL_MAX);
        (0..rows).for_each(|row| sample.add(row));
        sample.draw(wanted)
    }

    #[test]
    fn a_sample_is_of_different_rows_and_as_large_as_wanted() {
        for (rows, wanted, got) in [(0, 200, 0), (50, 200, 50), (9_000, 200, 200)] {
            let some = drawn(7, rows, wanted);
            let distinct: HashSet<_> = some.iter().collect();
            assert_eq!((some.len(), distinct.len()), (got, got), "{rows}");
            assert_eq!(some, drawn(7, rows, wanted), "the same seed");
        }
        assert_ne!(drawn(7, 9_000, 200), drawn(8, 9_000, 200));
        assert_eq!(drawn(7, 9_000, 9_000).len(), BACKFILL_CONTROL_MAX);
    }

    /// The share of rows that this shortcut misses lies in the interval as often as is said of it.
    #[test]
    fn intervals_of_the_control_sample_cover_what_they_say() {
        let (rows, draws) = (20_000_u32, 2_000_u64);
        for one_in in [8, 20] {
            let mut covered = 0_u64;
            for seed in 0..draws {
                let some = drawn(seed, rows, rows as usize / BACKFILL_CONTROL_ONE_IN);
                let flips = some.iter().filter(|row| *row % one_in == 0).count() as u64;
                let interval = wilson(flips, some.len() as u64, CONFIDENCE);
                let share = 1.0 / f64::from(one_in);
                covered += u64::from(interval.low <= share && share <= interval.high);
            }
            let share = covered as f64 / draws as f64;
            assert!((0.93..=0.97).contains(&share), "one in {one_in}: {share}");
        }
    }
}
