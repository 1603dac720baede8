//! Pairs of files that are used, refused and read anew; a handshake; the binding of a connection.

use super::*;
use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version::TLS12;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        let files = Files {
            dir: tempfile::tempdir().unwrap(),
        };
        files.write(&signed(&rcgen::PKCS_ECDSA_P256_SHA256));
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn write(&self, (cert, key): &(rcgen::Certificate, KeyPair)) {
        self.put("cert.pem", &cert.pem());
        self.put("key.pem", &key.serialize_pem());
    }

    fn load(&self) -> Result<Tls, ConfigError> {
        Tls::load(&self.path("cert.pem"), &self.path("key.pem"))
    }
}

fn signed(algorithm: &'static SignatureAlgorithm) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap(), key)
}

/// What a client that trusts `trusted` and offers `alpn` gets: the protocol agreed on, after a word each way.
async fn shake(
    tls: &Tls,
    trusted: &CertificateDer<'static>,
    alpn: &[&[u8]],
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Option<Vec<u8>>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let (near, far) = duplex(1 << 16);
    let name = ServerName::try_from("localhost").unwrap();
    let client = TlsConnector::from(Arc::new(config)).connect(name, near);
    let acceptor = tls.acceptor();
    let server = async {
        let mut stream = acceptor.accept(far).await.map_err(|e| e.to_string())?;
        stream.write_all(b"hello").await.unwrap();
        stream.flush().await.unwrap();
        let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        Ok::<_, String>((agreed, stream))
    };
    let (client, server) = tokio::join!(client, server);
    let mut client = client.map_err(|e| e.to_string())?;
    let (agreed, _open) = server?;
    let mut word = [0; 5];
    client.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"hello");
    Ok(agreed)
}

fn der(files: &Files) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(&fs::read(files.path("cert.pem")).unwrap()).unwrap()
}

#[tokio::test]
async fn clients_of_both_versions_connect() {
    let files = Files::new();
    let tls = files.load().unwrap();
    let cert = der(&files);
    for version in [&TLS12, &TLS13] {
        assert_eq!(shake(&tls, &cert, &[], &[version]).await, Ok(None));
        let direct = shake(&tls, &cert, &[b"h2", ALPN], &[version]).await;
        assert_eq!(direct, Ok(Some(ALPN.to_vec())));
        assert!(shake(&tls, &cert, &[b"h2"], &[version]).await.is_err());
    }
}

#[tokio::test]
async fn a_new_pair_is_taken_and_a_broken_one_is_not() {
    let files = Files::new();
    let tls = files.load().unwrap();
    let (first, before) = (der(&files), tls.server_end_point());
    let start = Instant::now();
    assert!(tls.refresh(start).is_none(), "nothing changed");
    let second = signed(&rcgen::PKCS_ECDSA_P384_SHA384);
    // The certificate comes before its key: a moment in which they do not go together.
    files.put("cert.pem", &second.0.pem());
    assert!(tls.refresh(start).is_none(), "looked at a moment ago");
    let later = start + Duration::from_secs(TLS_CHECK_SECONDS);
    let why = tls.refresh(later).unwrap().unwrap_err().to_string();
    assert!(
        why.contains("key.pem: it cannot be used with certificate"),
        "{why}"
    );
    assert_eq!(tls.server_end_point(), before);
    assert!(shake(&tls, &first, &[], &[&TLS13]).await.is_ok());
    let later = later + Duration::from_secs(TLS_CHECK_SECONDS);
    assert!(tls.refresh(later).is_none(), "said once");
    files.write(&second);
    let later = later + Duration::from_secs(TLS_CHECK_SECONDS);
    assert_eq!(tls.refresh(later), Some(Ok(())));
    assert_ne!(tls.server_end_point(), before);
    assert!(shake(&tls, &first, &[], &[&TLS13]).await.is_err());
    assert!(shake(&tls, &der(&files), &[], &[&TLS13]).await.is_ok());
    fs::remove_file(files.path("key.pem")).unwrap();
    let why = tls.reload().unwrap_err().to_string();
    assert!(why.contains("No such file"), "{why}");
    assert!(shake(&tls, &der(&files), &[], &[&TLS13]).await.is_ok());
}

#[test]
fn files_that_cannot_be_used_say_why() {
    type Spoil = fn(&Files);
    let cases: &[(Spoil, &str)] = &[
        (
            |f| fs::remove_file(f.path("cert.pem")).unwrap(),
            "certificate file {}/cert.pem: No such file",
        ),
        (
            |f| f.put("cert.pem", ""),
            "certificate file {}/cert.pem: there is no certificate in it",
        ),
        (
            |f| {
                f.put(
                    "cert.pem",
                    "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
                )
            },
            "certificate file {}/cert.pem: ",
        ),
        (
            |f| f.put("key.pem", "letters"),
            "private key file {}/key.pem: there is no private key in it",
        ),
        (
            |f| f.put("key.pem", &signed(&rcgen::PKCS_ED25519).1.serialize_pem()),
            "private key file {}/key.pem: it cannot be used with certificate {}/cert.pem: ",
        ),
        (
            |f| fs::set_permissions(f.path("key.pem"), fs::Permissions::from_mode(0o644)).unwrap(),
            "private key file {}/key.pem: it has group or world access (mode 0644); it must have permissions u=rw (0600) \
             or less, or u=rw,g=r (0640) or less where root owns it",
        ),
        (
            |f| f.put("cert.pem", &"x".repeat(1 << 21)),
            "certificate file {}/cert.pem: it is longer than 1048576 bytes",
        ),
    ];
    for (spoil, expected) in cases {
        let files = Files::new();
        spoil(&files);
        let why = files.load().unwrap_err().to_string();
        let expected = expected.replace("{}", files.dir.path().to_str().unwrap());
        assert!(why.starts_with(&expected), "{why}\nnot {expected}");
    }
}

#[test]
fn a_binding_is_the_digest_by_the_signatures_hash() {
    let cases: [(&'static SignatureAlgorithm, Option<&digest::Algorithm>); 3] = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, Some(&digest::SHA256)),
        (&rcgen::PKCS_ECDSA_P384_SHA384, Some(&digest::SHA384)),
        // Its hash is no parameter of the signature: RFC 5929 leaves it undefined.
        (&rcgen::PKCS_ED25519, None),
    ];
    for (algorithm, hash) in cases {
        let files = Files::new();
        files.write(&signed(algorithm));
        let expected = hash.map(|hash| digest::digest(hash, &der(&files)).as_ref().to_vec());
        let tls = files.load().unwrap();
        assert_eq!(tls.server_end_point(), expected, "{algorithm:?}");
        assert!(!format!("{tls:?}").contains("PRIVATE"));
    }
}

#[test]
fn what_is_no_certificate_has_no_binding() {
    let (cert, _) = signed(&rcgen::PKCS_ECDSA_P256_SHA256);
    let der = cert.der();
    assert!(end_point(der).is_some());
    for cut in 0..der.len() {
        // Never panics; a cut certificate has no whole outer sequence.
        assert_eq!(end_point(&der[..cut]), None, "{cut}");
    }
    assert_eq!(end_point(b"\x30\x84\xff\xff\xff\xff"), None);
}
