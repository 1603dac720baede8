//! The only place that builds a session: store, policies and model behind one DataFusion context a connection.
//!
//! Takes a [`Config`], gives sessions; takes scripts, gives statements, rows as they come, and what each statement
//! asked. Every caller (a command, a job, a connection) goes through here, and so through the same classifier stack.
//! Knows nothing of sockets, terminals or how rows are shown.

mod calibrate;
mod delta;
mod distributed;
mod estimate;
mod exists;
mod files;
pub mod functions;
pub mod golden;
pub mod guarded;
mod held;
mod judge;
mod objects;
pub mod policies;
pub mod procedures;
pub(crate) mod publish;
mod relations;
mod roots;
mod screens;
pub mod script;
mod secrets;
mod servers;
mod session;
mod sink;
mod staging;
mod tables;
mod undecided;

pub use distributed::WorkerServer;
pub use judge::Asking;
pub use script::{Statement, pieces, syntax_error};
pub use session::{End, Ended, Guard, Running, Session};

use crate::backend::endpoint::{Endpoint, is_address};
use crate::backend::local::Local;
use crate::backend::{Backend, ModelIdentity, Places};
use crate::classify::limits::{DayLimits, Now};
use crate::classify::screen::Screening;
use crate::classify::{self, Waits};
use crate::config::{Config, RolesLimits, endpoint_access, worker_token, worker_urls};
use crate::content::objects::{Allowed, Stores};
use crate::content::postgres::CountThere;
use crate::error::Error;
use crate::model::memory::check_memory;
use crate::models::{self, Place};
use crate::policy::Registry;
use crate::store::{self, Store};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider,
};
use datafusion::common::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionStateBuilder, SessionStateDefaults};
use datafusion::prelude::{SessionConfig, SessionContext};
use delta::Deltas;
use distributed::Workers;
use exists::ExistsAsValue;
use functions::Function;
use procedures::Procedure;
use roots::Roots;
use safeguard_udfs::{Summary, install};
use sink::{Folders, Shelf};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The catalog of every session.
pub const CATALOG: &str = "safeguard";

/// What all sessions share.
#[derive(Debug, Clone)]
pub struct Engine {
    store: Store,
    policies: Arc<Registry>,
    model: ModelIdentity,
    classifier: Arc<Screening>,
    catalogs: Arc<dyn CatalogProviderList>,
    runtime: Arc<RuntimeEnv>,
    roots: Roots,
    /// Object stores and their secrets.
    objects: Arc<Stores>,
    shelf: Shelf,
    functions: Arc<Vec<Function>>,
    /// The user's own policies, if any.
    folder: Option<Arc<Path>>,
    procedures: Arc<Vec<Procedure>>,
    limits: Arc<DayLimits>,
    /// Other processes that classify, if any.
    workers: Option<Workers>,
    backend: Arc<dyn Backend>,
    waits: Arc<Waits>,
}

impl Engine {
    /// Opens store, policies and model; takes as long as reading the model's weights.
    pub async fn open(config: Config) -> Result<Engine, Error> {
        let (roots, urls) = (config.content_roots.clone(), config.content_urls.clone());
        let folder = config.policies.clone();
        let data = config.data_dir.clone();
        let workers = worker_urls(&config.workers)?;
        let token = match workers.is_empty() {
            true => None,
            false => worker_token()?,
        };
        let opened = tokio::task::spawn_blocking(move || {
            let store = match (&config.store, &config.data_dir) {
                (Some(url), _) => Store::shared(url)?,
                (None, Some(dir)) => Store::open(dir)?,
                (None, None) => Store::ephemeral()?,
            };
            Ok::<_, Error>((store, backend(&config)?))
        });
        let (store, backend) = opened.await.expect("bug: opening panicked")?;
        let engine = Engine::with_backend(store, backend).await?;
        screens::ship(&engine.store, &engine.policies, &engine.model).await?;
        let engine = engine.with_policies(folder.as_deref()).with_roots(roots)?;
        let engine = match urls {
            Some(urls) => engine.with_urls(Allowed::below(&urls)?)?,
            None => engine,
        };
        let engine = engine.with_workers(workers, token).await?;
        match data {
            Some(data) => engine.with_tables(&data),
            None => Ok(engine),
        }
    }

    /// The same engine for sessions that read and write files only below these folders, which must be resolved (absolute,
    /// without symlinks); `None` for whatever the program may.
    pub fn with_roots(mut self, roots: Option<Vec<PathBuf>>) -> Result<Engine, Error> {
        self.roots = Roots::new(roots).without(self.roots.apart());
        self.with_files()
    }

    /// The same engine for sessions that read and write in object stores only what is allowed.
    pub fn with_urls(mut self, allowed: Allowed) -> Result<Engine, Error> {
        self.roots = self.roots.with_urls(allowed);
        self.with_files()
    }

