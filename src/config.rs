//! Settings and limits: as typed, then as meant. The only reader of settings files and of the environment.

mod content;
mod endpoint;
mod serve;
mod store;
mod workers;

pub use content::*;
pub use endpoint::*;
pub use serve::{CronConfig, Role, RoleLimits, RolesLimits, ServeConfig, ServeOptions, TlsFiles};
pub use store::*;
pub use workers::*;

use std::num::NonZeroU32;
use std::path::PathBuf;

/// Texts longer than this many tokens are `undecided: too_long`; never cut.
pub const TEXT_TOKENS_MAX: usize = 4_096;
/// Policies longer than this many tokens are refused.
pub const POLICY_TOKENS_MAX: usize = 16_384;
/// Tokens of analysis before the final header is forced.
pub const ANALYSIS_TOKENS_MAX: usize = 2_048;

/// Commands waiting for the store's writer; past it, whoever appends waits.
pub const STORE_QUEUE_MAX: usize = 1_024;
/// Rows that the store's writer gathers into one commit.
pub const STORE_COMMIT_ROWS_MAX: usize = 4_096;
/// Reader connections at work at once; past it a read is refused. Below tokio's 512 blocking threads.
pub const STORE_READERS_MAX: usize = 256;
/// Reader connections kept open while idle.
pub const STORE_READERS_IDLE_MAX: usize = 8;
/// Milliseconds to wait for another process that holds the store's write lock.
pub const STORE_BUSY_MS: u64 = 10_000;
/// A store file up to this size is checked page by page when it is opened; a larger one by its schema and size.
pub const STORE_CHECK_BYTES_MAX: u64 = 64 << 20;
/// Bytes that the store's write-ahead log keeps on disk after a checkpoint.
pub const STORE_WAL_BYTES_MAX: u64 = 64 << 20;
/// Bytes of values in one batch of a table scan; a batch ends at it or at the session's batch size.
pub const STORE_SCAN_BYTES_MAX: usize = 4 << 20;
/// Batches that a table scan reads ahead of its consumer.
pub const STORE_SCAN_AHEAD_MAX: usize = 2;
/// Literals in one filter that a table scan hands to SQLite; a longer one is left to DataFusion.
pub const STORE_FILTER_LITERALS_MAX: usize = 500;
/// Nested levels in one filter that a table scan hands to SQLite.
pub const STORE_FILTER_DEPTH_MAX: usize = 50;
/// Rows of one INSERT INTO safeguard.overrides, which is stored whole or not at all.
pub const STORE_INSERT_ROWS_MAX: usize = 100_000;

/// Bytes of one row on the wire, sent or copied in; DESIGN 13.
pub const SERVER_ROW_BYTES_MAX: usize = 64 << 20;
/// Columns of one result: PostgreSQL's own limit of a target list.
pub const SERVER_COLUMNS_MAX: usize = 1_664;

/// Labelled texts that a screen is trained from.
pub const SCREEN_EXAMPLES_MAX: usize = 100_000;
/// Bytes of all the texts together that a screen is trained from. Training takes up to 16 times that in memory.
pub const SCREEN_TRAINING_BYTES_MAX: usize = 64 << 20;

/// A policy file, or a policy text in SQL, may have this many bytes.
pub const POLICY_BYTES_MAX: usize = 1 << 20;
/// Below this many tokens of prompt a policy seldom says enough: lint warns.
pub const POLICY_TOKENS_ADVISED_MIN: usize = 100;
/// Above this many tokens of prompt a policy is better split: lint warns.
pub const POLICY_TOKENS_ADVISED_MAX: usize = 2_000;
/// A policy's name, in bytes.
pub const POLICY_NAME_BYTES_MAX: usize = 63;
/// Labels of one policy.
pub const POLICY_LABELS_MAX: usize = 64;
/// One label, in bytes.
pub const POLICY_LABEL_BYTES_MAX: usize = 64;
/// A rule's code (`H2.c`), in bytes.
pub const POLICY_RULE_CODE_BYTES_MAX: usize = 16;
/// Rules of one policy.
pub const POLICY_RULES_MAX: usize = 256;
/// `name@<digest prefix>` needs this many hexadecimal digits.
pub const POLICY_DIGEST_PREFIX_MIN: usize = 6;
/// Names offered when one is unknown.
pub const POLICY_NEAR_MAX: usize = 3;
/// Tries to publish a version while other processes take its number.
pub const PUBLISH_TRIES_MAX: u32 = 10;
/// Rows of one golden set.
pub const GOLDEN_ROWS_MAX: usize = 100_000;
/// Bytes of one golden set's file.
pub const GOLDEN_BYTES_MAX: usize = 64 << 20;
/// Policies in one import.
pub const IMPORT_POLICIES_MAX: usize = 1_000;
/// Folders below folders that an import looks into.
pub const IMPORT_DEPTH_MAX: usize = 8;

