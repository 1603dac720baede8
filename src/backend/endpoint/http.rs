//! One server of an endpoint, over HTTP.
//!
//! Takes a path and a body, gives what the server said or what kept it from saying it, told apart by what may be done
//! about it. A request runs on a thread for blocking work and owns its connection: whoever drops the future closes the
//! connection at once, so that the server stops. Knows nothing of prompts or labels, and puts the key into no message.

use super::wire::Said;
use super::{Tuning, tls};
use crate::backend::BackendError;
use crate::config::{ENDPOINT_BODY_BYTES_MAX, ENDPOINT_WORDS_MAX, EndpointAccess};
use serde_json::Value;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, StatusCode};
use ureq::tls::TlsConfig;

/// Why a request gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The server is well and wants less: 429 or 503, with its Retry-After.
    Busy {
        /// Its words.
        why: String,
        /// How long it asks to be left alone.
        after: Option<Duration>,
    },
    /// It may be dead, or this connection is.
    Down(String),
    /// The connection was closed before a reply began.
    Gone(String),
    /// It did not answer in time.
    Slow(String),
    /// Whoever answers is not known to be the server: nothing was sent.
    Untrusted(String),
    /// It will say the same again.
    Final {
        /// Its words.
        why: String,
        /// What it objects to.
        kind: Refusal,
    },
}

/// What a server objects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 401, 403.
    Key,
    /// 404.
    Missing,
    /// Something else about the request or the reply.
    Other,
}

impl Fault {
    /// The server objects to something about the request, or its reply is none.
    pub fn other(why: String) -> Fault {
        Fault::Final {
            why,
            kind: Refusal::Other,
        }
    }

    /// What was said, or what is known of it.
    pub fn why(&self) -> &str {
        match self {
            Fault::Busy { why, .. } | Fault::Down(why) | Fault::Slow(why) => why,
            Fault::Gone(why) | Fault::Untrusted(why) => why,
            Fault::Final { why, .. } => why,
        }
    }
}

/// A key that no message shows.
#[derive(Clone)]
pub(super) struct Key(pub(super) String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The way to all servers of a model.
#[derive(Debug, Clone)]
pub(super) struct Way {
    key: Option<Key>,
    tls: TlsConfig,
    tuning: Tuning,
}

impl Way {
    pub(super) fn new(access: EndpointAccess, tuning: Tuning) -> Result<Way, BackendError> {
        let mut tls = TlsConfig::builder();
        if let Some(file) = &access.ca_file {
            tls = tls.root_certs(tls::roots(file)?);
        }
        Ok(Way {
            key: access.key.map(Key),
            tls: tls.build(),
            tuning,
        })
    }
}

/// A server.
#[derive(Debug)]
pub(super) struct Client {
    /// `http://host:8000/v1`, without a slash at its end.
    pub(super) base: String,
    key: Option<Key>,
    config: ureq::config::Config,
    /// Each with one connection at the most, which nobody uses.
    idle: Mutex<Vec<ureq::Agent>>,
    /// When it last sent anything.
    heard: Mutex<Option<Instant>>,
}

/// A model in a server's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    /// Tokens of one prompt with its reply, where the server tells.
    pub(super) context: Option<u64>,
}

impl Listed {
    /// llama-server tells the context in one place, vLLM and SGLang in another.
    fn read(model: &Value) -> Option<Listed> {
        let context = model.pointer("/meta/n_ctx").or(model.get("max_model_len"));
        Some(Listed {
            name: model.get("id")?.as_str()?.to_owned(),
            context: context.and_then(Value::as_u64),
        })
    }
}

/// Closes a request's connection unless it was done.
struct Cut(Option<ureq::Agent>);

impl Drop for Cut {
    fn drop(&mut self) {
        if let Some(agent) = self.0.take() {
            agent.shutdown();
        }
    }
}

