//! From the first byte of a connection to its first statement: TLS, cancel requests, who it is, what it starts with.
//!
//! Takes a stream, gives a running [`Connection`]. Whoever it is, nothing is said about tables or users before they have
//! proved it. Knows passwords only as verifiers.

use super::Shared;
use super::catalog::Facts;
use super::connection::{Connection, Shutdown};
use super::failure::{Failure, Severity};
use super::frontend::{First, Message, Reader};
use super::link::Link;
use super::outbox::Outbox;
use super::roles::{self, Permitted, Role};
use super::scram::{self, Exchange};
use super::session::Session;
use super::settings::{SessionOptions, Settings};
use crate::engine::CATALOG;
use crate::error::Error;
use bytes::Bytes;
use pgwire::messages::PgWireBackendMessage as Out;
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, SecretKey,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The client's address.
    pub address: SocketAddr,
    /// Where it connected to.
    pub local: SocketAddr,
}

/// A startup packet that was understood.
struct Hello {
    /// The digest of the certificate that it came through.
    binding: Option<Vec<u8>>,
    minor: u16,
    user: String,
    parameters: Vec<(String, String)>,
}

/// Serves one client from its first byte to its last.
pub async fn serve<S>(shared: Arc<Shared>, stream: S, peer: Peer, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let most = shared.config.startup_timeout;
    let begun = tokio::select! {
        () = shutdown.soft.cancelled() => return,
        begun = timeout(most, begin(&shared, stream, peer, shutdown.clone())) => begun,
    };
    if let Ok(Some(mut connection)) = begun {
        connection.run().await;
    }
}

/// Tells a client that there is no room, unless it is here to cancel.
pub async fn refuse<S>(shared: Arc<Shared>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let mut reader = Reader::new(0);
    if let Ok((mut link, Some(_))) = first(&shared, stream, &mut reader).await {
        let mut out = Outbox::new(&mut link);
        let full = Failure::fatal("53300", "sorry, too many clients already");
        out.failure(&full.with_hint("max_connections in the server's settings"));
        out.close().await;
    }
}

async fn begin<S>(
    shared: &Arc<Shared>,
    stream: S,
    peer: Peer,
    shutdown: Shutdown,
) -> Option<Connection<Link<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let mut reader = Reader::new(shared.config.max_statement_bytes);
    let (link, first) = match first(shared, stream, &mut reader).await {
        Ok((link, Some(first))) => (link, first),
        Ok((_, None)) => return None,
        Err((link, failure)) => {
            if let Some(mut link) = link {
                let mut out = Outbox::new(&mut link);
                out.failure(&failure);
                out.close().await;
            }
            return None;
        }
    };
    let secure = link.is_secure();
    let (input, output) = tokio::io::split(link);
    let mut handshake = Handshake {
        shared,
        input,
        out: Outbox::new(output),
        reader,
        secure,
        binding: first.binding.clone(),
        peer,
    };
    match handshake.session(first).await {
        Ok((session, place)) => Some(Connection {
            input: handshake.input,
            reader: handshake.reader,
            out: handshake.out,
            session,
            place,
            shutdown,
        }),
        Err(failure) => {
            shared.counters.failed(&failure);
            if failure.sqlstate == "28P01" {
                shared.counters.logins_failed.add();
                tracing::warn!(client = %peer.address.ip(), "{failure}");
            }
            handshake.out.failure(&Failure {
                severity: Severity::Fatal,
                ..failure
            });
            handshake.out.close().await;
            None
        }
    }
}

type Opened<S> = Result<(Link<S>, Option<Hello>), (Option<Link<S>>, Failure)>;

/// Answers requests for encryption and to cancel; gives who connects, or `None` when that was all.
async fn first<S>(shared: &Arc<Shared>, stream: S, reader: &mut Reader) -> Opened<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let mut link = Link::Plain(stream);
    let mut binding = None;
    loop {
        let first = match reader.first() {
            Ok(Some(first)) => first,
            Ok(None) => {
                match link.read_buf(&mut reader.inbox).await {
                    Ok(0) | Err(_) => return Ok((link, None)),
                    Ok(_) => {}
                }
                continue;
            }
            Err(failure) => return Err((Some(link), failure)),
        };
        match first {
            First::Tls => {
                let acceptor = match (&shared.tls, &link) {
                    (Some(tls), Link::Plain(_)) => {
                        if let Some(Err(error)) = tls.refresh(Instant::now()) {
                            tracing::error!("{error}; the old certificate stays");
                        }
                        let pair = tls.current();
                        binding = pair.server_end_point;
                        Some(pair.acceptor)
                    }
                    _ => None,
                };
                // What came behind the request came in the clear, and may be somebody else's.
                if !reader.inbox.is_empty() {
                    let why = "received unencrypted data after a request for TLS";
                    return Err((Some(link), Failure::fatal("08P01", why)));
                }
                let answer: &[u8] = if acceptor.is_some() { b"S" } else { b"N" };
                let written = link.write_all(answer).await;
                if written.is_err() || link.flush().await.is_err() {
                    return Ok((link, None));
                }
                link = match (acceptor, link) {
                    (Some(acceptor), Link::Plain(stream)) => match acceptor.accept(stream).await {
                        Ok(stream) => Link::Tls(Box::new(stream)),
                        Err(error) => {
                            tracing::info!("a TLS handshake failed: {error}");
                            return Err((None, Failure::fatal("08006", "TLS handshake failed")));
                        }
                    },
                    (_, link) => link,
                };
            }
            First::Gss => {
                if link.write_all(b"N").await.is_err() || link.flush().await.is_err() {
                    return Ok((link, None));
                }
            }
            First::Cancel { pid, key } => {
                shared.registry.cancel(pid, &key);
                return Ok((link, None));
            }
            First::Startup { minor, parameters } => {
                let user = parameters.iter().find(|(name, _)| name == "user");
                let user = user.map(|(_, user)| user.clone()).unwrap_or_default();
                return Ok((
                    link,
                    Some(Hello {
                        binding,
                        minor,
                        user,
                        parameters,
                    }),
                ));
            }
        }
    }
}