/// Rows of one chunk of a backfill: what is claimed, judged and committed together; DESIGN 13.
pub const BACKFILL_CHUNK_ROWS: usize = 256;
/// Bytes of texts of one chunk; a chunk ends at it or at its rows.
pub const BACKFILL_CHUNK_BYTES: usize = 4 << 20;
/// Chunks of a backfill that are spooled in one commit.
pub const BACKFILL_SPOOL_CHUNKS: usize = 16;
/// Above this many rows a backfill must be given a note.
pub const BACKFILL_ROWS_WITHOUT_NOTE: u64 = 10_000;
/// Texts by which the tokens of a backfill are estimated.
pub const BACKFILL_ESTIMATE_TEXTS: usize = 256;
/// Chunks that one process works on at once, where nobody says.
pub const BACKFILL_WORKERS: usize = 2;
/// The same at the most: more are more questions than one process may have in hand.
pub const BACKFILL_WORKERS_MAX: usize = 64;
/// Milliseconds that a claim on work holds without being renewed; after a kill, how long its chunk waits.
pub const BACKFILL_LEASE_MS: u64 = 30_000;
/// Milliseconds between two looks of a worker at whether its work is still wanted; leases are renewed with them.
pub const BACKFILL_WATCH_MS: u64 = 1_000;
/// Milliseconds between two looks for work that another process may have left.
pub const BACKFILL_POLL_MS: u64 = 1_000;
/// Times that a text whose question fails is asked before it is given up.
pub const BACKFILL_TRIES_MAX: u32 = 5;
/// Texts of one chunk that must all fail for the backend to be blamed, whatever went before.
pub const BACKFILL_FAULT_TEXTS: usize = 8;
/// Failures of the backend in a row after which the texts of a smaller chunk are blamed too.
pub const BACKFILL_SETBACKS_MAX: u32 = 20;
/// The same for a text that fails while no server of the model answers: an hour and more of pauses.
pub const BACKFILL_AWAY_SETBACKS_MAX: u32 = 100;
/// Milliseconds before the second try; doubled for each further one.
pub const BACKFILL_PAUSE_MS: u64 = 1_000;
/// Milliseconds between two tries at the most.
pub const BACKFILL_PAUSE_MS_MAX: u64 = 60_000;
/// Milliseconds over which the rate of a backfill is measured.
pub const BACKFILL_RATE_MS: u64 = 60_000;
/// Rows of a control sample at the least.
pub const BACKFILL_CONTROL_MIN: usize = 200;
/// One in this many rows is in a control sample, where that is more.
pub const BACKFILL_CONTROL_ONE_IN: usize = 100;
/// Rows of a control sample at the most; they are held in memory while a source is read.
pub const BACKFILL_CONTROL_MAX: usize = 2_000;
/// Texts that wait in the queue of `safeguard.answer = queue`.
pub const QUEUE_ROWS_MAX: u64 = 1_000_000;
/// Bytes of one text that waits there; a longer one has more than [`TEXT_TOKENS_MAX`] tokens.
pub const QUEUE_TEXT_BYTES_MAX: usize = 1 << 20;
/// Policies, modes and efforts that texts wait for at once.
pub const QUEUE_JUDGES_MAX: u64 = 1_000;

