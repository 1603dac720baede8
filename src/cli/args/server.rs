//! What can be typed after `safeguard serve` and `safeguard user`.

use super::{AllowSwap, ModelsDir, SharedStore, Workers};
use crate::config::{Role, ServeOptions};
use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::path::PathBuf;

/// `safeguard serve`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Serve {
    /// A settings file (examples/serve.toml has every key); what stands on the command line wins
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:5433]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where verdicts, policies and users are kept; made when missing [default: safeguard-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    shared: SharedStore,
    /// The model to ask: `nano`, a model's folder, a name of `safeguard model list`, or servers: `URL[#NAME][,URL..]`
    /// [default: nano]
    #[arg(long, value_name = "NAME|DIR")]
    model: Option<String>,
    #[command(flatten)]
    models: ModelsDir,
    #[command(flatten)]
    swap: AllowSwap,
    /// A folder below which SQL may read and write files, or a URL below which it may in an object store
    /// (s3://bucket/prefix/); may be repeated [default: the working directory]
    #[arg(long = "content-root", value_name = "DIR|URL")]
    content_roots: Vec<PathBuf>,
    /// A folder of policies: <name>/policy.md or <name>.md is published when it is new, now and on SIGHUP
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// The certificate chain, PEM
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Listen beyond this machine without users and TLS
    #[arg(long)]
    allow_insecure: bool,
    /// Where health and Prometheus metrics are served
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_listen: Option<String>,
    /// Connections at once [default: 100]
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// Chunks of backfills that are worked on at once, 1 to 64 [default: 2]
    #[arg(long, value_name = "N")]
    backfill_workers: Option<usize>,
    /// The time zone of jobs' schedules, such as Europe/Berlin [default: GMT]
    #[arg(long, value_name = "ZONE")]
    cron_timezone: Option<String>,
    #[command(flatten)]
    workers: Workers,
}

impl Serve {
    /// What was said here; the settings file says the rest.
    pub fn options(self) -> ServeOptions {
        ServeOptions {
            listen: self.listen,
            data_dir: self.data_dir,
            store: self.shared.url,
            model: self.model,
            models_dir: self.models.said(),
            allow_swap: self.swap.allow_swap.then_some(true),
            content_roots: (!self.content_roots.is_empty()).then_some(self.content_roots),
            policies: self.policies,
            tls_cert: self.tls_cert,
            tls_key: self.tls_key,
            allow_insecure: self.allow_insecure.then_some(true),
            metrics_listen: self.metrics_listen,
            max_connections: self.max_connections,
            backfill_workers: self.backfill_workers,
            cron_timezone: self.cron_timezone,
            workers: (!self.workers.urls.is_empty()).then_some(self.workers.urls),
            ..ServeOptions::default()
        }
    }
}

/// `safeguard worker`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Worker {
    /// Where to listen [default: 127.0.0.1:5434]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Where verdicts and policies are kept, the same as the coordinator's
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    shared: SharedStore,
    /// The model to ask, the same as the coordinator's: `nano`, a model's folder, a name of `safeguard model list`, or
    /// servers: `URL[#NAME][,URL..]` [default: nano]
    #[arg(long, value_name = "NAME|DIR")]
    model: Option<String>,
    #[command(flatten)]
    models: ModelsDir,
    #[command(flatten)]
    swap: AllowSwap,
    /// A folder below which files are read, or a URL below which they are in an object store; may be repeated [default:
    /// the working directory]
    #[arg(long = "content-root", value_name = "DIR|URL")]
    content_roots: Vec<PathBuf>,
    /// Listen beyond this machine; what is sent is not encrypted, and SAFEGUARD_WORKER_TOKEN must be set
    #[arg(long)]
    pub allow_insecure: bool,
}

impl Worker {
    /// What its engine is opened with, as a server's is.
    pub fn options(self) -> ServeOptions {
        ServeOptions {
            data_dir: self.data_dir,
            store: self.shared.url,
            model: self.model,
            models_dir: self.models.said(),
            allow_swap: self.swap.allow_swap.then_some(true),
            content_roots: (!self.content_roots.is_empty()).then_some(self.content_roots),
            ..ServeOptions::default()
        }
    }
}

/// `safeguard user`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum User {
    /// Let somebody log in with a password
    Add {
        /// The user's name
        #[arg(value_name = "NAME")]
        name: String,
        /// What the user may do: labels; rationales and asking too; everything
        #[arg(long, value_name = "ROLE", value_parser = role())]
        role: Role,
        #[command(flatten)]
        password: PasswordFrom,
        #[command(flatten)]
        data: DataDir,
    },
    /// Give a user another password
    Password {
        /// The user's name
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        password: PasswordFrom,
        #[command(flatten)]
        data: DataDir,
    },
    /// Give a user another role, from the next login on
    Role {
        /// The user's name
        #[arg(value_name = "NAME")]
        name: String,
        /// What the user may do: labels; rationales and asking too; everything
        #[arg(value_name = "ROLE", value_parser = role())]
        role: Role,
        #[command(flatten)]
        data: DataDir,
    },
    /// List the users and their roles
    List {
        #[command(flatten)]
        data: DataDir,
    },
    /// Let a user log in no more
    Remove {
        /// The user's name
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        data: DataDir,
    },
}

/// Where a password comes from. Never from the command line, which others on the machine can read.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct PasswordFrom {
    /// Read the password from standard input, one line, without asking
    #[arg(long = "password-stdin")]
    pub stdin: bool,
}

/// Where a store is.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct DataDir {
    /// Where the server keeps verdicts, policies and users
    #[arg(
        id = "data-dir",
        long = "data-dir",
        value_name = "DIR",
        default_value = "safeguard-data"
    )]
    pub dir: PathBuf,
    #[command(flatten)]
    pub shared: SharedStore,
}

fn role() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL.map(Role::as_str))
        .map(|name| Role::parse(&name).expect("bug: a role that is none"))
}
