//! Which locations in object stores statements may read and write.
//!
//! Takes URLs that everything has to be below, gives yes or no. Knows no folders: those are the engine's.

use super::Kind;
use crate::content::ContentError;
use datafusion::object_store::path::Path;
use std::sync::Arc;
use url::Url;

/// Locations below some URLs; every location where nobody said which.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed(Option<Arc<[(String, Path)]>>);

impl Allowed {
    /// None at all.
    pub fn nothing() -> Allowed {
        Allowed(Some(Arc::new([])))
    }

    /// What is below these URLs.
    ///
    /// # Errors
    /// What is no URL of an object store.
    pub fn below(urls: &[String]) -> Result<Allowed, ContentError> {
        let below = urls.iter().map(|said| {
            split(said).ok_or_else(|| {
                let why = format!("content root {said} is no URL of an object store");
                ContentError::new("22023", why)
            })
        });
        Ok(Allowed(Some(below.collect::<Result<_, _>>()?)))
    }

    /// Whether something in the store `base` (`scheme://bucket`) is.
    ///
    /// # Errors
    /// 42501 where it is not.
    pub(super) fn check(&self, verb: &str, base: &str, path: &Path) -> Result<(), ContentError> {
        let inside = |(store, root): &(String, Path)| store == base && path.prefix_matches(root);
        match &self.0 {
            Some(roots) if !roots.iter().any(inside) => {
                let why =
                    format!("cannot {verb} {base}/{path}: it is outside of the content roots");
                Err(ContentError::new("42501", why))
            }
            _ => Ok(()),
        }
    }

    /// The same of a whole URL, which must be an object store's. A file of a web server is not written.
    ///
    /// # Errors
    /// As [`Allowed::check`]; 0A000 for writing to a web server; 22023 for what is no such URL.
    pub fn check_url(&self, verb: &str, location: &str) -> Result<(), ContentError> {
        let Some((base, path)) = split(location) else {
            let why = format!("cannot {verb}: no location of an object store was given");
            return Err(ContentError::new("22023", why));
        };
        self.check(verb, &base, &path)?;
        match verb == "write" && base.starts_with("http") {
            true => Err(unwritten(&base)),
            false => Ok(()),
        }
    }
}

/// What is said of a web server that something is to be written to.
pub(super) fn unwritten(base: &str) -> ContentError {
    ContentError::new(
        "0A000",
        format!("cannot write to {base}: web servers are only read"),
    )
}

/// The store and the path in it of a URL; without its login and its query.
fn split(location: &str) -> Option<(String, Path)> {
    let url = Url::parse(location).ok()?;
    Kind::of_scheme(url.scheme())?;
    let path = Path::from_url_path(url.path()).ok()?;
    Some((base(&url), path))
}

/// `scheme://bucket` of a URL.
pub(super) fn base(url: &Url) -> String {
    let container = match url.username() {
        "" => String::new(),
        container => format!("{container}@"),
    };
    let port = url.port().map(|port| format!(":{port}"));
    format!(
        "{}://{container}{}{}",
        url.scheme(),
        url.host_str().unwrap_or_default(),
        port.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_a_root_is_allowed() {
        let roots = ["s3://posts/public/", "https://example.org", "gs://all"].map(str::to_owned);
        let allowed = Allowed::below(&roots).unwrap();
        for (location, inside) in [
            ("s3://posts/public/a.parquet", true),
            ("s3://posts/public/", true),
            ("s3://posts/public", true),
            ("s3://posts/publicity/a.parquet", false),
            ("s3://posts/private/a.parquet", false),
            ("s3://posts/public/../private/a.parquet", false),
            ("s3://posts/public/%2e%2e/private/a.parquet", false),
            ("s3://others/public/a.parquet", false),
            ("s3a://posts/public/a.parquet", false),
            ("gs://all/of/it", true),
            ("https://example.org/x.csv", true),
            ("https://example.org:8443/x.csv", false),
            ("http://example.org/x.csv", false),
            ("https://example.org@evil.org/x.csv", false),
        ] {
            let got = allowed.check_url("read", location);
            assert_eq!(got.is_ok(), inside, "{location}: {got:?}");
            assert!(
                Allowed::nothing().check_url("read", location).is_err(),
                "{location}"
            );
            assert!(
                Allowed::default().check_url("read", location).is_ok(),
                "{location}"
            );
        }
        let written = |location| allowed.check_url("write", location).map_err(|e| e.sqlstate);
        assert_eq!(written("https://example.org/x.csv"), Err("0A000"));
        assert_eq!(written("gs://all/of/it"), Ok(()));
        assert_eq!(written("gs://some/of/it"), Err("42501"));
        assert!(Allowed::below(&["/folder".to_owned()]).is_err());
        assert!(Allowed::below(&["ftp://host/".to_owned()]).is_err());
    }
}
