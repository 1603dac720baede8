//! A PostgreSQL database as a schema: its tables are read where they are, and labels are written back.
//!
//! Takes the options of CREATE SERVER, gives a schema of tables. Filters, columns, limits and counts that mean the same on
//! both sides are PostgreSQL's work; functions never are, ours or DataFusion's. Rows come by binary COPY as they are
//! wanted, and go by binary COPY into a temporary table first, so that a statement is written whole or not at all.
//!
//! Knows the types of its tables: what Arrow has no type for is text. Does not know joins or sorts, and takes
//! no part in transactions of ours: each scan is a snapshot of its own, over however many connections it is read.

mod catalog;
mod columns;
mod connect;
mod count;
mod filter;
mod options;
mod scan;
mod sink;
mod split;

pub use catalog::Attached;
pub use count::CountThere;
pub use options::Options;
pub use scan::Table;
pub use sink::Insertion;

/// A name as SQL reads it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text, quoted, as it is where `standard_conforming_strings` is on, as it is on our connections.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
