//! Screens: small statistical classifiers, one for a policy, that decide the texts they are sure of.
//!
//! Takes labelled texts and gives a [`Screen`]: hashed n-grams of characters and words under logistic regression, with a
//! probability calibrated on texts that its weights were not made from. Knows no policy, store, model or SQL, and not
//! from which score on it may decide: that is for who certifies it.
//!
//! A screen knows spelling and no meaning. A long text dilutes what is in it, and a text of n-grams that training never
//! saw scores like an empty one.

pub mod certify;
mod features;
pub mod measure;
pub mod sample;
mod train;
mod weights;

use std::sync::Arc;
use std::thread;

/// A text with its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// As it would be judged.
    pub text: Arc<str>,
    /// Whether its label is another one than the allowed one.
    pub violates: bool,
}

/// How to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Training {
    /// Threads to use, at least 1. The screen is the same whatever their number.
    pub threads: usize,
    /// Decides the order in which examples are looked at, and nothing else.
    pub seed: u64,
}

impl Default for Training {
    fn default() -> Training {
        Training {
            threads: 1,
            seed: 1,
        }
    }
}

/// Why there is no screen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScreenError {
    /// All examples have one label.
    #[error(
        "a screen needs texts that violate and texts that do not: {violating} of {examples} violate"
    )]
    OneKind {
        /// Examples given.
        examples: usize,
        /// Those of them that violate.
        violating: usize,
    },
    /// More than training takes.
    #[error("a screen is trained from at most {limit} {of}, not {found}")]
    TooMany {
        /// What there is too much of.
        of: &'static str,
        /// How much was given.
        found: usize,
        /// The most.
        limit: usize,
    },
    /// Bytes that are no screen, with what is wrong with them.
    #[error("the weights of a screen are damaged: {0}")]
    Damaged(&'static str),
    /// Bytes of another version of this program.
    #[error("the weights of a screen have format {found}, this program knows {known}")]
    Version {
        /// The format of the bytes.
        found: u32,
        /// The one that can be read.
        known: u32,
    },
}

/// The weights of one policy. Immutable and cheap to share.
#[derive(Clone)]
pub struct Screen(Arc<Inner>);

struct Inner {
    weights: weights::Weights,
    bytes: Vec<u8>,
    digest: [u8; 32],
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digest = blake3::Hash::from_bytes(self.0.digest);
        write!(f, "Screen({})", digest.to_hex())
    }
}

impl PartialEq for Screen {
    fn eq(&self, other: &Screen) -> bool {
        self.0.digest == other.0.digest
    }
}

impl Eq for Screen {}

impl Screen {
    /// Trains a screen. A text that is given twice counts twice.
    ///
    /// # Errors
    /// [`ScreenError::OneKind`] unless both kinds of texts are there, [`ScreenError::TooMany`] past
    /// [`crate::config::SCREEN_EXAMPLES_MAX`] examples or [`crate::config::SCREEN_TRAINING_BYTES_MAX`] bytes of text.
    pub fn train(examples: &[Example], training: &Training) -> Result<Screen, ScreenError> {
        Screen::of(train::train(examples, training)?)
    }

    fn of(bytes: Vec<u8>) -> Result<Screen, ScreenError> {
        let weights = weights::Weights::read(&bytes)?;
        let digest = *blake3::hash(&bytes).as_bytes();
        Ok(Screen(Arc::new(Inner {
            weights,
            bytes,
            digest,
        })))
    }

    /// P(violates), between 0 and 1 and never NaN: a logistic curve over the linear score.
    pub fn score(&self, text: &str) -> f64 {
        let weights = &self.0.weights;
        weights.probability(weights.linear(text))
    }

    /// [`Screen::score`] of every text, in their order, on so many threads.
    pub fn scores(&self, texts: &[Arc<str>], threads: usize) -> Vec<f64> {
        let one = |texts: &[Arc<str>]| texts.iter().map(|text| self.score(text)).collect();
        if threads <= 1 || texts.len() <= 1 {
            return one(texts);
        }
        let share = texts.len().div_ceil(threads);
        thread::scope(|scope| {
            let parts: Vec<_> = texts
                .chunks(share)
                .map(|part| scope.spawn(move || one(part)))
                .collect();
            let mut scores: Vec<f64> = Vec::with_capacity(texts.len());
            for part in parts {
                let part: Vec<f64> = part.join().expect("bug: scoring panicked");
                scores.extend(part);
            }
            scores
        })
    }

    /// Distinct texts that the weights were made from.
    pub fn trained_on(&self) -> u64 {
        self.0.weights.trained_on()
    }

    /// All there is to it; [`Screen::from_bytes`] makes the same screen of it.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.bytes.clone()
    }

    /// Reads what [`Screen::to_bytes`] gave.
    ///
    /// # Errors
    /// [`ScreenError::Damaged`] or [`ScreenError::Version`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Screen, ScreenError> {
        Screen::of(bytes.to_vec())
    }

    /// BLAKE3 of [`Screen::to_bytes`].
    pub fn digest(&self) -> [u8; 32] {
        self.0.digest
    }
}

#[cfg(test)]
#[path = "mod_tests.rs"]
mod tests;
