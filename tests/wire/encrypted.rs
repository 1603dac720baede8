//! TLS as a client meets it: an SSLRequest, a handshake, a login bound to the connection, a new certificate.

use super::logins::add;
use super::{Wire, config, simple, state};
use rcgen::{CertificateParams, KeyPair};
use safeguard::config::{ServeConfig, TlsFiles};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::tls::{ChannelBinding as Bound, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Encrypted;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Certificate and key in files.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> (Files, CertificateDer<'static>) {
        let files = Files {
            dir: tempfile::tempdir().unwrap(),
        };
        let certificate = files.renew();
        (files, certificate)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new pair in the place of the old.
    fn renew(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        for (name, text) in [
            ("cert.pem", certificate.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            fs::write(self.path(name), text).unwrap();
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        certificate.der().clone()
    }

    fn config(&self) -> ServeConfig {
        ServeConfig {
            tls: Some(TlsFiles {
                cert: self.path("cert.pem"),
                key: self.path("key.pem"),
            }),
            tls_required: true,
            ..config()
        }
    }
}

/// A client that trusts one certificate.
#[derive(Clone)]
struct Trusting {
    config: Arc<ClientConfig>,
    certificate: CertificateDer<'static>,
}

impl Trusting {
    fn new(certificate: &CertificateDer<'static>) -> Trusting {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Trusting {
            config: Arc::new(config),
            certificate: certificate.clone(),
        }
    }
}

impl MakeTlsConnect<Socket> for Trusting {
    type Stream = Bounded;
    type TlsConnect = Trusting;
    type Error = io::Error;

    fn make_tls_connect(&mut self, _: &str) -> io::Result<Trusting> {
        Ok(self.clone())
    }
}

impl TlsConnect<Socket> for Trusting {
    type Stream = Bounded;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Bounded>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let name = ServerName::try_from("localhost").unwrap();
        Box::pin(async move {
            let connector = TlsConnector::from(self.config);
            Ok(Bounded {
                stream: connector.connect(name, socket).await?,
                // ECDSA with SHA-256, as rcgen signs by default: RFC 5929, section 4.1.
                end_point: ring::digest::digest(&ring::digest::SHA256, &self.certificate)
                    .as_ref()
                    .to_vec(),
            })
        })
    }
}

/// An encrypted connection that knows what a login is bound to.
struct Bounded {
    stream: Encrypted<Socket>,
    end_point: Vec<u8>,
}

impl TlsStream for Bounded {
    fn channel_binding(&self) -> Bound {
        Bound::tls_server_end_point(self.end_point.clone())
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_are_encrypted_and_bound_to_their_connection() {
    let (files, first) = Files::new();
    let wire = Wire::start(files.config()).await;
    add(&wire, "ann", "analyst").await;
    let mut client = wire.client("ann");
    client
        .password("correct horse")
        .ssl_mode(SslMode::Require)
        .channel_binding(ChannelBinding::Require);
    let (ann, _) = wire
        .connect_over(&client, Trusting::new(&first))
        .await
        .unwrap();
    let sql = "SELECT current_user, safeguard_classify('hate', 'hello there')";
    assert_eq!(simple(&ann, sql).await, "ann|allowed");

    // Another certificate than the connection's: somebody in between.
    let (_, other) = Files::new();
    let between = Trusting {
        certificate: other.clone(),
        ..Trusting::new(&first)
    };
    let refused = state(wire.connect_over(&client, between).await);
    assert_eq!(refused, "28000 SCRAM channel binding check failed");
    let distrusted = state(wire.connect_over(&client, Trusting::new(&other)).await);
    assert!(distrusted.starts_with("no answer"), "{distrusted}");
    let mut wrong = client.clone();
    wrong.password("wrong");
    let refused = state(wire.connect_over(&wrong, Trusting::new(&first)).await);
    assert_eq!(
        refused,
        "28P01 password authentication failed for user \"ann\""
    );

    // A new pair serves new connections; those that stand, stand.
    let second = files.renew();
    wire.shared.tls.as_ref().unwrap().reload().unwrap();
    let (again, _) = wire
        .connect_over(&client, Trusting::new(&second))
        .await
        .unwrap();
    assert_eq!(simple(&again, "SELECT 1").await, "1");
    assert_eq!(simple(&ann, "SELECT 1").await, "1");
    let old = state(wire.connect_over(&client, Trusting::new(&first)).await);
    assert!(old.starts_with("no answer"), "{old}");
}
