//! model

pub mod tokenizer;
