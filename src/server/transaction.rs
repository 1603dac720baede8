//! Where a connection stands between BEGIN and COMMIT, and what that honestly means here.
//!
//! Takes transaction statements, gives tags and warnings. Each statement that changes data does so at once and for
//! good: a transaction groups statements, and ROLLBACK says what it could not undo. Settings are undone by whoever
//! keeps them. Knows no data.

use super::failure::{Failure, Severity};
use pgwire::messages::response::TransactionStatus;

/// A statement about transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// BEGIN, START TRANSACTION.
    Begin {
        /// READ ONLY, READ WRITE, or not said.
        read_only: Option<bool>,
        /// ISOLATION LEVEL, as it was said; every one is the same here.
        isolation: Option<String>,
        /// `BEGIN` rather than `START TRANSACTION`.
        begin: bool,
    },
    /// COMMIT, END.
    Commit {
        /// AND CHAIN
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN
        chain: bool,
    },
    /// SAVEPOINT
    Savepoint(String),
    /// RELEASE SAVEPOINT
    Release(String),
    /// ROLLBACK TO SAVEPOINT
    RollbackTo(String),
}

/// What a transaction statement did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Its command tag.
    pub tag: &'static str,
    /// A warning for the client.
    pub warning: Option<Failure>,
    /// Whether a transaction began.
    pub began: bool,
    /// Whether one ended, and whether with its settings kept.
    pub ended: Option<bool>,
}

/// A connection's transaction, or that there is none.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    status: Status,
    read_only: bool,
    /// Statements in it that changed data.
    writes: usize,
    savepoints: Vec<(String, usize)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Status {
    #[default]
    Idle,
    Open,
    Failed,
}

fn warning(sqlstate: &'static str, message: impl Into<String>) -> Failure {
    Failure {
        severity: Severity::Warning,
        ..Failure::new(sqlstate, message)
    }
}

fn done(tag: &'static str) -> Done {
    Done {
        tag,
        warning: None,
        began: false,
        ended: None,
    }
}

impl Transaction {
    /// As the protocol says it.
    pub fn status(&self) -> TransactionStatus {
        match self.status {
            Status::Idle => TransactionStatus::Idle,
            Status::Open => TransactionStatus::Transaction,
            Status::Failed => TransactionStatus::Error,
        }
    }

    /// Whether there is one.
    pub fn is_open(&self) -> bool {
        self.status != Status::Idle
    }

    /// A statement failed.
    pub fn fail(&mut self) {
        if self.status == Status::Open {
            self.status = Status::Failed;
        }
    }

    /// Whether a statement that is none of [`Command`] may run.
    ///
    /// # Errors
    /// 25P02 after a failure.
    pub fn check(&self) -> Result<(), Failure> {
        match self.status {
            Status::Failed => Err(aborted()),
            _ => Ok(()),
        }
    }

    /// A statement is about to change data, of this tag.
    ///
    /// # Errors
    /// 25006 where only reading was asked for.
    pub fn write(&mut self, tag: &str, read_only_by_default: bool) -> Result<(), Failure> {
        let read_only = match self.status {
            Status::Idle => read_only_by_default,
            _ => self.read_only,
        };
        if read_only {
            let what = tag.trim_end_matches(" 0");
            return Err(Failure::new(
                "25006",
                format!("cannot execute {what} in a read-only transaction"),
            ));
        }
        if self.status == Status::Open {
            self.writes += 1;
        }
        Ok(())
    }

    /// `SET TRANSACTION READ ONLY`, or the opposite.
    pub fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
    }

    /// Whether the transaction only reads.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Runs a transaction statement.
    ///
    /// # Errors
    /// 25P01 without a transaction, 3B001 for an unknown savepoint, 25P02 after a failure.
    pub fn run(&mut self, command: &Command, read_only_by_default: bool) -> Result<Done, Failure> {
        match command {
            Command::Begin {
                read_only, begin, ..
            } => {
                self.check()?;
                let tag = if *begin { "BEGIN" } else { "START TRANSACTION" };
                if self.status == Status::Open {
                    let already = warning("25001", "there is already a transaction in progress");
                    return Ok(Done {
                        warning: Some(already),
                        ..done(tag)
                    });
                }
                self.begin(read_only.unwrap_or(read_only_by_default));
                Ok(Done {
                    began: true,
                    ..done(tag)
                })
            }
            Command::Commit { chain } => {
                let failed = self.status == Status::Failed;
                let tag = if failed { "ROLLBACK" } else { "COMMIT" };
                Ok(self.end(tag, !failed, *chain))
            }
            Command::Rollback { chain } => Ok(self.end("ROLLBACK", false, *chain)),
            Command::Savepoint(name) => {
                self.check()?;
                self.within("SAVEPOINT")?;
                self.savepoints.push((name.clone(), self.writes));
                Ok(done("SAVEPOINT"))
            }
            Command::Release(name) => {
                self.check()?;
                self.within("RELEASE SAVEPOINT")?;
                let at = self.savepoint(name)?;
                self.savepoints.truncate(at);
                Ok(done("RELEASE"))
            }
            Command::RollbackTo(name) => {
                self.within("ROLLBACK TO SAVEPOINT")?;
                let at = self.savepoint(name)?;
                self.savepoints.truncate(at + 1);
                self.status = Status::Open;
                let kept = self.writes - self.savepoints[at].1;
                Ok(Done {
                    warning: kept_writes(kept),
                    ..done("ROLLBACK")
                })
            }
        }
    }

    fn begin(&mut self, read_only: bool) {
        *self = Transaction {
            status: Status::Open,
            read_only,
            ..Transaction::default()
        };
    }

    fn end(&mut self, tag: &'static str, kept: bool, chain: bool) -> Done {
        if self.status == Status::Idle {
            return Done {
                warning: Some(warning("25P01", "there is no transaction in progress")),
                ..done(tag)
            };
        }
        let warning = if kept { None } else { kept_writes(self.writes) };
        let read_only = self.read_only;
        *self = Transaction::default();
        if chain {
            self.begin(read_only);
        }
        Done {
            tag,
            warning,
            began: chain,
            ended: Some(kept),
        }
    }

    fn within(&self, what: &str) -> Result<(), Failure> {
        match self.is_open() {
            true => Ok(()),
            false => Err(Failure::new(
                "25P01",
                format!("{what} can only be used in transaction blocks"),
            )),
        }
    }

    fn savepoint(&self, name: &str) -> Result<usize, Failure> {
        let at = self.savepoints.iter().rposition(|(known, _)| known == name);
        at.ok_or_else(|| Failure::new("3B001", format!("savepoint \"{name}\" does not exist")))
    }
}

