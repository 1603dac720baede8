//! TLS: a certificate and its key from two files, read anew when they change.
//!
//! Takes PEM files, gives what connections are accepted with (TLS 1.2 and 1.3) and what SCRAM binds them to. A pair that
//! cannot be used never replaces one that can. Time is an argument. Knows no socket and no user.

use crate::config::{ConfigError, TLS_CHECK_SECONDS};
use ring::digest;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::version::{TLS12, TLS13};

/// The protocol that a client names which begins with TLS rather than with an SSLRequest.
pub const ALPN: &[u8] = b"postgresql";

/// Certificates and keys are short; what is longer is another file.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// The server's certificate and key, whichever are in use.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    state: Mutex<State>,
}

struct State {
    pair: Pair,
    /// Of the files, when they were last read: whether or not they could be used.
    stamps: [Option<Stamp>; 2],
    looked: Option<Instant>,
}

/// One certificate with its key, in use together.
#[derive(Clone)]
pub struct Pair {
    /// Accepts connections.
    pub acceptor: TlsAcceptor,
    /// What SCRAM-SHA-256-PLUS binds a connection to that this pair accepted: the digest of the certificate by the hash of
    /// its signature (RFC 5929, section 4.1). `None` where that is not defined: there is no PLUS then.
    pub server_end_point: Option<Vec<u8>>,
}

/// How a file is known to have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("cert", &self.cert)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// A file that cannot be read or is no PEM, a key that others can read, a key of another certificate.
    pub fn load(cert: &Path, key: &Path) -> Result<Tls, ConfigError> {
        let stamps = [stamp(cert), stamp(key)];
        Ok(Tls {
            cert: cert.to_owned(),
            key: key.to_owned(),
            state: Mutex::new(State {
                pair: read(cert, key)?,
                stamps,
                looked: None,
            }),
        })
    }

    /// What a new connection is accepted with. Take it once for each: acceptor and binding go together.
    pub fn current(&self) -> Pair {
        self.state().pair.clone()
    }

    /// The acceptor of [`Tls::current`].
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current().acceptor
    }

    /// The binding of [`Tls::current`].
    pub fn server_end_point(&self) -> Option<Vec<u8>> {
        self.current().server_end_point
    }

    /// Reads both files anew, for connections from now on.
    ///
    /// # Errors
    /// As [`Tls::load`]; the pair in use stays.
    pub fn reload(&self) -> Result<(), ConfigError> {
        let stamps = [stamp(&self.cert), stamp(&self.key)];
        let pair = read(&self.cert, &self.key);
        let mut state = self.state();
        state.stamps = stamps;
        state.pair = pair?;
        Ok(())
    }

    /// [`Tls::reload`] where a file has changed since it was last read; `None` where none has, or where that was looked at
    /// less than [`TLS_CHECK_SECONDS`] before `now`. A pair that is broken is reported once for each change.
    pub fn refresh(&self, now: Instant) -> Option<Result<(), ConfigError>> {
        {
            let mut state = self.state();
            let rest = Duration::from_secs(TLS_CHECK_SECONDS);
            if state.looked.is_some_and(|at| now < at + rest) {
                return None;
            }
            state.looked = Some(now);
            if state.stamps == [stamp(&self.cert), stamp(&self.key)] {
                return None;
            }
        }
        Some(self.reload())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = std::fs::metadata(path).ok()?;
    Some(Stamp {
        modified: file.modified().ok(),
        bytes: file.len(),
        inode: inode(&file),
    })
}

#[cfg(unix)]
fn inode(file: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(file)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

fn read(cert: &Path, key: &Path) -> Result<Pair, ConfigError> {
    let of_cert = |why: String| ConfigError(format!("certificate file {}: {why}", cert.display()));
    let of_key = |why: String| ConfigError(format!("private key file {}: {why}", key.display()));
    let (pem, _) = contents(cert).map_err(of_cert)?;
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|e| of_cert(e.to_string()))?;
    let Some(own) = chain.first() else {
        return Err(of_cert("there is no certificate in it".to_owned()));
    };
    let server_end_point = end_point(own);
    let (pem, file) = contents(key).map_err(of_key)?;
    private(&file).map_err(of_key)?;
    let secret = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| of_key("there is no private key in it".to_owned()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|e| of_cert(e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|e| {
            of_key(format!(
                "it cannot be used with certificate {}: {e}",
                cert.display()
            ))
        })?;
    Ok(Pair {
        acceptor: TlsAcceptor::from(Arc::new(settled(config))),
        server_end_point,
    })
}

/// As PostgreSQL: one protocol, and no sessions to resume, which its clients never do.
fn settled(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn contents(path: &Path) -> Result<(Vec<u8>, Metadata), String> {
    let open = || {
        let file = File::open(path)?;
        let about = file.metadata()?;
        let mut bytes = Vec::new();
        file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>((bytes, about))
    };
    let (bytes, about) = open().map_err(|e| e.to_string())?;
    match bytes.len() as u64 > PEM_BYTES_MAX {
        true => Err(format!("it is longer than {PEM_BYTES_MAX} bytes")),
        false => Ok((bytes, about)),
    }
}

/// PostgreSQL's rule: nobody but the owner, or the owner root and a group that may read.
#[cfg(unix)]
fn private(key: &Metadata) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    let forbidden = if key.uid() == 0 { 0o037 } else { 0o077 };
    match key.mode() & forbidden {
        0 => Ok(()),
        _ => Err(format!(
            "it has group or world access (mode {:04o}); it must have permissions u=rw (0600) or less, or u=rw,g=r \
             (0640) or less where root owns it",
            key.mode() & 0o7777
        )),
    }
}

#[cfg(not(unix))]
fn private(_: &Metadata) -> Result<(), String> {
    Ok(())
}

/// Signature algorithms, as the bytes of their object identifiers, and the hash of each; for MD5 and SHA-1 it is SHA-256.
static HASHES: [(&[u8], &digest::Algorithm); 9] = [
    // RSA with MD5, SHA-1, SHA-256, SHA-384, SHA-512.
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04", &digest::SHA256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", &digest::SHA256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", &digest::SHA256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c", &digest::SHA384),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d", &digest::SHA512),
    // ECDSA with SHA-1, SHA-256, SHA-384, SHA-512.
    (b"\x2a\x86\x48\xce\x3d\x04\x01", &digest::SHA256),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x02", &digest::SHA256),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x03", &digest::SHA384),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x04", &digest::SHA512),
];

/// The digest of a certificate by the hash of its signature.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let signature = signed_by(certificate)?;
    let (_, hash) = HASHES.iter().find(|(oid, _)| *oid == signature)?;
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

/// The object identifier of a certificate's signature: `SEQUENCE { tbs, SEQUENCE { OID, .. }, .. }`.
fn signed_by(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OID: u8 = 0x06;
    let (certificate, _) = value(SEQUENCE, certificate)?;
    let (_, rest) = value(SEQUENCE, certificate)?;
    let (algorithm, _) = value(SEQUENCE, rest)?;
    Some(value(OID, algorithm)?.0)
}

/// A DER value of this kind, and what follows it.
fn value(kind: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x0f))?;
            let length = bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    if found != kind {
        return None;
    }
    rest.split_at_checked(length)
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