impl Client {
    pub(super) fn new(base: &str, way: &Way) -> Client {
        let Way { key, tls, tuning } = way.clone();
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A redirected POST would lose its body, and the key is for this server alone.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .accept_encoding("identity")
            .user_agent(concat!("safeguard-sql/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .tls_config(tls)
            .timeout_resolve(Some(tuning.connect))
            .timeout_connect(Some(tuning.connect))
            .timeout_global(Some(tuning.reply));
        // No proxy reaches this machine's own addresses as this machine does.
        let (_, host) = base.split_once("://").unwrap_or(("", base));
        if ["127.0.0.1:", "localhost:", "[::1]:"]
            .iter()
            .any(|own| host.starts_with(own))
        {
            config = config.proxy(None);
        }
        Client {
            base: base.to_owned(),
            key,
            config: config.build(),
            idle: Mutex::default(),
            heard: Mutex::default(),
        }
    }

    /// When something of any reply came last.
    pub(super) fn heard(&self) -> Option<Instant> {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Posts a request and reads its reply. Dropping the future closes the connection.
    pub(super) async fn post(
        self: &Arc<Self>,
        path: &'static str,
        body: Value,
    ) -> Result<Said, Fault> {
        let body = Arc::new(body);
        let idle = self.idle().pop();
        if let Some(agent) = idle {
            match self.post_by(agent, path, Arc::clone(&body)).await {
                // Servers close what nobody uses, and llama-server closes what it has streamed over: no fault of theirs.
                Err(Fault::Gone(_)) => {}
                said => return said,
            }
        }
        self.post_by(self.config.new_agent(), path, body).await
    }

    async fn post_by(
        self: &Arc<Self>,
        agent: ureq::Agent,
        path: &'static str,
        body: Arc<Value>,
    ) -> Result<Said, Fault> {
        let mut cut = Cut(Some(agent.clone()));
        let client = Arc::clone(self);
        let called = tokio::task::spawn_blocking(move || client.call(&agent, path, &body)).await;
        let said =
            called.map_err(|_| Fault::Down(format!("{}: the request was ended", self.base)))?;
        if said.is_ok() {
            self.idle().extend(cut.0.take());
        }
        said
    }

    /// The same on this thread.
    pub(super) fn post_now(&self, path: &str, body: &Value) -> Result<Said, Fault> {
        self.call(&self.agent(), path, body)
    }

    /// The models that the server has.
    pub(super) fn models(&self) -> Result<Vec<Listed>, Fault> {
        let agent = self.agent();
        let request = agent.get(format!("{}/models", self.base));
        let response = self.named(request).call().map_err(|e| self.unsent(&e))?;
        let text = self.text(self.accepted(response)?)?;
        let listed: Value = serde_json::from_str(&text).map_err(|_| self.no_json(&text))?;
        match listed.get("data").and_then(Value::as_array) {
            Some(models) => Ok(models.iter().filter_map(Listed::read).collect()),
            None => Err(Fault::Down(format!("{}/models lists no models", self.base))),
        }
    }

    fn call(&self, agent: &ureq::Agent, path: &str, body: &Value) -> Result<Said, Fault> {
        let request = agent.post(format!("{}/{path}", self.base));
        let request = self.named(request).content_type("application/json");
        let sent = request.send(body.to_string());
        let response = self.accepted(sent.map_err(|e| self.unsent(&e))?)?;
        let streamed = response.body().mime_type() == Some("text/event-stream");
        let mut said = Said::default();
        match streamed {
            true => self.events(response, &mut said)?,
            false => {
                let text = self.text(response)?;
                let whole: Value = serde_json::from_str(&text).map_err(|_| self.no_json(&text))?;
                said.add(&whole).map_err(|why| self.odd(&why))?;
            }
        }
        match said.finish {
            Some(_) => Ok(said),
            None => Err(Fault::Down(format!("{}: the reply was cut", self.base))),
        }
    }

    /// Reads events up to the last.
    fn events(
        &self,
        response: ureq::http::Response<ureq::Body>,
        said: &mut Said,
    ) -> Result<(), Fault> {
        // One byte more than the limit tells a reply that is too long from one that just fits.
        let mut left = ENDPOINT_BODY_BYTES_MAX + 1;
        let mut lines = BufReader::new(response.into_body().into_reader());
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.by_ref().take(left).read_until(b'\n', &mut line);
            let read = read.map_err(|e| self.unread(&e))? as u64;
            left -= read;
            self.hear();
            if left == 0 {
                return Err(self.too_long());
            }
            let text = String::from_utf8_lossy(&line);
            let data = match text.strip_prefix("data:") {
                Some(data) => data.trim(),
                None if read == 0 => return Ok(()),
                // Comments, names of events, the blank line between two.
                None => continue,
            };
            if data == "[DONE]" {
                // Reads what frames the body, so that the connection can be used again.
                let _ = io::copy(&mut lines.take(left), &mut io::sink());
                return Ok(());
            }
            let event: Value = serde_json::from_str(data).map_err(|_| self.no_json(data))?;
            said.add(&event).map_err(|why| self.odd(&why))?;
        }
    }

    fn named<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {}", key.0)),
            None => request,
        }
    }

