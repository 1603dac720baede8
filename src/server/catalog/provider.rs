//! Schema `pg_catalog`: which tables it has, and where their rows come from.
//!
//! Shipped tables are decoded once a server. The others make their rows when they are read, from the catalog that all
//! sessions share and from the facts of the connection that reads. Tables of `information_schema` are kept here too,
//! with that before their names: DataFusion has its own schema of that name, which knows Arrow's types only.

use super::functions_of::{self, Function};
use super::relations::Oids;
use super::rows::{self, Cell, Kind, Row};
use super::tables::TABLES;
use super::{Facts, objects, procs, standard};
use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{CatalogProvider, MemTable, SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::SessionContext;
use datafusion_pg_catalog::pg_catalog::{ArrowTable, PgCatalogStaticTables};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// Where rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// datafusion-pg-catalog, which has them from a PostgreSQL.
    Shipped,
    /// There are none.
    Empty,
    Classes,
    Attributes,
    Namespaces,
    Databases,
    Procs,
    Descriptions,
    Roles,
    Authids,
    Users,
    Settings,
    Tables,
    Views,
    Indexes,
    IndexList,
    Constraints,
    Activity,
    InfoTables,
    InfoColumns,
    InfoSchemata,
    InfoViews,
    InfoConstraints,
    InfoKeys,
    InfoRoutines,
    InfoParameters,
    InfoCatalog,
    InfoRoles,
}

/// The OID that a table of PostgreSQL's always has.
pub(in crate::server) fn fixed_oid(name: &str) -> Option<i32> {
    TABLES
        .iter()
        .find(|(table, ..)| *table == name)
        .map(|(_, oid, ..)| *oid)
}

/// The table of PostgreSQL's that always has this OID.
pub(super) fn name_of(oid: i32) -> Option<&'static str> {
    TABLES
        .iter()
        .find(|(_, known, ..)| *known == oid)
        .map(|(table, ..)| *table)
}

/// Whether `pg_catalog` has a table of this name.
pub(in crate::server) fn has_table(name: &str) -> bool {
    fixed_oid(name).is_some()
}

/// Whether it has a table of this name that never has rows.
pub(in crate::server) fn is_empty(name: &str) -> bool {
    TABLES
        .iter()
        .any(|(table, _, source, _)| *table == name && *source == Source::Empty)
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The catalog holds this schema: hold it weakly.
    catalog: Weak<dyn CatalogProvider>,
    /// Its name, which is the database's.
    pub database: String,
    pub oids: Oids,
    pub functions: Vec<Function>,
    /// Columns of every table.
    pub columns: HashMap<&'static str, Vec<(String, Kind)>>,
    shipped: HashMap<&'static str, Arc<MemTable>>,
    /// Names of types and of functions by OID, and the other way.
    pub types: Names,
    pub procs: Names,
    pub descriptions: HashMap<(i32, i32, i32), String>,
    /// `pg_get_keywords()`.
    pub keywords: Arc<ArrowTable>,
    pub started: i64,
}

/// Names by number and numbers by name.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub by_oid: HashMap<i32, String>,
    pub by_name: HashMap<String, i32>,
}

impl Names {
    fn add(&mut self, oid: i32, name: &str) {
        self.by_oid.insert(oid, name.to_owned());
        self.by_name.entry(name.to_owned()).or_insert(oid);
    }
}

impl Shared {
    pub fn new(context: &SessionContext, name: &str, started: i64) -> Result<Shared> {
        let catalog = context.catalog(name).ok_or_else(|| {
            DataFusionError::Configuration(format!("there is no catalog \"{name}\""))
        })?;
        let tables = PgCatalogStaticTables::try_new()?;
        let mut shared = Shared {
            catalog: Arc::downgrade(&catalog),
            database: name.to_owned(),
            oids: Oids::default(),
            functions: functions_of::functions(context),
            columns: HashMap::new(),
            shipped: HashMap::new(),
            types: Names::default(),
            procs: Names::default(),
            descriptions: HashMap::new(),
            keywords: Arc::clone(&tables.pg_get_keywords),
            started,
        };
        shared.learn(&tables)?;
        for (name, _, source, spec) in TABLES {
            if *source == Source::Shipped {
                shared.ship(name, &tables)?;
            } else {
                shared.columns.insert(name, columns_of(spec));
            }
        }
        shared.procs_shipped(&tables)?;
        Ok(shared)
    }

