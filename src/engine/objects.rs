//! Where locations of statements are: the registry of object stores, and whether a location can be reached.
//!
//! Takes URLs, gives the store for local files, tables of the program's own, or one that `content` opened. Patterns in an
//! object store's location are its own affair here: DataFusion knows them for local paths only.

use super::roots::Roots;
use crate::content::objects::{Kind, Stores};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::object_store::{ObjectStore, ObjectStoreExt};
use futures::StreamExt;
use std::sync::Arc;
use url::Url;

/// Every object store.
#[derive(Debug)]
pub(super) struct Places {
    here: DefaultObjectStoreRegistry,
    roots: Roots,
    stores: Arc<Stores>,
}

impl Places {
    pub(super) fn new(roots: &Roots, stores: &Arc<Stores>) -> Places {
        Places {
            here: DefaultObjectStoreRegistry::new(),
            roots: roots.clone(),
            stores: Arc::clone(stores),
        }
    }
}

impl ObjectStoreRegistry for Places {
    fn register_store(
        &self,
        url: &Url,
        store: Arc<dyn ObjectStore>,
    ) -> Option<Arc<dyn ObjectStore>> {
        self.here.register_store(url, store)
    }

    fn deregister_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        self.here.deregister_store(url)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        match self.stores.get(url, self.roots.urls())? {
            Some(store) => Ok(store),
            None => self.here.get_store(url),
        }
    }
}

/// Whether a location is one of an object store.
pub(super) fn is_remote(location: &str) -> bool {
    kind(location).is_some()
}

fn kind(location: &str) -> Option<Kind> {
    let (scheme, _) = location.split_once("://")?;
    Kind::of_scheme(&scheme.to_ascii_lowercase())
}

/// That each of these locations that is in an object store can be reached, and that an object that is named is there. What a
/// folder holds may come later.
///
/// # Errors
/// What the store says.
pub(super) async fn reach(runtime: &RuntimeEnv, locations: &[String]) -> Result<()> {
    for location in locations {
        let Some(kind) = kind(location) else {
            continue;
        };
        let url = ListingTableUrl::parse(location)?;
        let store = runtime.object_store(url.object_store())?;
        let (prefix, pattern) = split(location);
        match (pattern.is_none() && !location.ends_with('/'), kind) {
            (true, _) => {
                let found = store.head(url.prefix()).await;
                found.map_err(DataFusionError::from)?;
            }
            // Web servers list nothing.
            (false, Kind::Http) => {
                let why = format!(
                    "cannot list {location}: web servers are asked for single files; name each in LOCATION ('..', '..')"
                );
                return Err(DataFusionError::NotImplemented(why));
            }
            (false, _) => {
                let folder = ListingTableUrl::parse(prefix)?;
                let first = store.list(Some(folder.prefix())).next().await;
                first.transpose().map_err(DataFusionError::from)?;
            }
        }
    }
    Ok(())
}

/// The folder before a pattern, and the pattern; the whole location where there is none.
pub(super) fn split(location: &str) -> (&str, Option<&str>) {
    let Some(at) = location.find(['*', '[']).filter(|_| is_remote(location)) else {
        return (location, None);
    };
    let start = location[..at].rfind('/').map_or(0, |slash| slash + 1);
    (&location[..start], Some(&location[start..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_cut_behind_their_folder() {
        for (location, want) in [
            ("s3://b/a/x.csv", ("s3://b/a/x.csv", None)),
            ("s3://b/a/*.csv", ("s3://b/a/", Some("*.csv"))),
            ("s3://b/a*/x.csv", ("s3://b/", Some("a*/x.csv"))),
            ("s3://b/a/x[12].csv", ("s3://b/a/", Some("x[12].csv"))),
            ("/a/*.csv", ("/a/*.csv", None)),
        ] {
            assert_eq!(split(location), want, "{location}");
        }
        assert!(is_remote("S3://b/a") && is_remote("https://h/a"));
        assert!(!is_remote("/a://b") && !is_remote("file:///a") && !is_remote("ftp://h/a"));
    }
}
