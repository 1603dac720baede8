//! Limits of models on servers.

use super::ANALYSIS_TOKENS_MAX;
use std::fmt;
use std::path::PathBuf;

/// How servers of models are spoken to.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EndpointAccess {
    /// The key that they know this user by. Never shown.
    pub key: Option<String>,
    /// Certificates (PEM) by which servers are trusted, in place of the public ones.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for EndpointAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.as_ref().map(|_| "..");
        let mut shown = f.debug_struct("EndpointAccess");
        shown.field("key", &key).field("ca_file", &self.ca_file);
        shown.finish()
    }
}

/// Servers behind one model.
pub const ENDPOINT_REPLICAS_MAX: usize = 64;
/// Requests to one server at once before it has shown what it bears.
pub const ENDPOINT_IN_FLIGHT_START: usize = 64;
/// Requests at once to all servers of a model: each has a thread, and tokio's 512 are shared with the store's readers.
pub const ENDPOINT_IN_FLIGHT_MAX: usize = 192;
/// Of one server's places, one in this many is left free by texts of the backfill lane.
pub const ENDPOINT_BACKFILL_FREE: usize = 8;
/// How often one request is sent at the most, on whichever servers.
pub const ENDPOINT_TRIES_MAX: u32 = 5;
/// Milliseconds that a server has to accept a connection.
pub const ENDPOINT_CONNECT_MS: u64 = 10_000;
/// Milliseconds from a request to the end of its reply.
pub const ENDPOINT_REPLY_MS: u64 = 120_000;
/// Milliseconds without a byte of any reply after which a server's questions are put to others, where some are well.
pub const ENDPOINT_SILENCE_MS: u64 = 10_000;
/// Tries of one request that end so; a later one has all the time of a reply.
pub const ENDPOINT_SILENT_TRIES_MAX: u32 = 2;
/// Milliseconds before the second try; doubled for each further one, and cut at random down to the half.
pub const ENDPOINT_PAUSE_MS: u64 = 250;
/// Milliseconds between two tries at the most, also where a server asks for more.
pub const ENDPOINT_PAUSE_MS_MAX: u64 = 30_000;
/// Failures in a row after which a server is left alone for a while.
pub const ENDPOINT_FAULTS_MAX: u32 = 3;
/// Milliseconds for which it is left alone at first; doubled each time its one trial fails, up to
/// [`ENDPOINT_PAUSE_MS_MAX`].
pub const ENDPOINT_OPEN_MS: u64 = 2_000;
/// Milliseconds for which texts wait while no server answers; later ones are given up at once.
pub const ENDPOINT_OUTAGE_MS: u64 = 30_000;
/// Bytes of one reply.
pub const ENDPOINT_BODY_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a server's own words in an error of ours.
pub const ENDPOINT_WORDS_MAX: usize = 200;
/// Tokens of one reply: an analysis as long as a local one may be, its headers and a label.
pub const ENDPOINT_REPLY_TOKENS_MAX: usize = ANALYSIS_TOKENS_MAX + 256;
/// Most probable tokens that a server is asked for at one place: what vLLM gives where it is not told to give more.
pub const ENDPOINT_LOGPROBS: usize = 20;
/// Policies whose ids are kept for the texts to come.
pub const ENDPOINT_PREFIXES_MAX: usize = 64;
