//! Limits of a store that servers share.

/// Seconds that the server of a shared store has to let us in.
pub const STORE_CONNECT_SECONDS: u64 = 10;
/// Scans of a shared store's tables at once, each with a connection of its own; past it a scan is refused.
pub const STORE_SERVER_SCANS_MAX: usize = 32;
/// Connections to a shared store that short reads take turns at.
pub const STORE_SERVER_READERS_MAX: usize = 8;
/// Milliseconds for which a write to a shared store is tried again when the connection is lost or others are in the way.
pub const STORE_RETRY_MS: u64 = 10_000;
/// Milliseconds before a write that others were in the way of is tried again.
pub const STORE_AGAIN_PAUSE_MS: u64 = 5;
/// Milliseconds before a connection to a shared store that could not be had is tried for again.
pub const STORE_RECONNECT_PAUSE_MS: u64 = 100;
/// Milliseconds from one append of verdicts to a shared store to the next of the same server: what is decided meanwhile
/// is stored together.
pub const STORE_APPEND_GAP_MS: u64 = 100;
/// Seconds after which a server that does not answer a shared store any more is taken to be gone.
pub const STORE_PRESENCE_SECONDS: u64 = 30;
/// Seconds between two signs of life, and two looks at the shared store's clock.
pub const STORE_PRESENCE_RENEW_SECONDS: u64 = 5;
/// Seconds after which a key that a server asks about, and does not renew, may be asked about by another: as long as a
/// claim on work holds, so that whoever takes over the work of a server that is gone does not wait again for its keys.
pub const STORE_ALOFT_SECONDS: u64 = 30;
/// Seconds between two renewals; most questions are answered before the first.
pub const STORE_ALOFT_RENEW_SECONDS: u64 = 10;
/// Milliseconds between two looks at what other servers ask about.
pub const STORE_ALOFT_LOOK_MS: u64 = 100;
/// Milliseconds that leaving a shared store may take.
pub const STORE_LEAVE_MS: u64 = 2_000;
/// Statements that a connection to a shared store keeps prepared; past it all are prepared anew.
pub const STORE_STATEMENTS_MAX: usize = 256;
/// Characters of a database's own words in an error about the store.
pub const STORE_WORDS_MAX: usize = 400;
