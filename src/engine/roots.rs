//! Content roots: the folders below which statements read and write files.
//!
//! Takes folders, gives an object store for `file://` that resolves every location (symlinks, percent-encoding; `..` is
//! gone by then) to where it really is before it touches it, and refuses what is not below a root. Says the same of a
//! file outside that is there and of one that is not. Knows no format and no statement.

use crate::error::Error;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::common::not_impl_err;
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::object_store::local::LocalFileSystem;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    self, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

/// Where files may be; every location, for nobody's but the local user's own statements.
#[derive(Debug, Clone, Default)]
pub(super) struct Roots(Option<Arc<[PathBuf]>>);

/// What is said of a location that is below no root.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}: it is outside of the content roots", path.display())]
pub(super) struct Outside {
    /// `read` or `write`.
    verb: &'static str,
    /// As it was asked for.
    path: PathBuf,
}

impl Outside {
    fn new(verb: &'static str, path: &FilePath) -> Outside {
        Outside {
            verb,
            path: path.to_path_buf(),
        }
    }
}

impl From<Outside> for object_store::Error {
    fn from(outside: Outside) -> object_store::Error {
        object_store::Error::PermissionDenied {
            path: outside.path.display().to_string(),
            source: Box::new(outside),
        }
    }
}

impl Roots {
    /// `None` allows every location. Roots must be resolved: absolute and without symlinks.
    pub(super) fn new(roots: Option<Vec<PathBuf>>) -> Roots {
        Roots(roots.map(Into::into))
    }

    /// What sessions run with: a store for local files that keeps to the roots.
    pub(super) fn runtime(&self) -> Result<Arc<RuntimeEnv>, Error> {
        // Folders are listed anew by each statement: what was put there since is seen, what was taken away is not.
        let runtime = RuntimeEnvBuilder::new()
            .with_object_list_cache_limit(0)
            .build_arc()?;
        if self.0.is_some() {
            let local = ObjectStoreUrl::local_filesystem();
            runtime.register_object_store(local.as_ref(), Arc::new(Rooted::new(self)));
        }
        Ok(runtime)
    }

    /// Where `path` really is, if that is below a root. Of a file that is not there yet its nearest parent counts.
    pub(super) fn resolve(&self, verb: &'static str, path: &FilePath) -> Result<PathBuf, Outside> {
        let Some(roots) = &self.0 else {
            return Ok(path.to_path_buf());
        };
        let resolved = real(path).ok_or_else(|| Outside::new(verb, path))?;
        match roots.iter().any(|root| resolved.starts_with(root)) {
            true => Ok(resolved),
            false => Err(Outside::new(verb, path)),
        }
    }

    /// Whether a statement may read or write at a location, which is spelled in the error as it is in the statement.
    ///
    /// # Errors
    /// A place outside; a location that is no local file's. A location that cannot be understood is DataFusion's to refuse.
    pub(super) fn check(
        &self,
        verb: &'static str,
        location: &str,
    ) -> datafusion::common::Result<()> {
        let Ok(url) = ListingTableUrl::parse(location) else {
            return Ok(());
        };
        if url.object_store() != ObjectStoreUrl::local_filesystem() {
            // Not the whole location: it may hold a password.
            return not_impl_err!(
                "cannot {verb} at {}://: only local files are supported",
                url.scheme()
            );
        }
        match self.resolve(verb, &folder(url.prefix())?) {
            Ok(_) => Ok(()),
            Err(_) => Err(object_store::Error::from(Outside::new(verb, location.as_ref())).into()),
        }
    }
}

/// The absolute path without symlinks. `None` where that cannot be told, for whatever reason.
fn real(path: &FilePath) -> Option<PathBuf> {
    let mut missing = Vec::new();
    let mut known = path;
    loop {
        match known.canonicalize() {
            Ok(found) => {
                let whole = missing
                    .iter()
                    .rev()
                    .fold(found, |path, name| path.join(name));
                return Some(whole);
            }
            // A link to nowhere is no missing file: what is written through it would be elsewhere.
            Err(e)
                if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
                    && known.symlink_metadata().is_err() =>
            {
                missing.push(known.file_name()?);
                known = known.parent()?;
            }
            Err(_) => return None,
        }
    }
}

