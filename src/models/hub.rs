//! A model hub, as far as files are read from it.
//!
//! Takes the hub's address and a token, gives a repository's files with the hub's own digests, and their bytes from any
//! place on. Speaks the two endpoints of Hugging Face that this needs; the token goes to the hub alone, never to where
//! it redirects to, and into no message. What fails for a moment is told from what fails for good; trying again is
//! [`super::pull`]'s.

use super::ModelsError;
use crate::config::{HUB_LISTING_BYTES_MAX, HUB_PAUSE_SECONDS, HUB_WAIT_SECONDS};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use serde::Deserialize;
use std::fmt;
use std::io::Read;
use std::time::Duration;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, StatusCode};

/// A hub to pull from.
pub struct Hub {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<String>,
    /// Before the second try.
    pub(super) pause: Duration,
}

/// Without the token.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "..");
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .field("token", &token)
            .finish_non_exhaustive()
    }
}

/// A file in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub name: String,
    pub bytes: u64,
    pub digest: Digest,
}

/// What the hub says that a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digest {
    /// Large files: SHA-256, hex.
    Sha256(String),
    /// Files kept in git: SHA-1 (hex) over `blob LENGTH`, a zero byte and the bytes.
    Git(String),
}

impl Digest {
    /// Starts to digest a file of `bytes` bytes.
    pub fn begin(&self, bytes: u64) -> Context {
        match self {
            Digest::Sha256(_) => Context::new(&SHA256),
            Digest::Git(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {bytes}\0").as_bytes());
                context
            }
        }
    }

    /// In hex.
    pub fn hex(&self) -> &str {
        match self {
            Digest::Sha256(hex) | Digest::Git(hex) => hex,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Digest::Sha256(hex) => write!(f, "sha256:{hex}"),
            Digest::Git(hex) => write!(f, "git:{hex}"),
        }
    }
}

