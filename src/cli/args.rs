//! What can be typed after `safeguard`.
//!
//! Takes the program's arguments, gives them checked. Knows the words of the command line and nothing behind them.

mod job;
mod policy;
mod report;
mod server;

pub(super) use job::{Job, JobRun};
pub(super) use policy::{Policy, Test};
pub(super) use report::{Report, ReportOn};
pub(super) use server::{DataDir, PasswordFrom, Serve, User, Worker};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Moderate stored content with SQL.
#[derive(Debug, Parser)]
#[command(
    name = "safeguard",
    version,
    arg_required_else_help = true,
    subcommand_required = true
)]
pub(super) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run SQL: from -c and -f in the order given, else from a prompt or from standard input
    ///
    /// Results go to stdout, everything else to stderr. The first statement that fails ends the script.
    /// Exit code: 0 when every statement succeeded, 1 when one failed, 2 when called wrongly, 130 when interrupted.
    Sql(Sql),
    /// Serve the PostgreSQL protocol
    Serve(Serve),
    /// Classify for `sql` and `serve` of other processes that name this one with --workers
    ///
    /// SAFEGUARD_WORKER_TOKEN is what they must know, where it is set. What is sent is not encrypted.
    Worker(Worker),
    /// Say who may log in to the server; works beside a running one
    #[command(subcommand)]
    User(User),
    /// Work that outlives a statement
    #[command(subcommand)]
    Job(Job),
    /// Write what was found as a page of HTML
    Report(Report),
    /// Work on policies: publish, compare, test
    #[command(subcommand)]
    Policy(Policy),
    /// Work on models
    #[command(subcommand)]
    Model(Model),
}

/// `safeguard sql`.
#[derive(Debug, clap::Args)]
pub(super) struct Sql {
    /// Run this SQL; may be repeated
    #[arg(
        short = 'c',
        long = "command",
        value_name = "SQL",
        allow_hyphen_values = true
    )]
    pub commands: Vec<String>,
    /// Run this file, `-` for standard input; may be repeated
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How results are written to stdout
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// Where verdicts, policies and tables are kept; made when missing
    #[arg(long, value_name = "DIR", default_value = "safeguard-data")]
    pub data_dir: PathBuf,
    #[command(flatten)]
    pub shared: SharedStore,
    /// Keep nothing on disk
    #[arg(long, conflicts_with_all = ["data_dir", "store"])]
    pub ephemeral: bool,
    /// The model to ask: `nano`, a model's folder, a name of `safeguard model list`, or servers: `URL[#NAME][,URL..]`
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
    pub workers: Workers,
    /// Commands and files in the order given.
    #[arg(skip)]
    pub sources: Vec<Source>,
}

/// A store in the place of the one in the data directory.
#[derive(Debug, clap::Args)]
pub(super) struct SharedStore {
    /// Keep verdicts, policies, users and work in a PostgreSQL database that servers share, in the place of a file:
    /// postgres://USER@HOST/DATABASE, the password in PGPASSWORD
    #[arg(id = "store", long = "store", value_name = "URL")]
    pub url: Option<String>,
}

/// Who classifies.
#[derive(Debug, clap::Args)]
pub(super) struct Workers {
    /// Processes of `safeguard worker` that classify what is read from Parquet files, with the same store and model:
    /// http://HOST:PORT[,http://..]
    #[arg(
        id = "workers",
        long = "workers",
        value_name = "URL",
        value_delimiter = ','
    )]
    pub urls: Vec<String>,
}

/// Where models with names are.
#[derive(Debug, clap::Args)]
pub(super) struct ModelsDir {
    /// The folder of models that have names [default: SAFEGUARD_MODELS, or in the user's folder for data]
    #[arg(long = "models-dir", value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl ModelsDir {
    /// As typed.
    fn said(self) -> Option<PathBuf> {
        self.dir
    }

