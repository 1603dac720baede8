//! The server's settings: a TOML file and the command line, as typed, then as meant.
//!
//! Takes [`ServeOptions`] from both, the command line first; gives a checked [`ServeConfig`] with every default filled in.
//! A key that is not known is an error that names the nearest one. Knows no TLS, no users: what depends on whether there
//! are any is asked of the finished settings.

use super::{
    BACKFILL_WORKERS, BACKFILL_WORKERS_MAX, CRON_HISTORY_DAYS, Config, ConfigError,
    PROGRESS_NOTICE_MS, RESULT_BYTES_MAX, SERVER_CONNECTIONS_MAX, SERVER_LISTEN,
    SERVER_SHUTDOWN_MS, SERVER_STARTUP_MS, STATEMENT_BYTES_MAX, models_dir,
};
use chrono_tz::Tz;
use serde::Deserialize;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a user may do; each may what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Labels.
    Reader,
    /// Rationales, asking, overrides.
    Analyst,
    /// Everything.
    Admin,
}

impl Role {
    /// All, the least first.
    pub const ALL: [Role; 3] = [Role::Reader, Role::Analyst, Role::Admin];

    /// As it is typed and stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Reader => "reader",
            Role::Analyst => "analyst",
            Role::Admin => "admin",
        }
    }

    /// The role of this name.
    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a role may ask in a day; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleLimits {
    /// Questions put to the model.
    pub asked_per_day: Option<u64>,
    /// Tokens, prompt and decoded.
    pub tokens_per_day: Option<u64>,
}

/// What each role may ask in a day, all its users and jobs together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolesLimits {
    /// [`Role::Reader`], who asks nothing.
    pub reader: RoleLimits,
    /// [`Role::Analyst`], and what waits in the queue.
    pub analyst: RoleLimits,
    /// [`Role::Admin`], with jobs and backfills.
    pub admin: RoleLimits,
}

impl RolesLimits {
    /// Those of a role.
    pub fn of(&self, role: Role) -> RoleLimits {
        match role {
            Role::Reader => self.reader,
            Role::Analyst => self.analyst,
            Role::Admin => self.admin,
        }
    }
}

