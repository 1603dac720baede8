//! What goes where in one packed forward: pure arithmetic on positions.
//!
//! Takes how long each sequence's prefix and own part are and how many tokens it appends; gives the order in which
//! their rows are packed, and groups whose attention is one product: over a shared prefix, and over own keys padded to
//! a common length. Long pieces are cut by queries so that the scores of a group stay bounded. Knows lengths, windows
//! and places in the pool of keys; knows no tensor.

use std::ops::Range;

/// A score that no softmax notices. Finite: a row that sees nothing must not become NaN.
pub const UNSEEN: f32 = -1e30;

/// Padding a group may have, beside what its sequences need: a quarter, or this many scores of one head.
const PADDING_MAX: usize = 1 << 14;

/// One sequence's part in a forward.
#[derive(Debug, Clone)]
pub struct Appended {
    /// Which prefix it continues, none where it has none. Equal numbers are the same prefix.
    pub prefix: Option<usize>,
    /// Tokens in it.
    pub prefix_len: usize,
    /// The places of its own keys in the pool, those of the new tokens at the end.
    pub places: Vec<u32>,
    /// How many of them are new.
    pub new: usize,
}

impl Appended {
    fn seen(&self) -> usize {
        self.places.len() - self.new
    }
}

/// Rows that continue one prefix.
#[derive(Debug, PartialEq)]
pub struct PrefixGroup {
    /// Which; none for rows that have no prefix.
    pub prefix: Option<usize>,
    /// In the packed order.
    pub rows: Range<usize>,
}

/// Queries whose own keys are looked at in one product.
#[derive(Debug, PartialEq)]
pub struct OwnGroup {
    /// In the packed order.
    pub rows: Range<usize>,
    /// Runs of queries; each belongs to one sequence.
    pub runs: usize,
    /// Queries of the longest run.
    pub queries: usize,
    /// Keys of the run that has most.
    pub keys: usize,
    /// `[runs, queries]`: the packed row of each query; any row where a run is shorter.
    pub query_rows: Vec<u32>,
    /// `[runs, keys]`: the place of each key in the pool; any place where a run has fewer.
    pub key_places: Vec<u32>,
    /// `[runs, queries, keys]`: zero where the query sees the key, else [`UNSEEN`].
    pub mask: Vec<f32>,
    /// For each packed row of `rows`, where it stands in `[runs, queries]`.
    pub unpadded: Vec<u32>,
}

/// The order and the groups of one forward.
#[derive(Debug)]
pub struct Plan {
    /// The sequences in packed order, as given numbers.
    pub order: Vec<usize>,
    /// The position of each packed row in its sequence.
    pub positions: Vec<u32>,
    /// Where the new key of each packed row goes in the pool.
    pub new_places: Vec<u32>,
    /// How many own tokens precede each packed row.
    pub own_before: Vec<usize>,
    /// The last packed row of each sequence, in packed order.
    pub last_rows: Vec<u32>,
    /// Cover the packed rows in order.
    pub prefixes: Vec<PrefixGroup>,
    /// Cover the packed rows in order, for layers that see everything.
    pub full: Vec<OwnGroup>,
    /// The same, for sliding layers.
    pub sliding: Vec<OwnGroup>,
}

/// A run of queries of one sequence: its first packed row and the own positions of its queries.
#[derive(Debug, Clone)]
struct Run {
    sequence: usize,
    row: usize,
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Plan {
    /// `window` is what sliding layers see; a group's `runs * queries * keys` is at most `scores_max`, if one query
    /// alone is not over it.
    pub fn new(sequences: &[Appended], window: usize, scores_max: usize) -> Plan {
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&i| {
            (
                sequences[i].prefix,
                sequences[i].new,
                sequences[i].places.len(),
            )
        });
        let mut plan = Plan {
            positions: Vec::new(),
            new_places: Vec::new(),
            own_before: Vec::new(),
            last_rows: Vec::new(),
            prefixes: Vec::new(),
            full: Vec::new(),
            sliding: Vec::new(),
            order,
        };
        let (mut full, mut sliding) = (Vec::new(), Vec::new());
        for &i in &plan.order {
            let (one, row) = (&sequences[i], plan.positions.len());
            for own in one.seen()..one.places.len() {
                plan.positions.push((one.prefix_len + own) as u32);
                plan.new_places.push(one.places[own]);
                plan.own_before.push(own);
            }
            let rows = row..plan.positions.len();
            plan.last_rows.push(rows.end as u32 - 1);
            match plan.prefixes.last_mut() {
                Some(last) if last.prefix == one.prefix => last.rows.end = rows.end,
                _ => plan.prefixes.push(PrefixGroup {
                    prefix: one.prefix,
                    rows,
                }),
            }
            full.extend(runs(i, one, row, usize::MAX, scores_max));
            sliding.extend(runs(i, one, row, window, scores_max));
        }
        plan.full = groups(sequences, full, usize::MAX, scores_max);
        plan.sliding = groups(sequences, sliding, window, scores_max);
        plan
    }
}

