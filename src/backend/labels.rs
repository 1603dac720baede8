//! A policy's labels as a trie of tokens, read from logits.
//!
//! Takes the labels' token ids, then logits where the answer begins and behind each of the trie's inner nodes, one after
//! another; gives one probability for each label. It knows numbers only: no tensors, no text.
//!
//! A label's log-probability is the sum along its path: at the root the plain logit (what all logits share there cancels
//! out), behind it the log-softmax over the whole vocabulary. A label that begins another also pays for stopping, for
//! else it would win over its continuation in any case. Then the labels are renormalised among themselves. Where every
//! label is one token this is the softmax over these logits and nothing else.

/// Labels by their tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LabelTrie {
    /// In the policy's order.
    labels: Vec<Vec<u32>>,
    /// Tokens that begin a label, without repetition.
    first: Vec<u32>,
    /// Proper beginnings of labels behind the root, without repetition: where logits are needed.
    inner: Vec<Vec<u32>>,
}

impl LabelTrie {
    /// Fails, with the reason, where there is no label, an empty one, or the same twice.
    pub(super) fn new(labels: Vec<Vec<u32>>) -> Result<Self, String> {
        if labels.is_empty() {
            return Err("there are none".to_owned());
        }
        let mut first: Vec<u32> = Vec::new();
        let mut inner: Vec<Vec<u32>> = Vec::new();
        for (index, label) in labels.iter().enumerate() {
            let Some(&begin) = label.first() else {
                return Err(format!("label {} is empty", index + 1));
            };
            if labels[..index].contains(label) {
                return Err(format!("label {} is there twice", index + 1));
            }
            if !first.contains(&begin) {
                first.push(begin);
            }
            for length in 1..label.len() {
                if !inner.iter().any(|path| path == &label[..length]) {
                    inner.push(label[..length].to_vec());
                }
            }
        }
        Ok(LabelTrie {
            labels,
            first,
            inner,
        })
    }

    /// The rows of logits wanted at the root.
    pub(super) fn first_tokens(&self) -> &[u32] {
        &self.first
    }

    /// The paths behind which logits of the whole vocabulary are wanted, in the order that [`Self::branch`] takes them.
    pub(super) fn inner(&self) -> &[Vec<u32>] {
        &self.inner
    }

    /// Tokens of the longest label.
    pub(super) fn depth(&self) -> usize {
        self.labels.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// What each label has at the root: `root` has one logit for each of [`Self::first_tokens`].
    pub(super) fn root(&self, root: &[f32]) -> Vec<f64> {
        let score = |label: &Vec<u32>| {
            let place = self
                .first
                .iter()
                .position(|token| Some(token) == label.first());
            place
                .and_then(|place| root.get(place))
                .map_or(f64::NAN, |&logit| f64::from(logit))
        };
        self.labels.iter().map(score).collect()
    }

    /// Adds what the labels have behind the inner path of this number: `logits` of the whole vocabulary there. `stops`
    /// end an answer. All paths are to be added, in order.
    pub(super) fn branch(&self, scores: &mut [f64], number: usize, logits: &[f32], stops: &[u32]) {
        let all = log_sum_exp(logits.iter().map(|&logit| f64::from(logit)));
        self.step(scores, number, stops, |token| {
            let logit = logits.get(token as usize);
            logit.map_or(f64::NAN, |&logit| f64::from(logit)) - all
        });
    }

    /// The same from log-probabilities.
    pub(super) fn step(
        &self,
        scores: &mut [f64],
        number: usize,
        stops: &[u32],
        logprob: impl Fn(u32) -> f64 + Copy,
    ) {
        let path = &self.inner[number];
        for (label, score) in self.labels.iter().zip(scores) {
            if label == path {
                *score += log_sum_exp(stops.iter().map(|&stop| logprob(stop)));
            } else if let Some([next, ..]) = label.strip_prefix(path.as_slice()) {
                *score += logprob(*next);
            }
        }
    }
}

/// Each label's probability, in order; they sum to 1. `None` where the logits were no numbers.
pub(super) fn shares(scores: &[f64]) -> Option<Vec<f64>> {
    let all = log_sum_exp(scores.iter().copied());
    all.is_finite()
        .then(|| scores.iter().map(|score| (score - all).exp()).collect())
}

/// The first of the largest.
pub(super) fn most_probable(probabilities: &[f64]) -> usize {
    let mut best = 0;
    for (index, probability) in probabilities.iter().enumerate() {
        if *probability > probabilities[best] {
            best = index;
        }
    }
    best
}

/// log of the sum of exponentials; NaN where a value is.
fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = values.clone().fold(f64::NEG_INFINITY, |top, value| {
        if value > top || value.is_nan() {
            value
        } else {
            top
        }
    });
    if !top.is_finite() {
        return top;
    }
    top + values.map(|value| (value - top).exp()).sum::<f64>().ln()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STOP: u32 = 9;

    fn trie(labels: &[&[u32]]) -> LabelTrie {
        LabelTrie::new(labels.iter().map(|label| label.to_vec()).collect()).unwrap()
    }

    /// Logits of a made-up vocabulary of ten that depend on the path alone.
    fn logits(path: &[u32]) -> Vec<f32> {
        let mix = |token: u32| {
            path.iter()
                .fold(token + 3, |a, &b| (a * 31 + b * 7 + 5) % 101)
        };
        (0..10).map(|token| mix(token) as f32 / 20.0).collect()
    }