/// Local files below the roots.
#[derive(Debug)]
struct Rooted {
    roots: Roots,
    files: LocalFileSystem,
}

impl fmt::Display for Rooted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} below the content roots", self.files)
    }
}

impl Rooted {
    fn new(roots: &Roots) -> Rooted {
        Rooted {
            roots: roots.clone(),
            files: LocalFileSystem::new(),
        }
    }

    /// The location to use in place of a file's: where it really is, so that a link that changes meanwhile is not
    /// followed.
    fn at(&self, verb: &'static str, location: &Path) -> Result<Path> {
        let path = self.files.path_to_filesystem(location)?;
        let resolved = self.roots.resolve(verb, &path)?;
        self.location(verb, &resolved)
    }

    /// The same of a file that is to go, which may be a link: the link's own place counts, not what it leads to.
    fn entry(&self, location: &Path) -> Result<Path> {
        let path = self.files.path_to_filesystem(location)?;
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Outside::new("write", &path).into());
        };
        let folder = self.roots.resolve("write", folder)?;
        self.location("write", &folder.join(name))
    }

    /// The location that the local store takes for this file. It reads some characters of names as others.
    fn location(&self, verb: &'static str, path: &FilePath) -> Result<Path> {
        let location = Path::from_absolute_path(path)?;
        match self.files.path_to_filesystem(&location)? == path {
            true => Ok(location),
            false => Err(Outside::new(verb, path).into()),
        }
    }

    /// Whether a folder may be listed.
    fn folder(&self, prefix: Option<&Path>) -> Result<()> {
        let folder = folder(prefix.unwrap_or(&Path::default()))?;
        self.roots.resolve("read", &folder)?;
        Ok(())
    }
}

/// The folder that a prefix names, as the local store understands it.
fn folder(prefix: &Path) -> Result<PathBuf> {
    let below = LocalFileSystem::new().path_to_filesystem(&prefix.clone().join("any"))?;
    Ok(below.parent().unwrap_or(&below).to_path_buf())
}

#[async_trait]
impl ObjectStore for Rooted {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let at = self.at("write", location)?;
        self.files.put_opts(&at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let at = self.at("write", location)?;
        self.files.put_multipart_opts(&at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let at = self.at("read", location)?;
        let mut found = self.files.get_opts(&at, options).await?;
        found.meta.location = location.clone();
        Ok(found)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let at = self.at("read", location)?;
        self.files.get_ranges(&at, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = Rooted::new(&self.roots);
        let inside = locations.map(move |location| store.entry(&location?));
        self.files.delete_stream(inside.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.checked(prefix, |files, prefix| files.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.checked(prefix, |files, prefix| {
            files.list_with_offset(prefix, offset)
        })
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.folder(prefix)?;
        let list = self.files.list_with_delimiter(prefix).await?;
        for folder in &list.common_prefixes {
            self.folder(Some(folder))?;
        }
        for meta in &list.objects {
            self.at("read", &meta.location)?;
        }
        Ok(list)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (from, to) = (self.at("read", from)?, self.at("write", to)?);
        self.files.copy_opts(&from, &to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let (from, to) = (self.entry(from)?, self.at("write", to)?);
        self.files.rename_opts(&from, &to, options).await
    }
}

impl Rooted {
    /// A listing whose prefix and files are all below a root.
    fn checked(
        &self,
        prefix: Option<&Path>,
        list: impl FnOnce(&LocalFileSystem, Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        if let Err(outside) = self.folder(prefix) {
            return stream::once(async { Err(outside) }).boxed();
        }
        let store = Rooted::new(&self.roots);
        list(&self.files, prefix)
            .and_then(move |meta| {
                // A link among the files may lead anywhere.
                std::future::ready(store.at("read", &meta.location).map(|_| meta))
            })
            .boxed()
    }
}

#[cfg(test)]
#[path = "roots_tests.rs"]
mod tests;
