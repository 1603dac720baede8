//! Content roots: the folders and URLs below which statements read and write.
//!
//! Takes folders, gives an object store for `file://` that resolves every location (symlinks, percent-encoding; `..` is
//! gone by then) to where it really is before it touches it, and refuses what is not below a root. Says the same of a
//! file outside that is there and of one that is not. Lists neither what statements have not published yet nor what is the
//! program's own. Knows no format and no statement.

use super::objects::{self, Places};
use super::staging::{Disk, HIDDEN, Step};
use crate::content::objects::{Allowed, Stores};
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
pub(super) struct Roots {
    below: Option<Arc<[PathBuf]>>,
    /// The same of object stores.
    urls: Allowed,
    /// Files and folders, resolved, that are the program's own wherever they are.
    apart: Arc<[PathBuf]>,
}

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
    /// `None` allows every location; with folders, none in an object store is. Roots must be resolved: absolute and
    /// without symlinks.
    pub(super) fn new(roots: Option<Vec<PathBuf>>) -> Roots {
        Roots {
            urls: match &roots {
                Some(_) => Allowed::nothing(),
                None => Allowed::default(),
            },
            below: roots.map(Into::into),
            apart: Arc::new([]),
        }
    }

    /// The same, without these files and folders, which must be resolved.
    pub(super) fn without(mut self, apart: Vec<PathBuf>) -> Roots {
        self.apart = apart.into();
        self
    }

    /// The same, with these locations in object stores.
    pub(super) fn with_urls(mut self, allowed: Allowed) -> Roots {
        self.urls = allowed;
        self
    }

    /// Which locations in object stores.
    pub(super) fn urls(&self) -> &Allowed {
        &self.urls
    }

    /// The program's own files and folders.
    pub(super) fn apart(&self) -> Vec<PathBuf> {
        self.apart.to_vec()
    }

    /// Whether this, which is resolved, is the program's own.
    fn is_apart(&self, resolved: &FilePath) -> bool {
        self.apart.iter().any(|own| resolved.starts_with(own))
    }

    /// What sessions run with: stores that keep to the roots.
    pub(super) fn runtime(
        &self,
        disk: &Disk,
        objects: &Arc<Stores>,
    ) -> Result<Arc<RuntimeEnv>, Error> {
        // Folders are listed anew by each statement: what was put there since is seen, what was taken away is not.
        let runtime = RuntimeEnvBuilder::new()
            .with_object_list_cache_limit(0)
            .with_object_store_registry(Arc::new(Places::new(self, objects)))
            .build_arc()?;
        let local = ObjectStoreUrl::local_filesystem();
        let store = Rooted::new(self, LocalFileSystem::new(), disk);
        runtime.register_object_store(local.as_ref(), Arc::new(store));
        Ok(runtime)
    }

    /// Where `path` really is, if that is below a root. Of a file that is not there yet its nearest parent counts.
    pub(super) fn resolve(&self, verb: &'static str, path: &FilePath) -> Result<PathBuf, Outside> {
        let resolved = match (&self.below, self.apart.is_empty()) {
            (None, true) => return Ok(path.to_path_buf()),
            _ => real(path),
        };
        match (&self.below, resolved) {
            (_, Some(resolved)) if self.is_apart(&resolved) => Err(Outside::new(verb, path)),
            (None, _) => Ok(path.to_path_buf()),
            (Some(roots), Some(resolved)) if roots.iter().any(|r| resolved.starts_with(r)) => {
                Ok(resolved)
            }
            _ => Err(Outside::new(verb, path)),
        }
    }

    /// Where a location of a statement really is; `None` where it cannot be understood, which is DataFusion's to say. The
    /// error spells the location as the statement does.
    ///
    /// # Errors
    /// A place outside; a location that is no local file's.
    pub(super) fn check(
        &self,
        verb: &'static str,
        location: &str,
    ) -> datafusion::common::Result<Option<PathBuf>> {
        if objects::is_remote(location) {
            self.urls.check_url(verb, location)?;
            return Ok(None);
        }
        let Ok(url) = ListingTableUrl::parse(location) else {
            return Ok(None);
        };
        if url.object_store() != ObjectStoreUrl::local_filesystem() {
            // Not the whole location: it may hold a password.
            return not_impl_err!(
                "cannot {verb} at {}://: there are local files, s3://, gs://, az://, abfss:// and https://",
                url.scheme()
            );
        }
        match self.resolve(verb, &folder(url.prefix())?) {
            Ok(resolved) => Ok(Some(resolved)),
            Err(_) => Err(object_store::Error::from(Outside::new(verb, location.as_ref())).into()),
        }
    }
}