/// A sequence's new tokens, cut into runs whose scores are not too many.
fn runs(sequence: usize, one: &Appended, row: usize, window: usize, scores_max: usize) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut from = one.seen();
    while from < one.places.len() {
        let first_key = (from + 1).saturating_sub(window);
        // As many queries as fit, if the last of them sees all keys; and no more than their window, past which most
        // scores would be of keys that are not seen.
        let most = scores_max / (one.places.len() - first_key);
        let to = one.places.len().min(from + most.clamp(1, window));
        runs.push(Run {
            sequence,
            row: row + from - one.seen(),
            queries: from..to,
            keys: first_key..to,
        });
        from = to;
    }
    runs
}

/// Runs put together while they are of about one size.
fn groups(
    sequences: &[Appended],
    runs: Vec<Run>,
    window: usize,
    scores_max: usize,
) -> Vec<OwnGroup> {
    let mut groups = Vec::new();
    let mut waiting: Vec<Run> = Vec::new();
    let (mut queries, mut keys, mut needed) = (0, 0, 0);
    for run in runs {
        let (q, k) = (run.queries.len(), run.keys.len());
        let padded = (waiting.len() + 1) * queries.max(q) * keys.max(k);
        let wasted = padded - (needed + q * k);
        if !waiting.is_empty() && (padded > scores_max || wasted > (padded / 4).max(PADDING_MAX)) {
            groups.push(group(sequences, &waiting, window));
            waiting.clear();
            (queries, keys, needed) = (0, 0, 0);
        }
        (queries, keys, needed) = (queries.max(q), keys.max(k), needed + q * k);
        waiting.push(run);
    }
    if !waiting.is_empty() {
        groups.push(group(sequences, &waiting, window));
    }
    groups
}

