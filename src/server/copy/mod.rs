//! The formats of COPY: text, csv and binary, written from Arrow and read into it.
//!
//! Takes the options of a COPY statement and a schema; gives CopyData messages, or record batches from bytes cut
//! anywhere. Knows no socket, table or plan.

mod options;
mod read;
mod write;

pub use options::{Direction, Format, Header, Names, Options};
pub use read::Reader;
pub use write::Writer;
