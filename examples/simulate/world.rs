//! The rows of the day and their texts: who wrote what, what the screen says of it, how long it is.
//!
//! Modelled. Takes a seed, gives the text of each row, always the same: a share of the rows are reposts of a pool of texts,
//! the first of which are reposted most (1/rank); all others are texts of their own. A screen clears a text or leaves it,
//! whoever posts it. Also keeps which texts are judged: it stands for the verdict store's recall.

use crate::options::Options;
use std::collections::HashSet;

/// Reposts of one text of the pool in the mean; a guess.
const REPOSTS: f64 = 20.0;
/// Tokens of a prompt beside the policy and the text: the frame of a message.
const FRAME_TOKENS: u64 = 12;
/// Of an analysis, the share that none falls short of; the rest is as memory-less as texts are.
const LEAST: f64 = 0.3;

/// Any number to any other, well mixed.
pub fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// In 0..1.
pub fn unit(n: u64) -> f64 {
    (n >> 11) as f64 / (1_u64 << 53) as f64
}

/// What one question costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Of the text and its frame, the policy aside.
    pub text: u64,
    /// The whole prompt.
    pub prompt: u64,
    /// Decoded.
    pub decode: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct World {
    seed: u64,
    reposted: f64,
    cleared: f64,
    undecided: f64,
    pool: u64,
    policy_tokens: u64,
    text_tokens: f64,
    decode_tokens: f64,
}

impl World {
    pub fn new(options: &Options) -> World {
        let reposts = options.rows as f64 * options.reposted;
        World {
            seed: mix(options.seed, 1),
            reposted: options.reposted,
            cleared: options.cleared,
            undecided: options.undecided,
            pool: ((reposts / REPOSTS) as u64).max(1),
            policy_tokens: options.policy_tokens,
            text_tokens: options.text_tokens as f64,
            decode_tokens: options.decode_tokens as f64,
        }
    }

    /// Texts below this number are of the pool.
    pub fn pool(&self) -> u64 {
        self.pool
    }

    /// The text of a row.
    pub fn text(&self, row: u64) -> u64 {
        let drawn = mix(self.seed, row);
        if unit(drawn) >= self.reposted {
            return self.pool + row;
        }
        // Evenly over the logarithm of the rank: 1/rank.
        let rank = (unit(mix(drawn, 2)) * ((self.pool + 1) as f64).ln()).exp() as u64;
        rank.saturating_sub(1).min(self.pool - 1)
    }

    /// Whether the screen clears a text.
    pub fn is_cleared(&self, text: u64) -> bool {
        unit(mix(self.seed ^ 3, text)) < self.cleared
    }

    /// Whether the model says no label of a text.
    pub fn is_undecided(&self, text: u64) -> bool {
        unit(mix(self.seed ^ 4, text)) < self.undecided
    }

    /// What a question about a text costs.
    pub fn size(&self, text: u64) -> Size {
        let memoryless =
            |salt: u64, mean: f64| -(1.0 - unit(mix(self.seed ^ salt, text))).ln() * mean;
        let own = FRAME_TOKENS + (memoryless(5, self.text_tokens).ceil() as u64).clamp(1, 4_096);
        let rest = memoryless(6, self.decode_tokens * (1.0 - LEAST));
        let decode = (self.decode_tokens * LEAST + rest).ceil() as u64;
        Size {
            text: own,
            prompt: self.policy_tokens + own,
            decode: decode.clamp(1, 2_048),
        }
    }
}

/// Which texts are judged under a version: those of the pool, and of the others the few whose rows are not done with them.
#[derive(Debug, Clone)]
pub struct Judged {
    texts: u64,
    /// One bit a text; none where all are.
    pool: Option<Vec<u64>>,
    others: HashSet<u64>,
}

impl Judged {
    /// The version that was there before the day: every text that was ever reposted.
    pub fn all(world: &World) -> Judged {
        Judged {
            texts: world.pool,
            pool: None,
            others: HashSet::new(),
        }
    }

    /// A new version: none.
    pub fn none(world: &World) -> Judged {
        let words = world.pool.div_ceil(64) as usize;
        Judged {
            pool: Some(vec![0; words]),
            ..Judged::all(world)
        }
    }

    pub fn has(&self, text: u64) -> bool {
        match &self.pool {
            _ if text >= self.texts => self.others.contains(&text),
            None => true,
            Some(pool) => pool[(text / 64) as usize] >> (text % 64) & 1 == 1,
        }
    }

    pub fn insert(&mut self, text: u64) {
        match &mut self.pool {
            _ if text >= self.texts => drop(self.others.insert(text)),
            None => {}
            Some(pool) => pool[(text / 64) as usize] |= 1 << (text % 64),
        }
    }

    pub fn remove(&mut self, text: u64) {
        match &mut self.pool {
            _ if text >= self.texts => drop(self.others.remove(&text)),
            None => {}
            Some(pool) => pool[(text / 64) as usize] &= !(1 << (text % 64)),
        }
    }
}