    fn ship(&mut self, name: &'static str, tables: &PgCatalogStaticTables) -> Result<()> {
        let table = shipped(name, tables)
            .ok_or_else(|| DataFusionError::Internal(format!("bug: {name} is not shipped")))?;
        let data = table.data().iter();
        let batches: Result<Vec<RecordBatch>> = data.map(|b| self.plain(name, b)).collect();
        let batches = batches?;
        let schema = batches
            .first()
            .map_or_else(|| table.schema(), RecordBatch::schema);
        let columns = schema
            .fields()
            .iter()
            .map(|f| (f.name().clone(), Kind::Text));
        self.columns.insert(name, columns.collect());
        let table = MemTable::try_new(schema, vec![batches])?;
        self.shipped.insert(name, Arc::new(table));
        Ok(())
    }

    /// Names and descriptions that functions look up.
    fn learn(&mut self, tables: &PgCatalogStaticTables) -> Result<()> {
        for batch in tables.pg_type.data() {
            let (oids, names) = (cells_of(batch, "oid")?, cells_of(batch, "typname")?);
            for (oid, name) in oids.iter().zip(names) {
                if let (Some(oid), Some(name)) = (oid.int(), name.text()) {
                    self.types.add(oid as i32, &name);
                }
            }
        }
        for function in &self.functions {
            self.procs.add(function.oid, &function.name);
            self.descriptions
                .insert((function.oid, 1255, 0), function.description.clone());
        }
        for batch in tables.pg_proc.data() {
            let (oids, names) = (cells_of(batch, "oid")?, cells_of(batch, "proname")?);
            for (oid, name) in oids.iter().zip(names) {
                if let (Some(oid), Some(name)) = (oid.int(), name.text()) {
                    self.procs.add(oid as i32, &name);
                }
            }
        }
        for batch in tables.pg_description.data() {
            let (oids, classes) = (cells_of(batch, "objoid")?, cells_of(batch, "classoid")?);
            let (subs, texts) = (
                cells_of(batch, "objsubid")?,
                cells_of(batch, "description")?,
            );
            for at in 0..oids.len() {
                let key = [&oids[at], &classes[at], &subs[at]].map(|c| c.int().unwrap_or(0) as i32);
                if let Some(text) = texts[at].text() {
                    self.descriptions.insert((key[0], key[1], key[2]), text);
                }
            }
        }
        Ok(())
    }

    fn procs_shipped(&mut self, tables: &PgCatalogStaticTables) -> Result<()> {
        let columns = self.columns.get("pg_proc").cloned().unwrap_or_default();
        let own = procs::procs(self);
        let mut batches: Result<Vec<RecordBatch>> = tables
            .pg_proc
            .data()
            .iter()
            .map(|batch| fit(&columns, &self.plain("pg_proc", batch)?))
            .collect();
        if let Ok(batches) = &mut batches {
            batches.push(rows::batch(&columns, &own, true)?);
        }
        let table = MemTable::try_new(rows::schema(&columns), vec![batches?])?;
        self.shipped.insert("pg_proc", Arc::new(table));
        Ok(())
    }

