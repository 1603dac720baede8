//! The one integration binary: every file of tests linked once, a module for each thing that is shown to hold.

/// The model and its engine against other implementations.
mod parity;
/// SQL behaviour as data, on a scripted classifier.
mod slt;
