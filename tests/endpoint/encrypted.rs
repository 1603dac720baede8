//! Servers over TLS: who is believed, what is said of who is not, and that the key goes to nobody else.

use super::double::{Double, Skills};
use super::{hurried, label, open_as, prompt};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use safeguard::backend::Backend;
use safeguard::config::EndpointAccess;
use safeguard::error::Error;
use safeguard_udfs::Mode;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

const KEY: &str = "k3y-of-ours";

/// Signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Authority { issuer, pem }
    }

    /// A server's side of TLS as `localhost`, with a certificate for some years.
    fn acceptor(&self, (from, to): (i32, i32)) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

const VALID: (i32, i32) = (2020, 2120);

/// TLS in front of a double, or in front of nothing.
struct Front {
    port: u16,
    acceptor: Arc<Mutex<TlsAcceptor>>,
    /// What clients said once they were believed to be there.
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Front {
    async fn start(acceptor: TlsAcceptor, double: &Double) -> Front {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let there = double.address.trim_start_matches("http://");
        let there = there.trim_end_matches("/v1").to_owned();
        let (acceptor, heard) = (Arc::new(Mutex::new(acceptor)), Arc::default());
        let (current, kept) = (Arc::clone(&acceptor), Arc::clone(&heard));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let acceptor = current.lock().unwrap().clone();
                let (there, kept) = (there.clone(), Arc::clone(&kept));
                tokio::spawn(async move {
                    let near = acceptor.accept(near).await?;
                    carry(near, TcpStream::connect(there).await?, &kept).await
                });
            }
        });
        Front {
            port,
            acceptor,
            heard,
        }
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }
}

async fn carry(
    near: tokio_rustls::server::TlsStream<TcpStream>,
    far: TcpStream,
    heard: &Mutex<Vec<u8>>,
) -> std::io::Result<()> {
    let (mut from_near, mut to_near) = tokio::io::split(near);
    let (mut from_far, mut to_far) = far.into_split();
    let back = tokio::spawn(async move { copy(&mut from_far, &mut to_near).await });
    let mut buffer = vec![0; 4096];
    while let Ok(read @ 1..) = from_near.read(&mut buffer).await {
        heard.lock().unwrap().extend(&buffer[..read]);
        to_far.write_all(&buffer[..read]).await?;
    }
    back.abort();
    Ok(())
}

/// A server without TLS, which says of anything that it is no HTTP; what it heard.
async fn plain() -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = vec![0; 4096];
            let read = stream.read(&mut buffer).await.unwrap_or(0);
            kept.lock().unwrap().extend(&buffer[..read]);
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
    });
    (port, heard)
}

fn access(ca_file: Option<&PathBuf>) -> EndpointAccess {
    EndpointAccess {
        key: Some(KEY.to_owned()),
        ca_file: ca_file.cloned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_verified_is_told_nothing() {
    let locked = Skills {
        key: Some(KEY),
        ..Skills::default()
    };
    let double = Double::start(locked).await;
    let (ours, theirs) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (own, other) = (file("own.pem", &ours.pem), file("other.pem", &theirs.pem));
    // More than one in a file, and the right one last.
    let both = file("both.pem", &format!("{}{}", theirs.pem, ours.pem));
    let unknown = "its certificate is signed by nobody who is trusted; SAFEGUARD_API_CA_FILE may name a file of \
                   certificates to trust";
    for (host, years, trusted, want) in [
        ("localhost", VALID, Some(&own), None),
        ("localhost", VALID, Some(&both), None),
        ("localhost", VALID, None, Some(unknown)),
        ("localhost", VALID, Some(&other), Some(unknown)),
        (
            "127.0.0.1",
            VALID,
            Some(&own),
            Some("its certificate is another host's"),
        ),
        (
            "localhost",
            (2019, 2020),
            Some(&own),
            Some("its certificate has expired"),
        ),
        (
            "localhost",
            (2119, 2120),
            Some(&own),
            Some("its certificate is not valid yet"),
        ),
    ] {
        let front = Front::start(ours.acceptor(years), &double).await;
        let address = format!("https://{host}:{}/v1", front.port);
        match (
            open_as(address.clone(), access(trusted), hurried()).await,
            want,
        ) {
            (Ok(endpoint), None) => {
                assert_eq!(
                    label(&endpoint.ask(prompt("bad", Mode::Reason)).await),
                    Ok(1)
                );
                assert!(front.heard().contains(KEY));
                assert!(!format!("{endpoint:?}").contains(KEY));
            }
            (Err(error), Some(why)) => {
                assert_eq!(error.to_string(), format!("{address}: {why}"));
                assert!(!format!("{error:?}").contains(KEY));
                assert_eq!(Error::Backend(error).sqlstate(), "08001");
                assert_eq!(front.heard(), "", "{why}");
            }
            (opened, want) => panic!("{address} {years:?}: {opened:?}, not {want:?}"),
        }
    }

    let (port, heard) = plain().await;
    let address = format!("https://localhost:{port}/v1");
    let error = open_as(address.clone(), access(Some(&own)), hurried())
        .await
        .unwrap_err();
    let why = "what answers there does not speak TLS; is it http://?";
    assert_eq!(error.to_string(), format!("{address}: {why}"));
    let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    assert!(!heard.is_empty() && !heard.contains(KEY));
    assert!(!format!("{:?}", access(None)).contains(KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_certificates_that_cannot_be_used_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let wrong = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (text, why) in [
        (None, "No such file"),
        (Some("nothing of the kind\n"), "it holds no certificate"),
        (Some(wrong), "invalid peer certificate: BadEncoding"),
    ] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let said = "https://localhost:1/v1".to_owned();
        let error = open_as(said, access(Some(&path)), hurried())
            .await
            .unwrap_err();
        let shown = error.to_string();
        let begins = format!("cannot use SAFEGUARD_API_CA_FILE {}: ", path.display());
        assert!(shown.starts_with(&begins) && shown.contains(why), "{shown}");
        assert_eq!(Error::Backend(error).sqlstate(), "F0000");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_no_longer_trusted_is_left_to_the_others() {
    let doubles = [
        Double::start(Skills::default()).await,
        Double::start(Skills::default()).await,
    ];
    let ours = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own.pem");
    std::fs::write(&own, &ours.pem).unwrap();
    let mut fronts = Vec::new();
    for double in &doubles {
        fronts.push(Front::start(ours.acceptor(VALID), double).await);
    }
    let addresses: Vec<String> = fronts
        .iter()
        .map(|front| format!("https://localhost:{}/v1", front.port))
        .collect();
    let endpoint = open_as(addresses.join(","), access(Some(&own)), hurried())
        .await
        .unwrap();
    *fronts[0].acceptor.lock().unwrap() = ours.acceptor((2019, 2020));
    let before = fronts[0].heard().len();
    let asked = (0..20).map(|_| endpoint.ask(prompt("bad", Mode::Reason)));
    for reply in futures::future::join_all(asked).await {
        assert_eq!(label(&reply), Ok(1));
    }
    assert_eq!(
        fronts[0].heard().len(),
        before,
        "nothing went to it any more"
    );
    assert_eq!(
        (doubles[0].asked().len(), doubles[1].asked().len()),
        (0, 20)
    );
}
