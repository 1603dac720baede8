//! The one integration binary: every file of tests linked once.

/// The model against transformers in f32, against its own mistakes, and against bad folders.
mod parity;
/// SQL behaviour as data, on a scripted classifier.
mod slt;
