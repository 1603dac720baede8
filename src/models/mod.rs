//! Models on disk: folders of weights that have names.
//!
//! Takes names and folders, gives folders that [`crate::backend`] can open: [`synthesize`] writes one of random numbers.
//! Knows the released layout and files; knows no SQL, policy or verdict. Only this room writes model folders, and only
//! it speaks to a hub.

mod disk;
mod error;
mod random;
mod shapes;
mod synthesize;

pub use error::ModelsError;
pub use shapes::Shape;
pub use synthesize::{Order, synthesize};

/// Bytes as people read them: `13.8 GB`.
pub fn bytes_shown(bytes: u64) -> String {
    let (unit, name) = match bytes {
        1_000_000_000.. => (1e9, "GB"),
        1_000_000.. => (1e6, "MB"),
        _ => (1e3, "kB"),
    };
    format!("{:.1} {name}", bytes as f64 / unit)
}
