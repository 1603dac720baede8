//! temporary
#![allow(missing_docs)]
pub struct Tls;
impl Tls { pub fn acceptor(&self) -> tokio_rustls::TlsAcceptor { unreachable!() } pub fn server_end_point(&self) -> Option<Vec<u8>> { None } }
