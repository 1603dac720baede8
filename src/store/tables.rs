//! The store as tables of the schema `safeguard`.
//!
//! Takes a store, gives a TableProvider for each table of `columns`, and a schema that holds them. Scans hand projection,
//! limit and exact filters to the database. Only `overrides` takes an INSERT; facts are appended by the store itself, and
//! nothing is updated or deleted through SQL.

use super::columns::{
    BACKFILL_FAILURES, BACKFILLS, BACKTEST_FINDINGS, BACKTEST_FLIPS, BACKTESTS, CALIBRATIONS,
    EVALUATION_ROWS, EVALUATIONS, JOB, JOB_RUN_DETAILS, LIMIT_DAYS, OVERRIDES, POLICIES,
    POLICY_VERSIONS, QUERIES, QUEUE, RELATIONS, SCREENS, Table, USERS, VERDICTS,
};
use super::overrides::OverrideSink;
use super::scan::StoreScan;
use super::{Inner, Store, filter};
use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider, Session, TableProvider};
use datafusion::common::{Result, SchemaExt, exec_err, not_impl_err, plan_err};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use std::fmt;
use std::sync::Arc;

/// Judges a policy and a label that somebody wants to store as an override: whether the label violates, or why the pair
/// cannot be stored (lower-case, no full stop: it follows "override 3: ").
pub type OverrideCheck = Arc<dyn Fn(&str, &str) -> Result<bool, String> + Send + Sync>;

/// See [`Store::tables`].
pub(super) fn all(
    store: &Store,
    check: OverrideCheck,
) -> Vec<(&'static str, Arc<dyn TableProvider>)> {
    let tables = [
        &VERDICTS,
        &POLICY_VERSIONS,
        &POLICIES,
        &OVERRIDES,
        &QUERIES,
        &CALIBRATIONS,
        &BACKTESTS,
        &BACKTEST_FINDINGS,
        &BACKTEST_FLIPS,
        &USERS,
        &EVALUATIONS,
        &EVALUATION_ROWS,
        &RELATIONS,
        &BACKFILLS,
        &BACKFILL_FAILURES,
        &QUEUE,
        &SCREENS,
        &LIMIT_DAYS,
    ];
    providers(store, "safeguard", &tables, &check)
}

/// See [`Store::cron_provider`].
pub(super) fn cron(store: &Store) -> Vec<(&'static str, Arc<dyn TableProvider>)> {
    // Never asked: there are no overrides among these.
    let check: OverrideCheck = Arc::new(|_, _| Err("not an override".to_owned()));
    providers(store, "cron", &[&JOB, &JOB_RUN_DETAILS], &check)
}

fn providers(
    store: &Store,
    within: &'static str,
    tables: &[&'static Table],
    check: &OverrideCheck,
) -> Vec<(&'static str, Arc<dyn TableProvider>)> {
    let provider = |table: &&'static Table| {
        let provider = StoreTable {
            store: Arc::clone(&store.inner),
            within,
            table,
            schema: table.schema(),
            check: Arc::clone(check),
        };
        (table.name, Arc::new(provider) as Arc<dyn TableProvider>)
    };
    tables.iter().map(provider).collect()
}

/// The name within the schema `safeguard` of a table that is the store's own, whatever a statement calls it.
pub fn table_name(provider: &dyn TableProvider) -> Option<&'static str> {
    provider
        .downcast_ref::<StoreTable>()
        .map(|own| own.table.name)
}

/// One table of the store.
struct StoreTable {
    store: Arc<Inner>,
    /// The schema that it is in.
    within: &'static str,
    table: &'static Table,
    schema: SchemaRef,
    check: OverrideCheck,
}

impl fmt::Debug for StoreTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreTable")
            .field("name", &self.table.name)
            .finish()
    }
}

#[async_trait]
impl TableProvider for StoreTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let supported = |filter: &&Expr| match filter::translate(
            self.store.place.dialect(),
            self.table,
            filter,
        ) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(supported).collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let conditions: Option<Vec<_>> = filters
            .iter()
            .map(|f| filter::translate(self.store.place.dialect(), self.table, f))
            .collect();
        let Some(conditions) = conditions else {
            return plan_err!(
                "safeguard.{} was given a filter it does not take",
                self.table.name
            );
        };
        let store = Arc::clone(&self.store);
        Ok(Arc::new(StoreScan::new(
            store, self.table, projection, conditions, limit,
        )?))
    }

    async fn insert_into(
        &self,
        _: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        op: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.within == "cron" {
            return not_impl_err!(
                "cron.{} cannot be inserted into; SELECT cron.schedule(..) makes a job",
                self.table.name
            );
        }
        if self.table.name != OVERRIDES.name {
            return not_impl_err!(
                "safeguard.{} cannot be inserted into; a label of your own goes into safeguard.overrides",
                self.table.name
            );
        }
        if op != InsertOp::Append {
            return not_impl_err!("safeguard.overrides takes INSERT INTO only, not {op}");
        }
        self.schema
            .logically_equivalent_names_and_types(&input.schema())?;
        let sink = OverrideSink::new(
            Arc::clone(&self.store),
            Arc::clone(&self.schema),
            Arc::clone(&self.check),
        );
        Ok(Arc::new(DataSinkExec::new(input, Arc::new(sink), None)))
    }
}

/// A schema of the store's tables, and of whatever tables and views are registered beside them.
pub struct StoreSchema {
    name: &'static str,
    own: Vec<(&'static str, Arc<dyn TableProvider>)>,
    beside: MemorySchemaProvider,
}

impl StoreSchema {
    pub(super) fn new(
        name: &'static str,
        own: Vec<(&'static str, Arc<dyn TableProvider>)>,
    ) -> StoreSchema {
        StoreSchema {
            name,
            own,
            beside: MemorySchemaProvider::new(),
        }
    }

    fn own(&self, name: &str) -> Option<&Arc<dyn TableProvider>> {
        self.own
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, table)| table)
    }
}

impl fmt::Debug for StoreSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSchema")
            .field("tables", &self.table_names())
            .finish()
    }
}

#[async_trait]
impl SchemaProvider for StoreSchema {
    fn table_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.own.iter().map(|(name, _)| name.to_string()).collect();
        names.extend(self.beside.table_names());
        names.sort_unstable();
        names
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match self.own(name) {
            Some(table) => Ok(Some(Arc::clone(table))),
            None => self.beside.table(name).await,
        }
    }

    fn register_table(
        &self,
        name: String,
        table: Arc<dyn TableProvider>,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        if self.own(&name).is_some() {
            let schema = self.name;
            return exec_err!("{schema}.{name} is the verdict store's and cannot be replaced");
        }
        self.beside.register_table(name, table)
    }

    fn deregister_table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if self.own(name).is_some() {
            let schema = self.name;
            return exec_err!("{schema}.{name} is the verdict store's and cannot be dropped");
        }
        self.beside.deregister_table(name)
    }

    fn table_exist(&self, name: &str) -> bool {
        self.own(name).is_some() || self.beside.table_exist(name)
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
