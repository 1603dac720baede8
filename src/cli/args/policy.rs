//! What can be typed after `safeguard policy`.

use super::server::DataDir;
use super::{AllowSwap, Format, ModelsDir};
use clap::Subcommand;
use std::path::PathBuf;

/// `safeguard policy`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Policy {
    /// Say what is likely to make a policy judge badly; exit code 1 when a policy has errors
    Lint {
        /// Policy files (front matter and text)
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Bring policies of others into a policies folder: <name>/policy.md and <name>/golden.csv
    ///
    /// Takes OpenAI's example policies, ROOST's policy packs (with datasets/), documents with coded sections. Texts are not
    /// changed: labels are declared (VALID and INVALID where the text says so, else allowed and violates), golden sheets
    /// are mapped to them, and where it all came from is noted.
    Import {
        /// A policy's file, or a folder of them
        #[arg(value_name = "FILE|DIR")]
        path: PathBuf,
        /// The policies folder to write into
        #[arg(long, value_name = "DIR", default_value = "policies")]
        into: PathBuf,
        /// What a single policy is to be called; else its file or folder says
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Take the levels that the text defines (SP0, SP2, ..) as labels; the one that ends with 0 is the allowed one
        #[arg(long)]
        levels: bool,
        /// Where it came from, to be noted in the front matter; else the path
        #[arg(long, value_name = "TEXT")]
        provenance: Option<String>,
        /// Write over files that are there
        #[arg(long)]
        replace: bool,
    },
    /// Publish a version of a policy; prints it. Works beside a running server
    ///
    /// Nothing is published where the text is that of the current version. A running server takes a new version on
    /// SIGHUP, and at once where somebody asks for a name or a version that it does not know.
    Publish {
        /// The policy's name
        #[arg(value_name = "NAME")]
        name: String,
        /// Its file, `-` for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Why
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        note: String,
        #[command(flatten)]
        data: DataDir,
    },
    /// List every policy's current version
    List {
        /// Every version
        #[arg(long)]
        all: bool,
        /// How they are written to stdout
        #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
        format: Format,
        #[command(flatten)]
        data: DataDir,
    },
    /// Print a policy as it was published
    Show {
        /// A policy's name or version: hate, hate@3, hate@1f2e3d
        #[arg(value_name = "NAME[@VERSION]")]
        policy: String,
        #[command(flatten)]
        data: DataDir,
    },
    /// Show what differs between two policies: lines, and which rules
    Diff {
        /// A policy's name or version, or a file (./hate.md)
        #[arg(value_name = "OLD")]
        old: String,
        /// Another one
        #[arg(value_name = "NEW")]
        new: String,
        #[command(flatten)]
        data: DataDir,
    },
    /// Hold policies to the thresholds of their front matter, on their golden sets; exit code 1 when one is missed
    Test(Test),
}

/// `safeguard policy test`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Test {
    /// Published policies (hate, hate@3), files (./hate.md), folders with policy.md and golden.csv (./hate), or folders of
    /// such (./policies)
    #[arg(required = true, value_name = "NAME|FOLDER")]
    pub subjects: Vec<String>,
    /// The model to ask: `nano`, a model's folder, or a name of `safeguard model list`
    #[arg(long, value_name = "NAME|DIR", default_value = "nano")]
    pub model: String,
    #[command(flatten)]
    pub models: ModelsDir,
    #[command(flatten)]
    pub swap: AllowSwap,
    /// A folder of policies: <name>/policy.md or <name>.md is published when it is new
    #[arg(long, value_name = "DIR")]
    pub policies: Option<PathBuf>,
    #[command(flatten)]
    pub data: DataDir,
}
