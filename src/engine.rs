//! The only place that builds a session: store, policies and model behind one DataFusion context a connection.
//!
//! Takes a [`Config`], gives sessions; takes scripts, gives statements, rows as they come, and what each statement
//! asked. Every caller (a command, a job, a connection) goes through here, and so through the same classifier stack.
//! Knows nothing of sockets, terminals or how rows are shown.

mod calibrate;
mod files;
mod publish;
pub mod script;

pub use script::Statement;

use crate::backend::local::Local;
use crate::backend::{Backend, ModelIdentity};
use crate::classify;
use crate::classify::cascade::Cascade;
use crate::config::Config;
use crate::error::Error;
use crate::model::memory::check_memory;
use crate::models::{self, Place};
use crate::policy::{Policy, Registry, Version, folder};
use crate::store::{self, QueryRow, Store, VersionRow, now};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::SchemaProvider;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder};
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use futures::TryStreamExt;
use safeguard_udfs::{SafeguardSettings, Summary, install};
use std::sync::Arc;

/// The catalog of every session.
pub const CATALOG: &str = "safeguard";
/// The prefix of the settings that are this program's.
const SETTINGS: &str = "safeguard.";
/// Who published the policies that come with the program.
const SHIPPED_BY: &str = "safeguard";

/// A table function, as a client may be told of it.
#[derive(Debug)]
pub struct FunctionDoc {
    /// Its name.
    pub name: &'static str,
    /// Names and types of its arguments.
    pub arguments: &'static [(&'static str, DataType)],
    /// The columns of its rows.
    pub returns: SchemaRef,
    /// What it does, in a sentence or two.
    pub description: &'static str,
}

/// The table functions that every session has.
pub fn table_functions() -> Vec<FunctionDoc> {
    vec![publish::documentation(), calibrate::documentation()]
}

/// What all sessions share.
#[derive(Debug, Clone)]
pub struct Engine {
    store: Store,
    policies: Arc<Registry>,
    model: ModelIdentity,
    classifier: Arc<Cascade>,
    tables: Arc<dyn SchemaProvider>,
}

impl Engine {
    /// Opens store, policies and model; takes as long as reading the model's weights.
    pub async fn open(config: Config) -> Result<Engine, Error> {
        let opened = tokio::task::spawn_blocking(move || {
            let store = match &config.data_dir {
                Some(dir) => Store::open(dir)?,
                None => Store::ephemeral()?,
            };
            let backend = match models::resolve(&config.model, &config.models_dir)? {
                Place::Embedded => Local::nano(),
                Place::Folder(dir) => {
                    if !config.allow_swap && Local::device(&dir)?.is_none() {
                        check_memory(&dir)?;
                    }
                    Local::open(&dir)
                }
            };
            Ok::<_, Error>((store, backend?))
        });
        let (store, backend) = opened.await.expect("bug: opening panicked")?;
        Engine::with_backend(store, Arc::new(backend)).await
    }

    /// An engine over any backend.
    pub async fn with_backend(store: Store, backend: Arc<dyn Backend>) -> Result<Engine, Error> {
        let policies = Arc::new(registry(&store).await?);
        let check = {
            let policies = Arc::clone(&policies);
            Arc::new(move |policy: &str, label: &str| check_override(&policies, policy, label))
        };
        let tables = store.schema_provider(check);
        let model = backend.model().clone();
        let classifier = classify::stack(Arc::clone(&policies), store.clone(), backend);
        let engine = Engine {
            store,
            policies,
            model,
            classifier,
            tables,
        };
        // The view is one of the shared schema, so that the first session makes it for all.
        engine
            .session("safeguard")
            .context
            .sql(store::LABELS_VIEW)
            .await?;
        Ok(engine)
    }