/// Distinct texts of a source that a screen is certified for; of more, a uniform random sample stands for all.
pub const SCREEN_SOURCE_TEXTS_MAX: usize = 200_000;
/// Bytes of those texts; past it, fewer stand for all.
pub const SCREEN_SOURCE_BYTES_MAX: usize = 256 << 20;
/// Different values of a screen's column `slice`.
pub const SCREEN_SLICES_MAX: usize = 64;
/// Questions that training a screen may put to the reasoner, where nobody says another number.
pub const SCREEN_LABEL_BUDGET: u64 = 1_000;
/// The same at the most.
pub const SCREEN_LABEL_BUDGET_MAX: u64 = 1_000_000;
/// Probability with which a screen's certificate may be wrong, where nobody says another.
pub const SCREEN_DELTA: f64 = 0.05;
/// Stored verdicts that a screen is trained on; the others are left for its certificate.
pub const SCREEN_STORED_EXAMPLES_MAX: usize = 50_000;
/// Bytes of the texts of stored verdicts that a screen is trained on.
pub const SCREEN_STORED_BYTES_MAX: usize = 32 << 20;
/// Share of the questions that go to training, where there are few labels to train on.
pub const SCREEN_TRAIN_SHARE: f64 = 0.3;
/// The same where there are labels enough of both kinds.
pub const SCREEN_TRAIN_SHARE_KNOWN: f64 = 0.1;
/// So many of each kind are enough.
pub const SCREEN_KNOWN_EXAMPLES: usize = 200;
/// Cleared texts that an audit asks about, where nobody says another number.
pub const SCREEN_AUDIT_SAMPLE: u64 = 300;
/// Screens whose weights a process keeps in memory.
pub const SCREENS_LOADED_MAX: usize = 64;

/// Share of right labels that a calibration asks of scores, where nobody says another.
pub const CALIBRATION_TARGET: f64 = 0.95;
/// Chance that a calibration trusts scores that do not deserve it.
pub const CALIBRATION_RISK: f64 = 0.05;
/// Thresholds that a calibration tries.
pub const CALIBRATION_STEPS: usize = 8;

/// Confidence of the intervals about measured figures.
pub const EVALUATION_CONFIDENCE: f64 = 0.95;
/// Golden texts that an evaluation has judged before it looks further.
pub const EVALUATION_CHUNK: usize = 1_024;
/// Times that an evaluation asks each row again.
pub const EVALUATION_REPEATS_MAX: i64 = 100;
/// Policies of one evaluation.
pub const EVALUATION_POLICIES_MAX: usize = 16;
/// Resamples behind an interval that has no formula.
pub const BOOTSTRAP_ROUNDS: usize = 2_000;

/// Rows of the source that a backtest samples at the most.
pub const BACKTEST_SAMPLE_MAX: usize = 20_000;
/// Bytes of texts that a backtest holds while it draws its sample; past it, the sample is cut.
pub const BACKTEST_SAMPLE_BYTES_MAX: usize = 256 << 20;
/// Share of a backtest's sample that is spread evenly over the strata; the rest goes by size.
pub const BACKTEST_EVEN_SHARE: f64 = 0.2;
/// How much more a row counts for the rest where the old version convicted or did not decide.
pub const BACKTEST_VIOLATING_FACTOR: f64 = 4.0;
/// Different values of a backtest's column `strata`.
pub const BACKTEST_STRATA_VALUES_MAX: usize = 32;
/// Texts that a backtest judges under the one version and then under the other.
pub const BACKTEST_CHUNK_TEXTS: usize = 256;
/// The same where the statement has a budget: what it leaves half done when it is spent.
pub const BACKTEST_BUDGETED_TEXTS: usize = 32;
/// Changed rows that a backtest lists.
pub const BACKTEST_FLIPS_MAX: usize = 1_000;
/// Sampled rows that a backtest asks again for the noise floor.
pub const BACKTEST_NOISE_ROWS: usize = 200;
/// How often each of them.
pub const BACKTEST_REPEATS_MAX: usize = 20;
/// Texts that one report shows.
pub const REPORT_EXAMPLES_MAX: usize = 200;
/// Different values that a comparison of stored verdicts counts by.
pub const DIFF_GROUPS_MAX: usize = 10_000;
/// Hexadecimal digits that tell one verdict from others.
pub const VERDICT_DIGEST_PREFIX_MIN: usize = 6;
/// Scores that lie no further apart are the same: the arithmetic of a GPU may differ in its last bits.
pub const REPLAY_SCORE_TOLERANCE: f64 = 1e-4;

