//! One connection's statements: the simple and the extended protocol over one engine session.
//!
//! Takes messages in order, gives answers to the outbox. Keeps what a connection keeps: settings, the transaction,
//! prepared statements, portals and a COPY under way. Knows no socket and no other connection.

use super::Shared;
use super::cancel::Stop;
use super::copy_in::CopyIn;
use super::cursor::{Cursor, Manners, gone, logged};
use super::failure::{Failure, Severity};
use super::frontend::Message;
use super::outbox::Outbox;
use super::portal::{Portal, Prepared};
use super::settings::Settings;
use super::statement::{self, Statement};
use super::transaction::Transaction;
use crate::engine;
use pgwire::messages::PgWireBackendMessage as Out;
use pgwire::messages::response::{EmptyQueryResponse, ReadyForQuery};
use pgwire::messages::startup::ParameterStatus;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, sleep_until};

/// One connection's state.
pub struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) engine: Arc<engine::Session>,
    pub(super) settings: Arc<Settings>,
    pub(super) transaction: Transaction,
    pub(super) prepared: HashMap<String, Arc<Prepared>>,
    pub(super) portals: HashMap<String, Portal>,
    pub(super) copy: Option<CopyIn>,
    /// Statements of a query string that wait for a COPY of the same string.
    pub(super) pending: VecDeque<Statement>,
    /// What the client is told beside the answer that comes next.
    pub(super) notices: Vec<Failure>,
    /// After an error in the extended protocol, until Sync.
    pub(super) skipping: bool,
    /// Changes with the settings of this session: plans depend on them.
    pub(super) version: u64,
}

/// How long a statement may take, and who may end it.
pub(super) struct Limits<'a> {
    /// Stops it.
    pub stop: &'a Stop,
    /// Ends it.
    pub deadline: Option<Instant>,
}

impl Limits<'_> {
    /// Runs `work` until it is done or the statement is to end; then it is dropped.
    pub async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let late = async {
            match self.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            why = self.stop.stopped() => Err(why.failure()),
            () = late => Err(super::cancel::Why::Timeout.failure()),
            done = work => done,
        }
    }
}

impl Session {
    /// A session that has asked nothing yet.
    pub fn new(shared: Arc<Shared>, engine: engine::Session, settings: Arc<Settings>) -> Session {
        Session {
            shared,
            engine: Arc::new(engine),
            settings,
            transaction: Transaction::default(),
            prepared: HashMap::new(),
            portals: HashMap::new(),
            copy: None,
            pending: VecDeque::new(),
            notices: Vec::new(),
            skipping: false,
            version: 0,
        }
    }

    /// Answers one message.
    ///
    /// # Errors
    /// Fatal failures only: the connection ends with them. All others are answered here.
    pub async fn handle<W: AsyncWrite + Unpin + Send>(
        &mut self,
        message: Message,
        out: &mut Outbox<W>,
        stop: &Stop,
    ) -> Result<(), Failure> {
        if self.copy.is_some() {
            return self.copying(message, out, stop).await;
        }
        match message {
            Message::Query(sql) => {
                let done = self.simple(&sql, out, stop).await;
                self.simple_end(done, out).await
            }
            Message::TooLong { kind: b'Q', bytes } => {
                let failure = self.too_long(bytes);
                self.simple_end(Err(failure), out).await
            }
            Message::Broken {
                kind: b'Q',
                failure,
            } => self.simple_end(Err(failure), out).await,
            Message::FunctionCall => {
                let why = "the function call protocol is not supported";
                let failure = Failure::new("0A000", why).with_hint("SELECT function(..)");
                self.simple_end(Err(failure), out).await
            }
            Message::Sync => {
                self.skipping = false;
                if !self.transaction.is_open() {
                    self.close_portals().await;
                }
                self.ready(out);
                out.flush().await.map_err(|_| gone())
            }
            Message::Flush => out.flush().await.map_err(|_| gone()),
            // What is left of a COPY that failed.
            Message::CopyData(_) | Message::CopyDone | Message::CopyFail(_) => Ok(()),
            Message::Password(_) => Err(Failure::fatal("08P01", "no password was asked for")),
            _ if self.skipping => Ok(()),
            message => match self.extended(message, out, stop).await {
                Err(failure) => self.extended_end(failure, out).await,
                Ok(()) => Ok(()),
            },
        }
    }

    pub(super) fn too_long(&self, bytes: usize) -> Failure {
        let most = self.shared.config.max_statement_bytes;
        Failure::new(
            "54000",
            format!("a statement of {bytes} bytes is longer than the limit of {most}"),
        )
        .with_hint("max_statement_bytes in the server's settings; COPY for data")
    }

    /// The simple protocol: every statement of a string, in order.
    async fn simple<W: AsyncWrite + Unpin + Send>(
        &mut self,
        sql: &str,
        out: &mut Outbox<W>,
        stop: &Stop,
    ) -> Result<(), Failure> {
        self.shared.counters.statements.add();
        let statements = statement::split(sql)?;
        if statements.is_empty() {
            out.push(Out::EmptyQueryResponse(EmptyQueryResponse::new()));
        }
        self.pending = statements.into();
        self.go_on(out, stop).await
    }

    /// Runs what waits, until a COPY needs data.
    pub(super) async fn go_on<W: AsyncWrite + Unpin + Send>(
        &mut self,
        out: &mut Outbox<W>,
        stop: &Stop,
    ) -> Result<(), Failure> {
        while self.copy.is_none() {
            let Some(statement) = self.pending.pop_front() else {
                break;
            };
            let statement = Arc::new(statement);
            self.one(&statement, out, stop).await?;
        }
        Ok(())
    }