    /// The same engine, whose CREATE TABLE keeps tables below this data directory, where no other statement reads or writes.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn with_tables(mut self, data: &Path) -> Result<Engine, Error> {
        let own = tables::prepare(data).map_err(DataFusionError::from)?;
        let database = own.with_file_name("verdicts.db");
        let beside = ["-wal", "-shm"].map(|end| own.with_file_name(format!("verdicts.db{end}")));
        let apart = beside.into_iter().chain([database, own.clone()]);
        self.roots = self.roots.without(apart.collect());
        self.shelf.own = Some(own);
        self.with_files()
    }

    /// The same engine on a disk that fails.
    #[cfg(test)]
    fn on(mut self, disk: staging::Disk) -> Result<Engine, Error> {
        self.shelf.disk = disk;
        self.with_files()
    }

    /// What reads and writes files, by what is set.
    fn with_files(mut self) -> Result<Engine, Error> {
        self.shelf.roots = self.roots.clone();
        self.runtime = self.roots.runtime(&self.shelf.disk, &self.objects)?;
        if let Some(own) = &self.shelf.own {
            tables::register(&self.runtime, own, &self.shelf.disk)?;
        }
        Ok(self)
    }

    /// The same engine, whose sessions have these table functions too.
    #[must_use]
    pub fn with_functions(mut self, more: Vec<Function>) -> Engine {
        Arc::make_mut(&mut self.functions).extend(more);
        self
    }

    /// The same engine, whose sessions have these procedures too.
    #[must_use]
    pub fn with_procedures(mut self, more: Vec<Procedure>) -> Engine {
        Arc::make_mut(&mut self.procedures).extend(more);
        self
    }

    /// An engine over any backend.
    pub async fn with_backend(store: Store, backend: Arc<dyn Backend>) -> Result<Engine, Error> {
        let policies = Arc::new(policies::registry(&store).await?);
        let check = {
            let policies = Arc::clone(&policies);
            Arc::new(move |policy: &str, label: &str| check_override(&policies, policy, label))
        };
        let tables = store.schema_provider(check);
        let store_jobs = store.cron_provider();
        let model = backend.model().clone();
        let limits = Arc::new(DayLimits::new(store.clone()));
        let waits = Arc::<Waits>::default();
        let classifier = classify::stack(
            Arc::clone(&policies),
            store.clone(),
            Arc::clone(&backend),
            Arc::clone(&limits),
            Arc::clone(&waits),
        );
        let objects = Arc::<Stores>::default();
        let engine = Engine {
            store,
            policies,
            model,
            classifier,
            catalogs: catalogs(tables, store_jobs)?,
            runtime: Roots::default().runtime(&staging::Disk::default(), &objects)?,
            roots: Roots::default(),
            objects,
            shelf: Shelf::default(),
            functions: Arc::new(vec![
                publish::function(),
                calibrate::function(),
                secrets::function(),
            ]),
            folder: None,
            procedures: Arc::default(),
            limits,
            workers: None,
            backend,
            waits,
        };
        // Views are of the shared schema, so that the first session makes them for all.
        let session = engine.session("safeguard");
        for view in [store::LABELS_VIEW, store::SPEND_VIEW]
            .into_iter()
            .chain(store::EVALUATION_VIEWS)
        {
            session.context.sql(view).await?;
        }
        Ok(engine)
    }

    /// A session with settings of its own; tables are everybody's.
    pub fn session(&self, user: &str) -> Session {
        let config = computing(SessionConfig::new())
            .with_default_catalog_and_schema(CATALOG, "public")
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true)
            .set_str("datafusion.sql_parser.dialect", script::DIALECT)
            .set_bool("datafusion.sql_parser.collect_spans", true);
        let mut builder = SessionStateBuilder::new()
            .with_config(config)
            .with_catalog_list(Arc::clone(&self.catalogs))
            .with_runtime_env(Arc::clone(&self.runtime))
            .with_default_features()
            .with_analyzer_rule(Arc::new(ExistsAsValue))
            .with_physical_optimizer_rule(Arc::new(CountThere));
        for (format, files) in SessionStateDefaults::default_table_factories() {
            let shelf = self.shelf.clone();
            builder = builder.with_table_factory(format, Arc::new(Folders { files, shelf }));
        }
        let shelf = self.shelf.clone();
        builder = builder.with_table_factory(delta::KIND.to_owned(), Arc::new(Deltas { shelf }));
        let classifier: Arc<Screening> = Arc::clone(&self.classifier);
        let mut builder = install(builder, classifier);
        if let Some(workers) = &self.workers {
            builder = distributed::install(builder, workers, self);
        }
        let mut state = builder.build();
        files::register(&mut state).expect("bug: formats cannot be put in place of DataFusion's");
        let context = SessionContext::new_with_state(state);
        functions::register(&context, self, user);
        procedures::register(&context, self, user);
        Session {
            engine: self.clone(),
            context,
            user: user.to_owned(),
            guard: None,
            payer: None,
        }
    }

    /// From now on each role may ask this much in a day, by this clock: sessions with [`Session::paid_by`], and work in the
    /// background.
    pub fn limit(&self, limits: RolesLimits, now: Now) {
        self.limits.set(limits, now);
    }

    /// What each role may ask in a day.
    pub fn limits(&self) -> &Arc<DayLimits> {
        &self.limits
    }

    /// What was waited for on the way to verdicts, by everybody.
    pub fn waits(&self) -> &Waits {
        &self.waits
    }

    /// How many questions the model takes at once, where it is on servers.
    pub fn places(&self) -> Option<Places> {
        self.backend.places()
    }

    /// The verdict store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Every policy and its versions.
    pub fn policies(&self) -> &Arc<Registry> {
        &self.policies
    }

    /// Takes in versions of policies that other processes published since this one opened the store.
    ///
    /// # Errors
    /// The store fails; a version in it cannot be used.
    pub async fn learn_policies(&self) -> Result<(), Error> {
        policies::refresh(&self.policies, &self.store).await
    }

    /// What the model is.
    pub fn model(&self) -> &ModelIdentity {
        &self.model
    }

    /// A line for the screen when verdicts come from a demonstration model, else `None`.
    pub fn demonstration(&self) -> Option<String> {
        let name = &self.model.name;
        self.model.demonstration.then(|| {
            format!("{name} is a demonstration model: its verdicts show the road, not the truth; see safeguard sql --help for --model")
        })
    }
}