/// Options that can be given in two places: the struct, its keys, and how one place gives way to the other.
macro_rules! options {
    ($($(#[$doc:meta])* $key:ident: $type:ty,)*) => {
        /// The server's settings as typed: what is not said is `None`.
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct ServeOptions {
            $($(#[$doc])* pub $key: Option<$type>,)*
        }

        impl ServeOptions {
            /// Every key of the file.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            /// These, and where they say nothing, those.
            #[must_use]
            pub fn or(self, those: ServeOptions) -> ServeOptions {
                ServeOptions { $($key: self.$key.or(those.$key),)* }
            }
        }
    };
}

options! {
    /// An address and a port.
    listen: String,
    /// Where verdicts, policies and users are kept.
    data_dir: PathBuf,
    /// The URL of a store that servers share.
    store: String,
    /// The model to ask.
    model: String,
    /// Where models are that have names.
    models_dir: PathBuf,
    /// Whether a model is opened that is larger than memory.
    allow_swap: bool,
    /// Folders below which SQL may read and write files, and URLs of object stores.
    content_roots: Vec<PathBuf>,
    /// A folder of policies of the user's.
    policies: PathBuf,
    /// Addresses of workers that classify for this server.
    workers: Vec<String>,
    /// The certificate chain, PEM.
    tls_cert: PathBuf,
    /// The certificate's key, PEM.
    tls_key: PathBuf,
    /// Whether plaintext connections are refused.
    tls_required: bool,
    /// Whether to listen beyond loopback without users and TLS.
    allow_insecure: bool,
    /// The role of everybody while there are no users.
    anonymous_role: String,
    /// Where health and metrics are served.
    metrics_listen: String,
    /// Connections at once.
    max_connections: usize,
    /// Bytes of a statement.
    max_statement_bytes: usize,
    /// Bytes of a statement's rows; 0 for no limit.
    max_result_bytes: u64,
    /// Milliseconds of a statement; 0 for no limit.
    statement_timeout_ms: u64,
    /// Milliseconds without a statement, outside of a transaction; 0 for no limit.
    idle_timeout_ms: u64,
    /// Milliseconds without a statement, within a transaction; 0 for no limit.
    idle_in_transaction_timeout_ms: u64,
    /// Milliseconds until a connection must have logged in.
    startup_timeout_ms: u64,
    /// Milliseconds that statements have to finish when the server stops.
    shutdown_ms: u64,
    /// Milliseconds between two notices about a statement's progress; 0 for none.
    progress_ms: u64,
    /// Chunks of backfills and of the queue that are worked on at once.
    backfill_workers: usize,
    /// The time zone of jobs' schedules.
    cron_timezone: String,
    /// Days for which runs of jobs are kept; 0 for ever.
    cron_history_days: u32,
    /// What each role may ask in a day.
    limits: RolesLimits,
}

/// Two PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub cert: PathBuf,
    /// The key of the first certificate.
    pub key: PathBuf,
}

/// How jobs are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CronConfig {
    /// The time zone of schedules.
    pub zone: Tz,
    /// Days for which runs are kept; `None` for ever.
    pub history_days: Option<u32>,
}

impl Default for CronConfig {
    /// In GMT, as pg_cron does.
    fn default() -> CronConfig {
        CronConfig {
            zone: Tz::GMT,
            history_days: Some(CRON_HISTORY_DAYS),
        }
    }
}

/// The server's settings as meant.
#[derive(Debug, Clone, PartialEq)]
pub struct ServeConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What the engine is opened with; its content roots are set.
    pub engine: Config,
    /// Encrypts connections.
    pub tls: Option<TlsFiles>,
    /// Whether plaintext connections are refused.
    pub tls_required: bool,
    /// Whether users and TLS may be missing on an address that others reach.
    pub allow_insecure: bool,
    /// The role of everybody while there are no users.
    pub anonymous_role: Role,
    /// Where health and metrics are served.
    pub metrics_listen: Option<SocketAddr>,
    /// Connections at once.
    pub max_connections: usize,
    /// Bytes of a statement.
    pub max_statement_bytes: usize,
    /// Bytes of a statement's rows.
    pub max_result_bytes: Option<u64>,
    /// How long a statement may take.
    pub statement_timeout: Option<Duration>,
    /// How long a client may be silent.
    pub idle_timeout: Option<Duration>,
    /// How long a client may be silent within a transaction.
    pub idle_in_transaction_timeout: Option<Duration>,
    /// How long a client may take to log in.
    pub startup_timeout: Duration,
    /// How long statements may finish when the server stops.
    pub shutdown: Duration,
    /// Between two notices about a statement's progress.
    pub progress: Option<Duration>,
    /// Chunks of backfills and of the queue that are worked on at once.
    pub backfill_workers: usize,
    /// How jobs are run.
    pub cron: CronConfig,
    /// What each role may ask in a day.
    pub limits: RolesLimits,
}

impl ServeOptions {
    /// Reads a settings file. Relative paths in it are relative to the working directory.
    ///
    /// # Errors
    /// A file that cannot be read or is no TOML, an unknown key with the nearest one, a value of another type.
    pub fn read(path: &Path) -> Result<ServeOptions, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError(format!("cannot read {}: {e}", path.display())))?;
        let named = |why| ConfigError(format!("{}: {why}", path.display()));
        ServeOptions::parse(&text).map_err(named)
    }

    fn parse(text: &str) -> Result<ServeOptions, String> {
        let at_line = |error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.unwrap_or_default().matches('\n').count() + 1;
            format!("line {line}: {}", error.message().replace('\n', " "))
        };
        let table: toml::Table = toml::from_str(text).map_err(at_line)?;
        for key in table.keys() {
            if !Self::KEYS.contains(&key.as_str()) {
                return Err(unknown(key));
            }
        }
        toml::from_str(text).map_err(at_line)
    }
}