/// Bytes of one message from a client that carries values or data.
pub const SERVER_MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Bytes of a startup packet, and of any message that carries only names.
pub const SERVER_STARTUP_BYTES_MAX: usize = 10_000;
/// Bytes of rows that are gathered before they are sent.
pub const SERVER_SEND_BYTES: usize = 64 << 10;
/// Bytes that the system keeps for a client and has not sent yet. With more, a client that reads slower than rows are made
/// pays for their way through the system's queue in its own time.
pub const SERVER_UNSENT_BYTES: u32 = 64 << 10;
/// Bytes of a CopyData message that gathers rows; with its last row it mostly fits the 16 KiB that libpq reads at once.
pub const SERVER_GATHER_BYTES: usize = 15 << 10;
/// Bytes read from a client while its statement runs; one that sends more is not watched until the statement ends.
pub const SERVER_AHEAD_BYTES_MAX: usize = 1 << 20;
/// Rows of a COPY FROM STDIN that are inserted together.
pub const SERVER_COPY_ROWS: usize = 8_192;
/// Prepared statements of one connection.
pub const SERVER_PREPARED_MAX: usize = 10_000;
/// Portals and cursors of one connection.
pub const SERVER_PORTALS_MAX: usize = 1_000;
/// Threads that run statements, for each core: some may be held by statements that compute without a pause.
pub const SERVER_THREADS_PER_CORE: usize = 4;
/// Threads that run statements, on however few cores.
pub const SERVER_THREADS_MIN: usize = 8;
/// Seconds of silence after which the system asks whether a client's machine is still there.
pub const SERVER_KEEPALIVE_SECONDS: u64 = 60;
/// Connections beyond the limit that are told so at once; further ones are dropped.
pub const SERVER_REFUSALS_MAX: usize = 64;
/// Milliseconds that a connection beyond the limit has to say who it is.
pub const SERVER_REFUSAL_MS: u64 = 5_000;

/// Jobs that run at once in one process, each at most once: pg_cron's number.
pub const CRON_RUNNING_MAX: usize = 32;
/// Runs of one job that wait because it runs already; a time that is due beyond them is recorded as missed.
pub const CRON_WAITING_MAX: usize = 60;
/// Minutes that a process which was not asleep or stopped may be late and still runs everything that was due: pg_cron's.
pub const CRON_LATE_MINUTES_MAX: i64 = 5;
/// Minutes by which clocks are put forward or back for a season; a larger step changes nothing of when jobs run: cron's.
pub const CRON_SHIFT_MINUTES_MAX: i64 = 180;
/// Days ahead in which the next time of a schedule is looked for. The rarest, a 29th of February on a given weekday, comes
/// within 40 years.
pub const CRON_AHEAD_DAYS_MAX: i64 = 366 * 41;
/// The latest runs among which `safeguard job list` looks for each job's last.
pub const CRON_RUNS_LISTED: usize = 1_000;
/// Missed times of one job that are counted.
pub const CRON_MISSED_MAX: u64 = 100_000;
/// Milliseconds between two looks at the jobs.
pub const CRON_LOOK_MS: u64 = 1_000;
/// Notices kept of one run.
pub const CRON_NOTICES_MAX: usize = 100;
/// Bytes of a schedule.
pub const CRON_SCHEDULE_BYTES_MAX: usize = 1_000;
/// Days for which runs are kept, where the settings say nothing.
pub const CRON_HISTORY_DAYS: u32 = 30;

/// Rows of a classification's input that EXPLAIN reads for its estimate; further ones are projected.
pub const ESTIMATE_ROWS_MAX: u64 = 100_000;
/// Bytes of distinct texts that it reads for it.
pub const ESTIMATE_BYTES_MAX: usize = 64 << 20;
/// Milliseconds that it reads for it.
pub const ESTIMATE_MS_MAX: u64 = 5_000;
/// Distinct texts that it looks up at once.
pub const ESTIMATE_CHUNK_TEXTS: usize = 1_024;
/// Texts whose prompts it counts; those of further ones are projected.
pub const ESTIMATE_TOKENS_TEXTS: usize = 4_096;
/// Verdicts over which a model's rate is measured: the latest.
pub const RATE_VERDICTS: u64 = 1_000;
/// Verdicts among which these are looked for.
pub const RATE_SEARCHED_MAX: u64 = 20_000;

