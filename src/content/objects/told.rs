//! An object store whose errors say which object they are about, and what is wrong in words that help.
//!
//! Takes a store, gives the same one with errors of ours within its own kinds: what others tell apart (missing, there
//! already, not allowed) stays apart. An upload that is given up leaves no parts behind. Changes no object.
//!
//! Sources: Amazon S3 API reference, "Error responses"; Azure Blob Storage, "Status and error codes".

use super::allowed::unwritten;
use super::{Allowed, Kind};
use crate::content::ContentError;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Characters of a store's own words in an error of ours.
const WORDS_MAX: usize = 300;

/// A store with errors of ours, of which only what is allowed is read and written.
#[derive(Debug, Clone)]
pub(super) struct Told {
    place: Place,
    inner: Arc<dyn ObjectStore>,
    allowed: Allowed,
}

/// Which store it is.
#[derive(Debug, Clone)]
struct Place {
    kind: Kind,
    base: Arc<str>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place.base)
    }
}

impl Told {
    pub(super) fn new(
        kind: Kind,
        base: String,
        inner: Arc<dyn ObjectStore>,
        allowed: &Allowed,
    ) -> Told {
        let base = base.into();
        Told {
            place: Place { kind, base },
            inner,
            allowed: allowed.clone(),
        }
    }

    fn check(&self, verb: &'static str, path: &Path) -> Result<()> {
        let allowed = self.allowed.check(verb, &self.place.base, path);
        allowed.map_err(|why| Error::PermissionDenied {
            path: path.to_string(),
            source: Box::new(why),
        })?;
        match verb == "write" && self.place.kind == Kind::Http {
            true => Err(Error::NotSupported {
                source: Box::new(unwritten(&self.place.base)),
            }),
            false => Ok(()),
        }
    }

    /// A HEAD is answered without a body that says why: a listing is, if it fails too.
    async fn why(&self, path: &Path, error: Error) -> Error {
        let asks = self.place.kind != Kind::Http
            && Said::of(&error).code.is_empty()
            && matches!(status(&error), Some(400 | 403 | 404));
        let other = match asks {
            true => self.inner.list(Some(path)).next().await,
            false => None,
        };
        match other {
            Some(Err(other)) if !Said::of(&other).code.is_empty() => other,
            _ => error,
        }
    }

    fn listed(
        &self,
        prefix: Option<&Path>,
        list: impl FnOnce() -> BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        if let Err(error) = self.check("read", &path) {
            return stream::once(async { Err(error) }).boxed();
        }
        let place = self.place.clone();
        list()
            .map_err(move |error| place.told("list", &path, error))
            .boxed()
    }
}