fn unknown(key: &str) -> String {
    let near = ServeOptions::KEYS
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)));
    let near = near.expect("bug: settings without keys");
    format!("key \"{key}\" is not known; the nearest one is \"{near}\"")
}

impl ServeConfig {
    /// Checks what was typed and fills in what was not.
    ///
    /// # Errors
    /// A value that cannot be used, by its key; an address that others reach without TLS.
    pub fn new(options: ServeOptions) -> Result<ServeConfig, ConfigError> {
        let listen = options.listen.as_deref().unwrap_or(SERVER_LISTEN);
        let listen = address("listen", listen)?;
        let tls = match (options.tls_cert, options.tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            (Some(_), None) => return wrong("tls_cert needs tls_key"),
            (None, Some(_)) => return wrong("tls_key needs tls_cert"),
        };
        let inside = listen.ip().is_loopback();
        let tls_required = options.tls_required.unwrap_or(tls.is_some() && !inside);
        if tls_required && tls.is_none() {
            return wrong("tls_required needs tls_cert and tls_key");
        }
        let role = options.anonymous_role.as_deref().unwrap_or("admin");
        let anonymous_role = Role::parse(role).ok_or_else(|| {
            ConfigError(format!(
                "anonymous_role is \"{role}\", not reader, analyst or admin"
            ))
        })?;
        let metrics_listen = options.metrics_listen.as_deref();
        let (folders, urls) = parted(options.content_roots);
        let config = ServeConfig {
            listen,
            tls,
            tls_required,
            allow_insecure: options.allow_insecure.unwrap_or(false),
            anonymous_role,
            metrics_listen: metrics_listen
                .map(|listen| address("metrics_listen", listen))
                .transpose()?,
            max_connections: count(
                "max_connections",
                options.max_connections,
                SERVER_CONNECTIONS_MAX,
            )?,
            max_statement_bytes: count(
                "max_statement_bytes",
                options.max_statement_bytes,
                STATEMENT_BYTES_MAX,
            )?,
            max_result_bytes: Some(options.max_result_bytes.unwrap_or(RESULT_BYTES_MAX))
                .filter(|most| *most > 0),
            statement_timeout: limit(options.statement_timeout_ms, 0),
            idle_timeout: limit(options.idle_timeout_ms, 0),
            idle_in_transaction_timeout: limit(options.idle_in_transaction_timeout_ms, 0),
            startup_timeout: limit(options.startup_timeout_ms, SERVER_STARTUP_MS)
                .ok_or_else(|| ConfigError("startup_timeout_ms is 0, less than 1".to_owned()))?,
            shutdown: Duration::from_millis(options.shutdown_ms.unwrap_or(SERVER_SHUTDOWN_MS)),
            progress: limit(options.progress_ms, PROGRESS_NOTICE_MS),
            backfill_workers: workers(options.backfill_workers)?,
            limits: options.limits.unwrap_or_default(),
            cron: cron(options.cron_timezone.as_deref(), options.cron_history_days)?,
            engine: Config {
                data_dir: Some(options.data_dir.unwrap_or_else(|| "safeguard-data".into())),
                store: options.store,
                model: options.model.unwrap_or_else(|| "nano".to_owned()),
                models_dir: options.models_dir.unwrap_or_else(models_dir),
                allow_swap: options.allow_swap.unwrap_or(false),
                content_roots: Some(roots(folders)?),
                content_urls: Some(urls),
                policies: options.policies,
                workers: options.workers.unwrap_or_default(),
            },
        };
        if config.is_exposed() && config.tls.is_none() {
            return Err(config.exposed("TLS (tls_cert, tls_key)"));
        }
        Ok(config)
    }

    /// Whether others than this machine's own programs reach the address, and nobody said that this is meant.
    fn is_exposed(&self) -> bool {
        !self.listen.ip().is_loopback() && !self.allow_insecure
    }

