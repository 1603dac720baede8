//! Where a Delta table is, what its log says now, and what is said where that cannot be read.
//!
//! Takes a location and the object stores of a session, gives snapshots of the log. All that is read comes through the
//! session's stores, which keep to the content roots. Knows no rows.

use crate::content::ContentError;
use crate::engine::objects::is_remote;
use crate::engine::roots::Roots;
use crate::error::{Error, content, message};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::object_store::prefix::PrefixStore;
use datafusion::object_store::{self, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path};
use deltalake_core::kernel::Snapshot;
use deltalake_core::kernel::transaction::TransactionError;
use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake_core::{DeltaTable, DeltaTableError};
use std::sync::Arc;

/// The folder of a table's log.
pub(super) const LOG: &str = "_delta_log";

/// Which version of a table is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// The newest one when a statement reads it.
    Newest,
    /// Always this one.
    Version(u64),
    /// Always the newest one that there was then.
    Time(chrono::DateTime<chrono::Utc>),
}

/// One table's log.
#[derive(Debug, Clone)]
pub(super) struct Log {
    /// As statements name the table.
    pub(super) name: String,
    /// The table's folder, with a slash at its end.
    pub(super) url: ListingTableUrl,
    /// Where stores come from.
    runtime: Arc<RuntimeEnv>,
}

impl Log {
    /// # Errors
    /// A location that is no folder.
    pub(super) fn new(name: &str, location: &str, runtime: &Arc<RuntimeEnv>) -> Result<Log> {
        let url = ListingTableUrl::parse(format!("{}/", location.trim_end_matches('/')))?;
        if url.get_glob().is_some() {
            let why = format!("{location} is a pattern: a Delta table is one folder");
            return Err(Error::refused("0A000", why).into());
        }
        Ok(Log {
            name: name.to_owned(),
            url,
            runtime: Arc::clone(runtime),
        })
    }

    /// The store that holds the table: the session's for such locations.
    pub(super) fn store(&self) -> Result<Arc<dyn ObjectStore>> {
        self.runtime.object_store(&self.url)
    }

    /// The log in a store that holds the table.
    pub(super) fn over(&self, store: Arc<dyn ObjectStore>) -> LogStoreRef {
        let below = PrefixStore::new(Arc::clone(&store), self.url.prefix().clone());
        let options = StorageConfig::default();
        default_logstore(Arc::new(below), store, self.url.get_url(), &options)
    }

    /// # Errors
    /// 42501 where the table is in an object store and may not be written there.
    pub(super) fn check_write(&self, roots: &Roots) -> Result<()> {
        if is_remote(self.url.as_str()) {
            roots.urls().check_url("write", self.url.as_str())?;
        }
        Ok(())
    }

    /// The location of a version's entry.
    pub(super) fn entry(&self, version: u64) -> Path {
        let log = self.url.prefix().clone().join(LOG);
        log.join(format!("{version:020}.json"))
    }

    /// The log as it is now, or was at a version.
    ///
    /// # Errors
    /// 58P01 where there is no table or version, 0A000 for what cannot be read, XX001 for a log that makes no sense.
    pub(super) async fn load(&self, at: At) -> Result<Arc<Snapshot>> {
        let store = self.store()?;
        let log = self.over(Arc::clone(&store));
        let version = match at {
            At::Newest => None,
            At::Version(version) => Some(version),
            At::Time(time) => {
                let mut table = DeltaTable::new(Arc::clone(&log));
                if let Err(error) = table.load_with_datetime(time).await {
                    return Err(self.blamed(&store, error).await);
                }
                table.version()
            }
        };
        match (Snapshot::try_new(log.as_ref(), version).await, version) {
            (Ok(snapshot), _) => Ok(Arc::new(snapshot)),
            (Err(error), Some(version)) if words(&error).contains("specified end version") => {
                let (name, place) = (&self.name, self.url.as_str());
                let why = format!("Delta table \"{name}\" in {place} has no version {version}");
                Err(Error::refused("58P01", why).into())
            }
            (Err(error), _) => Err(self.blamed(&store, error).await),
        }
    }