#[async_trait]
impl ObjectStore for Told {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.check("write", location)?;
        let put = self.inner.put_opts(location, payload, options).await;
        put.map_err(|error| self.place.told("write", location, error))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.check("write", location)?;
        let begun = self.inner.put_multipart_opts(location, options).await;
        let upload = begun.map_err(|error| self.place.told("write", location, error))?;
        Ok(Box::new(Upload {
            place: self.place.clone(),
            path: location.clone(),
            upload: Some(upload),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check("read", location)?;
        let mut found = match self.inner.get_opts(location, options).await {
            Ok(found) => found,
            Err(error) => {
                let error = self.why(location, error).await;
                return Err(self.place.told("read", location, error));
            }
        };
        if let GetResultPayload::Stream(bytes) = found.payload {
            let (place, path) = (self.place.clone(), location.clone());
            let bytes = bytes.map_err(move |error| place.told("read", &path, error));
            found.payload = GetResultPayload::Stream(bytes.boxed());
        }
        Ok(found)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.check("read", location)?;
        let found = self.inner.get_ranges(location, ranges).await;
        found.map_err(|error| self.place.told("read", location, error))
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let inside = locations.map(move |location| {
            let location = location?;
            store.check("write", &location)?;
            Ok(location)
        });
        let place = self.place.clone();
        self.inner
            .delete_stream(inside.boxed())
            .map_err(move |error| place.told("delete", &Path::default(), error))
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, || self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, || self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        self.check("read", &path)?;
        let list = self.inner.list_with_delimiter(prefix).await;
        list.map_err(|error| self.place.told("list", &path, error))
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check("read", from)?;
        self.check("write", to)?;
        let copied = self.inner.copy_opts(from, to, options).await;
        copied.map_err(|error| self.place.told("write", to, error))
    }
}

/// An object that is being written in parts.
#[derive(Debug)]
struct Upload {
    place: Place,
    path: Path,
    /// `None` once it is over.
    upload: Option<Box<dyn MultipartUpload>>,
}

impl Upload {
    fn over(&self) -> Error {
        Error::Generic {
            store: "upload",
            source: format!("the upload of {} is over", self.path).into(),
        }
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (place, path) = (self.place.clone(), self.path.clone());
        let Some(upload) = &mut self.upload else {
            return futures::future::ready(Err(self.over())).boxed();
        };
        upload
            .put_part(data)
            .map_err(move |error| place.told("write", &path, error))
            .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let Some(upload) = &mut self.upload else {
            return Err(self.over());
        };
        let done = upload.complete().await;
        let done = done.map_err(|error| self.place.told("write", &self.path, error))?;
        self.upload = None;
        Ok(done)
    }

    async fn abort(&mut self) -> Result<()> {
        let Some(mut upload) = self.upload.take() else {
            return Ok(());
        };
        let gone = upload.abort().await;
        gone.map_err(|error| self.place.told("write", &self.path, error))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Parts that nobody completes or aborts are kept, and paid for, without being seen.
        if let (Some(mut upload), Ok(runtime)) =
            (self.upload.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move {
                if let Err(error) = upload.abort().await {
                    tracing::warn!("parts of an upload that was given up may be left: {error}");
                }
            });
        }
    }
}

/// What an answer says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    status: Option<u16>,
    /// The store's own: `NoSuchBucket`; empty where it says none.
    code: String,
    message: String,
    /// What went wrong on the way; `None` where there was an answer.
    way: Option<Way>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Unreachable,
    Slow,
    Cut,
}

impl Said {
    fn of(error: &Error) -> Said {
        let (mut said, mut words) = (Said::default(), String::new());
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            words = error.to_string();
            if let Some(http) = error.downcast_ref::<HttpError>() {
                said.way = Some(match http.kind() {
                    HttpErrorKind::Connect => Way::Unreachable,
                    HttpErrorKind::Timeout => Way::Slow,
                    _ => Way::Cut,
                });
            }
            if said.status.is_none() {
                said.status =
                    after(&words, "status code: ").and_then(|rest| rest.get(..3)?.parse().ok());
                if said.status.is_some() || words.contains("error response: ") {
                    said.code = tag(&words, "Code").unwrap_or_default();
                    said.message = tag(&words, "Message").unwrap_or_default();
                }
            }
            next = error.source();
        }
        if said.message.is_empty() && said.status.is_none() {
            said.message = words;
        }
        let cut = said.message.char_indices().nth(WORDS_MAX);
        if let Some((at, _)) = cut {
            said.message.truncate(at);
        }
        said
    }
}

fn status(error: &Error) -> Option<u16> {
    match error {
        Error::NotFound { .. } => Some(404),
        Error::PermissionDenied { .. } => Some(403),
        error => Said::of(error).status,
    }
}

fn after<'a>(words: &'a str, mark: &str) -> Option<&'a str> {
    words.split_once(mark).map(|(_, rest)| rest)
}

/// What an XML body says within a tag.
fn tag(body: &str, name: &str) -> Option<String> {
    let inside = after(body, &format!("<{name}>"))?;
    let (inside, _) = inside.split_once(&format!("</{name}>"))?;
    // Only the first line: Azure adds a request's number and time.
    Some(inside.lines().next().unwrap_or_default().to_owned())
}

