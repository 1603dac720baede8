//! The model against Hugging Face transformers in f32, against its own mistakes, and against bad folders.
//!
//! `tiny/` is a random checkpoint in the released layout (hidden = intermediate = 96, window 16) with transformers'
//! logits and hidden states at 97, 300 and 2500 tokens: bf16 noise and short sequences hide real bugs. nano's own
//! golden file lies beside its weights in `src/backend/nano/`.

mod batches;
mod checkpoint;
mod folders;
mod golden;
mod mistakes;
mod nano;
mod pieces;
mod rambling;