/// How values are computed and files are read, in every session of every process.
fn computing(config: SessionConfig) -> SessionConfig {
    config
        // A TIMESTAMPTZ is a point in time; without a zone it would be a time of day somewhere.
        .set_str("datafusion.execution.time_zone", "UTC")
        // Folders below a location and patterns of more than one level are read, and not passed over in silence.
        .set_bool(
            "datafusion.execution.listing_table_ignore_subdirectory",
            false,
        )
}

/// The model that the settings name, opened; blocks.
fn backend(config: &Config) -> Result<Arc<dyn Backend>, Error> {
    if is_address(&config.model) {
        let endpoint = Endpoint::open(&config.model, endpoint_access())?;
        return Ok(Arc::new(endpoint));
    }
    let local = match models::resolve(&config.model, &config.models_dir)? {
        Place::Embedded => Local::nano()?,
        Place::Folder(dir) => {
            if !config.allow_swap && Local::device(&dir)?.is_none() {
                check_memory(&dir)?;
            }
            Local::open(&dir)?
        }
    };
    Ok(Arc::new(local))
}

/// The one catalog, with its schema for users' tables and the store's two.
fn catalogs(
    tables: Arc<dyn SchemaProvider>,
    jobs: Arc<dyn SchemaProvider>,
) -> Result<Arc<dyn CatalogProviderList>, Error> {
    let catalog = delta::Catalog::default();
    catalog.register_schema("public", Arc::new(MemorySchemaProvider::new()))?;
    catalog.register_schema("safeguard", tables)?;
    catalog.register_schema("cron", jobs)?;
    let list = MemoryCatalogProviderList::new();
    list.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
    Ok(Arc::new(list))
}

fn check_override(policies: &Registry, policy: &str, label: &str) -> Result<bool, String> {
    let version = policies.resolve(policy).map_err(|e| e.to_string())?;
    let labels = &version.policy.labels;
    match labels.iter().position(|known| **known == *label) {
        Some(index) => Ok(index != version.policy.allowed),
        None => Err(format!(
            "label \"{label}\" is not one of policy \"{policy}\": {}",
            labels.join(", ")
        )),
    }
}

/// `safeguard: 12000 rows, 9100 recalled, 396 asked, 4 undecided (3 truncated, 1 refused), 41210 tokens, 38.2 s`
fn notice(summary: &Summary) -> String {
    let rows = if summary.rows == 1 { "row" } else { "rows" };
    let mut parts = vec![format!("safeguard: {} {rows}", summary.rows)];
    if summary.distinct_texts < summary.rows {
        parts.push(format!("{} distinct texts", summary.distinct_texts));
    }
    parts.push(format!("{} recalled", summary.recalled));
    if summary.screened > 0 {
        parts.push(format!("{} screened", summary.screened));
    }
    parts.push(format!("{} asked", summary.asked));
    if !summary.undecided.is_empty() {
        let reasons: Vec<String> = summary
            .undecided
            .iter()
            .map(|(r, n)| format!("{n} {}", r.as_str()))
            .collect();
        parts.push(format!(
            "{} undecided ({})",
            summary.undecided_total(),
            reasons.join(", ")
        ));
    }
    parts.push(format!("{} tokens", summary.tokens_in + summary.tokens_out));
    parts.push(format!("{:.1} s", summary.elapsed.as_secs_f64()));
    parts.join(", ")
}