/// Questions of a role's day that a server counts as spent ahead; a server that is killed has spent them.
pub const LIMIT_BLOCK_QUESTIONS: u64 = 256;
/// The same for tokens.
pub const LIMIT_BLOCK_TOKENS: u64 = 262_144;
/// Milliseconds before a server looks again whether another one gave back something of a day that was spent.
pub const LIMIT_RETRY_MS: i64 = 1_000;

/// Where the server listens.
pub const SERVER_LISTEN: &str = "127.0.0.1:5433";
/// Connections at once.
pub const SERVER_CONNECTIONS_MAX: usize = 100;
/// Bytes of one statement's SQL.
pub const STATEMENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of rows that one statement sends; 0 for no limit.
pub const RESULT_BYTES_MAX: u64 = 0;
/// Milliseconds that a client has to log in.
pub const SERVER_STARTUP_MS: u64 = 60_000;
/// Milliseconds that statements have to finish when the server stops.
pub const SERVER_SHUTDOWN_MS: u64 = 30_000;
/// Milliseconds between two notices about a statement's progress.
pub const PROGRESS_NOTICE_MS: u64 = 5_000;
/// Seconds between two looks at whether the files of a certificate have changed.
pub const TLS_CHECK_SECONDS: u64 = 5;
/// Rounds of hashing behind a password: PostgreSQL's number, and the least that RFC 7677 allows.
pub const SCRAM_ITERATIONS: NonZeroU32 = NonZeroU32::new(4_096).expect("bug: it is not zero");
/// Rounds of a verifier that is believed; more would keep a client busy for seconds.
pub const SCRAM_ITERATIONS_MAX: u32 = 10_000_000;
/// Bytes of a new password's salt.
pub const SCRAM_SALT_BYTES: usize = 16;
/// Random bytes of the server's part of a nonce.
pub const SCRAM_NONCE_BYTES: usize = 18;
/// Bytes of one message of a login.
pub const SCRAM_MESSAGE_BYTES_MAX: usize = 1_024;
/// Bytes of a user's name, as in PostgreSQL.
pub const USER_NAME_BYTES_MAX: usize = 63;
/// Bytes of a password.
pub const PASSWORD_BYTES_MAX: usize = 1_024;

/// A setting that cannot be used, or a file of the settings; says which and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// What the command line and the settings file said, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where verdicts, policies and the catalog are kept; `None` keeps nothing.
    pub data_dir: Option<PathBuf>,
    /// The URL of a store that servers share, in the place of one in `data_dir`.
    pub store: Option<String>,
    /// `nano`, a model's folder, its name in `models_dir`, or addresses of servers that have it.
    pub model: String,
    /// Where models are that have names.
    pub models_dir: PathBuf,
    /// Whether a model is opened that is larger than memory.
    pub allow_swap: bool,
    /// Folders, resolved, below which statements may read and write files; `None` for whatever the program may.
    pub content_roots: Option<Vec<PathBuf>>,
    /// URLs below which SQL may read and write in object stores; `None` for what `content_roots` says: everything, or nothing
    /// where there are folders.
    pub content_urls: Option<Vec<String>>,
    /// A folder of policies of the user's.
    pub policies: Option<PathBuf>,
    /// Addresses of workers that classify for this process; none for all by itself.
    pub workers: Vec<String>,
}

impl Config {
    /// The embedded model over a store, for what asks nothing.
    pub fn embedded(data_dir: PathBuf) -> Config {
        Config {
            data_dir: Some(data_dir),
            store: None,
            model: "nano".to_owned(),
            models_dir: models_dir(),
            allow_swap: false,
            content_roots: None,
            content_urls: None,
            policies: None,
            workers: Vec::new(),
        }
    }
}