    /// As typed, or what the environment says.
    pub fn get(self) -> PathBuf {
        self.dir.unwrap_or_else(crate::config::models_dir)
    }
}

/// Whether memory may be too small.
#[derive(Debug, clap::Args)]
pub(super) struct AllowSwap {
    /// Open a model that is larger than the memory that is free; every step then reads from disk
    #[arg(long)]
    pub allow_swap: bool,
}

/// One `-c` or `-f`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// SQL.
    Command(String),
    /// A file of SQL; `-` is standard input.
    File(PathBuf),
}

/// How results are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Drawn for people, as psql draws it
    #[default]
    Table,
    /// RFC 4180 with a header for each result; NULL is empty, an empty text is ""
    Csv,
    /// One JSON object a line
    Json,
}

/// `safeguard model`.
#[derive(Debug, Subcommand)]
pub(super) enum Model {
    /// Write a model's logits as JSON, one line for each position, to compare it with others
    Logits {
        /// The model: `nano`, its folder, or its name
        #[arg(value_name = "NAME|DIR")]
        model: String,
        /// Token ids, separated by white space or commas; `-` for standard input
        #[arg(long, value_name = "FILE")]
        ids: PathBuf,
        /// Only the last N positions
        #[arg(long, value_name = "N")]
        last: Option<usize>,
        #[command(flatten)]
        models: ModelsDir,
    },
    /// Fetch a released model from a hub (HF_ENDPOINT, HF_TOKEN); a cut one goes on where it was
    Pull {
        /// As the hub names it, for example openai/gpt-oss-safeguard-20b
        #[arg(value_name = "OWNER/NAME")]
        repository: String,
        /// A branch, tag or commit
        #[arg(long, value_name = "REVISION", default_value = "main")]
        revision: String,
        #[command(flatten)]
        models: ModelsDir,
    },
    /// List the models that --model knows by name
    List {
        #[command(flatten)]
        models: ModelsDir,
    },
    /// Look whether a model is sound and how fast it runs here; exit code 1 when something fails
    Verify {
        /// The model: `nano`, its folder, its name, or servers: `URL[#NAME][,URL..]`
        #[arg(value_name = "NAME|DIR")]
        model: String,
        #[command(flatten)]
        models: ModelsDir,
        #[command(flatten)]
        swap: AllowSwap,
    },
    /// Measure how fast a model runs here: reading, labels behind a shared policy, decoding
    Bench {
        /// The model: `nano`, its folder, or its name
        #[arg(long, value_name = "NAME|DIR", default_value = "nano")]
        model: String,
        /// Tokens of the policy
        #[arg(long, value_name = "N", default_value_t = 600)]
        prefix_tokens: usize,
        /// Tokens of each text
        #[arg(long, value_name = "N", default_value_t = 100)]
        text_tokens: usize,
        /// Texts
        #[arg(long, value_name = "N", default_value_t = 64)]
        rows: usize,
        /// Texts that decode side by side
        #[arg(long, value_name = "N", default_value_t = 32)]
        slots: usize,
        /// Tokens that each of them decodes
        #[arg(long, value_name = "N", default_value_t = 16)]
        steps: usize,
        /// What activations are rounded to before they meet the experts
        #[arg(long, value_enum, default_value_t = Rounding::Int16)]
        precision: Rounding,
        /// Token ids to read in place of made-up ones: {"prefix": [..], "rows": [[..], ..], "labels": [..]}
        #[arg(long, value_name = "FILE")]
        rows_file: Option<PathBuf>,
        /// Each text reads the policy anew, to see what sharing it saves
        #[arg(long)]
        unshared: bool,
        /// One JSON object in place of lines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        models: ModelsDir,
    },
    /// Write a model of random weights in the released layout, for benches
    ///
    /// It runs as a released model of its shape does, and its verdicts mean nothing.
    Synthesize {
        /// The released model whose shapes it has
        #[arg(long, value_enum, value_name = "MODEL")]
        like: Like,
        /// Fewer or more layers than that model
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
        layers: Option<u16>,
        /// Another seed gives other numbers
        #[arg(long, value_name = "S", default_value_t = 0)]
        seed: u64,
        /// The folder to write; missing or empty
        dir: PathBuf,
    },
}

