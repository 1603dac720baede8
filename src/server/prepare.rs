//! Prepared statements: PREPARE and EXECUTE, and what Parse keeps.
//!
//! Takes statements of any kind, keeps them by name with their types and columns, gives them back with values. Both
//! protocols share the names.

use super::adjust;
use super::failure::Failure;
use super::portal::Prepared;
use super::run::{Outcome, no_cursor, no_statement};
use super::session::Session;
use super::statement::{Kind, Statement};
use crate::config::SERVER_PREPARED_MAX;
use crate::engine;
use crate::error::Error;
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::Expr;
use std::sync::Arc;

impl Session {
    /// Prepares a statement of any kind.
    pub(super) async fn prepare(
        &mut self,
        statement: Arc<Statement>,
        given: Vec<u32>,
    ) -> Result<Prepared, Failure> {
        if !statement.kind.ends_transactions() {
            self.transaction.check()?;
        }
        let query = match &statement.kind {
            Kind::Engine(query) => query,
            Kind::Declare(declare) => &declare.query,
            Kind::CopyOut { query, .. } => query,
            Kind::Fetch(fetch) if !fetch.moves => {
                let open = self
                    .portals
                    .get(&fetch.cursor)
                    .and_then(|p| p.open.as_ref());
                let columns = open.map(|open| open.cursor.schema());
                let columns = columns.ok_or_else(|| no_cursor(&fetch.cursor))?;
                return Ok(Prepared::plain(statement, Some(columns)));
            }
            Kind::Execute { name, .. } => {
                let prepared = self.prepared.get(name).ok_or_else(|| no_statement(name))?;
                let columns = prepared.columns.clone();
                return Ok(Prepared::plain(statement, columns));
            }
            Kind::Setting(command) => {
                let columns = adjust::columns(self, command);
                return Ok(Prepared::plain(statement, columns));
            }
            _ => return Ok(Prepared::plain(statement, None)),
        };
        let (own, query) = (Arc::clone(&statement), query.clone());
        let (engine, version) = (Arc::clone(&self.engine), self.plans());
        let planned = async move { Prepared::plan(&engine, own, &query, given, version).await };
        let mut prepared = self.shared.workers.run(planned).await?;
        if !matches!(statement.kind, Kind::Engine(_)) {
            prepared.columns = None;
        }
        Ok(prepared)
    }

    /// Keeps a prepared statement under its name.
    pub(super) fn keep(&mut self, name: &str, prepared: Prepared) -> Result<(), Failure> {
        if !name.is_empty() && self.prepared.contains_key(name) {
            return Err(Failure::new(
                "42P05",
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        if self.prepared.len() >= SERVER_PREPARED_MAX {
            return Err(Failure::new(
                "54000",
                format!("a connection can have at most {SERVER_PREPARED_MAX} prepared statements"),
            )
            .with_hint("DEALLOCATE ALL"));
        }
        self.prepared.insert(name.to_owned(), Arc::new(prepared));
        Ok(())
    }

    pub(super) async fn execute(
        &mut self,
        name: &str,
        values: &[Expr],
    ) -> Result<Outcome, Failure> {
        let prepared = self.prepared.get(name).cloned();
        let prepared = prepared.ok_or_else(|| no_statement(name))?;
        let (given, wanted) = (values.len(), prepared.parameters.len());
        if given != wanted {
            return Err(Failure::new(
                "42601",
                format!("wrong number of parameters for prepared statement \"{name}\""),
            ));
        }
        let bound = match values.is_empty() {
            true => Vec::new(),
            false => self.constants(values).await?,
        };
        let bound = prepared.cast(bound, &self.display().time_zone)?;
        let Some(statement) = prepared.statement.clone() else {
            return Ok(Outcome::Tag("EXECUTE".to_owned()));
        };
        Box::pin(self.start(&statement, Some((prepared, bound)))).await
    }

    /// The values of expressions without columns.
    async fn constants(&mut self, values: &[Expr]) -> Result<Vec<ScalarValue>, Failure> {
        let list = (values.iter().enumerate())
            .map(|(at, value)| format!("{value} AS v{at}"))
            .collect::<Vec<_>>();
        let query = engine::Statement::parse(&format!("SELECT {}", list.join(", ")))?;
        let engine = Arc::clone(&self.engine);
        let running = async move {
            let (rows, _) = engine.run(&query).await?.split();
            Ok::<_, Error>(datafusion::physical_plan::common::collect(rows).await?)
        };
        let batches = self.shared.workers.run(running).await?;
        let row = batches.iter().find(|batch| batch.num_rows() > 0);
        let row = row.ok_or_else(|| Failure::new("42601", "parameters have no values"))?;
        let values = row.columns().iter();
        let values = values.map(|column| ScalarValue::try_from_array(column, 0));
        Ok(values.collect::<Result<_, _>>()?)
    }
}