    fn ask(trie: &LabelTrie) -> (Vec<f64>, Vec<Vec<u32>>) {
        let all = logits(&[]);
        let root: Vec<f32> = trie
            .first_tokens()
            .iter()
            .map(|&token| all[token as usize])
            .collect();
        let mut scores = trie.root(&root);
        for (number, path) in trie.inner().iter().enumerate() {
            trie.branch(&mut scores, number, &logits(path), &[STOP]);
        }
        (shares(&scores).unwrap(), trie.inner().to_vec())
    }

    /// The same from the definition: products of full softmaxes, then shares.
    fn by_definition(labels: &[&[u32]]) -> Vec<f64> {
        let p = |path: &[u32], token: u32| {
            let all = logits(path);
            let sum: f64 = all.iter().map(|&x| f64::from(x).exp()).sum();
            f64::from(all[token as usize]).exp() / sum
        };
        let weight = |label: &&[u32]| {
            let along: f64 = (0..label.len())
                .map(|at| p(&label[..at], label[at]))
                .product();
            let begins_another = labels
                .iter()
                .any(|other| other.len() > label.len() && other.starts_with(label));
            along * if begins_another { p(label, STOP) } else { 1.0 }
        };
        let weights: Vec<f64> = labels.iter().map(weight).collect();
        weights
            .iter()
            .map(|w| w / weights.iter().sum::<f64>())
            .collect()
    }

    #[test]
    fn single_tokens_are_a_softmax_and_ask_nothing_more() {
        let (probabilities, asked) = ask(&trie(&[&[4], &[2], &[7]]));
        let z = logits(&[]);
        let sum: f64 = [4, 2, 7].iter().map(|&t| f64::from(z[t]).exp()).sum();
        for (p, t) in probabilities.iter().zip([4, 2, 7]) {
            assert!((p - f64::from(z[t]).exp() / sum).abs() < 1e-15);
        }
        assert!(asked.is_empty());
    }

    #[test]
    fn paths_multiply_and_beginnings_compete_through_the_stop() {
        for (labels, inner) in [
            (&[&[1u32, 2][..], &[1, 3], &[4]][..], &[&[1u32][..]][..]),
            (&[&[1], &[1, 2], &[5, 6, 7]], &[&[1], &[5], &[5, 6]]),
            (&[&[1], &[1, 2], &[1, 2, 3], &[1, 2, 4]], &[&[1], &[1, 2]]),
            (&[&[3, 3, 3]], &[&[3], &[3, 3]]),
            (&[&[8]], &[]),
        ] {
            let (probabilities, asked) = ask(&trie(labels));
            assert_eq!(asked, inner, "{labels:?}");
            assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            for (got, wanted) in probabilities.iter().zip(by_definition(labels)) {
                assert!((got - wanted).abs() < 1e-12, "{labels:?}: {got} {wanted}");
            }
        }
    }

    #[test]
    fn labels_that_cannot_be_told_apart_are_refused() {
        for (labels, why) in [
            (vec![], "there are none"),
            (vec![vec![1], vec![]], "label 2 is empty"),
            (vec![vec![1], vec![2, 3], vec![1]], "label 3 is there twice"),
        ] {
            assert_eq!(LabelTrie::new(labels).unwrap_err(), why);
        }
    }

    #[test]
    fn what_is_no_number_has_no_probability() {
        let two = trie(&[&[1], &[2]]);
        for root in [
            &[f32::NAN, 1.0][..],
            &[1.0, f32::NAN],
            &[f32::INFINITY, 1.0],
            &[f32::NEG_INFINITY; 2],
            &[1.0],
        ] {
            assert_eq!(shares(&two.root(root)), None, "{root:?}");
        }
        let certain = shares(&two.root(&[f32::NEG_INFINITY, 1.0]));
        assert_eq!(certain, Some(vec![0.0, 1.0]));
        let long = trie(&[&[1, 2]]);
        let mut scores = long.root(&[0.0]);
        long.branch(&mut scores, 0, &[f32::NAN; 10], &[STOP]);
        assert_eq!(shares(&scores), None);
    }

    #[test]
    fn ties_go_to_the_first() {
        for (probabilities, index) in [
            (&[0.5, 0.5][..], 0),
            (&[0.2, 0.4, 0.4], 1),
            (&[1.0], 0),
            (&[0.1, 0.9], 1),
        ] {
            assert_eq!(most_probable(probabilities), index);
        }
    }

    proptest! {
        #[test]
        fn any_labels_get_shares_of_one(labels in proptest::collection::btree_set(
            proptest::collection::vec(0u32..9, 1..4), 1..7,
        )) {
            let labels: Vec<Vec<u32>> = labels.into_iter().collect();
            let views: Vec<&[u32]> = labels.iter().map(Vec::as_slice).collect();
            let (probabilities, asked) = ask(&trie(&views));
            prop_assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert!(probabilities.iter().all(|p| (0.0..=1.0 + 1e-12).contains(p)));
            prop_assert!(asked.len() <= labels.iter().map(|label| label.len() - 1).sum());
            for (got, wanted) in probabilities.iter().zip(by_definition(&views)) {
                prop_assert!((got - wanted).abs() < 1e-9);
            }
        }
    }
}