/// What activations are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Rounding {
    /// Nothing: f32 throughout
    Exact,
    /// Sixteen bits, as verdicts are computed
    Int16,
    /// Eight bits
    Int8,
}

/// Which released model a random one is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Like {
    /// gpt-oss-safeguard-20b, 13.8 GB
    #[value(name = "20b")]
    B20,
    /// gpt-oss-safeguard-120b, 65.2 GB
    #[value(name = "120b")]
    B120,
    /// safeguard-nano, 6.3 MB
    Nano,
}

impl Args {
    /// Reads the program's arguments, the program's name first.
    ///
    /// # Errors
    /// clap's, which also stands for `--help` and `--version`.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Args, clap::Error> {
        let matches = Args::command().try_get_matches_from(args)?;
        let mut args = Args::from_arg_matches(&matches)?;
        if let (Command::Sql(sql), Some(matches)) =
            (&mut args.command, matches.subcommand_matches("sql"))
        {
            sql.sources = sources(sql, matches);
        }
        Ok(args)
    }
}

fn sources(sql: &Sql, matches: &ArgMatches) -> Vec<Source> {
    let places = |id| matches.indices_of(id).into_iter().flatten();
    let commands = sql.commands.iter().cloned().map(Source::Command);
    let files = sql.files.iter().cloned().map(Source::File);
    let mut sources: Vec<(usize, Source)> = places("commands")
        .zip(commands)
        .chain(places("files").zip(files))
        .collect();
    sources.sort_by_key(|(place, _)| *place);
    sources.into_iter().map(|(_, source)| source).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Args, clap::Error> {
        Args::read(line.split(' ').map(OsString::from))
    }

    #[test]
    fn every_option_has_help() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                let built_in = matches!(arg.get_id().as_str(), "help" | "version");
                assert!(built_in || arg.get_help().is_some(), "{}", arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        let command = Args::command();
        command.clone().debug_assert();
        check(&command);
    }

    #[test]
    fn commands_and_files_keep_their_order() {
        let command = |sql: &str| Source::Command(sql.to_owned());
        let file = |path: &str| Source::File(path.into());
        let cases = [
            ("safeguard sql", vec![]),
            ("safeguard sql -f a -c b", vec![file("a"), command("b")]),
            (
                "safeguard sql -c 1 -f 2 --command=3 -f - --file 5",
                vec![command("1"), file("2"), command("3"), file("-"), file("5")],
            ),
            ("safeguard sql -c --x", vec![command("--x")]),
        ];
        for (line, expected) in cases {
            let Command::Sql(sql) = read(line).unwrap().command else {
                panic!("{line}");
            };
            assert_eq!(sql.sources, expected, "{line}");
        }
    }

    #[test]
    fn wrong_calls_exit_with_two() {
        let cases = [
            ("safeguard", 2),
            ("safeguard sql --format xml", 2),
            ("safeguard sql --ephemeral --data-dir d", 2),
            ("safeguard sql stray", 2),
            ("safeguard policy lint", 2),
            ("safeguard model logits dir", 2),
            ("safeguard model logits dir --ids f --last x", 2),
            ("safeguard model pull", 2),
            ("safeguard model verify", 2),
            ("safeguard model list d", 2),
            ("safeguard model synthesize d", 2),
            ("safeguard model synthesize --like 7b d", 2),
            ("safeguard model synthesize --like 20b --layers 0 d", 2),
            ("safeguard --version", 0),
            ("safeguard sql --help", 0),
        ];
        for (line, code) in cases {
            assert_eq!(read(line).unwrap_err().exit_code(), code, "{line}");
        }
        assert!(read("safeguard sql --ephemeral").is_ok());
    }
}
