//! How many rows of a sample each stratum gets.
//!
//! Takes the strata's sizes, gives numbers of rows. Pure. *The rule*: a fifth of the sample ([`BACKTEST_EVEN_SHARE`]) is
//! spread evenly, so that no stratum is so small that nothing is seen of it; the rest goes by size, where a row that the
//! old version convicted or did not decide counts four times ([`BACKTEST_VIOLATING_FACTOR`]), because those are few and
//! change most. No stratum gets more than it has; what it cannot use goes to the others by the same rule.

use crate::config::{BACKTEST_EVEN_SHARE, BACKTEST_VIOLATING_FACTOR};

/// A stratum that rows can be drawn from.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Rows in it.
    pub population: u64,
    /// Rows that can be drawn.
    pub kept: usize,
    /// Whether the old version convicted or did not decide.
    pub favoured: bool,
}

/// Rows for each stratum: `sample` in all, fewer where there are not so many.
pub fn allot(sample: usize, rooms: &[Room]) -> Vec<usize> {
    let even = (sample as f64 * BACKTEST_EVEN_SHARE).floor() as usize;
    let mut given = vec![0; rooms.len()];
    spread(even.max(rooms.len().min(sample)), rooms, &mut given, |_| {
        1.0
    });
    spread(sample, rooms, &mut given, |room| {
        let factor = if room.favoured {
            BACKTEST_VIOLATING_FACTOR
        } else {
            1.0
        };
        room.population as f64 * factor
    });
    given
}

/// Adds rows until there are `total`, by claims; a stratum that is full leaves the rest to the others.
fn spread(total: usize, rooms: &[Room], given: &mut [usize], claim: impl Fn(&Room) -> f64) {
    loop {
        let left = total.saturating_sub(given.iter().sum());
        let open: Vec<usize> = (0..rooms.len())
            .filter(|i| given[*i] < rooms[*i].kept)
            .collect();
        let claims: f64 = open.iter().map(|i| claim(&rooms[*i])).sum();
        if left == 0 || open.is_empty() {
            return;
        }
        let mut shares: Vec<(usize, usize, f64)> = Vec::with_capacity(open.len());
        for i in open {
            let exact = left as f64 * claim(&rooms[i]) / claims;
            let room = rooms[i].kept - given[i];
            shares.push((i, (exact.floor() as usize).min(room), exact.fract()));
        }
        // What rounding left goes to the largest fractions, first strata first; at least one row moves in each round.
        let whole: usize = shares.iter().map(|(_, n, _)| n).sum();
        let mut rest = left.saturating_sub(whole);
        shares.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
        for (i, n, _) in shares {
            let one = usize::from(rest > 0 && given[i] + n < rooms[i].kept);
            rest -= one;
            given[i] += n + one;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(population: u64, favoured: bool) -> Room {
        Room {
            population,
            kept: usize::try_from(population).unwrap(),
            favoured,
        }
    }

    #[test]
    fn the_rule_is_the_documented_one() {
        let cases: [(&str, usize, Vec<Room>, Vec<usize>); 7] = [
            ("nothing", 10, vec![], vec![]),
            ("one", 100, vec![room(1_000, false)], vec![100]),
            (
                "all of it",
                100,
                vec![room(30, false), room(20, true)],
                vec![30, 20],
            ),
            // 400 evenly, then 1,600 as 99,500 to 2,000.
            (
                "rare violations",
                2_000,
                vec![room(99_500, false), room(500, true)],
                vec![1_768, 232],
            ),
            // The three are seen whole; the rest goes on.
            (
                "very rare ones",
                1_000,
                vec![room(1_000_000, false), room(3, true)],
                vec![997, 3],
            ),
            (
                "one each",
                3,
                vec![room(9, false), room(9, true), room(9, false)],
                vec![1, 1, 1],
            ),
            (
                "too few for all",
                2,
                vec![room(9, false), room(9, true), room(9, false)],
                vec![1, 1, 0],
            ),
        ];
        for (what, sample, rooms, want) in cases {
            assert_eq!(allot(sample, &rooms), want, "{what}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_row_of_the_sample_is_given_and_no_stratum_is_overdrawn(
            sample in 0_usize..3_000,
            sizes in proptest::collection::vec((1_u64..5_000, 0_usize..400, proptest::bool::ANY), 0..12),
        ) {
            let rooms: Vec<Room> = sizes
                .iter()
                .map(|(population, kept, favoured)| Room { population: *population, kept: *kept, favoured: *favoured })
                .collect();
            let given = allot(sample, &rooms);
            proptest::prop_assert!(given.iter().zip(&rooms).all(|(n, room)| *n <= room.kept));
            let kept: usize = rooms.iter().map(|room| room.kept).sum();
            proptest::prop_assert_eq!(given.iter().sum::<usize>(), sample.min(kept));
        }
    }
}