impl Place {
    /// The error in our words, of the same kind.
    fn told(&self, verb: &str, path: &Path, error: Error) -> Error {
        let source = Box::new(self.said(verb, path, &error));
        let path = path.to_string();
        match error {
            Error::NotFound { .. } => Error::NotFound { path, source },
            Error::AlreadyExists { .. } => Error::AlreadyExists { path, source },
            Error::Precondition { .. } => Error::Precondition { path, source },
            Error::NotModified { .. } => Error::NotModified { path, source },
            Error::PermissionDenied { .. } => Error::PermissionDenied { path, source },
            Error::Unauthenticated { .. } => Error::Unauthenticated { path, source },
            Error::NotSupported { .. } | Error::NotImplemented { .. } => {
                Error::NotSupported { source }
            }
            _ => Error::Generic {
                store: "object store",
                source,
            },
        }
    }

    fn said(&self, verb: &str, path: &Path, error: &Error) -> ContentError {
        let said = Said::of(error);
        let object = format!("{}/{path}", self.base);
        let with = |sqlstate, why: &str| {
            ContentError::new(sqlstate, format!("cannot {verb} {object}: {why}"))
        };
        let secret = || {
            let kind = self.kind.as_str();
            let environment = self.kind.prefix();
            format!(
                "CREATE SECRET .. (TYPE {kind}, ..) says who we are there; without one it is the variables {environment}*"
            )
        };
        match said.way {
            Some(Way::Unreachable) if self.without_login(error) => {
                let why = "neither a secret nor the environment says who we are there";
                return with("28000", why).with_hint(secret());
            }
            Some(Way::Unreachable) => {
                return with("08001", &format!("it cannot be reached: {}", said.message));
            }
            Some(Way::Slow) => return with("08006", "it does not answer in time"),
            Some(Way::Cut) => return with("08006", &said.message),
            None => {}
        }
        match (said.code.as_str(), said.status) {
            ("NoSuchBucket" | "ContainerNotFound" | "InvalidBucketName", _) => {
                with("58P01", "there is no such bucket")
            }
            ("InvalidAccessKeyId", _) => {
                with("28000", "the key is not known there").with_hint(secret())
            }
            ("SignatureDoesNotMatch" | "AuthenticationFailed", _) => {
                with("28000", "the key's secret is wrong").with_hint(secret())
            }
            ("ExpiredToken" | "TokenRefreshRequired", _) => {
                with("28000", "the session token is not valid any more").with_hint(secret())
            }
            ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "IncorrectEndpoint", _)
            | (_, Some(301 | 307)) => with("22023", "the bucket is in another region")
                .with_hint("CREATE SECRET .. REGION or AWS_REGION names the region"),
            (_, Some(401)) => with("28000", "it wants to know who we are").with_hint(secret()),
            (_, Some(403)) => with("42501", "access denied").with_hint(secret()),
            (_, Some(404)) => with("58P01", "there is no such object"),
            ("SlowDown", _) | (_, Some(429 | 503)) => {
                with("53000", "it is overloaded, and was asked several times")
            }
            (code, Some(status)) => {
                let code = match code {
                    "" => String::new(),
                    code => format!(" ({code})"),
                };
                let why = format!("status {status}{code} {}", said.message);
                with("58030", why.trim_end())
            }
            (_, None) => match error {
                Error::NotFound { .. } => with("58P01", "there is no such object"),
                Error::NotSupported { .. } | Error::NotImplemented { .. } => {
                    with("0A000", &said.message)
                }
                _ => with("58030", &said.message),
            },
        }
    }

    /// Whether it failed because the machine was asked who it is, and is none of the cloud's.
    fn without_login(&self, error: &Error) -> bool {
        let words = error.to_string();
        let asked = [
            "169.254.169.254",
            "metadata.google.internal",
            "metadata/identity",
        ];
        self.kind != Kind::Http && asked.iter().any(|place| words.contains(place))
    }
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
