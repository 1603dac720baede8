//! Statements from a script or a prompt, one after the other.
//!
//! Takes SQL and backslash lines, runs them in one session, writes results to stdout and everything else to stderr.
//! Says how each ended; what follows from that (the next line, an exit code) is its callers' business.

use super::args::Format;
use super::interrupt::Interrupts;
use super::output::Output;
use super::progress::Progress;
use super::say;
use super::script::{self, Ask, Piece};
use crate::config::PROGRESS_MS;
use crate::engine::{End, Ended, Session, Statement};
use crate::error::Error;
use datafusion::arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// How a piece of a script ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As it should.
    Done,
    /// With an error, which was reported.
    Failed,
    /// By Ctrl-C.
    Cancelled,
    /// Nobody reads stdout any more.
    Closed,
    /// With `\q`.
    Quit,
}

/// Why a statement's rows were not read to their end.
enum Stop {
    Failed(Error),
    /// Results cannot be written.
    Output(io::Error),
    Cancelled,
}

impl From<DataFusionError> for Stop {
    fn from(error: DataFusionError) -> Stop {
        Stop::Failed(Error::from(error))
    }
}

impl From<ArrowError> for Stop {
    fn from(error: ArrowError) -> Stop {
        match error {
            ArrowError::IoError(_, error) => Stop::Output(error),
            other => DataFusionError::ArrowError(Box::new(other), None).into(),
        }
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Output(error)
    }
}

/// A session with a place to write to.
pub(super) struct Shell {
    session: Session,
    interrupts: Interrupts,
    format: Format,
    expanded: bool,
    progress: bool,
    out: BufWriter<Stdout>,
}

impl Shell {
    /// A shell that writes results in this format to stdout.
    pub fn new(session: Session, interrupts: Interrupts, format: Format) -> Shell {
        Shell {
            session,
            interrupts,
            format,
            expanded: false,
            progress: io::stderr().is_terminal(),
            out: BufWriter::new(io::stdout()),
        }
    }

    /// Whether `sql` ends inside a statement.
    pub fn is_incomplete(&self, sql: &str) -> bool {
        self.session.is_incomplete(sql)
    }

    /// Forgets a Ctrl-C that has done its work.
    pub fn interrupt_answered(&self) {
        self.interrupts.answered();
    }

    /// Runs a script up to the first piece that does not end as it should.
    pub async fn script(&mut self, script: &str) -> Outcome {
        for piece in script::cut(script, |sql| self.session.is_incomplete(sql)) {
            let outcome = match piece {
                Piece::Sql(sql) => self.sql(&sql).await,
                Piece::Command(line) => self.command(&line).await,
            };
            if outcome != Outcome::Done {
                return outcome;
            }
        }
        Outcome::Done
    }

    /// Runs statements up to the first that does not end as it should.
    pub async fn sql(&mut self, sql: &str) -> Outcome {
        for statement in self.session.split(sql) {
            let outcome = match statement {
                Ok(statement) => self.statement(&statement).await,
                Err(error) => {
                    report(&error);
                    Outcome::Failed
                }
            };
            if outcome != Outcome::Done {
                return outcome;
            }
        }
        Outcome::Done
    }

    /// Does what a backslash line asks for.
    pub async fn command(&mut self, line: &str) -> Outcome {
        let text = match script::ask(line) {
            Ask::Quit => return Outcome::Quit,
            Ask::Describe(name) => return self.sql(&script::describe(name.as_deref())).await,
            Ask::Unknown(command) => {
                say(&format!("ERROR:  42601: there is no command {command}"));
                say("HINT:  \\? lists the commands");
                return Outcome::Failed;
            }
            Ask::Help => script::HELP.to_owned(),
            Ask::Echo(text) => text,
            Ask::Expanded => {
                self.expanded = !self.expanded;
                let state = if self.expanded { "on" } else { "off" };
                format!("Expanded display is {state}.")
            }
        };
        if self.format != Format::Table {
            // Whoever reads CSV or JSON expects nothing else.
            say(&text);
            return Outcome::Done;
        }
        match writeln!(self.out, "{text}").and_then(|()| self.out.flush()) {
            Ok(()) => Outcome::Done,
            Err(error) => outcome(&Stop::Output(error)),
        }
    }

    async fn statement(&mut self, statement: &Statement) -> Outcome {
        let running = tokio::select! {
            biased;
            () = self.interrupts.pressed() => Err(Stop::Cancelled),
            running = self.session.run(statement) => running.map_err(Stop::Failed),
        };
        let running = match running {
            Ok(running) => running,
            Err(stop) => return outcome(&stop),
        };
        let tag = running.tag;
        let (rows, ended) = running.split();
        let read = self.read((tag, rows), &ended).await;
        // Rows that were written before an error come before its message.
        let _ = self.out.flush();
        let failure;
        let end = match &read {
            Ok(()) => End::Done,
            Err(Stop::Failed(error)) => {
                failure = error.to_string();
                End::Failed(error.sqlstate(), &failure)
            }
            Err(_) => End::Cancelled,
        };
        for notice in self.session.finish(ended, end).await {
            say(&format!("NOTICE:  {notice}"));
        }
        match read {
            Ok(()) => Outcome::Done,
            Err(stop) => outcome(&stop),
        }
    }

    /// Writes the rows of a statement; rows that are left when it stops are dropped, which cancels the statement.
    async fn read(
        &mut self,
        (tag, mut rows): (&'static str, SendableRecordBatchStream),
        ended: &Ended,
    ) -> Result<(), Stop> {
        let style = (self.format, self.expanded);
        let mut output = Output::begin(style, &rows.schema(), tag, &mut self.out)?;
        let mut progress = Progress::new();
        let mut tick = interval(Duration::from_millis(PROGRESS_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The clock comes before the rows: where rows are always ready it would never be looked at.
            tokio::select! {
                biased;
                () = self.interrupts.pressed() => return Err(Stop::Cancelled),
                _ = tick.tick(), if self.progress => progress.show(&ended.progress()),
                batch = rows.next() => {
                    let Some(batch) = batch else { break };
                    let batch = batch?;
                    progress.clear();
                    output.batch(&batch, &mut self.out)?;
                    self.out.flush()?;
                }
            }
        }
        progress.clear();
        output.end(&mut self.out)?;
        self.out.flush()?;
        Ok(())
    }
}

/// Reports why a statement stopped, and says what that makes of it.
fn outcome(stop: &Stop) -> Outcome {
    match stop {
        Stop::Failed(error) => {
            report(error);
            Outcome::Failed
        }
        Stop::Cancelled => {
            say("ERROR:  57014: statement cancelled by the user");
            Outcome::Cancelled
        }
        Stop::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Outcome::Closed,
        Stop::Output(error) => {
            say(&format!("ERROR:  58030: cannot write to stdout: {error}"));
            Outcome::Failed
        }
    }
}

/// Writes an error to stderr as psql does, with its SQLSTATE.
pub(super) fn report(error: &Error) {
    say(&format!("ERROR:  {}: {error}", error.sqlstate()));
    if let Some(hint) = error.hint() {
        say(&format!("HINT:  {hint}"));
    }
}
