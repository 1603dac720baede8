//! The one integration binary: every file of tests linked once.

/// SQL behaviour as data, on a scripted classifier.
mod slt;
