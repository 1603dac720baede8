//! The way to a server, encrypted: whose certificates are trusted, and what is wrong with one that is not.
//!
//! Takes a file of certificates, gives what a connection verifies by; takes what a connection failed of, says it for
//! people. A connection that was not verified carries nothing of ours: the handshake ends before the first request.

use crate::backend::BackendError;
use std::io;
use std::path::Path;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{CertificateError, Error as TlsError, InvalidMessage, RootCertStore};
use ureq::tls::{Certificate, RootCerts};

/// The certificates of a file, which are trusted in place of the public ones.
///
/// # Errors
/// A file that cannot be read, holds none, or one that is none.
pub(super) fn roots(file: &Path) -> Result<RootCerts, BackendError> {
    let bad = |why: &dyn std::fmt::Display| {
        let file = file.display();
        BackendError::Certificates(format!("cannot use SAFEGUARD_API_CA_FILE {file}: {why}"))
    };
    let mut store = RootCertStore::empty();
    let mut kept = Vec::new();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| bad(&e))? {
        let certificate = certificate.map_err(|e| bad(&e))?;
        kept.push(Certificate::from_der(&certificate).to_owned());
        store.add(certificate).map_err(|e| bad(&e))?;
    }
    match kept.is_empty() {
        true => Err(bad(&"it holds no certificate")),
        false => Ok(RootCerts::new_with_certs(&kept)),
    }
}

/// Why a server was not believed; `None` where a request failed of something else.
pub(super) fn untrusted(error: &ureq::Error) -> Option<String> {
    let error = match error {
        ureq::Error::Rustls(error) => error,
        ureq::Error::Io(error) => inner(error)?,
        _ => return None,
    };
    let why = match error {
        TlsError::InvalidCertificate(why) => why,
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => {
            return Some("what answers there does not speak TLS; is it http://?".to_owned());
        }
        _ => return None,
    };
    Some(match why {
        // The latter is of an issuer who has the name of a trusted one.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is signed by nobody who is trusted; SAFEGUARD_API_CA_FILE may name a file of \
             certificates to trust"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is another host's".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet".to_owned()
        }
        other => format!("its certificate is not accepted: {other}"),
    })
}

fn inner(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}