/// Texts that one local model holds at once in each lane, waiting or running; further ones wait outside.
pub const IN_FLIGHT_TEXTS_MAX: usize = 1_024;
/// Bytes of keys and values kept for policies that were asked before, least recently used out first.
pub const PREFIX_CACHE_BYTES_MAX: usize = 1 << 30;
/// Policies whose length in tokens a local model remembers for estimates.
pub const PREFIX_LENGTHS_MAX: usize = 1_024;
/// Tokens that one step of a local model reads in all: decoded ones first, then prompts, cut where they do not fit. What
/// a caller who leaves may have to wait for, and what a decoding text waits for the prompts beside it.
pub const STEP_TOKENS_MAX: usize = 512;
/// Texts of a local model that have begun and are not done. Less than half of [`STEP_TOKENS_MAX`]: every decoding one is
/// in every step.
pub const RUNNING_TEXTS_MAX: usize = 64;
/// Of these, places that texts of the backfill lane leave free.
pub const RUNNING_TEXTS_KEPT: usize = 8;
/// Bytes of keys and values of texts that have begun, with the policies they stand on. A text that needs more runs alone.
pub const RUNNING_KV_BYTES_MAX: usize = 1 << 30;
/// Waiting texts of one lane that are sorted by policy and length: how many younger ones may go ahead of one.
pub const ADMISSION_WINDOW: usize = 256;
/// While both lanes wait, one in this many admissions, and of the tokens of prompts in a step, is the backfill lane's.
pub const BACKFILL_SHARE: usize = 8;
/// Tokens of analysis that a text is given room for when it begins; one that says more takes room as it grows.
pub const ANALYSIS_TOKENS_EXPECTED: usize = 256;
/// Rows of logits over the whole vocabulary computed at once.
pub const LOGITS_ROWS_MAX: usize = 64;
/// Tokens of one label; a label of [`POLICY_LABEL_BYTES_MAX`] has no more.
pub const LABEL_TOKENS_MAX: usize = POLICY_LABEL_BYTES_MAX;
/// A model whose weights have no more bytes than this stays in a processor's caches.
pub const CACHED_MODEL_BYTES_MAX: usize = 32 << 20;
/// Tokens in a step of such a model.
pub const CACHED_STEP_TOKENS: usize = 2_048;
/// Tokens of a step that one thread takes at a time there: what is computed from them stays in its caches too.
pub const CACHED_PART_TOKENS: usize = 256;
/// Longer prefills go through the layers in pieces of this many tokens, which bounds their memory.
pub const PREFILL_TOKENS: usize = 512;

/// Bytes that a running model uses beside its weights, keys and values.
pub const MODEL_WORKING_BYTES: u64 = 512 << 20;
/// Bytes of tensors in one weight file that is written here; a larger model is cut into several.
pub const SHARD_BYTES_MAX: u64 = 5_000_000_000;
/// Bytes of random weights that a thread makes and writes at once.
pub const SYNTHESIS_CHUNK_BYTES: u64 = 8 << 20;
/// Tries to read from a hub without a byte of progress between them.
pub const HUB_TRIES_MAX: u32 = 5;
/// Seconds without an answer, or without a byte, after which a hub is asked anew.
pub const HUB_WAIT_SECONDS: u64 = 60;
/// Seconds before the second try; doubled for each further one.
pub const HUB_PAUSE_SECONDS: u64 = 1;
/// Bytes of a hub's description of a model.
pub const HUB_LISTING_BYTES_MAX: u64 = 16 << 20;
/// The hub that is asked where `HF_ENDPOINT` names no other.
pub const HUB_DEFAULT: &str = "https://huggingface.co";
/// Bytes that writing a model leaves free on its disk.
pub const DISK_SPARE_BYTES: u64 = 1 << 30;

/// Tokens that go through a device's layers at once; longer steps are cut.
pub const DEVICE_STEP_TOKENS: usize = 4_096;
/// Attention scores (f32) held on a device at once.
pub const DEVICE_SCORES_MAX: usize = 1 << 27;
/// Bytes of keys and values that sequences hold on a device, shared prefixes aside; taken as they are needed.
pub const DEVICE_KEYS_BYTES_MAX: usize = 16 << 30;
/// Rows up to which a CUDA device multiplies straight from the packed experts; more rows pay for dequantising them.
pub const DEVICE_PACKED_ROWS_MAX: usize = 64;