struct Handshake<'a, S> {
    shared: &'a Arc<Shared>,
    input: tokio::io::ReadHalf<S>,
    out: Outbox<tokio::io::WriteHalf<S>>,
    reader: Reader,
    secure: bool,
    /// What a password's proof must name, so that it cannot be passed on from another channel.
    binding: Option<Vec<u8>>,
    peer: Peer,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Handshake<'_, S> {
    /// Finds out who it is, and makes their session.
    async fn session(&mut self, hello: Hello) -> Result<(Session, super::cancel::Place), Failure> {
        if hello.user.is_empty() {
            let why = "no PostgreSQL user name specified in startup packet";
            return Err(Failure::fatal("28000", why));
        }
        if self.shared.config.tls_required && !self.secure {
            let why = format!("no unencrypted connections from {}", self.peer.address.ip());
            return Err(Failure::fatal("28000", why).with_hint("sslmode=require"));
        }
        let replication = hello.parameters.iter().find(|(n, _)| n == "replication");
        if replication.is_some_and(|(_, value)| !matches!(value.as_str(), "off" | "false" | "0")) {
            return Err(Failure::fatal("0A000", "replication is not supported"));
        }
        self.negotiate(&hello);
        let role = self.authenticate(&hello.user).await?;
        let place = self
            .shared
            .registry
            .enter(if hello.minor >= 2 { 32 } else { 4 });
        let session = self.open(&hello, role, place.pid)?;
        let key = match hello.minor {
            0 | 1 => SecretKey::I32(i32::from_be_bytes(
                place.key[..4].try_into().expect("bug: 4 bytes"),
            )),
            _ => SecretKey::Bytes(place.key.clone()),
        };
        self.out.push(Out::Authentication(Authentication::Ok));
        self.out
            .push(Out::BackendKeyData(BackendKeyData::new(place.pid, key)));
        let mut session = session;
        session.ready(&mut self.out);
        let sent = self.out.flush().await;
        sent.map_err(|_| super::cursor::gone())?;
        Ok((session, place))
    }

    /// Says which of what the client wants this server does not have (protocol 3.2 is the newest).
    fn negotiate(&mut self, hello: &Hello) {
        let unknown: Vec<String> = (hello.parameters.iter())
            .map(|(name, _)| name.clone())
            .filter(|name| name.starts_with("_pq_."))
            .collect();
        if hello.minor > 2 || !unknown.is_empty() {
            let newest = (3 << 16) | i32::from(hello.minor.min(2));
            let message = NegotiateProtocolVersion::new(newest, unknown);
            self.out.push(Out::NegotiateProtocolVersion(message));
        }
    }

    async fn authenticate(&mut self, user: &str) -> Result<Role, Failure> {
        let store = self.shared.engine.store();
        let known = store.user(user).await.map_err(Error::from)?;
        if known.is_none() {
            let users = store.users().await.map_err(Error::from)?.len();
            if let Some(role) = self.shared.config.anonymous(users) {
                return Ok(role);
            }
        }
        let binding = self.binding.clone();
        let exchange = Exchange::new(user, known.as_ref(), binding, &self.shared.mock)?;
        self.prove(exchange).await?;
        let known = known.ok_or_else(|| scram::refused(user))?;
        Role::parse(&known.role).ok_or_else(|| {
            Failure::fatal(
                "28000",
                format!("user \"{user}\" has no role that is known"),
            )
        })
    }

    /// SASL, as the protocol's section on it says.
    async fn prove(&mut self, mut exchange: Exchange) -> Result<(), Failure> {
        let mechanisms = exchange.mechanisms();
        let mechanisms = mechanisms.iter().map(|m| (*m).to_owned()).collect();
        let offer = Authentication::SASL(mechanisms);
        self.out.push(Out::Authentication(offer));
        let first = self.password().await?;
        let (mechanism, data) = initial(&first)?;
        let answer = exchange.first(mechanism, data)?;
        let answer = Authentication::SASLContinue(Bytes::from(answer));
        self.out.push(Out::Authentication(answer));
        let last = self.password().await?;
        let answer = exchange.last(&last)?;
        let answer = Authentication::SASLFinal(Bytes::from(answer));
        self.out.push(Out::Authentication(answer));
        Ok(())
    }

    async fn password(&mut self) -> Result<Bytes, Failure> {
        let gone = |_| super::cursor::gone();
        self.out.flush().await.map_err(gone)?;
        loop {
            match self.reader.message()? {
                Some(Message::Password(bytes)) => return Ok(bytes),
                Some(_) => {
                    return Err(Failure::fatal(
                        "08P01",
                        "expected an answer to the password request",
                    ));
                }
                None => {
                    let read = self.input.read_buf(&mut self.reader.inbox).await;
                    if read.map_err(gone)? == 0 {
                        return Err(super::cursor::gone());
                    }
                }
            }
        }
    }

    /// The session of whoever proved who they are.
    fn open(&self, hello: &Hello, role: Role, pid: i32) -> Result<Session, Failure> {
        let engine = self.shared.engine.session(&hello.user);
        let guard = Arc::new(move |plan: &_| roles::check(role, plan).map_err(Into::into));
        let engine = engine.guarded(guard).paid_by(role);
        if role == Role::Reader {
            engine.set(roles::ANSWER, roles::STORED)?;
        }
        let options = Permitted {
            options: SessionOptions::new(engine.context()),
            role,
            limits: self.shared.config.limits.of(role),
        };
        let settings = Settings::new(Arc::new(options), &hello.user, role == Role::Admin);
        let settings = Arc::new(settings);
        // DataFusion has no zone of its own until it is told one.
        settings.start("TimeZone", "UTC")?;
        let config = &self.shared.config;
        settings.fix("max_connections", config.max_connections.to_string());
        for (name, most) in [
            ("statement_timeout", config.statement_timeout),
            ("idle_session_timeout", config.idle_timeout),
            (
                "idle_in_transaction_session_timeout",
                config.idle_in_transaction_timeout,
            ),
        ] {
            if let Some(most) = most {
                settings.start(name, &most.as_millis().to_string())?;
            }
        }
        for (name, value) in &hello.parameters {
            match name.as_str() {
                "user" | "database" | "replication" => {}
                "options" => {
                    for (name, value) in switches(value)? {
                        settings.start(&name, &value)?;
                    }
                }
                name if name.starts_with("_pq_.") => {}
                name => settings.start(name, value)?,
            }
        }
        let facts = Facts {
            user: hello.user.clone(),
            role: role.as_str().to_owned(),
            database: CATALOG.to_owned(),
            pid,
            settings: Arc::clone(&settings),
            client_addr: Some(self.peer.address),
        };
        self.shared.catalog.install(engine.context(), facts);
        Ok(Session::new(Arc::clone(self.shared), engine, settings))
    }
}

