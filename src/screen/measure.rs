//! How well scores order texts: the area under the ROC curve.
//!
//! Takes scores and labels, gives a figure. Knows no screens.

/// The chance that a violating text scores higher than another one, ties counting half; `None` where either kind is
/// missing. Scores must be numbers.
pub fn auc(scored: &[(f64, bool)]) -> Option<f64> {
    let mut sorted: Vec<(f64, bool)> = scored.to_vec();
    sorted.sort_by(|one, other| one.0.total_cmp(&other.0));
    let violating = sorted.iter().filter(|(_, violates)| *violates).count() as f64;
    let others = sorted.len() as f64 - violating;
    if violating == 0.0 || others == 0.0 {
        return None;
    }
    let (mut below, mut won) = (0.0, 0.0);
    for equal in sorted.chunk_by(|one, other| one.0 == other.0) {
        let hits = equal.iter().filter(|(_, violates)| *violates).count() as f64;
        let misses = equal.len() as f64 - hits;
        won += hits * (below + misses / 2.0);
        below += misses;
    }
    Some(won / (violating * others))
}

#[cfg(test)]
mod tests {
    use super::auc;

    #[test]
    fn auc_counts_pairs_in_order() {
        for (scored, expected) in [
            (vec![(0.1, false), (0.9, true)], Some(1.0)),
            (vec![(0.9, false), (0.1, true)], Some(0.0)),
            (vec![(0.5, false), (0.5, true)], Some(0.5)),
            // Violating .8 and .4 against .6, .4, .2: 3 + 1.5 of 6 pairs.
            (
                vec![
                    (0.8, true),
                    (0.6, false),
                    (0.4, true),
                    (0.4, false),
                    (0.2, false),
                ],
                Some(0.75),
            ),
            (vec![(0.5, true)], None),
            (vec![], None),
        ] {
            assert_eq!(auc(&scored), expected, "{scored:?}");
        }
    }
}