    fn exposed(&self, without: &str) -> ConfigError {
        ConfigError(format!(
            "will not listen on {} without {without}; allow_insecure says that this is meant",
            self.listen
        ))
    }

    /// The role of a connection that names no user of the store, which has `users` of them: `None` where one is needed.
    pub fn anonymous(&self, users: usize) -> Option<Role> {
        (users == 0 && !self.is_exposed()).then_some(self.anonymous_role)
    }

    /// Asked once, before the server listens, with the number of users in the store.
    ///
    /// # Errors
    /// An address that others reach, without users.
    pub fn may_listen(&self, users: usize) -> Result<(), ConfigError> {
        match users == 0 && self.is_exposed() {
            true => Err(self.exposed("users (safeguard user add)")),
            false => Ok(()),
        }
    }
}

fn wrong<T>(why: &str) -> Result<T, ConfigError> {
    Err(ConfigError(why.to_owned()))
}

/// An address is a number, or this machine's own name: others change under the server.
pub(super) fn address(key: &str, text: &str) -> Result<SocketAddr, ConfigError> {
    let own = text
        .strip_prefix("localhost:")
        .and_then(|port| port.parse().ok())
        .map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    own.or_else(|| text.parse().ok()).ok_or_else(|| {
        ConfigError(format!(
            "{key} is \"{text}\", not an address and a port such as {SERVER_LISTEN}"
        ))
    })
}

fn count(key: &str, said: Option<usize>, default: usize) -> Result<usize, ConfigError> {
    match said.unwrap_or(default) {
        0 => Err(ConfigError(format!("{key} is 0, less than 1"))),
        count => Ok(count),
    }
}

fn workers(said: Option<usize>) -> Result<usize, ConfigError> {
    match count("backfill_workers", said, BACKFILL_WORKERS)? {
        workers if workers <= BACKFILL_WORKERS_MAX => Ok(workers),
        workers => Err(ConfigError(format!(
            "backfill_workers is {workers}, more than {BACKFILL_WORKERS_MAX}"
        ))),
    }
}

fn cron(zone: Option<&str>, history_days: Option<u32>) -> Result<CronConfig, ConfigError> {
    let zone = match zone {
        None => CronConfig::default().zone,
        Some(name) => name.parse().map_err(|_| {
            ConfigError(format!(
                "cron_timezone is \"{name}\", not a time zone such as GMT or Europe/Berlin"
            ))
        })?,
    };
    let history_days = Some(history_days.unwrap_or(CRON_HISTORY_DAYS)).filter(|days| *days > 0);
    Ok(CronConfig { zone, history_days })
}

fn limit(said: Option<u64>, default: u64) -> Option<Duration> {
    match said.unwrap_or(default) {
        0 => None,
        ms => Some(Duration::from_millis(ms)),
    }
}

/// Which content roots are folders, and which URLs of object stores. The current folder where nothing is said.
fn parted(said: Option<Vec<PathBuf>>) -> (Vec<PathBuf>, Vec<String>) {
    let said = said.unwrap_or_else(|| vec![PathBuf::from(".")]);
    let (urls, folders): (Vec<_>, Vec<_>) = said
        .into_iter()
        .partition(|root| root.to_str().is_some_and(|root| root.contains("://")));
    let urls = urls
        .into_iter()
        .filter_map(|url| url.into_os_string().into_string().ok());
    (folders, urls.collect())
}

/// The folders without symlinks, so that what is compared with them can be resolved once.
fn roots(said: Vec<PathBuf>) -> Result<Vec<PathBuf>, ConfigError> {
    let resolved = |root: PathBuf| {
        let found = root
            .canonicalize()
            .map_err(|e| ConfigError(format!("content root {}: {e}", root.display())))?;
        match found.is_dir() {
            true => Ok(found),
            false => Err(ConfigError(format!(
                "content root {} is not a folder",
                root.display()
            ))),
        }
    };
    said.into_iter().map(resolved).collect()
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