/// Rows whose widths the command line looks at before it draws a table; further rows are drawn with the same widths.
pub const TABLE_ROWS_MAX: usize = 10_000;
/// Bytes of cells held for the same purpose.
pub const TABLE_BYTES_MAX: usize = 32 << 20;
/// Milliseconds between two looks at a statement's progress.
pub const PROGRESS_MS: u64 = 200;
/// Statements that the prompt remembers.
pub const HISTORY_STATEMENTS_MAX: usize = 10_000;
/// Bytes of stack of each thread that plans and runs statements; plans nest as deeply as the SQL does.
pub const THREAD_STACK_BYTES: usize = 8 << 20;

/// Where a local model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// On a GPU where this program can use one and there is one, else on the CPU.
    Auto,
    /// On the CPU.
    Cpu,
    /// On a GPU; without one the model is not opened.
    Cuda,
}

impl DeviceChoice {
    /// From what `SAFEGUARD_DEVICE` says; `auto` where it says nothing. The error says what it may say.
    pub fn parse(said: Option<&str>) -> Result<DeviceChoice, String> {
        match said {
            None | Some("" | "auto") => Ok(DeviceChoice::Auto),
            Some("cpu") => Ok(DeviceChoice::Cpu),
            Some("cuda") => Ok(DeviceChoice::Cuda),
            Some(other) => Err(format!(
                "SAFEGUARD_DEVICE is {other:?}, not auto, cpu or cuda"
            )),
        }
    }
}

/// What `SAFEGUARD_DEVICE` says.
pub fn device_choice() -> Result<DeviceChoice, String> {
    let said = std::env::var_os("SAFEGUARD_DEVICE");
    DeviceChoice::parse(
        said.as_deref()
            .map(|said| said.to_string_lossy())
            .as_deref(),
    )
}

/// What is logged to stderr: `SAFEGUARD_LOG` (for example `info,safeguard=debug`), else warnings; those of the reader of
/// Delta's log are left out, because each is the error of a statement too.
pub fn log_filter() -> String {
    std::env::var("SAFEGUARD_LOG")
        .unwrap_or_else(|_| "warn,buoyant_kernel=off,buoyant_kernel_engine=off".to_owned())
}

/// Where models with names are kept: `SAFEGUARD_MODELS`, else `safeguard/models` in the user's folder for data.
pub fn models_dir() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(dir) = set("SAFEGUARD_MODELS") {
        return PathBuf::from(dir);
    }
    let data = set("XDG_DATA_HOME")
        .or_else(|| set("LOCALAPPDATA"))
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/share")));
    match data {
        Some(data) => data.join("safeguard").join("models"),
        None => PathBuf::from("safeguard-models"),
    }
}

/// The hub to pull models from: `HF_ENDPOINT`, else [`HUB_DEFAULT`].
pub fn hub() -> String {
    let named = std::env::var("HF_ENDPOINT").unwrap_or_default();
    match named.is_empty() {
        true => HUB_DEFAULT.to_owned(),
        false => named,
    }
}

/// The token that a hub knows this user by: `HF_TOKEN`. Never shown.
pub fn hub_token() -> Option<String> {
    let token = std::env::var("HF_TOKEN").ok()?.trim().to_owned();
    (!token.is_empty()).then_some(token)
}

/// How servers of models are spoken to: `SAFEGUARD_API_KEY` is the key that they know this user by, `SAFEGUARD_API_CA_FILE`
/// a file of certificates.
pub fn endpoint_access() -> EndpointAccess {
    let set = |name: &str| {
        let said = std::env::var(name).ok()?.trim().to_owned();
        (!said.is_empty()).then_some(said)
    };
    EndpointAccess {
        key: set("SAFEGUARD_API_KEY"),
        ca_file: set("SAFEGUARD_API_CA_FILE").map(PathBuf::from),
    }
}

/// A variable that a user named as the place of a secret. Never shown.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The variables of the environment whose names begin with `prefix`, such as `AWS_`. Some of them are secrets.
pub fn variables(prefix: &str) -> Vec<(String, String)> {
    let named = std::env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        (name.starts_with(prefix) && !value.is_empty()).then_some((name, value))
    });
    named.collect()
}

/// The user who runs the program, as the system names them; `local` where it does not say.
pub fn local_user() -> String {
    ["USER", "LOGNAME", "USERNAME"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "local".to_owned())
}
