//! Settings and limits: as typed, then as meant. The only reader of settings files and of the environment.

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
/// Rows of one golden set.
pub const GOLDEN_ROWS_MAX: usize = 100_000;
/// Bytes of one golden set's file.
pub const GOLDEN_BYTES_MAX: usize = 64 << 20;

/// What the command line and the settings file said, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where verdicts, policies and the catalog are kept; `None` keeps nothing.
    pub data_dir: Option<std::path::PathBuf>,
    /// `nano`, or a model's folder.
    pub model: String,
}

/// Texts that one local model holds at once in each lane, waiting or running; further ones wait outside.
pub const IN_FLIGHT_TEXTS_MAX: usize = 1_024;
/// Bytes of keys and values kept for policies that were asked before, least recently used out first.
pub const PREFIX_CACHE_BYTES_MAX: usize = 1 << 30;
/// Policies whose length in tokens a local model remembers for estimates.
pub const PREFIX_LENGTHS_MAX: usize = 1_024;
/// Longer prefills go through the layers in pieces of this many tokens, which bounds their memory.
pub const PREFILL_TOKENS: usize = 512;

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

/// What is logged to stderr: `SAFEGUARD_LOG` (for example `info,safeguard=debug`), else warnings.
pub fn log_filter() -> String {
    std::env::var("SAFEGUARD_LOG").unwrap_or_else(|_| "warn".to_owned())
}

/// The user who runs the program, as the system names them; `local` where it does not say.
pub fn local_user() -> String {
    ["USER", "LOGNAME", "USERNAME"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "local".to_owned())
}

/// Says how many threads multiply, unless the user said so. Candle reads the machine's description anew for every
/// product where nobody says it, which costs more than a small product itself.
///
/// # Safety
/// The environment is changed: no other thread may run yet.
pub unsafe fn settle_threads() {
    const THREADS: &str = "RAYON_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        // SAFETY: as the caller promises.
        unsafe { std::env::set_var(THREADS, threads.to_string()) };
    }
}
