//! Models on disk: folders of weights that have names.
//!
//! Takes names and folders, gives folders that [`crate::backend`] can open. [`resolve`] and [`list`] know what is there,
//! [`pull`] fetches a released model, [`verify`] looks whether one is sound, [`verify_address`] whether one on a server is, [`bench`] how fast it is, [`synthesize`] writes one of random
//! numbers. Knows the released layout, files and a hub; knows no SQL, policy version or verdict. Only this room writes
//! model folders, and only it speaks to a hub.

mod bench;
mod disk;
mod endpoint;
mod error;
mod folder;
mod hub;
mod pull;
mod random;
mod shapes;
mod synthesize;
mod verify;

pub use bench::{Measured, Work, bench};
pub use endpoint::verify_address;
pub use error::ModelsError;
pub use folder::{Installed, NANO, Place, list, resolve};
pub use hub::Hub;
pub use pull::{Pull, Pulled, pull};
pub use shapes::Shape;
pub use synthesize::{Order, synthesize};
pub use verify::{Finding, Level, verify};

/// Bytes as people read them: `13.8 GB`.
pub fn bytes_shown(bytes: u64) -> String {
    let (unit, name) = match bytes {
        1_000_000_000.. => (1e9, "GB"),
        1_000_000.. => (1e6, "MB"),
        _ => (1e3, "kB"),
    };
    format!("{:.1} {name}", bytes as f64 / unit)
}