    /// A shipped batch without the metadata of its columns, lists as lists.
    fn plain(&self, table: &str, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut fields: Vec<Field> = Vec::new();
        let mut arrays: Vec<ArrayRef> = Vec::new();
        for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
            let name = match field.name().as_str() {
                // It is called so since PostgreSQL 17.
                "colllocale" => "colliculocale",
                name => name,
            };
            let kind = match name {
                "proallargtypes" => Some(Kind::Int4s),
                "proargmodes" | "proargnames" | "proconfig" | "spcoptions" => Some(Kind::Texts),
                name if name.ends_with("acl") => Some(Kind::Texts),
                "typtype" if table == "pg_type" => Some(Kind::Char),
                // The functions of a type are shipped by name.
                "typinput" | "typoutput" | "typreceive" | "typsend" | "typmodin" | "typmodout"
                | "typanalyze" | "typsubscript" => Some(Kind::Int4),
                _ => None,
            };
            match kind {
                Some(Kind::Char) => {
                    fields.push(Kind::Char.field(name));
                    arrays.push(Arc::clone(array));
                }
                Some(Kind::Int4) => {
                    let names = rows::cells(array)?.into_iter();
                    let oid = |cell: Cell| self.procs.by_name.get(&cell.text()?).copied();
                    let oids: Vec<Cell> = names.map(|name| oid(name).unwrap_or(0).into()).collect();
                    fields.push(Kind::Int4.field(name));
                    arrays.push(rows::column(Kind::Int4, oids.iter()));
                }
                Some(kind) => {
                    let cells: Vec<Cell> = rows::cells(array)?.iter().map(list_of).collect();
                    fields.push(kind.field(name));
                    arrays.push(rows::column(kind, cells.iter()));
                }
                None => {
                    fields.push(Field::new(name, field.data_type().clone(), true));
                    arrays.push(Arc::clone(array));
                }
            }
        }
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
    }

    pub fn catalog(&self) -> Result<Arc<dyn CatalogProvider>> {
        self.catalog
            .upgrade()
            .ok_or_else(|| DataFusionError::Execution("the server's catalog is closed".to_owned()))
    }

    async fn rows(self: &Arc<Self>, source: Source, facts: Option<Arc<Facts>>) -> Result<Vec<Row>> {
        let facts = facts.as_deref();
        Ok(match source {
            Source::Shipped | Source::Empty | Source::Procs => Vec::new(),
            Source::Classes => objects::classes(self).await?,
            Source::Attributes => objects::attributes(self).await?,
            Source::Namespaces => objects::namespaces(self)?,
            Source::Indexes => objects::indexes(self).await?,
            Source::IndexList => objects::index_list(self).await?,
            Source::Constraints => objects::constraints(self).await?,
            Source::Tables => objects::tables(self, facts).await?,
            Source::Views => objects::views(self, facts).await?,
            Source::Databases => procs::databases(self, facts),
            Source::Descriptions => procs::descriptions(self),
            Source::Roles => procs::roles(self, facts),
            Source::Authids => procs::roles(self, facts),
            Source::Users => procs::users(self, facts),
            Source::Settings => procs::settings(facts),
            Source::Activity => procs::activity(self, facts),
            Source::InfoTables => standard::tables(self, facts).await?,
            Source::InfoColumns => standard::columns(self, facts).await?,
            Source::InfoSchemata => standard::schemata(self, facts)?,
            Source::InfoViews => standard::views(self, facts).await?,
            Source::InfoConstraints => standard::constraints(self, facts).await?,
            Source::InfoKeys => standard::keys(self, facts).await?,
            Source::InfoRoutines => standard::routines(self, facts),
            Source::InfoParameters => standard::parameters(self, facts),
            Source::InfoCatalog => vec![vec![("catalog_name", database(self, facts).into())]],
            Source::InfoRoles => procs::roles(self, facts)
                .into_iter()
                .map(|row| row.into_iter().filter(|(name, _)| *name == "rolname"))
                .map(|row| row.map(|(_, name)| ("role_name", name)).collect())
                .collect(),
        })
    }
}

/// The database as the client calls it.
pub(super) fn database(shared: &Shared, facts: Option<&Facts>) -> String {
    facts.map_or_else(|| shared.database.clone(), |facts| facts.database.clone())
}

fn columns_of(spec: &str) -> Vec<(String, Kind)> {
    let column = |part: &str| {
        let (name, letter) = part.trim().split_once(' ')?;
        let kind = match letter {
            "b" => Kind::Bool,
            "s" => Kind::Int2,
            "i" => Kind::Int4,
            "l" => Kind::Int8,
            "f" => Kind::Float4,
            "d" => Kind::Float8,
            "z" => Kind::Time,
            "S" => Kind::Int2s,
            "I" => Kind::Int4s,
            "T" => Kind::Texts,
            _ => Kind::Text,
        };
        Some((name.to_owned(), kind))
    };
    spec.split(',').filter_map(column).collect()
}

