//! Runs statements: whatever one asks for, by whom it is answered, and how its answer is framed.
//!
//! Takes a statement with its values, gives rows, a command tag or a COPY to the outbox. Both protocols come through
//! here. Knows DataFusion's plans only by their kinds.

use super::copy_in::CopyIn;
use super::cursor::Cursor;
use super::encode::Display;
use super::failure::Failure;
use super::outbox::Outbox;
use super::portal::{Open, Portal, Prepared, gives_rows, writes};
use super::session::{Limits, Session};
use super::statement::{Declare, Fetch, Kind, Statement, located};
use super::{copy, params, transaction};
use crate::config::SERVER_PORTALS_MAX;
use crate::engine;
use crate::error::Error;
use bytes::BytesMut;
use datafusion::arrow::array::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use pgwire::messages::PgWireBackendMessage as Out;
use pgwire::messages::copy::{CopyDone, CopyInResponse, CopyOutResponse};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::AsyncWrite;

/// What a statement came to before its rows are read.
pub(super) enum Outcome {
    /// Rows for the client.
    Rows(Cursor),
    /// Rows that say how many others were changed.
    Counted(Cursor),
    /// Nothing more.
    Tag(String),
    /// Rows as a COPY.
    CopyOut(Cursor, copy::Options),
    /// Data is awaited.
    CopyIn(Box<CopyIn>),
    /// Rows of a cursor.
    Fetch(Fetch),
    /// A warning, then a tag.
    Warned(Failure, String),
}

/// A statement prepared for the simple protocol has no values.
type Values = Option<(Arc<Prepared>, Vec<ScalarValue>)>;

impl Session {
    /// One statement of the simple protocol.
    pub(super) async fn one<W: AsyncWrite + Unpin + Send>(
        &mut self,
        statement: &Arc<Statement>,
        out: &mut Outbox<W>,
        stop: &super::cancel::Stop,
    ) -> Result<(), Failure> {
        let limits = self.limits(stop);
        let outcome = limits.run(self.start(statement, None)).await;
        let outcome = outcome.map_err(|mut failure| {
            failure.position = failure.position.map(|p| p + statement.offset);
            failure
        })?;
        self.answer(outcome, true, &[], (&limits, out)).await
    }

    /// Starts a statement.
    pub(super) async fn start(
        &mut self,
        statement: &Statement,
        values: Values,
    ) -> Result<Outcome, Failure> {
        if !statement.kind.ends_transactions() {
            self.transaction.check()?;
        }
        match &statement.kind {
            Kind::Engine(query) => {
                let plan = self.planned(query, values).await?;
                self.query(query, plan).await
            }
            Kind::Setting(command) => self.setting(command).await,
            Kind::Transaction(command) => self.transact(command).await,
            Kind::Prepare {
                name,
                types,
                statement,
            } => {
                let given = params::declared(types)?;
                let prepared = self.prepare(Arc::new((**statement).clone()), given).await?;
                self.keep(name, prepared)?;
                Ok(Outcome::Tag("PREPARE".to_owned()))
            }
            Kind::Execute { name, values } => self.execute(name, values).await,
            Kind::Deallocate(name) => {
                match name {
                    None => self.prepared.clear(),
                    Some(name) => {
                        if self.prepared.remove(name).is_none() {
                            return Err(no_statement(name));
                        }
                    }
                }
                let tag = name.as_ref().map_or("DEALLOCATE ALL", |_| "DEALLOCATE");
                Ok(Outcome::Tag(tag.to_owned()))
            }
            Kind::Declare(declare) => self.declare(declare, values).await,
            Kind::Fetch(fetch) => Ok(Outcome::Fetch(fetch.clone())),
            Kind::Close(name) => {
                match name {
                    None => self.close_portals().await,
                    Some(name) => {
                        if !self.close_portal(name).await {
                            return Err(no_cursor(name));
                        }
                    }
                }
                let tag = name.as_ref().map_or("CLOSE CURSOR ALL", |_| "CLOSE CURSOR");
                Ok(Outcome::Tag(tag.to_owned()))
            }
            Kind::CopyOut { query, options } => {
                let plan = self.planned(query, values).await?;
                match self.query(query, plan).await? {
                    Outcome::Rows(cursor) => Ok(Outcome::CopyOut(cursor, options.clone())),
                    _ => Err(Failure::new(
                        "42601",
                        "COPY TO STDOUT needs a query with rows",
                    )),
                }
            }
            Kind::CopyIn {
                table,
                columns,
                options,
            } => {
                let read_only = self.reads_by_default();
                self.transaction.write("COPY FROM", read_only)?;
                let copy = CopyIn::start(self, (table, columns), options, &statement.sql);
                Ok(Outcome::CopyIn(Box::new(copy.await?)))
            }
            Kind::Nothing(tag) => Ok(Outcome::Tag((*tag).to_owned())),
        }
    }