/// A SASLInitialResponse: the mechanism and its data.
fn initial(bytes: &[u8]) -> Result<(&str, &[u8]), Failure> {
    let broken = || Failure::fatal("08P01", "malformed SASLInitialResponse");
    let end = bytes.iter().position(|b| *b == 0).ok_or_else(broken)?;
    let mechanism = std::str::from_utf8(&bytes[..end]).map_err(|_| broken())?;
    let rest = bytes.get(end + 5..).ok_or_else(broken)?;
    Ok((mechanism, rest))
}

/// `-c name=value` and `--name=value`, with backslashes before spaces.
fn switches(options: &str) -> Result<Vec<(String, String)>, Failure> {
    let mut words = vec![String::new()];
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match (character, words.last_mut()) {
            ('\\', Some(word)) => word.extend(characters.next()),
            (c, Some(word)) if !c.is_whitespace() => word.push(c),
            _ => words.push(String::new()),
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut switches = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.as_str() {
            "-c" => words.next(),
            word => (word.strip_prefix("-c").or(word.strip_prefix("--"))).map(str::to_owned),
        };
        let setting = setting.as_deref().and_then(|s| s.split_once('='));
        let Some((name, value)) = setting else {
            let why = format!("invalid command-line argument for server process: {word}");
            return Err(Failure::fatal("42601", why));
        };
        switches.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(switches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_read_as_postgresql_reads_them() {
        let cases: [(&str, &[(&str, &str)]); 4] = [
            ("", &[]),
            (
                "-c statement_timeout=5s --search-path=a",
                &[("statement_timeout", "5s"), ("search_path", "a")],
            ),
            (r"-capplication_name=a\ b", &[("application_name", "a b")]),
            ("  -c  x.y=1", &[("x.y", "1")]),
        ];
        for (options, want) in cases {
            let got = switches(options).unwrap();
            let got: Vec<(&str, &str)> = got.iter().map(|(n, v)| (&**n, &**v)).collect();
            assert_eq!(got, want, "{options}");
        }
        for options in ["-c", "-c x", "y", "-d 5"] {
            assert_eq!(switches(options).unwrap_err().sqlstate, "42601");
        }
    }
}