    /// Whether there is a table; a log without entries is none.
    ///
    /// # Errors
    /// The log cannot be listed.
    pub(super) async fn exists(&self) -> Result<bool> {
        let log = self.url.prefix().clone().join(LOG);
        match self.store()?.list_with_delimiter(Some(&log)).await {
            Ok(list) => Ok(list.objects.iter().any(is_entry)),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What is said of a log that cannot be read: where that is the store's fault, what the store says.
    pub(super) async fn blamed(
        &self,
        store: &Arc<dyn ObjectStore>,
        error: DeltaTableError,
    ) -> DataFusionError {
        let log = self.url.prefix().clone().join(LOG);
        match store.list_with_delimiter(Some(&log)).await {
            Err(object_store::Error::NotFound { .. }) | Ok(_) => self.told(error),
            Err(of_store) => of_store.into(),
        }
    }

    /// The error with the table's name and a SQLSTATE.
    pub(super) fn told(&self, error: DeltaTableError) -> DataFusionError {
        let (name, place) = (&self.name, self.url.as_str());
        let whose = format!("Delta table \"{name}\" in {place}");
        let words = words(&error);
        let refused = |sqlstate, why: String| Error::refused(sqlstate, why).into();
        match &error {
            DeltaTableError::NotATable(_) => refused(
                "58P01",
                format!("{whose}: there is no table, its log is empty"),
            ),
            DeltaTableError::KernelError(_) if words.starts_with("Invalid table location") => {
                let why = format!("{whose}: there is no table, its folder is missing");
                refused("58P01", why)
            }
            DeltaTableError::Transaction { source } => match source {
                TransactionError::UnsupportedTableFeatures(features) => {
                    let why = format!("{whose} needs what is not supported: {features:?}");
                    refused("0A000", why)
                }
                TransactionError::CommitConflict(_) | TransactionError::MaxCommitAttempts(_) => {
                    refused(
                        "40001",
                        format!("{whose}: others changed it meanwhile: {words}"),
                    )
                }
                TransactionError::DeltaTableAppendOnly => refused(
                    "0A000",
                    format!("{whose} only takes rows: it is append-only"),
                ),
                _ => refused("58030", format!("{whose}: {words}")),
            },
            DeltaTableError::ObjectStore { .. } | DeltaTableError::Io { .. } => error.into(),
            _ if found::<ContentError>(&error).is_some() => {
                DataFusionError::External(Box::new(error))
            }
            _ => match of_store(&error) {
                Some(object_store::Error::PermissionDenied { .. }) => {
                    DataFusionError::External(Box::new(error))
                }
                Some(object_store::Error::NotFound { .. }) => {
                    refused("58P01", format!("{whose}: {words}"))
                }
                Some(_) => refused("58030", format!("{whose}: {words}")),
                None => refused(state_of(&error), format!("{whose}: {words}")),
            },
        }
    }
}

/// The kind of an error of the log's reader, which says most of it in words only.
fn state_of(error: &DeltaTableError) -> &'static str {
    let words = error.to_string();
    let says = |some: &[&str]| some.iter().any(|word| words.contains(word));
    match error {
        DeltaTableError::SchemaMismatch { .. } => "42804",
        DeltaTableError::InvalidVersion(_) => "58P01",
        DeltaTableError::UnsupportedColumnMapping { .. } => "0A000",
        _ if says(&["nsupported", "not supported", "nknown feature"]) => "0A000",
        _ if says(&["lacked the necessary privileges", "access denied"]) => "42501",
        _ if says(&["object store"]) => "58030",
        _ if says(&["File not found", "No table version", "to have version"]) => "58P01",
        _ => "XX001",
    }
}

/// What an error says, in one line, without the layers that it came through.
fn words(error: &DeltaTableError) -> String {
    let whole = error.to_string();
    let mut words = whole.lines().next().unwrap_or_default().trim();
    let layers = [
        "Kernel error: ",
        "Generic DeltaTable error: ",
        "Generic delta kernel error: ",
        "Generic error: ",
        "Kernel: ",
        "Arrow error: ",
        "External error: ",
        "Unsupported: ",
    ];
    while let Some(inner) = layers.iter().find_map(|layer| words.strip_prefix(layer)) {
        words = inner;
    }
    words.to_owned()
}

fn is_entry(meta: &ObjectMeta) -> bool {
    let name = meta.location.filename().unwrap_or_default();
    version_of(name).is_some() || (name.contains(".checkpoint") && name.ends_with(".parquet"))
}

/// The version whose entry has this name.
pub(super) fn version_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    let all = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| digits.parse().ok()).flatten()
}

/// What tells a version's entry from another one of that version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    version: u64,
    entry: (chrono::DateTime<chrono::Utc>, u64, Option<String>),
}

impl Mark {
    /// `None` where the log has no such entry any more, or it cannot be looked at.
    pub(super) async fn of(log: &Log, store: &Arc<dyn ObjectStore>, version: u64) -> Option<Mark> {
        let meta = store.head(&log.entry(version)).await.ok()?;
        Some(Mark {
            version,
            entry: (meta.last_modified, meta.size, meta.e_tag),
        })
    }

    /// Whether this version is the newest one still.
    pub(super) async fn holds(&self, log: &Log, store: &Arc<dyn ObjectStore>) -> bool {
        let next = store.head(&log.entry(self.version + 1)).await;
        matches!(next, Err(object_store::Error::NotFound { .. }))
            && Mark::of(log, store, self.version).await.as_ref() == Some(self)
    }
}

/// What is said of a scan that failed; errors that know more than this one stay as they are.
pub(super) fn of_scan(error: DataFusionError, (name, place): (&str, &str)) -> DataFusionError {
    if content(&error).is_some() {
        return error;
    }
    let whose = format!("Delta table \"{name}\" in {place}");
    match of_store(&error) {
        Some(object_store::Error::NotFound { path, .. }) => {
            let why = format!("{whose}: a file that its log names is missing: {path}");
            return Error::refused("58P01", why).into();
        }
        // Nothing is damaged that cannot be had.
        Some(_) => return error,
        None => {}
    }
    match error.find_root() {
        DataFusionError::ParquetError(_) => {
            let why = format!("{whose}: a file is damaged: {}", message(&error));
            Error::refused("XX001", why).into()
        }
        DataFusionError::Plan(why) if why.contains("eletion vector") => {
            Error::refused("XX001", format!("{whose}: {why}")).into()
        }
        DataFusionError::External(source) => match source.downcast_ref::<DeltaTableError>() {
            Some(error) => {
                let why = format!("{whose}: {}", words(error));
                Error::refused(state_of(error), why).into()
            }
            None => error,
        },
        _ => error,
    }
}

/// The store's error that an error came from.
fn of_store<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a object_store::Error> {
    found(error)
}

/// The first error of a kind that an error came from.
fn found<'a, E: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_known_by_their_names() {
        for (name, want) in [
            ("00000000000000000007.json", Some(7)),
            ("00000000000000000007.json.tmp", None),
            ("7.json", None),
            ("0000000000000000000x.json", None),
            ("00000000000000000010.checkpoint.parquet", None),
            ("_last_checkpoint", None),
        ] {
            assert_eq!(version_of(name), want, "{name}");
        }
    }
}
