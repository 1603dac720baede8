//! The formats of COPY: text, csv and binary, written from Arrow and read into it.
//!
//! Takes the options of a COPY statement and a schema; gives CopyData messages, or record batches from bytes cut
//! anywhere. Knows no socket, table or plan.

mod fields;
mod fill;
mod lines;
mod options;
#[cfg(test)]
mod options_tests;
mod parse;
mod read;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod text_tests;
mod write;

pub use options::{Direction, Format, Header, Options};
pub use read::Reader;
pub use write::Writer;

/// The overall format, 0 text or 1 binary, and each column's.
fn column_format(format: Format, columns: usize) -> (i8, Vec<i16>) {
    let code = i8::from(format == Format::Binary);
    (code, vec![i16::from(code); columns])
}