fn cells_of(batch: &RecordBatch, column: &str) -> Result<Vec<Cell>> {
    match batch.column_by_name(column) {
        Some(array) => rows::cells(array),
        None => Ok(vec![Cell::Null; batch.num_rows()]),
    }
}

/// `{a,b}` as a list.
pub(super) fn list_of(cell: &Cell) -> Cell {
    let Some(text) = cell.text() else {
        return cell.clone();
    };
    let inner = text.trim().trim_start_matches('{').trim_end_matches('}');
    let items = inner.split(',').filter(|item| !item.is_empty());
    Cell::List(
        items
            .map(|item| Cell::from(item.trim_matches('"')))
            .collect(),
    )
}

/// A batch with these columns, by name; what it lacks is NULL.
fn fit(columns: &rows::Columns, batch: &RecordBatch) -> Result<RecordBatch> {
    let arrays: Result<Vec<ArrayRef>> = columns
        .iter()
        .map(|(name, kind)| Ok(rows::column(*kind, cells_of(batch, name)?.iter())))
        .collect();
    Ok(RecordBatch::try_new(rows::schema(columns), arrays?)?)
}

fn shipped<'a>(name: &str, tables: &'a PgCatalogStaticTables) -> Option<&'a ArrowTable> {
    Some(match name {
        "pg_aggregate" => &tables.pg_aggregate,
        "pg_am" => &tables.pg_am,
        "pg_amop" => &tables.pg_amop,
        "pg_amproc" => &tables.pg_amproc,
        "pg_auth_members" => &tables.pg_auth_members,
        "pg_cast" => &tables.pg_cast,
        "pg_collation" => &tables.pg_collation,
        "pg_conversion" => &tables.pg_conversion,
        "pg_depend" => &tables.pg_depend,
        "pg_init_privs" => &tables.pg_init_privs,
        "pg_language" => &tables.pg_language,
        "pg_opclass" => &tables.pg_opclass,
        "pg_operator" => &tables.pg_operator,
        "pg_opfamily" => &tables.pg_opfamily,
        "pg_range" => &tables.pg_range,
        "pg_shdescription" => &tables.pg_shdescription,
        "pg_tablespace" => &tables.pg_tablespace,
        "pg_ts_config" => &tables.pg_ts_config,
        "pg_ts_dict" => &tables.pg_ts_dict,
        "pg_ts_parser" => &tables.pg_ts_parser,
        "pg_ts_template" => &tables.pg_ts_template,
        "pg_type" => &tables.pg_type,
        _ => return None,
    })
}

/// The schema itself.
#[derive(Debug)]
pub(super) struct PgCatalog {
    pub shared: Arc<Shared>,
}

#[async_trait::async_trait]
impl SchemaProvider for PgCatalog {
    fn table_names(&self) -> Vec<String> {
        TABLES.iter().map(|(name, ..)| (*name).to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some(table) = self.shared.shipped.get(name) {
            return Ok(Some(Arc::clone(table) as Arc<dyn TableProvider>));
        }
        let Some((name, _, source, _)) = TABLES.iter().find(|(table, ..)| *table == name) else {
            return Ok(None);
        };
        let Some(columns) = self.shared.columns.get(name) else {
            return Ok(None);
        };
        let schema = rows::schema(columns);
        let stream = Stream {
            shared: Arc::clone(&self.shared),
            name,
            source: *source,
            schema: Arc::clone(&schema),
        };
        let table = StreamingTable::try_new(schema, vec![Arc::new(stream)])?;
        Ok(Some(Arc::new(table)))
    }

    fn table_exist(&self, name: &str) -> bool {
        has_table(name)
    }
}

/// A table that makes its rows when it is read.
#[derive(Debug)]
struct Stream {
    shared: Arc<Shared>,
    name: &'static str,
    source: Source,
    schema: SchemaRef,
}

impl PartitionStream for Stream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let facts = context.session_config().get_extension::<Facts>();
        let (shared, name, source) = (Arc::clone(&self.shared), self.name, self.source);
        let make = async move {
            let rows = shared.rows(source, facts).await?;
            let columns = shared.columns.get(name).map_or(&[][..], Vec::as_slice);
            rows::batch(columns, &rows, name.starts_with("pg_"))
        };
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            futures::stream::once(make),
        ))
    }
}
