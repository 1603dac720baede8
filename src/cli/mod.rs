//! The command line: what is typed after `safeguard`, and what is said back.
//!
//! Takes the program's arguments, gives its exit code. Results go to stdout, everything else to stderr. `args` says
//! what can be typed; `shell` runs statements, for `prompt` or for scripts that `script` cuts; `output` writes
//! results with `table` and `value`; `models` does what concerns model folders, `policies` and `policy_test` what
//! concerns policies, `jobs` what runs in the background. Knows the engine's sessions, the policies' lint and their
//! registry, the models and the server's users, and decides nothing about any of them.

mod args;
mod data;
mod interrupt;
mod jobs;
mod models;
mod output;
mod policies;
mod policy_test;
mod progress;
mod prompt;
mod report;
mod script;
mod serve;
mod shell;
mod table;
mod users;
mod value;
mod worker;

use crate::config::{self, Config, POLICY_BYTES_MAX};
use crate::engine::{Engine, Session};
use crate::error::Error;
use crate::model::tokenizer::Tokenizer;
use crate::policy::lint::{Level, lint};
use args::{Args, Command, Source};
use interrupt::Interrupts;
use jobs::Beside;
use shell::{Outcome, Shell, report};
use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Called wrongly.
const USAGE: u8 = 2;
/// What a shell reports of a program whose reader went away: 128 and SIGPIPE.
const CLOSED: u8 = 141;

/// Runs the program with its arguments, its own name first. Must be called in a tokio runtime with threads.
pub async fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::read(args) {
        Ok(args) => args,
        Err(error) => {
            // Help that nobody reads is no failure.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    match args.command {
        Command::Sql(args) => sql(args).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Worker(args) => worker::run(args).await,
        Command::User(command) => users::run(command).await,
        Command::Job(command) => jobs::run(command).await,
        Command::Policy(command) => policies::run(command).await,
        Command::Report(args) => report::run(args).await,
        Command::Model(command) => models::run(command),
    }
}

/// Writes a line to stderr; where there is none to write to, nothing.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

async fn sql(args: args::Sql) -> ExitCode {
    let prompts = args.sources.is_empty() && io::stdin().is_terminal();
    let sources = match args.sources.is_empty() {
        true => vec![Source::File(PathBuf::from("-"))],
        false => args.sources,
    };
    let scripts: Result<Vec<String>, String> = match prompts {
        true => Ok(Vec::new()),
        false => sources.into_iter().map(script_of).collect(),
    };
    let scripts = match scripts {
        Ok(scripts) => scripts,
        Err(message) => return failed(&message),
    };
    let data_dir = (!args.ephemeral).then_some(args.data_dir);
    let history = data_dir.as_ref().map(|dir| dir.join("history"));
    let config = Config {
        data_dir,
        store: args.shared.url,
        model: args.model,
        models_dir: args.models.get(),
        allow_swap: args.swap.allow_swap,
        content_roots: None,
        content_urls: None,
        policies: args.policies,
        workers: args.workers.urls,
    };
    let ephemeral = config.data_dir.is_none();
    let (engine, session, beside) = match open(config, ephemeral).await {
        Ok(opened) => opened,
        Err(error) => {
            report(&error);
            return ExitCode::from(if matches!(error, Error::Usage(_)) {
                USAGE
            } else {
                1
            });
        }
    };
    if let Some(line) = engine.demonstration() {
        say(&line);
    }
    let interrupts = Interrupts::listen();
    let mut shell = Shell::new(session, interrupts.clone(), args.format);
    let code = match prompts {
        true => match prompt::run(&mut shell, history.as_deref()).await {
            Ok(outcome) => code(outcome),
            Err(why) => failed(&format!("cannot read from the terminal: {why}")),
        },
        false => run_scripts(&mut shell, &scripts).await,
    };
    beside.stop(&interrupts).await;
    code
}

async fn run_scripts(shell: &mut Shell, scripts: &[String]) -> ExitCode {
    for script in scripts {
        match shell.script(script).await {
            // As in psql, `\q` ends its script and not those after it.
            Outcome::Done | Outcome::Quit => {}
            outcome => return code(outcome),
        }
    }
    ExitCode::SUCCESS
}

async fn open(config: Config, ephemeral: bool) -> Result<(Engine, Session, Beside), Error> {
    let engine = crate::jobs::open(config).await?;
    for line in engine.take_policies().await? {
        say(&line);
    }
    for line in engine.restore(&engine.session("safeguard")).await? {
        say(&format!("WARNING:  {line}"));
    }
    let user = config::local_user();
    let session = engine.session(&user);
    let beside = Beside::start(&engine, &user, ephemeral).await?;
    Ok((engine, session, beside))
}

fn code(outcome: Outcome) -> ExitCode {
    ExitCode::from(match outcome {
        Outcome::Done | Outcome::Quit => 0,
        Outcome::Failed => 1,
        Outcome::Cancelled => interrupt::EXIT,
        Outcome::Closed => CLOSED,
    })
}

fn failed(message: &str) -> ExitCode {
    say(&format!("ERROR:  58030: {message}"));
    ExitCode::FAILURE
}

fn script_of(source: Source) -> Result<String, String> {
    match source {
        Source::Command(sql) => Ok(sql),
        Source::File(path) => text_of(&path),
    }
}

/// A file's text; `-` is standard input.
fn text_of(path: &Path) -> Result<String, String> {
    match path == Path::new("-") {
        true => io::read_to_string(io::stdin().lock())
            .map_err(|error| format!("cannot read standard input: {error}")),
        false => std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display())),
    }
}

fn lint_files(files: &[PathBuf]) -> ExitCode {
    let tokenizer = Tokenizer::o200k_harmony();
    let mut out = BufWriter::new(io::stdout().lock());
    let mut code = ExitCode::SUCCESS;
    for path in files {
        let source = match policy_source(path) {
            Ok(source) => source,
            Err(message) => {
                code = failed(&message);
                continue;
            }
        };
        for finding in lint(&source, |text| tokenizer.encode_ordinary(text).len()) {
            if finding.level == Level::Error {
                code = ExitCode::FAILURE;
            }
            if let Err(error) = writeln!(out, "{}: {finding}", path.display()) {
                return cannot_write(&error);
            }
        }
    }
    match out.flush() {
        Ok(()) => code,
        Err(error) => cannot_write(&error),
    }
}

/// A policy's source, read no further than the longest that could be one.
fn policy_source(path: &Path) -> Result<String, String> {
    let unread = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let mut source = String::new();
    let limit = POLICY_BYTES_MAX as u64 + 1;
    let file: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => Box::new(std::fs::File::open(path).map_err(unread)?),
    };
    file.take(limit)
        .read_to_string(&mut source)
        .map_err(unread)?;
    match source.len() > POLICY_BYTES_MAX {
        true => Err(format!(
            "{} is longer than {POLICY_BYTES_MAX} bytes, the limit of a policy",
            path.display()
        )),
        false => Ok(source),
    }
}

fn cannot_write(error: &io::Error) -> ExitCode {
    match error.kind() {
        io::ErrorKind::BrokenPipe => ExitCode::from(CLOSED),
        _ => failed(&format!("cannot write to stdout: {error}")),
    }
}