    fn accepted(
        &self,
        response: ureq::http::Response<ureq::Body>,
    ) -> Result<ureq::http::Response<ureq::Body>, Fault> {
        self.hear();
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        let after = retry_after(response.headers());
        let words = match self.text(response) {
            Ok(text) => said_of_error(&text),
            Err(_) => String::new(),
        };
        let base = &self.base;
        let why = match words.is_empty() {
            true => format!("{base} answers {status}"),
            false => format!("{base} answers {status}: {}", self.shown(&words)),
        };
        Err(match status.as_u16() {
            401 | 403 => Fault::Final {
                why: format!(
                    "{base} answers {status}: SAFEGUARD_API_KEY must hold a key that it accepts"
                ),
                kind: Refusal::Key,
            },
            404 => Fault::Final {
                why,
                kind: Refusal::Missing,
            },
            408 | 425 | 429 | 503 => Fault::Busy { why, after },
            500.. => Fault::Down(why),
            _ => Fault::other(why),
        })
    }

    /// A body within the limit.
    fn text(&self, response: ureq::http::Response<ureq::Body>) -> Result<String, Fault> {
        let mut bytes = Vec::new();
        let body = response.into_body().into_reader();
        let read = body
            .take(ENDPOINT_BODY_BYTES_MAX + 1)
            .read_to_end(&mut bytes);
        read.map_err(|e| self.unread(&e))?;
        match bytes.len() as u64 > ENDPOINT_BODY_BYTES_MAX {
            true => Err(self.too_long()),
            false => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    fn too_long(&self) -> Fault {
        Fault::other(format!(
            "{}: the reply has more than {ENDPOINT_BODY_BYTES_MAX} bytes",
            self.base
        ))
    }

    fn unsent(&self, error: &ureq::Error) -> Fault {
        if let Some(why) = tls::untrusted(error) {
            return Fault::Untrusted(format!("{}: {why}", self.base));
        }
        match error {
            ureq::Error::Io(io) if is_closed(io) => Fault::Gone(format!("{}: {error}", self.base)),
            ureq::Error::Timeout(_) => self.slow(),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                Fault::other(format!("{}: {error}", self.base))
            }
            _ => Fault::Down(format!("{}: {error}", self.base)),
        }
    }

    fn unread(&self, error: &io::Error) -> Fault {
        let timeout = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<ureq::Error>())
            .is_some_and(|inner| matches!(inner, ureq::Error::Timeout(_)));
        match timeout || error.kind() == io::ErrorKind::TimedOut {
            true => self.slow(),
            false => Fault::Down(format!("{}: the reply was cut: {error}", self.base)),
        }
    }

    fn slow(&self) -> Fault {
        let limit = self
            .config
            .timeouts()
            .global
            .map_or(0, |limit| limit.as_millis());
        Fault::Slow(format!("{}: no whole reply within {limit} ms", self.base))
    }

    fn no_json(&self, text: &str) -> Fault {
        let words = self.shown(text);
        Fault::Down(format!("{}: the reply is not JSON: {words}", self.base))
    }

    fn odd(&self, why: &str) -> Fault {
        Fault::Down(format!("{}: {}", self.base, self.shown(why)))
    }

    /// A server's words on one line, cut, without the key.
    fn shown(&self, words: &str) -> String {
        let hidden = match &self.key {
            Some(Key(key)) => words.replace(key.as_str(), ".."),
            None => words.to_owned(),
        };
        let line: String = hidden.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut end = line.len().min(ENDPOINT_WORDS_MAX);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line[..end].to_owned()
    }

    fn agent(&self) -> ureq::Agent {
        let idle = self.idle().pop();
        idle.unwrap_or_else(|| self.config.new_agent())
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<ureq::Agent>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the other side has closed a connection that stood.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let kinds = [
        BrokenPipe,
        ConnectionAborted,
        ConnectionReset,
        UnexpectedEof,
    ];
    kinds.contains(&error.kind())
}

/// Seconds; a date is left to our own pauses.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let said = headers.get("retry-after")?.to_str().ok()?.trim();
    let seconds: f64 = said.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// `{"error": {"message": ..}}`, `{"message": ..}` or `{"error": ..}`; else the text itself.
fn said_of_error(text: &str) -> String {
    let found = serde_json::from_str::<Value>(text).ok().and_then(|body| {
        let places = [
            body.pointer("/error/message"),
            body.get("message"),
            body.get("error"),
        ];
        let mut said = places.into_iter().flatten().filter_map(Value::as_str);
        said.next().map(str::to_owned)
    });
    found.unwrap_or_else(|| text.to_owned())
}