    /// A session with settings of its own.
    pub fn session(&self, user: &str) -> Session {
        let config = SessionConfig::new()
            .with_default_catalog_and_schema(CATALOG, "public")
            .with_information_schema(true)
            .set_str("datafusion.sql_parser.dialect", script::DIALECT)
            .set_bool("datafusion.sql_parser.collect_spans", true);
        let builder = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features();
        let classifier: Arc<Cascade> = Arc::clone(&self.classifier);
        let state = install(builder, classifier).build();
        let context = SessionContext::new_with_state(state);
        let catalog = context
            .catalog(CATALOG)
            .expect("bug: the session has its catalog");
        catalog
            .register_schema("safeguard", Arc::clone(&self.tables))
            .expect("bug: the catalog takes schemas");
        publish::register(&context, self.clone(), user);
        calibrate::register(&context, self.clone());
        Session {
            engine: self.clone(),
            context,
            user: user.to_owned(),
        }
    }

    /// A line for the screen when verdicts come from a demonstration model, else `None`.
    pub fn demonstration(&self) -> Option<String> {
        let name = &self.model.name;
        self.model.demonstration.then(|| {
            format!("{name} is a demonstration model: its verdicts show the road, not the truth; see safeguard sql --help for --model")
        })
    }
}

/// What the store holds, and what the program brings that was never published.
async fn registry(store: &Store) -> Result<Registry, Error> {
    let mut versions = Vec::new();
    for row in store.versions().await? {
        let policy = Arc::new(Policy::parse_as(&row.name, &row.text)?);
        versions.push(Version {
            name: row.name.into(),
            number: row.version,
            digest: row.digest.into(),
            policy,
            published_at: row.published_at,
            published_by: row.published_by.unwrap_or_default(),
            note: row.note.unwrap_or_default(),
        });
    }
    let registry = Registry::load(versions)?;
    for file in folder::shipped() {
        let known: Vec<_> = registry
            .versions()
            .into_iter()
            .filter(|v| v.name == file.policy.name)
            .collect();
        // A shipped text takes the place of a shipped one, never of what somebody here published.
        let ours = known
            .last()
            .is_none_or(|current| current.published_by == SHIPPED_BY);
        let digest = file.policy.digest();
        if ours && !known.iter().any(|v| *v.digest == *digest) {
            publish::publish(&registry, store, file.policy, ("shipped", SHIPPED_BY)).await?;
        }
    }
    Ok(registry)
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

/// One connection: its settings, its temporary tables. Runs one statement at a time.
pub struct Session {
    engine: Engine,
    context: SessionContext,
    user: String,
}

/// A statement that is running.
pub struct Running {
    /// Columns of the answer; no columns for a statement that returns no rows.
    pub schema: SchemaRef,
    /// PostgreSQL's command tag without the count: `SELECT`, `CREATE TABLE`, `SET`, `INSERT 0`, ..
    pub tag: &'static str,
    rows: SendableRecordBatchStream,
    ended: Ended,
}

/// What is left of a [`Running`] whose rows are read or dropped.
pub struct Ended {
    scope: Arc<safeguard_udfs::Statement>,
    started_at: i64,
    sql: String,
}

/// How a statement ended.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    /// All rows were read.
    Done,
    /// It was given up before.
    Cancelled,
    /// With this error.
    Failed(&'a Error),
}

impl Running {
    /// What it has asked so far; all zero when it classifies nothing.
    pub fn progress(&self) -> Summary {
        self.ended.progress()
    }

    /// The rows as they come, and what [`Session::finish`] wants. Dropping the rows cancels the statement.
    pub fn split(self) -> (SendableRecordBatchStream, Ended) {
        (self.rows, self.ended)
    }
}

impl Ended {
    /// What it has asked so far; all zero when it classifies nothing.
    pub fn progress(&self) -> Summary {
        self.scope.tally().summary()
    }
}

impl Session {
    /// The statements of a script. One that cannot be parsed is reported in its place, and ends the list.
    pub fn split(&self, script: &str) -> Vec<Result<Statement, Error>> {
        script::split(script)
    }

    /// Whether `script` ends inside a statement, so that a prompt asks for another line.
    pub fn is_incomplete(&self, script: &str) -> bool {
        script::is_incomplete(script)
    }

    /// Plans and starts a statement. What it is to see of its own questions begins here.
    pub async fn run(&self, statement: &Statement) -> Result<Running, Error> {
        let scope = Arc::new(safeguard_udfs::Statement::new(self.settings()));
        let ended = Ended {
            scope: Arc::clone(&scope),
            started_at: now(),
            sql: statement.sql.clone(),
        };
        match self.start(statement, scope).await {
            Ok(rows) => Ok(Running {
                schema: rows.schema(),
                tag: statement.tag,
                rows,
                ended,
            }),
            Err(error) => {
                // CREATE TABLE AS has judged by now.
                self.finish(ended, End::Failed(&error)).await;
                Err(error)
            }
        }
    }

    async fn start(
        &self,
        statement: &Statement,
        scope: Arc<safeguard_udfs::Statement>,
    ) -> Result<SendableRecordBatchStream, Error> {
        let reset = script::as_reset(statement).filter(|n| n == "all" || n.starts_with(SETTINGS));
        if let Some(name) = reset {
            self.reset(&name)?;
            let nothing = self.context.read_empty()?.select_columns(&[])?;
            return Ok(nothing.execute_stream().await?);
        }
        let state = self.context.state_ref();
        state.write().config_mut().set_extension(scope);
        let state = self.context.state();
        let plan = state.statement_to_plan(statement.parsed.clone()).await?;
        let locations = files::locations(&plan)?;
        let frame = self.context.execute_logical_plan(plan).await;
        rows_of(frame.map_err(|e| files::named(e, &locations))?).await
    }

    /// To be called when the rows are read or given up: logs a statement that classified in `safeguard.queries`, and
    /// gives its notices.
    pub async fn finish(&self, ended: Ended, end: End<'_>) -> Vec<String> {
        let summary = ended.progress();
        if summary.distinct_texts == 0 {
            return Vec::new();
        }
        let mut notices = ended.scope.tally().notes();
        notices.push(notice(&summary));
        let status = match end {
            End::Done => "ok".to_owned(),
            End::Cancelled => "57014: cancelled".to_owned(),
            End::Failed(error) => format!("{}: {error}", error.sqlstate()),
        };
        let row = QueryRow {
            started_at: ended.started_at,
            user: self.user.clone(),
            statement: ended.sql,
            status,
            rows: summary.rows,
            distinct_texts: summary.distinct_texts,
            recalled: summary.recalled,
            screened: summary.screened,
            asked: summary.asked,
            undecided: summary.undecided_total(),
            tokens_in: summary.tokens_in,
            tokens_out: summary.tokens_out,
            seconds: summary.elapsed.as_secs_f64(),
        };
        if let Err(e) = self.engine.store.append_query(row).await {
            notices.push(format!(
                "the statement is missing from safeguard.queries: {e}"
            ));
        }
        notices
    }

    fn settings(&self) -> SafeguardSettings {
        let state = self.context.state();
        state
            .config_options()
            .extensions
            .get::<SafeguardSettings>()
            .cloned()
            .unwrap_or_default()
    }

    /// DataFusion resets only its own settings.
    fn reset(&self, name: &str) -> Result<(), Error> {
        use datafusion::config::ExtensionOptions;
        let defaults = SafeguardSettings::default().entries();
        let state = self.context.state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut();
        for entry in defaults {
            if name == "all" || entry.key == name {
                options.set(&entry.key, entry.value.as_deref().unwrap_or_default())?;
                if name != "all" {
                    return Ok(());
                }
            }
        }
        if name == "all" {
            return Ok(());
        }
        // Says that there is no such setting, and which there are.
        Ok(options.set(name, "")?)
    }
}

/// The rows of a plan; what is wrong in a file is said with the file's name.
async fn rows_of(frame: DataFrame) -> Result<SendableRecordBatchStream, Error> {
    let context = Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await?;
    let files = files::scanned(&plan);
    let rows = execute_stream(plan, context)?;
    let schema = rows.schema();
    let rows = rows.map_err(move |e| files::named(e, &files));
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
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

/// A version as the store keeps it.
fn version_row(version: &Version) -> VersionRow {
    let labels: Vec<&str> = version.policy.labels.iter().map(AsRef::as_ref).collect();
    VersionRow {
        name: version.name.to_string(),
        version: version.number,
        digest: version.digest.to_string(),
        text: version.policy.source.clone(),
        labels: serde_json::Value::from(labels).to_string(),
        title: Some(version.policy.title.clone()),
        published_at: version.published_at,
        published_by: Some(version.published_by.clone()),
        note: Some(version.note.clone()),
    }
}
