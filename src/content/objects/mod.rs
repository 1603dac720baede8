//! Content in object stores: S3, Google Cloud Storage, Azure Blob Storage, and files on web servers.
//!
//! Takes a location's scheme and authority, what CREATE SECRET said and the environment, gives stores whose errors name the
//! object and say what is wrong with the bucket, the key or the way there. Which locations may be read is told from outside.
//! Knows no format, no table and no statement.

mod allowed;
mod held;
mod secret;
mod stores;
mod told;

pub use allowed::Allowed;
pub use held::Held;
pub use secret::{Kind, Secret};
pub use stores::{Described, Stores};
