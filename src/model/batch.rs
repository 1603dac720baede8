//! One step of a batch: several sequences, each with ids to read.
//!
//! Takes pieces of sequences, appends each to its own cache, gives what each piece's last token leaves behind the final
//! norm. A piece's result does not depend on the pieces beside it, on their order or on how a sequence is cut into
//! pieces, to the bit. Knows sequences and ids; it does not know who asked, what comes next, or when to stop.

use super::{GptOss, KvCache, ModelError};
use candle_core::{Device, Tensor};

/// Ids to append to one sequence.
#[derive(Debug)]
pub struct Piece<'a> {
    /// At least one.
    pub ids: &'a [u32],
    /// The sequence so far, a policy's prefix included.
    pub cache: &'a mut KvCache,
}

impl GptOss {
    /// Appends every piece's ids to its sequence; `[pieces, hidden]`, one row for the last id of each piece in order.
    ///
    /// Where an id is outside the vocabulary or a sequence would grow over the model's positions nothing is appended to
    /// any of them. After any other error the caches of the pieces are not to be used again.
    pub fn step(&self, pieces: &mut [Piece<'_>]) -> Result<Vec<f32>, ModelError> {
        let mut rows = Vec::with_capacity(pieces.len() * self.config().hidden_size);
        for piece in pieces {
            let hidden = self.forward(piece.ids, piece.cache)?;
            let last = hidden.narrow(0, piece.ids.len() - 1, 1)?;
            rows.extend(last.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(rows)
    }

    /// Logits `[n, vocab]` of `rows` `[n, hidden]`, as [`step`](Self::step) gives them.
    pub fn all_logits(&self, rows: &[f32]) -> Result<Vec<f32>, ModelError> {
        Ok(self.logits(&self.rows(rows)?)?.flatten_all()?.to_vec1()?)
    }

    /// Logits `[n, ids.len()]` of the tokens `ids` only; the rest of the head is not touched.
    pub fn some_logits(&self, rows: &[f32], ids: &[u32]) -> Result<Vec<f32>, ModelError> {
        Ok(self
            .logits_of(&self.rows(rows)?, ids)?
            .flatten_all()?
            .to_vec1()?)
    }

    fn rows(&self, rows: &[f32]) -> Result<Tensor, ModelError> {
        let hidden = self.config().hidden_size;
        let shape = (rows.len() / hidden, hidden);
        Ok(Tensor::from_slice(rows, shape, &Device::Cpu)?)
    }

    /// Bytes of keys and values that a sequence of `tokens` keeps for itself at most, beside what it shares with a
    /// prefix of `shared` tokens.
    pub fn own_bytes(&self, shared: usize, tokens: usize) -> usize {
        KvCache::own_bytes(self.config(), shared, tokens)
    }
}