/// The absolute path without symlinks. `None` where that cannot be told, for whatever reason.
pub(super) fn real(path: &FilePath) -> Option<PathBuf> {
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
#[derive(Debug, Clone)]
pub(super) struct Rooted {
    roots: Roots,
    files: LocalFileSystem,
    disk: Disk,
}

impl fmt::Display for Rooted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} below the content roots", self.files)
    }
}

impl Rooted {
    pub(super) fn new(roots: &Roots, files: LocalFileSystem, disk: &Disk) -> Rooted {
        Rooted {
            roots: roots.clone(),
            files,
            disk: disk.clone(),
        }
    }

    /// The error that a test wants of a write.
    fn writes(&self, location: &Path) -> Result<()> {
        let path = FilePath::new(location.as_ref());
        let failed = |e| object_store::Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(e),
        };
        self.disk.check(Step::Write, path).map_err(failed)
    }

    /// The location to use in place of a file's: where it really is, so that a link that changes meanwhile is not
    /// followed.
    fn at(&self, verb: &'static str, location: &Path) -> Result<Path> {
        let path = self.files.path_to_filesystem(location)?;
        let resolved = self.roots.resolve(verb, &path)?;
        match self.roots.below {
            Some(_) => self.location(verb, &resolved),
            None => Ok(location.clone()),
        }
    }

    /// The same of a file that is to go, which may be a link: the link's own place counts, not what it leads to.
    fn entry(&self, location: &Path) -> Result<Path> {
        let path = self.files.path_to_filesystem(location)?;
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Outside::new("write", &path).into());
        };
        let folder = self.roots.resolve("write", folder)?;
        match self.roots.below {
            Some(_) => self.location("write", &folder.join(name)),
            None => Ok(location.clone()),
        }
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
pub(super) fn folder(prefix: &Path) -> Result<PathBuf> {
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
        self.writes(location)?;
        let at = self.at("write", location)?;
        self.files.put_opts(&at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.writes(location)?;
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
        let store = self.clone();
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
        let mut list = self.files.list_with_delimiter(prefix).await?;
        list.common_prefixes.retain(|folder| self.shows(folder));
        list.objects.retain(|meta| self.shows(&meta.location));
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
    /// Whether a file is in listings: statements' files before they are published and the program's own are not.
    fn shows(&self, location: &Path) -> bool {
        let mut parts = location.parts();
        if parts.any(|part| part.as_ref().starts_with(HIDDEN)) {
            return false;
        }
        // What cannot be resolved is refused elsewhere.
        let resolved = match self.roots.apart.is_empty() {
            true => None,
            false => self.files.path_to_filesystem(location).ok(),
        };
        let resolved = resolved.and_then(|path| real(&path));
        !resolved.is_some_and(|resolved| self.roots.is_apart(&resolved))
    }

    /// A listing whose prefix and files are all below a root.
    fn checked(
        &self,
        prefix: Option<&Path>,
        list: impl FnOnce(&LocalFileSystem, Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        if let Err(outside) = self.folder(prefix) {
            return stream::once(async { Err(outside) }).boxed();
        }
        let store = self.clone();
        list(&self.files, prefix)
            .try_filter_map(move |meta| {
                let shown = match store.shows(&meta.location) {
                    // A link among the files may lead anywhere.
                    true => store.at("read", &meta.location).map(|_| Some(meta)),
                    false => Ok(None),
                };
                std::future::ready(shown)
            })
            .boxed()
    }
}

#[cfg(test)]
#[path = "roots_tests.rs"]
mod tests;