/// Why a request gave nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// It may go well in a moment.
    Passing(String),
    /// It will not.
    Final(ModelsError),
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Hub {
    /// A hub by its address (`https://huggingface.co`), as a user with a token or as anybody.
    pub fn new(endpoint: &str, token: Option<String>) -> Hub {
        let wait = Some(Duration::from_secs(HUB_WAIT_SECONDS));
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .accept_encoding("identity")
            .user_agent(concat!("safeguard-sql/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(wait)
            .timeout_connect(wait)
            .timeout_recv_response(wait)
            .timeout_per_read(wait);
        // No proxy reaches this machine's own addresses as this machine does.
        if endpoint.starts_with("http://127.0.0.1:") {
            config = config.proxy(None);
        }
        Hub {
            agent: config.build().new_agent(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            pause: Duration::from_secs(HUB_PAUSE_SECONDS),
        }
    }

    /// The same, tried again without waiting.
    pub fn hurried(self) -> Hub {
        Hub {
            pause: Duration::ZERO,
            ..self
        }
    }

    /// The commit that a revision is, and its files.
    pub(super) fn files(
        &self,
        repository: &str,
        revision: &str,
    ) -> Result<(String, Vec<RemoteFile>), Failed> {
        let escaped = revision.replace('/', "%2F");
        let path = format!("api/models/{repository}/revision/{escaped}?blobs=true");
        let (_, mut body) = self.get(&path, 0, (repository, revision))?;
        let body = body.with_config().limit(HUB_LISTING_BYTES_MAX).reader();
        let listing: Revision =
            serde_json::from_reader(body).map_err(|error| match error.is_io() {
                true => Failed::Passing(error.to_string()),
                false => self.unusable(format!("its description of {repository}: {error}")),
            })?;
        let plain = |c: char| c.is_ascii_hexdigit();
        if listing.sha.is_empty() || !listing.sha.chars().all(plain) {
            return Err(self.unusable(format!("{:?} is no commit", listing.sha)));
        }
        let file = |sibling: Sibling| {
            let (bytes, digest) = match (sibling.lfs, sibling.blob, sibling.size) {
                (Some(lfs), ..) => (lfs.size, Digest::Sha256(lfs.sha256)),
                (None, Some(blob), Some(size)) => (size, Digest::Git(blob)),
                _ => return Err(self.unusable(format!("no digest for {}", sibling.rfilename))),
            };
            if digest.hex().is_empty() || !digest.hex().chars().all(plain) {
                return Err(self.unusable(format!("{digest} is no digest")));
            }
            Ok(RemoteFile {
                name: sibling.rfilename,
                bytes,
                digest,
            })
        };
        let files = listing
            .siblings
            .into_iter()
            .map(file)
            .collect::<Result<_, _>>()?;
        Ok((listing.sha, files))
    }

    /// A file's bytes from `from` on, or from an earlier place: where they begin, and the bytes.
    pub(super) fn read(
        &self,
        repository: &str,
        commit: &str,
        file: &str,
        from: u64,
    ) -> Result<(u64, impl Read + use<>), Failed> {
        let path = format!("{repository}/resolve/{commit}/{file}");
        let (begins, body) = self.get(&path, from, (repository, commit))?;
        Ok((begins, body.into_reader()))
    }

    fn get(&self, path: &str, from: u64, about: (&str, &str)) -> Result<(u64, ureq::Body), Failed> {
        let mut request = self.agent.get(format!("{}/{path}", self.endpoint));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => self.unusable(error.to_string()),
            passing => Failed::Passing(passing.to_string()),
        })?;
        let (parts, body) = response.into_parts();
        match parts.status {
            StatusCode::OK => Ok((0, body)),
            StatusCode::PARTIAL_CONTENT => match begins(&parts.headers) {
                Some(begins) if begins <= from => Ok((begins, body)),
                _ => {
                    Err(self.unusable("a part of a file that says not where it begins".to_owned()))
                }
            },
            status => Err(self.refusal(status, &parts.headers, about)),
        }
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, about: (&str, &str)) -> Failed {
        let (repository, revision) = (about.0.to_owned(), about.1.to_owned());
        let hub = self.endpoint.clone();
        let code = headers
            .get("x-error-code")
            .and_then(|code| code.to_str().ok());
        Failed::Final(match (code, status.as_u16()) {
            (Some("GatedRepo"), _) | (None, 403) => ModelsError::Gated { hub, repository },
            (Some("RevisionNotFound"), _) => ModelsError::NoRevision {
                repository,
                revision,
            },
            (_, 401 | 404) => ModelsError::NoRepository {
                hub,
                repository,
                known: self.token.is_some(),
            },
            (_, 408 | 425 | 429 | 500..) => {
                return Failed::Passing(format!("{hub} answers {status}"));
            }
            _ => ModelsError::Hub {
                hub,
                why: format!("answers {status}"),
            },
        })
    }

    fn unusable(&self, why: String) -> Failed {
        Failed::Final(ModelsError::Hub {
            hub: self.endpoint.clone(),
            why,
        })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// The first byte's place: `content-range: bytes 7-99/100`.
fn begins(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get("content-range")?.to_str().ok()?;
    range
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_git_and_of_large_files() {
        let digest = |kind: &Digest, bytes: &[u8]| {
            let mut context = kind.begin(bytes.len() as u64);
            context.update(bytes);
            super::super::pull::hex(context)
        };
        assert_eq!(
            digest(&Digest::Git(String::new()), b"hello\n"),
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
        assert_eq!(
            digest(&Digest::Sha256(String::new()), b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_token_is_never_shown() {
        let hub = Hub::new("http://127.0.0.1:1/", Some("hf_secret".to_owned()));
        assert!(!format!("{hub:?}").contains("secret"), "{hub:?}");
        let Err(Failed::Passing(why)) = hub.files("a/b", "main") else {
            panic!("nobody listens there");
        };
        assert!(!why.contains("secret"), "{why}");
    }
}
