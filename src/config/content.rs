//! Limits of content that is elsewhere.

/// Seconds that an attached database has to let us in.
pub const SERVER_CONNECT_SECONDS: u64 = 10;
/// Connections over which one table of an attached database may be read at once.
pub const SERVER_READERS_MAX: usize = 16;
/// Pages of a table for each connection that reads it: a smaller part is not worth one.
pub const SERVER_SPLIT_PAGES_MIN: u64 = 128;
/// Seconds for which the tables of an attached database are taken to be as they were.
pub const SERVER_CATALOG_SECONDS: u64 = 5;
/// Bytes of a batch read from an attached database, and of one that is sent to it.
pub const SERVER_BATCH_BYTES: usize = 4 << 20;
/// Literals in one list that is sent to an attached database; a longer one is looked through here.
pub const SERVER_FILTER_LITERALS_MAX: usize = 10_000;
/// Nested levels in one filter that is sent to an attached database.
pub const SERVER_FILTER_DEPTH_MAX: usize = 64;
/// Characters of a database's own words in an error of ours.
pub const SERVER_WORDS_MAX: usize = 400;
/// Seconds that an object store has to let us in.
pub const OBJECTS_CONNECT_SECONDS: u64 = 5;
/// Seconds that one request to an object store may take, its answer included.
pub const OBJECTS_REQUEST_SECONDS: u64 = 120;
/// How often a request to an object store that failed for a passing reason is repeated.
pub const OBJECTS_RETRIES: usize = 4;
/// Seconds after which a request to an object store is not repeated any more.
pub const OBJECTS_RETRY_SECONDS: u64 = 60;