    async fn planned(
        &mut self,
        query: &engine::Statement,
        values: Values,
    ) -> Result<LogicalPlan, Failure> {
        let (engine, query) = (Arc::clone(&self.engine), query.clone());
        if let Some((prepared, values)) = values {
            let version = self.plans();
            let filled = async move { prepared.filled(&engine, &query, version, values).await };
            return self.shared.workers.run(filled).await;
        }
        let planned = async move {
            let plan = engine.plan(&query).await;
            plan.map_err(|error| located(error, &query.sql))
        };
        let plan = self.shared.workers.run(planned).await?;
        match plan.get_parameter_names()?.into_iter().next() {
            None => Ok(plan),
            Some(name) => Err(Failure::new(
                "42P02",
                format!("there is no parameter {name}"),
            )),
        }
    }

    /// Runs a plan of the engine's.
    async fn query(
        &mut self,
        query: &engine::Statement,
        plan: LogicalPlan,
    ) -> Result<Outcome, Failure> {
        if writes(&plan) {
            let read_only = self.reads_by_default();
            self.transaction.write(query.tag(), read_only)?;
        }
        let rows = gives_rows(&plan);
        let made = match &plan {
            LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(table)) if query.tag() == "SELECT" => {
                Some(table.name.clone())
            }
            _ => None,
        };
        let changes_tables = matches!(plan, LogicalPlan::Ddl(_));
        self.notices.extend(self.skipped(&plan));
        let (engine, own) = (Arc::clone(&self.engine), query.clone());
        let running = async move { Ok(Cursor::new(engine.run_plan(&own, plan).await?)) };
        let cursor: Result<Cursor, Error> = self.shared.workers.run(running).await;
        if changes_tables {
            self.shared.tables.fetch_add(1, Ordering::AcqRel);
        }
        let cursor = cursor?;
        if let Some(table) = made {
            // What a CREATE TABLE AS put into its table is known afterwards only.
            let rows = self.engine.context().table(table).await?.count().await?;
            let mut cursor = cursor;
            cursor.sent = rows as u64;
            return Ok(Outcome::Counted(cursor));
        }
        Ok(match rows {
            true => Outcome::Rows(cursor),
            false => Outcome::Counted(cursor),
        })
    }

    /// What PostgreSQL says when IF EXISTS or IF NOT EXISTS leaves nothing to do.
    fn skipped(&self, plan: &LogicalPlan) -> Option<Failure> {
        let LogicalPlan::Ddl(statement) = plan else {
            return None;
        };
        let (name, conditional, drops) = match statement {
            DdlStatement::DropTable(drop) => (&drop.name, drop.if_exists, true),
            DdlStatement::DropView(drop) => (&drop.name, drop.if_exists, true),
            DdlStatement::CreateMemoryTable(table) => (&table.name, table.if_not_exists, false),
            DdlStatement::CreateExternalTable(table) => (&table.name, table.if_not_exists, false),
            _ => return None,
        };
        let exists = self.engine.context().table_exist(name.clone()).ok()?;
        if !conditional || exists == drops {
            return None;
        }
        let table = name.table();
        Some(match drops {
            true => Failure::notice(format!("table \"{table}\" does not exist, skipping")),
            false => Failure {
                sqlstate: "42P07",
                ..Failure::notice(format!("relation \"{table}\" already exists, skipping"))
            },
        })
    }

    fn reads_by_default(&self) -> bool {
        self.settings
            .get("default_transaction_read_only")
            .is_ok_and(|value| value == "on")
    }

    async fn transact(&mut self, command: &transaction::Command) -> Result<Outcome, Failure> {
        let done = self.transaction.run(command, self.reads_by_default())?;
        if let Some(kept) = done.ended {
            self.close_portals().await;
            match kept {
                true => self.settings.commit(),
                false => self.settings.rollback(),
            }
            self.version += 1;
        }
        if done.began {
            self.settings.begin();
            if let transaction::Command::Begin {
                isolation: Some(level),
                ..
            } = command
            {
                self.settings
                    .set("transaction_isolation", Some(level), true)?;
            }
            if self.transaction.is_read_only() {
                self.settings
                    .set("transaction_read_only", Some("on"), true)?;
            }
        }
        let tag = done.tag.to_owned();
        Ok(match done.warning {
            Some(warning) => Outcome::Warned(warning, tag),
            None => Outcome::Tag(tag),
        })
    }

    async fn declare(&mut self, declare: &Declare, values: Values) -> Result<Outcome, Failure> {
        if !self.transaction.is_open() && !declare.hold {
            return Err(Failure::new(
                "25P01",
                "DECLARE CURSOR can only be used in transaction blocks",
            ));
        }
        if declare.scroll {
            return Err(Failure::new("0A000", "SCROLL cursors are not supported")
                .with_hint("rows are made as they are read: declare it NO SCROLL"));
        }
        self.room(&declare.name)?;
        let plan = self.planned(&declare.query, values).await?;
        let Outcome::Rows(cursor) = self.query(&declare.query, plan).await? else {
            return Err(Failure::new(
                "42601",
                "DECLARE CURSOR needs a query with rows",
            ));
        };
        let formats = if declare.binary { vec![1] } else { vec![0] };
        let columns = cursor.columns(&formats, self.display())?;
        let portal = Portal {
            prepared: Arc::new(Prepared::empty()),
            values: Vec::new(),
            formats,
            open: Some(Open {
                cursor,
                columns,
                done: false,
            }),
            hold: declare.hold,
        };
        self.portals.insert(declare.name.clone(), portal);
        Ok(Outcome::Tag("DECLARE CURSOR".to_owned()))
    }

    /// Whether there is room for a portal of this name.
    pub(super) fn room(&self, name: &str) -> Result<(), Failure> {
        if !name.is_empty() && self.portals.contains_key(name) {
            return Err(Failure::new(
                "42P03",
                format!("cursor \"{name}\" already exists"),
            ));
        }
        if self.portals.len() >= SERVER_PORTALS_MAX {
            return Err(Failure::new(
                "54000",
                format!("a connection can have at most {SERVER_PORTALS_MAX} cursors"),
            ));
        }
        Ok(())
    }

    /// How values are written for this client.
    pub(super) fn display(&self) -> Display {
        let zone = self.settings.get("TimeZone").unwrap_or_default();
        Display::new(&zone).unwrap_or_default()
    }

    /// Answers what a statement came to; in the simple protocol columns are said before rows.
    pub(super) async fn answer<W: AsyncWrite + Unpin + Send>(
        &mut self,
        outcome: Outcome,
        simple: bool,
        formats: &[i16],
        (limits, out): (&Limits<'_>, &mut Outbox<W>),
    ) -> Result<(), Failure> {
        for notice in std::mem::take(&mut self.notices) {
            self.tell(&notice, out);
        }
        match outcome {
            Outcome::Tag(tag) => out.complete(tag),
            Outcome::Warned(warning, tag) => {
                self.tell(&warning, out);
                out.complete(tag);
            }
            Outcome::Rows(mut cursor) => {
                let mut columns = cursor.columns(formats, self.display())?;
                if simple {
                    columns.write_row_description(&mut out.bytes);
                }
                let manners = self.manners();
                let done = limits
                    .run(cursor.send(&mut columns, None, manners, out))
                    .await;
                let done = done.map(|_| ());
                self.finish(&mut cursor, &done, out).await;
                done?;
                out.complete(tagged(cursor.tag, cursor.sent));
            }
            Outcome::Counted(mut cursor) => {
                let manners = self.manners();
                let done = limits.run(cursor.drain(manners, out)).await;
                let changed = done.as_ref().map_or(0, |n| *n) + cursor.sent;
                let done = done.map(|_| ());
                self.finish(&mut cursor, &done, out).await;
                done?;
                out.complete(tagged(cursor.tag, changed));
            }
            Outcome::CopyOut(cursor, options) => {
                self.copy_out(cursor, options, (limits, out)).await?;
            }
            Outcome::CopyIn(mut copy) => {
                copy.extended = !simple;
                let (overall, columns) = copy.formats();
                let count = columns.len() as i16;
                let answer = CopyInResponse::new(overall, count, columns);
                out.push(Out::CopyInResponse(answer));
                out.flush().await.map_err(|_| super::cursor::gone())?;
                self.copy = Some(*copy);
            }
            Outcome::Fetch(fetch) => {
                self.fetch(&fetch, simple, formats, (limits, out)).await?;
            }
        }
        Ok(())
    }

    async fn copy_out<W: AsyncWrite + Unpin + Send>(
        &mut self,
        mut cursor: Cursor,
        options: copy::Options,
        (limits, out): (&Limits<'_>, &mut Outbox<W>),
    ) -> Result<(), Failure> {
        let mut writer = copy::Writer::new(&cursor.schema(), options, self.display())?;
        let (overall, columns) = writer.column_format();
        let count = columns.len() as i16;
        let answer = CopyOutResponse::new(overall, count, columns);
        out.push(Out::CopyOutResponse(answer));
        writer.begin(&mut out.bytes);
        let manners = self.manners();
        let done = limits
            .run(cursor.send(&mut writer, None, manners, out))
            .await;
        let done = done.map(|_| ());
        self.finish(&mut cursor, &done, out).await;
        done?;
        writer.end(&mut out.bytes);
        out.push(Out::CopyDone(CopyDone::new()));
        out.complete(format!("COPY {}", cursor.sent));
        Ok(())
    }

    async fn fetch<W: AsyncWrite + Unpin + Send>(
        &mut self,
        fetch: &Fetch,
        simple: bool,
        formats: &[i16],
        (limits, out): (&Limits<'_>, &mut Outbox<W>),
    ) -> Result<(), Failure> {
        let name = &fetch.cursor;
        let mut portal = self.portals.remove(name).ok_or_else(|| no_cursor(name))?;
        let Some(open) = &mut portal.open else {
            self.portals.insert(name.clone(), portal);
            return Err(no_cursor(name));
        };
        // In the extended protocol whoever fetches says in which form.
        let formats = match simple || formats.is_empty() {
            true => portal.formats.as_slice(),
            false => formats,
        };
        let (manners, display) = (self.manners(), self.display());
        let done = async {
            let mut columns = open.cursor.columns(formats, display)?;
            if simple && !fetch.moves {
                columns.write_row_description(&mut out.bytes);
            }
            let most = fetch.rows.map(|rows| rows as u64);
            if open.done {
                return Ok(0);
            }
            let read = match fetch.moves {
                true => limits.run(open.cursor.skip(most, manners, out)).await?,
                false => {
                    let sent = open.cursor.send(&mut columns, most, manners, out);
                    limits.run(sent).await?
                }
            };
            open.done = read.done;
            Ok(read.rows)
        };
        let done = done.await;
        let ended = open.done || done.is_err();
        if ended {
            let outcome = done.as_ref().map(|_| ()).map_err(Failure::clone);
            self.finish(&mut open.cursor, &outcome, out).await;
        }
        self.portals.insert(name.clone(), portal);
        let verb = if fetch.moves { "MOVE" } else { "FETCH" };
        out.complete(format!("{verb} {}", done?));
        Ok(())
    }
}

impl super::cursor::Form for copy::Writer {
    fn write(
        &mut self,
        batch: &RecordBatch,
        from: usize,
        _: usize,
        out: &mut BytesMut,
    ) -> Result<usize, Failure> {
        self.write_rows(batch, from, crate::config::SERVER_SEND_BYTES, out)
    }
}

/// A command tag with its count, where it has one.
pub(super) fn tagged(tag: &str, count: u64) -> String {
    match tag {
        "SELECT" | "INSERT 0" | "UPDATE" | "DELETE" | "COPY" | "MERGE" => format!("{tag} {count}"),
        other => other.to_owned(),
    }
}

pub(super) fn no_statement(name: &str) -> Failure {
    Failure::new(
        "26000",
        format!("prepared statement \"{name}\" does not exist"),
    )
}

pub(super) fn no_cursor(name: &str) -> Failure {
    Failure::new("34000", format!("cursor \"{name}\" does not exist"))
}
