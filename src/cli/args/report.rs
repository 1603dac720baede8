//! What can be typed after `safeguard report`.

use super::DataDir;
use clap::ValueEnum;
use std::path::PathBuf;

/// `safeguard report`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Report {
    /// What it is about
    #[arg(value_enum)]
    pub on: ReportOn,
    /// Its id: safeguard.evaluations, safeguard.backtests and safeguard.backfills list them
    pub id: i64,
    /// The file to write; one that is there is replaced
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    #[command(flatten)]
    pub data: DataDir,
}

/// What a report can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ReportOn {
    /// What safeguard_evaluate found
    Evaluate,
    /// What safeguard_backtest found
    Backtest,
    /// How far a backfill is, and what it could not judge
    Backfill,
}
