//! One step of a batch: several sequences, each with ids to read.
//!
//! Takes pieces of sequences, appends each to its own cache, gives what each piece's last token leaves behind the final
//! norm. A piece's result does not depend on the pieces beside it, on their order or on how a sequence is cut into
//! pieces, to the bit. Knows sequences and ids; it does not know who asked, what comes next, or when to stop.

use super::attention::Rows;
use super::device::DevicePiece;
use super::gpt_oss::GptOss;
use super::{KvCache, ModelError};
use crate::config::{
    CACHED_MODEL_BYTES_MAX, CACHED_PART_TOKENS, CACHED_STEP_TOKENS, PREFILL_TOKENS, STEP_TOKENS_MAX,
};
use rayon::prelude::*;
use safeguard_kernels::pointwise;
use std::ops::Range;

/// Ids to append to one sequence.
#[derive(Debug)]
pub struct Piece<'a> {
    /// At least one.
    pub ids: &'a [u32],
    /// The sequence so far, a policy's prefix included.
    pub cache: &'a mut KvCache,
}

/// A sequence's rows in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Where they are.
    pub rows: Range<usize>,
    /// The position of the first.
    pub from: usize,
}

impl Span {
    /// Its last row only, at `row` of another batch.
    fn last(&self, row: usize) -> Span {
        Span {
            rows: row..row + 1,
            from: self.from + self.rows.len() - 1,
        }
    }
}