fn aborted() -> Failure {
    Failure::new(
        "25P02",
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

fn kept_writes(writes: usize) -> Option<Failure> {
    let statements = match writes {
        0 => return None,
        1 => "1 statement".to_owned(),
        many => format!("{many} statements"),
    };
    let kept = warning(
        "01000",
        format!("{statements} that changed data took effect at once and cannot be rolled back"),
    );
    Some(kept.with_hint("BEGIN READ ONLY refuses statements that change data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Command = Command::Begin {
        read_only: None,
        isolation: None,
        begin: true,
    };
    const COMMIT: Command = Command::Commit { chain: false };
    const ROLLBACK: Command = Command::Rollback { chain: false };

    #[test]
    fn transactions_answer_as_postgresql_does() {
        let save = |name: &str| Command::Savepoint(name.to_owned());
        let back = |name: &str| Command::RollbackTo(name.to_owned());
        let release = |name: &str| Command::Release(name.to_owned());
        let cases: [(&[Command], &[&str]); 6] = [
            (&[BEGIN, COMMIT], &["BEGIN", "COMMIT"]),
            (&[COMMIT], &["COMMIT 25P01"]),
            (
                &[BEGIN, BEGIN, ROLLBACK],
                &["BEGIN", "BEGIN 25001", "ROLLBACK"],
            ),
            (&[save("a")], &["25P01"]),
            (
                &[BEGIN, save("a"), save("b"), release("a"), back("b")],
                &["BEGIN", "SAVEPOINT", "SAVEPOINT", "RELEASE", "3B001"],
            ),
            (
                &[BEGIN, save("a"), back("a"), back("a")],
                &["BEGIN", "SAVEPOINT", "ROLLBACK", "ROLLBACK"],
            ),
        ];
        for (commands, want) in cases {
            let mut transaction = Transaction::default();
            let got: Vec<String> = commands
                .iter()
                .map(|command| match transaction.run(command, false) {
                    Ok(done) => match done.warning {
                        Some(warning) => format!("{} {}", done.tag, warning.sqlstate),
                        None => done.tag.to_owned(),
                    },
                    Err(failure) => failure.sqlstate.to_owned(),
                })
                .collect();
            assert_eq!(got, want, "{commands:?}");
        }
    }

    #[test]
    fn a_failed_transaction_only_ends() {
        let mut transaction = Transaction::default();
        transaction.run(&BEGIN, false).unwrap();
        transaction.fail();
        assert_eq!(transaction.check().unwrap_err().sqlstate, "25P02");
        assert_eq!(
            transaction.run(&BEGIN, false).unwrap_err().sqlstate,
            "25P02"
        );
        let end = transaction.run(&COMMIT, false).unwrap();
        assert_eq!((end.tag, end.ended), ("ROLLBACK", Some(false)));
        assert!(!transaction.is_open());
    }

    #[test]
    fn what_cannot_be_undone_is_said() {
        let mut transaction = Transaction::default();
        transaction.run(&BEGIN, false).unwrap();
        transaction.write("INSERT 0", false).unwrap();
        transaction.write("INSERT 0", false).unwrap();
        let end = transaction.run(&ROLLBACK, false).unwrap();
        assert!(end.warning.unwrap().message.starts_with("2 statements"));
        // Alone, a statement is its own transaction.
        transaction.write("INSERT 0", false).unwrap();
        assert_eq!(transaction.writes, 0);
        let refused = transaction.write("INSERT 0", true).unwrap_err();
        assert_eq!(
            refused.message,
            "cannot execute INSERT in a read-only transaction"
        );
    }
}
