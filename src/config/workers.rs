//! Processes that judge for another one: where they are, how they are let in, and their limits.

use super::ConfigError;
use super::serve::address;
use std::net::SocketAddr;
use url::Url;

/// Where a worker listens.
pub const WORKER_LISTEN: &str = "127.0.0.1:5434";
/// Workers of one coordinator.
pub const WORKERS_MAX: usize = 256;
/// Bytes of the token that workers are asked with, at the least.
pub const WORKER_TOKEN_BYTES_MIN: usize = 16;
/// Milliseconds that a worker has to let a coordinator connect.
pub const WORKER_CONNECT_MS: u64 = 5_000;
/// Milliseconds of silence after which a worker is asked whether it is still there.
pub const WORKER_KEEPALIVE_MS: u64 = 10_000;
/// Milliseconds that it has to answer that.
pub const WORKER_SILENCE_MS: u64 = 10_000;

/// The token that workers are asked with: `SAFEGUARD_WORKER_TOKEN`. Never shown.
///
/// # Errors
/// A token that is shorter than [`WORKER_TOKEN_BYTES_MIN`], or that no header can carry.
pub fn worker_token() -> Result<Option<String>, ConfigError> {
    let Some(said) = super::variable("SAFEGUARD_WORKER_TOKEN") else {
        return Ok(None);
    };
    let token = said.trim().to_owned();
    let fits = token.len() >= WORKER_TOKEN_BYTES_MIN && token.bytes().all(|b| b.is_ascii_graphic());
    match fits {
        true => Ok(Some(token)),
        false => Err(ConfigError(format!(
            "SAFEGUARD_WORKER_TOKEN has fewer than {WORKER_TOKEN_BYTES_MIN} characters, or others than visible ASCII"
        ))),
    }
}

/// The addresses of workers, `http://host:port`, checked.
///
/// # Errors
/// One that is none; more than [`WORKERS_MAX`].
pub fn worker_urls(said: &[String]) -> Result<Vec<Url>, ConfigError> {
    if said.len() > WORKERS_MAX {
        return Err(ConfigError(format!(
            "workers has {} addresses, more than {WORKERS_MAX}",
            said.len()
        )));
    }
    let mut urls: Vec<Url> = Vec::with_capacity(said.len());
    for one in said {
        let url = Url::parse(one.trim()).ok().filter(|url| {
            url.scheme() == "http"
                && url.host().is_some()
                && url.port().is_some()
                && matches!(url.path(), "" | "/")
                && url.query().is_none()
                && url.username().is_empty()
        });
        let Some(url) = url else {
            return Err(ConfigError(format!(
                "workers: \"{one}\" is not http://, a host and a port"
            )));
        };
        if urls.contains(&url) {
            return Err(ConfigError(format!("workers: {url} is there twice")));
        }
        urls.push(url);
    }
    Ok(urls)
}

/// Where a worker listens, and whom it lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerListen {
    /// The address.
    pub address: SocketAddr,
    /// Whoever does not know it is let in nowhere.
    pub token: Option<String>,
}

impl WorkerListen {
    /// Checks an address as typed.
    ///
    /// # Errors
    /// An address that is none; one that others reach, without `allow_insecure` (what is sent is not encrypted) or without
    /// a token.
    pub fn new(
        said: Option<&str>,
        allow_insecure: bool,
        token: Option<String>,
    ) -> Result<WorkerListen, ConfigError> {
        let address = address("listen", said.unwrap_or(WORKER_LISTEN))?;
        let inside = address.ip().is_loopback();
        if !inside && !allow_insecure {
            return Err(ConfigError(format!(
                "will not listen on {address}: texts would go there unencrypted; --allow-insecure says that this is meant"
            )));
        }
        if !inside && token.is_none() {
            return Err(ConfigError(format!(
                "will not listen on {address} without SAFEGUARD_WORKER_TOKEN"
            )));
        }
        Ok(WorkerListen { address, token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_open_to_this_machine_only_unless_told() {
        let token = || Some("0123456789abcdef".to_owned());
        for (said, insecure, token, good) in [
            (None, false, None, true),
            (Some("localhost:1"), false, None, true),
            (Some("[::1]:1"), false, None, true),
            (Some("0.0.0.0:1"), false, token(), false),
            (Some("0.0.0.0:1"), true, None, false),
            (Some("0.0.0.0:1"), true, token(), true),
            (Some("here"), false, None, false),
        ] {
            let made = WorkerListen::new(said, insecure, token);
            assert_eq!(made.is_ok(), good, "{said:?} {insecure}: {made:?}");
        }
    }

    #[test]
    fn addresses_of_workers_are_plain() {
        let check = |said: &[&str], good: bool| {
            let said: Vec<String> = said.iter().map(|s| (*s).to_owned()).collect();
            let made = worker_urls(&said);
            assert_eq!(made.is_ok(), good, "{said:?}: {made:?}");
        };
        check(&[], true);
        check(&["http://a:5", "http://b:5/"], true);
        check(&["http://a:5", "http://a:5/"], false);
        for one in [
            "a:5",
            "https://a:5",
            "http://a",
            "http://a:5/x",
            "http://u@a:5",
            "http://a:5?x",
        ] {
            check(&[one], false);
        }
    }
}
