//! What can be typed after `safeguard job`.

use super::{AllowSwap, DataDir, ModelsDir};
use clap::Subcommand;

/// `safeguard job`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Job {
    /// Work off what waits: backfills, and texts of safeguard.answer = queue; exit code 1 when something of it failed
    Run(JobRun),
    /// List backfills and how far they are, and jobs with their latest runs
    List {
        #[command(flatten)]
        data: DataDir,
    },
}

/// `safeguard job run`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct JobRun {
    #[command(flatten)]
    pub data: DataDir,
    /// The model to ask: `nano`, a model's folder, or a name of `safeguard model list`
    #[arg(long, value_name = "NAME|DIR", default_value = "nano")]
    pub model: String,
    #[command(flatten)]
    pub models: ModelsDir,
    #[command(flatten)]
    pub swap: AllowSwap,
}
