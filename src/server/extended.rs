//! The extended protocol: Parse, Bind, Describe, Execute, Close.
//!
//! Takes its messages one by one, gives answers to the outbox; an error skips what follows until Sync, which is the
//! session's business. Rows stream as they come, and stop after as many as Execute asks for.

use super::failure::Failure;
use super::frontend::{Message, Target};
use super::outbox::Outbox;
use super::portal::{Open, Portal, Prepared};
use super::run::{Outcome, no_cursor, no_statement, tagged};
use super::session::{Limits, Session};
use super::statement;
use bytes::Bytes;
use pgwire::messages::PgWireBackendMessage as Out;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    BindComplete, CloseComplete, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::EmptyQueryResponse;
use std::sync::Arc;
use tokio::io::AsyncWrite;

impl Session {
    pub(super) async fn extended<W: AsyncWrite + Unpin + Send>(
        &mut self,
        message: Message,
        out: &mut Outbox<W>,
        stop: &super::cancel::Stop,
    ) -> Result<(), Failure> {
        match message {
            Message::Parse { name, query, types } => {
                let limits = self.limits(stop);
                if name.is_empty() {
                    self.prepared.remove(&name);
                }
                let prepared = limits.run(self.parse(&query, types)).await?;
                self.keep(&name, prepared)?;
                out.push(Out::ParseComplete(ParseComplete::new()));
            }
            Message::Bind {
                portal,
                statement,
                formats,
                values,
                results,
            } => {
                self.bind(&portal, &statement, (&formats, &values, results))
                    .await?;
                out.push(Out::BindComplete(BindComplete::new()));
            }
            Message::Describe(target) => self.describe(&target, out)?,
            Message::Execute { portal, rows } => {
                self.shared.counters.statements.add();
                let limits = self.limits(stop);
                self.run_portal(&portal, rows, (&limits, out)).await?;
            }
            Message::Close(target) => {
                match &target {
                    Target::Statement(name) => {
                        self.prepared.remove(name);
                    }
                    Target::Portal(name) => {
                        self.close_portal(name).await;
                    }
                }
                out.push(Out::CloseComplete(CloseComplete::new()));
            }
            Message::Broken { failure, .. } => return Err(failure),
            Message::TooLong { bytes, .. } => return Err(self.too_long(bytes)),
            other => {
                return Err(Failure::fatal(
                    "08P01",
                    format!("a message that was not expected: {other:?}"),
                ));
            }
        }
        Ok(())
    }

    async fn parse(&mut self, query: &str, types: Vec<u32>) -> Result<Prepared, Failure> {
        let mut statements = statement::split(query)?.into_iter();
        match (statements.next(), statements.next()) {
            (None, _) => Ok(Prepared::empty()),
            (Some(statement), None) => self.prepare(Arc::new(statement), types).await,
            (Some(_), Some(_)) => Err(Failure::new(
                "42601",
                "cannot insert multiple commands into a prepared statement",
            )),
        }
    }

    async fn bind(
        &mut self,
        name: &str,
        statement: &str,
        (formats, values, results): (&[i16], &[Option<Bytes>], Vec<i16>),
    ) -> Result<(), Failure> {
        let prepared = self.prepared.get(statement).cloned();
        let prepared = prepared.ok_or_else(|| match statement {
            "" => Failure::new("26000", "unnamed prepared statement does not exist"),
            statement => no_statement(statement),
        })?;
        let ends = prepared
            .statement
            .as_ref()
            .is_some_and(|statement| statement.kind.ends_transactions());
        if !ends && prepared.statement.is_some() {
            self.transaction.check()?;
        }
        let zone = self.display().time_zone;
        let values = prepared.values(formats, values, &zone)?;
        if name.is_empty() {
            self.close_portal(name).await;
        }
        self.room(name)?;
        let portal = Portal {
            prepared,
            values,
            formats: results,
            open: None,
            hold: false,
        };
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    fn describe<W: AsyncWrite + Unpin>(
        &mut self,
        target: &Target,
        out: &mut Outbox<W>,
    ) -> Result<(), Failure> {
        let display = self.display();
        let columns = match target {
            Target::Statement(name) => {
                let prepared = self.prepared.get(name).ok_or_else(|| no_statement(name))?;
                let types = prepared.parameters.clone();
                out.push(Out::ParameterDescription(ParameterDescription::new(types)));
                prepared.described(&[], display)?
            }
            Target::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                match &portal.open {
                    Some(open) => Some(open.columns.clone()),
                    None => portal.prepared.described(&portal.formats, display)?,
                }
            }
        };
        match columns {
            Some(columns) => columns.write_row_description(&mut out.bytes),
            None => out.push(Out::NoData(NoData::new())),
        }
        Ok(())
    }

    async fn run_portal<W: AsyncWrite + Unpin + Send>(
        &mut self,
        name: &str,
        rows: usize,
        (limits, out): (&Limits<'_>, &mut Outbox<W>),
    ) -> Result<(), Failure> {
        let portal = self.portals.get_mut(name).ok_or_else(|| no_portal(name))?;
        if portal.open.is_none() {
            let prepared = Arc::clone(&portal.prepared);
            let formats = portal.formats.clone();
            let values = std::mem::take(&mut portal.values);
            let Some(statement) = prepared.statement.clone() else {
                out.push(Out::EmptyQueryResponse(EmptyQueryResponse::new()));
                return Ok(());
            };
            let planned = prepared.query().is_some();
            let values = planned.then_some((prepared, values));
            let outcome = limits.run(self.start(&statement, values)).await?;
            match outcome {
                Outcome::Rows(cursor) => {
                    let columns = cursor.columns(&formats, self.display())?;
                    if let Some(portal) = self.portals.get_mut(name) {
                        portal.open = Some(Open {
                            cursor,
                            columns,
                            done: false,
                        });
                    }
                }
                other => {
                    self.answer(other, false, &formats, (limits, out)).await?;
                    self.close_portal(name).await;
                    return Ok(());
                }
            }
        }
        self.read_portal(name, rows, (limits, out)).await
    }

    /// Sends rows of a portal that began.
    async fn read_portal<W: AsyncWrite + Unpin + Send>(
        &mut self,
        name: &str,
        rows: usize,
        (limits, out): (&Limits<'_>, &mut Outbox<W>),
    ) -> Result<(), Failure> {
        let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        let Some(open) = &mut portal.open else {
            return Err(no_portal(name));
        };
        if open.done {
            out.complete(tagged(open.cursor.tag, 0));
            self.portals.insert(name.to_owned(), portal);
            return Ok(());
        }
        let most = (rows > 0).then_some(rows as u64);
        let manners = self.manners();
        let sent = open.cursor.send(&mut open.columns, most, manners, out);
        let read = limits.run(sent).await;
        match read {
            Ok(read) if !read.done => {
                out.push(Out::PortalSuspended(PortalSuspended::new()));
                self.portals.insert(name.to_owned(), portal);
                Ok(())
            }
            read => {
                open.done = true;
                let outcome = read.as_ref().map(|_| ()).map_err(Failure::clone);
                self.finish(&mut open.cursor, &outcome, out).await;
                let rows = read?.rows;
                out.complete(tagged(open.cursor.tag, rows));
                self.portals.insert(name.to_owned(), portal);
                Ok(())
            }
        }
    }
}

fn no_portal(name: &str) -> Failure {
    match name {
        "" => Failure::new("34000", "portal \"\" does not exist"),
        name => no_cursor(name),
    }
}