impl GptOss {
    /// Appends every piece's ids to its sequence; `[pieces, hidden]`, one row for the last id of each piece in order.
    ///
    /// Where an id is outside the vocabulary or a sequence would grow over the model's positions nothing is appended to
    /// any of them. After any other error the caches of the pieces are not to be used again. Memory grows with the ids
    /// of all pieces: whoever asks keeps them bounded. On a device the last bits of a row may depend on the rows beside it.
    pub fn step(&self, pieces: &mut [Piece<'_>]) -> Result<Vec<f32>, ModelError> {
        if let Some(device) = self.device() {
            let there = pieces.iter_mut().map(|piece| DevicePiece {
                ids: piece.ids,
                cache: piece.cache.device_mut(),
            });
            return device.step(&mut there.collect::<Vec<_>>());
        }
        for piece in pieces.iter() {
            self.check(piece.ids, piece.cache)?;
        }
        // Sequences that share a prefix stand together, so that attention sees to it once.
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        order.sort_by_key(|i| pieces[*i].cache.shared_with());
        let mut places: Vec<Option<&mut Piece>> = pieces.iter_mut().map(Some).collect();
        let mut sorted: Vec<&mut Piece> = order.iter().filter_map(|i| places[*i].take()).collect();
        let parts = self.parts(&sorted);
        let mut rest = &mut sorted[..];
        let mut groups = Vec::with_capacity(parts.len());
        for part in parts {
            let (group, others) = rest.split_at_mut(part);
            groups.push(group);
            rest = others;
        }
        let read = groups.into_par_iter().map(|group| self.read_group(group));
        let hidden = read.collect::<Result<Vec<_>, _>>()?.concat();
        let width = self.config().hidden_size;
        let mut rows = vec![0.0; hidden.len()];
        for (row, to) in hidden.chunks_exact(width).zip(order) {
            rows[to * width..(to + 1) * width].copy_from_slice(row);
        }
        Ok(rows)
    }

    /// How many pieces are read together. A large model reads all at once, so that its weights pass once; one that fits
    /// the processor's caches reads a few at a time on each thread, which then need not wait for each other.
    fn parts(&self, pieces: &[&mut Piece]) -> Vec<usize> {
        let tokens: usize = pieces.iter().map(|piece| piece.ids.len()).sum();
        let count = match self.is_cached() {
            true => rayon::current_num_threads().max(tokens / CACHED_PART_TOKENS),
            false => 1,
        };
        let (mut parts, mut gathered) = (vec![0], 0);
        for piece in pieces {
            // A piece goes where more than half of it belongs.
            if (2 * gathered + piece.ids.len()) * count > 2 * tokens * parts.len() {
                parts.push(0);
            }
            gathered += piece.ids.len();
            *parts.last_mut().expect("bug: no part") += 1;
        }
        parts.retain(|part| *part > 0);
        parts
    }

    /// Whether the weights stay in a processor's caches.
    fn is_cached(&self) -> bool {
        self.weights().bytes_in_all() <= CACHED_MODEL_BYTES_MAX
    }

    /// Tokens that a step is best made of: enough for all threads, and not so many that who asks next waits for long.
    pub fn step_tokens(&self) -> usize {
        match self.is_cached() && self.device().is_none() {
            true => CACHED_STEP_TOKENS,
            false => STEP_TOKENS_MAX,
        }
    }

    /// Some pieces through all layers; a row for the last id of each.
    fn read_group(&self, pieces: &mut [&mut Piece]) -> Result<Vec<f32>, ModelError> {
        let ids: Vec<u32> = pieces.iter().flat_map(|piece| piece.ids).copied().collect();
        let mut spans = Vec::with_capacity(pieces.len());
        for piece in pieces.iter() {
            let first = spans.last().map_or(0, |span: &Span| span.rows.end);
            spans.push(Span {
                rows: first..first + piece.ids.len(),
                from: piece.cache.len(),
            });
        }
        let mut caches: Vec<&mut KvCache> = pieces.iter_mut().map(|p| &mut *p.cache).collect();
        self.layers_of(&ids, &spans, &mut caches, Wanted::Last, &mut |_, _| ())
    }

    /// One sequence, all rows, in goes of bounded memory.
    pub(super) fn read_all(
        &self,
        ids: &[u32],
        cache: &mut KvCache,
        entering: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Vec<f32>, ModelError> {
        assert!(
            self.device().is_none(),
            "bug: a model on a device gives no rows but the last"
        );
        self.check(ids, cache)?;
        let mut out = Vec::with_capacity(ids.len() * self.config().hidden_size);
        for ids in ids.chunks(PREFILL_TOKENS) {
            let span = Span {
                rows: 0..ids.len(),
                from: cache.len(),
            };
            let (spans, mut caches) = ([span], [&mut *cache]);
            out.extend(self.layers_of(ids, &spans, &mut caches, Wanted::All, entering)?);
        }
        Ok(out)
    }

    fn check(&self, ids: &[u32], cache: &KvCache) -> Result<(), ModelError> {
        assert!(
            cache.fits(self.config()),
            "bug: the cache was made for another model"
        );
        self.check_ids(ids)?;
        let limit = self.config().max_position_embeddings;
        let len = cache.len() + ids.len();
        if ids.is_empty() {
            return Err(ModelError::NoIds);
        }
        if len > limit {
            return Err(ModelError::TooLong { len, limit });
        }
        Ok(())
    }

    /// Through all layers and the final norm: rows of all ids, or of each span's last.
    fn layers_of(
        &self,
        ids: &[u32],
        spans: &[Span],
        caches: &mut [&mut KvCache],
        wanted: Wanted,
        entering: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Vec<f32>, ModelError> {
        let isa = self.isa();
        let turns = self.turns(spans);
        let mut x = self.embed(ids);
        let lasts: Vec<Span> = (0..).zip(spans).map(|(i, span)| span.last(i)).collect();
        let last_turns = self.turns(&lasts);
        let (mut spans, mut turns) = (spans, &turns);
        for (i, layer) in self.layers().iter().enumerate() {
            entering(i, &x);
            let mut normed = self.norm(&x, &layer.input_norm);
            let rows = Rows {
                x: &normed,
                spans,
                turns,
            };
            layer.attention.remember(isa, self.weights(), rows, caches);
            if wanted == Wanted::Last && i + 1 == self.layers().len() {
                // Of the last layer only the keys and values of the other rows are ever needed.
                let width = self.config().hidden_size;
                let last = |x: &[f32]| -> Vec<f32> {
                    let rows = spans.iter().map(|span| span.rows.end - 1);
                    rows.flat_map(|row| &x[row * width..(row + 1) * width])
                        .copied()
                        .collect()
                };
                (x, normed) = (last(&x), last(&normed));
                (spans, turns) = (&lasts, &last_turns);
            }
            let rows = Rows {
                x: &normed,
                spans,
                turns,
            };
            let seen = layer.attention.recollect(isa, self.weights(), rows, caches);
            pointwise::add(&mut x, &seen);
            let normed = self.norm(&x, &layer.post_attention_norm);
            let changes = layer.experts.apply(&normed, self.weights(), self.how());
            pointwise::add(&mut x, &changes);
        }
        let read = spans.iter().zip(caches.iter_mut());
        for (span, cache) in read {
            let len = span.from + span.rows.len();
            cache.advance(len - cache.len());
        }
        Ok(self.final_norm(&x))
    }

    /// Bytes of keys and values that a sequence of `tokens` keeps for itself at most, beside what it shares with a
    /// prefix of `shared` tokens.
    pub fn own_bytes(&self, shared: usize, tokens: usize) -> usize {
        match self.device() {
            Some(device) => device.own_bytes(shared, tokens),
            None => KvCache::own_bytes(self.config(), shared, tokens),
        }
    }
}

/// Which rows come out of the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    /// The last of each span.
    Last,
}
