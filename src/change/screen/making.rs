//! A screen in the making: what is trained on, which labels are bought for it, and the certificate of the rest.
//!
//! Takes texts and the labels that are there, gives a screen with what can be said of it. Stores nothing but the verdicts
//! that it buys.

use super::labels::Labels;
use super::population::{Texts, key};
use super::{scores, trained};
use crate::config::{
    SCREEN_KNOWN_EXAMPLES, SCREEN_STORED_BYTES_MAX, SCREEN_STORED_EXAMPLES_MAX, SCREEN_TRAIN_SHARE,
    SCREEN_TRAIN_SHARE_KNOWN,
};
use crate::error::Error;
use crate::screen::certify::{self, Bounds, Certificate, Goal, Label, Population, Study};
use crate::screen::sample::{Purpose, number, weighted};
use crate::screen::{Example, Screen};
use crate::store::{Digest, text_digest};
use std::collections::HashMap;
use std::sync::Arc;

/// Golden texts and what people said, by text: whether it violates.
pub(super) type Golden = HashMap<Arc<str>, bool>;

/// Whether a text may be trained on: a random half of all texts, the same in every call, so that what was never trained on
/// is known without a list.
pub(super) fn is_for_training(key: u64, seed: u64) -> bool {
    number(key, seed, Purpose::Split).is_multiple_of(2)
}

/// What came of it.
pub(super) struct Made {
    /// `None` where all that is known is of one kind.
    pub(super) screen: Option<Screen>,
    pub(super) certificate: Certificate,
    pub(super) slices: Vec<Arc<str>>,
    pub(super) trained_on: u64,
    /// Whether the texts stand for more.
    pub(super) cut: bool,
}

pub(super) struct Work<'a> {
    pub(super) labels: Labels<'a>,
    pub(super) goal: Goal,
    /// As many may be asked.
    pub(super) questions: u64,
    /// What is trained on.
    pub(super) examples: Vec<Example>,
    pub(super) seed: u64,
}

/// The texts of a source while they are asked.
struct Pool {
    texts: Texts,
    known: Vec<Option<Label>>,
    /// Trained on, and so not in the certificate.
    trained: Vec<bool>,
}