fn group(sequences: &[Appended], runs: &[Run], window: usize) -> OwnGroup {
    let longest = |of: fn(&Run) -> usize| runs.iter().map(of).max().unwrap_or(0);
    let (queries, keys) = (longest(|r| r.queries.len()), longest(|r| r.keys.len()));
    let end = runs.last().map_or(0, |run| run.row + run.queries.len());
    let mut group = OwnGroup {
        rows: runs[0].row..end,
        runs: runs.len(),
        queries,
        keys,
        query_rows: Vec::with_capacity(runs.len() * queries),
        key_places: Vec::with_capacity(runs.len() * keys),
        mask: vec![UNSEEN; runs.len() * queries * keys],
        unpadded: Vec::with_capacity(end - runs[0].row),
    };
    for (at, run) in runs.iter().enumerate() {
        let places = &sequences[run.sequence].places;
        group
            .key_places
            .extend_from_slice(&places[run.keys.clone()]);
        group
            .key_places
            .resize((at + 1) * keys, places[run.keys.start]);
        for (j, query) in run.queries.clone().enumerate() {
            group.query_rows.push((run.row + j) as u32);
            group.unpadded.push((at * queries + j) as u32);
            let first = (query + 1).saturating_sub(window).max(run.keys.start) - run.keys.start;
            let row = (at * queries + j) * keys;
            group.mask[row + first..row + query + 1 - run.keys.start].fill(0.0);
        }
        group.query_rows.resize((at + 1) * queries, run.row as u32);
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sequences by (prefix, its length, seen, new), with places that differ everywhere.
    fn sequences(parts: &[(Option<usize>, usize, usize, usize)]) -> Vec<Appended> {
        let mut place = 1000;
        let mut next = || {
            place += 1;
            place
        };
        let one =
            |&(prefix, prefix_len, seen, new): &(Option<usize>, usize, usize, usize)| Appended {
                prefix,
                prefix_len,
                places: (0..seen + new).map(|_| next()).collect(),
                new,
            };
        parts.iter().map(one).collect()
    }

    /// Every query sees exactly the own keys that it should, at the place of its own packed row.
    fn check(sequences: &[Appended], window: usize, scores_max: usize) {
        let plan = Plan::new(sequences, window, scores_max);
        let mut expected_rows = Vec::new();
        for &i in &plan.order {
            let one = &sequences[i];
            expected_rows.extend((one.seen()..one.places.len()).map(|own| (i, own)));
        }
        assert_eq!(plan.positions.len(), expected_rows.len());
        for (row, &(i, own)) in expected_rows.iter().enumerate() {
            let one = &sequences[i];
            assert_eq!(plan.positions[row] as usize, one.prefix_len + own);
            assert_eq!(plan.new_places[row], one.places[own]);
            assert_eq!(plan.own_before[row], own);
        }
        for (groups, window) in [(&plan.full, usize::MAX), (&plan.sliding, window)] {
            let mut row = 0;
            for group in groups {
                assert_eq!(group.rows.start, row);
                assert!(
                    group.runs * group.queries * group.keys <= scores_max || group.rows.len() == 1
                );
                for (at, &(i, own)) in group
                    .unpadded
                    .iter()
                    .zip(&expected_rows[group.rows.clone()])
                {
                    let at = *at as usize;
                    assert_eq!(group.query_rows[at] as usize, row);
                    let keys = &group.key_places[at / group.queries * group.keys..][..group.keys];
                    let seen = keys.iter().zip(&group.mask[at * group.keys..]);
                    let seen: Vec<u32> = seen
                        .filter(|(_, mask)| **mask == 0.0)
                        .map(|(key, _)| *key)
                        .collect();
                    let first = (own + 1).saturating_sub(window);
                    assert_eq!(seen, sequences[i].places[first..=own]);
                    row += 1;
                }
                assert_eq!(
                    (group.rows.end, group.unpadded.len()),
                    (row, group.rows.len())
                );
            }
            assert_eq!(row, expected_rows.len());
        }
        let covered: Vec<usize> = plan.prefixes.iter().flat_map(|g| g.rows.clone()).collect();
        assert_eq!(covered, (0..expected_rows.len()).collect::<Vec<_>>());
    }

    #[test]
    fn decoding_is_one_group() {
        let parts: Vec<_> = (0..64).map(|i| (Some(0), 600, 100 + i % 7, 1)).collect();
        let plan = Plan::new(&sequences(&parts), 128, 1 << 20);
        assert_eq!(
            (plan.full.len(), plan.sliding.len(), plan.prefixes.len()),
            (1, 1, 1)
        );
        assert_eq!(
            (plan.full[0].runs, plan.full[0].queries, plan.full[0].keys),
            (64, 1, 107)
        );
        check(&sequences(&parts), 128, 1 << 20);
    }

    #[test]
    fn a_long_piece_is_cut_and_sliding_layers_see_few_keys() {
        let parts = sequences(&[(None, 0, 3000, 500)]);
        let plan = Plan::new(&parts, 128, 1 << 16);
        assert!(plan.full.len() > 20 && plan.sliding.len() < 10);
        assert!(plan.sliding.iter().all(|group| group.keys < 2 * 128));
        check(&parts, 128, 1 << 16);
    }

    proptest! {
        #[test]
        fn every_query_sees_its_own_keys(
            parts in proptest::collection::vec((0..3usize, 0..40usize, 1..30usize), 1..12),
            window in 1..20usize,
            scores_max in 1..5000usize,
        ) {
            let prefix = |which: usize| which.checked_sub(1);
            let parts: Vec<_> = parts
                .iter()
                .map(|&(which, seen, new)| (prefix(which), which * 50, seen, new))
                .collect();
            check(&sequences(&parts), window, scores_max);
        }
    }
}