    /// The end of a query string: what failed, and that the next may come.
    pub(super) async fn simple_end<W: AsyncWrite + Unpin>(
        &mut self,
        done: Result<(), Failure>,
        out: &mut Outbox<W>,
    ) -> Result<(), Failure> {
        if let Err(failure) = done {
            self.pending.clear();
            self.failed(failure, out)?;
        }
        if self.copy.is_none() {
            if !self.transaction.is_open() {
                self.close_portals().await;
            }
            self.ready(out);
        }
        out.flush().await.map_err(|_| gone())
    }

    pub(super) async fn extended_end<W: AsyncWrite + Unpin>(
        &mut self,
        failure: Failure,
        out: &mut Outbox<W>,
    ) -> Result<(), Failure> {
        self.skipping = true;
        self.failed(failure, out)?;
        // The client may wait for this before it sends its Sync.
        out.flush().await.map_err(|_| gone())
    }

    /// Says what failed; fatal failures are the caller's to say.
    fn failed<W: AsyncWrite + Unpin>(
        &mut self,
        failure: Failure,
        out: &mut Outbox<W>,
    ) -> Result<(), Failure> {
        self.transaction.fail();
        self.shared.counters.failed(&failure);
        if failure.severity == Severity::Fatal {
            return Err(failure);
        }
        out.failure(&failure);
        Ok(())
    }

    /// Tells the client about settings that it wants to follow, and that it may go on.
    pub(super) fn ready<W: AsyncWrite + Unpin>(&mut self, out: &mut Outbox<W>) {
        for (name, value) in self.settings.report() {
            out.push(Out::ParameterStatus(ParameterStatus::new(
                name.to_owned(),
                value,
            )));
        }
        let status = self.transaction.status();
        out.push(Out::ReadyForQuery(ReadyForQuery::new(status)));
    }

    /// Says something beside the answer, where the client listens.
    pub(super) fn tell<W: AsyncWrite + Unpin>(&self, failure: &Failure, out: &mut Outbox<W>) {
        let least = self.settings.get("client_min_messages");
        let wanted = match least.as_deref() {
            Ok("warning") => failure.severity == Severity::Warning,
            Ok("error" | "fatal" | "panic") => false,
            _ => true,
        };
        if wanted {
            out.failure(failure);
        }
    }

    pub(super) fn limits<'a>(&self, stop: &'a Stop) -> Limits<'a> {
        let most = self.settings.duration("statement_timeout");
        Limits {
            stop,
            deadline: most.map(|most| Instant::now() + most),
        }
    }

    pub(super) fn manners(&self) -> Manners {
        let quiet = !matches!(
            self.settings.get("client_min_messages").as_deref(),
            Ok("notice" | "log" | "info" | "debug") | Err(_)
        );
        let config = &self.shared.config;
        Manners {
            progress: config.progress.filter(|_| !quiet),
            bytes_max: config.max_result_bytes,
        }
    }

    /// Logs the statement of `cursor` and gives its notices.
    pub(super) async fn finish<W: AsyncWrite + Unpin>(
        &mut self,
        cursor: &mut Cursor,
        outcome: &Result<(), Failure>,
        out: &mut Outbox<W>,
    ) {
        if let Some(summary) = cursor.progress() {
            self.shared.counters.classified(&summary);
        }
        for line in cursor.finish(&self.engine, logged(outcome)).await {
            self.tell(&Failure::notice(line), out);
        }
    }

    /// What plans were made with: tables of everybody, settings of this session.
    pub(super) fn plans(&self) -> u64 {
        let tables = self
            .shared
            .tables
            .load(std::sync::atomic::Ordering::Acquire);
        (tables << 24) | (self.version & 0xff_ffff)
    }

    /// Ends a portal, and its statement if that still runs.
    pub(super) async fn close_portal(&mut self, name: &str) -> bool {
        let Some(portal) = self.portals.remove(name) else {
            return false;
        };
        if let Some(mut open) = portal.open {
            open.cursor
                .finish(&self.engine, engine::End::Cancelled)
                .await;
        }
        true
    }

    /// Ends the portals of a transaction that ends.
    pub(super) async fn close_portals(&mut self) {
        let ending: Vec<String> = self
            .portals
            .iter()
            .filter(|(_, portal)| !portal.hold)
            .map(|(name, _)| name.clone())
            .collect();
        for name in ending {
            self.close_portal(&name).await;
        }
    }

    /// How long the client may be silent now, and what it is told then.
    pub fn idle_limit(&self) -> Option<(Duration, Failure)> {
        let (name, sqlstate, why) = match self.transaction.is_open() {
            true => (
                "idle_in_transaction_session_timeout",
                "25P03",
                "terminating connection due to idle-in-transaction timeout",
            ),
            false => (
                "idle_session_timeout",
                "57P05",
                "terminating connection due to idle-session timeout",
            ),
        };
        let most = self.settings.duration(name)?;
        Some((most, Failure::fatal(sqlstate, why)))
    }

    /// Whether data of a COPY is awaited.
    pub fn in_copy(&self) -> bool {
        self.copy.is_some()
    }

    /// Ends what is open; called once, when the connection ends.
    pub async fn close(&mut self) {
        self.copy = None;
        let names: Vec<String> = self.portals.keys().cloned().collect();
        for name in names {
            self.close_portal(&name).await;
        }
    }
}