impl Work<'_> {
    fn learn(&mut self, text: &Arc<str>, violates: bool) {
        let text = Arc::clone(text);
        self.examples.push(Example { text, violates });
    }

    /// Half of the golden texts are trained on, the others held out.
    pub(super) async fn by_golden(mut self, golden: Golden) -> Result<Made, Error> {
        let mut held_out = Vec::new();
        let mut golden: Vec<(Digest, Arc<str>, bool)> = golden
            .into_iter()
            .map(|(text, v)| (text_digest(&text), text, v))
            .collect();
        golden.sort_unstable();
        for (digest, text, violates) in golden {
            match is_for_training(key(&digest), self.seed) {
                true => self.learn(&text, violates),
                false => held_out.push((text, violates)),
            }
        }
        let screen = trained(self.examples.clone(), self.seed).await?;
        let certificate = match &screen {
            Some(screen) => {
                let texts = held_out.iter().map(|(text, _)| Arc::clone(text)).collect();
                let scores = scores(screen, texts).await;
                let label = |violates: bool| match violates {
                    true => Label::Violates,
                    false => Label::Allowed,
                };
                let rows: Vec<(f64, Label)> = scores
                    .into_iter()
                    .zip(held_out.iter().map(|(_, violates)| label(*violates)))
                    .collect();
                certify::of_rows(&rows, self.goal, &[]).expect("bug: the goal was not checked")
            }
            None => self.nothing(held_out.len() as u64),
        };
        Ok(self.made(screen, certificate, Texts::default()))
    }

    pub(super) async fn by_source(mut self, texts: Texts, golden: Golden) -> Result<Made, Error> {
        let mut pool = self.pool(texts, &golden).await?;
        for (text, violates) in &golden {
            self.learn(text, *violates);
        }
        self.examples.sort_unstable_by(|a, b| a.text.cmp(&b.text));
        let left = self.ask_to_train(&mut pool).await?;
        let Some(screen) = trained(self.examples.clone(), self.seed).await? else {
            let certificate = self.nothing(pool.texts.texts.len() as u64);
            return Ok(self.made(None, certificate, pool.texts));
        };
        let certificate = self.certify(&screen, &pool, left).await?;
        Ok(self.made(Some(screen), certificate, pool.texts))
    }

    /// What is known of the texts before anything is asked, and which of them are trained on: half of those with a stored
    /// verdict, and golden ones.
    async fn pool(&mut self, texts: Texts, golden: &Golden) -> Result<Pool, Error> {
        let mut known = self.labels.stored(&texts.texts).await?;
        let mut trained = vec![false; known.len()];
        let mut bytes = 0;
        for (place, text) in texts.texts.iter().enumerate() {
            if golden.contains_key(text) {
                trained[place] = true;
                continue;
            }
            let Some(label) = known[place] else {
                continue;
            };
            let room = self.examples.len() < SCREEN_STORED_EXAMPLES_MAX
                && bytes + text.len() <= SCREEN_STORED_BYTES_MAX;
            if label != Label::Undecided && is_for_training(texts.keys[place], self.seed) && room {
                bytes += text.len();
                trained[place] = true;
                self.learn(text, label == Label::Violates);
            }
        }
        for (known, text) in known.iter_mut().zip(&texts.texts) {
            if let Some(violates) = golden.get(text) {
                *known = Some(if *violates {
                    Label::Violates
                } else {
                    Label::Allowed
                });
            }
        }
        Ok(Pool {
            texts,
            known,
            trained,
        })
    }

    /// Buys labels to train on; gives how many questions are left. In two rounds: the first uniform where nothing is known
    /// yet by which to choose, then those that a first screen gives more weight, by the root of their score; and once more where all
    /// labels are still of one kind.
    async fn ask_to_train(&mut self, pool: &mut Pool) -> Result<u64, Error> {
        let violating = self
            .examples
            .iter()
            .filter(|example| example.violates)
            .count();
        let scarcer = violating.min(self.examples.len() - violating);
        let share = match scarcer >= SCREEN_KNOWN_EXAMPLES {
            true => SCREEN_TRAIN_SHARE_KNOWN,
            false => SCREEN_TRAIN_SHARE,
        };
        let questions = (self.questions as f64 * share) as u64;
        for (at, round) in [questions / 2, questions - questions / 2, questions]
            .into_iter()
            .enumerate()
        {
            let first = trained(self.examples.clone(), self.seed).await?;
            if at == 2 && first.is_some() {
                break;
            }
            let weights = match first {
                Some(first) => {
                    let scores = scores(&first, pool.texts.texts.clone()).await;
                    let roots: Vec<f64> = scores.into_iter().map(f64::sqrt).collect();
                    let mean = roots.iter().sum::<f64>() / roots.len().max(1) as f64;
                    // A fifth of the weight is spread evenly: a first screen is often wrong.
                    roots.into_iter().map(|root| root + mean / 4.0).collect()
                }
                None => vec![1.0; pool.known.len()],
            };
            let open: Vec<(u32, u64, f64)> = (0_u32..)
                .zip(weights)
                .filter(|(place, _)| {
                    let key = pool.texts.keys[*place as usize];
                    pool.known[*place as usize].is_none() && is_for_training(key, self.seed)
                })
                .map(|(place, weight)| {
                    let number = number(pool.texts.keys[place as usize], self.seed, Purpose::Train);
                    (place, number, weight)
                })
                .collect();
            let drawn = weighted(&open, round as usize);
            let texts: Vec<Arc<str>> = drawn
                .iter()
                .map(|place| Arc::clone(&pool.texts.texts[*place as usize]))
                .collect();
            let labels = self.labels.ask(&texts).await?;
            for ((place, text), label) in drawn.into_iter().zip(texts).zip(labels) {
                pool.known[place as usize] = Some(label);
                if label != Label::Undecided {
                    pool.trained[place as usize] = true;
                    self.learn(&text, label == Label::Violates);
                }
            }
        }
        Ok(self.questions - self.labels.asked)
    }

    /// The certificate about what was not trained on.
    async fn certify(
        &mut self,
        screen: &Screen,
        pool: &Pool,
        questions: u64,
    ) -> Result<Certificate, Error> {
        let places: Vec<usize> = (0..pool.known.len())
            .filter(|place| !pool.trained[*place])
            .collect();
        let texts: Vec<Arc<str>> = places
            .iter()
            .map(|at| Arc::clone(&pool.texts.texts[*at]))
            .collect();
        let keys: Vec<u64> = places.iter().map(|at| pool.texts.keys[*at]).collect();
        let known: Vec<Option<Label>> = places.iter().map(|at| pool.known[*at]).collect();
        let free: Vec<bool> = known.iter().map(Option::is_some).collect();
        let slices: Vec<u32> = match pool.texts.slice_of.is_empty() {
            true => Vec::new(),
            false => places.iter().map(|at| pool.texts.slice_of[*at]).collect(),
        };
        let scores = scores(screen, texts.clone()).await;
        let population = Population {
            scores: &scores,
            keys: &keys,
            free: &free,
        };
        let study = Study::new(&population, self.goal, questions, self.seed);
        let mut study = study.expect("bug: the goal was not checked");
        let mut answers: Vec<(u32, Label)> = Vec::new();
        loop {
            let places = study.next(&answers);
            if places.is_empty() {
                return Ok(study.conclude(&[], &slices));
            }
            let open = || places.iter().filter(|at| known[**at as usize].is_none());
            let asked: Vec<Arc<str>> = open().map(|at| Arc::clone(&texts[*at as usize])).collect();
            let said = self.labels.ask(&asked).await?;
            let stored = places
                .iter()
                .filter_map(|at| Some((*at, known[*at as usize]?)));
            answers = open().copied().zip(said).chain(stored).collect();
        }
    }

    /// What can be said where no screen can be trained.
    fn nothing(&self, texts: u64) -> Certificate {
        Certificate {
            whole: Bounds {
                texts,
                ..Bounds::default()
            },
            ..Certificate::default()
        }
    }

    fn made(self, screen: Option<Screen>, certificate: Certificate, texts: Texts) -> Made {
        self.labels.say();
        Made {
            screen,
            certificate,
            slices: texts.slices,
            trained_on: self.examples.len() as u64,
            cut: texts.cut,
        }
    }
}
