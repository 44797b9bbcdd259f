//! Identity of the client port when it speaks TLS: from PEM files, or self-signed for one machine.
//!
//! The cryptography provider is named here and never taken from the process, which may hold several.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsConfig;

/// Names that a self-signed certificate is good for.
const SELF_SIGNED_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Why there is no TLS; for the person who starts the node.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} from {}: {source}", path.display())]
    Pem {
        what: &'static str,
        path: PathBuf,
        source: rustls::pki_types::pem::Error,
    },
    #[error("no certificate in {}", .0.display())]
    NoCertificate(PathBuf),
    #[error("certificate and key are not usable: {0}")]
    Unusable(#[from] rustls::Error),
    #[error("cannot make a self-signed certificate: {0}")]
    SelfSigned(#[from] rcgen::Error),
}

/// The identity that the configuration asks for; `None` is to serve in clear.
pub fn acceptor(config: &TlsConfig) -> Result<Option<Tls>, TlsError> {
    match config {
        TlsConfig::Off => Ok(None),
        TlsConfig::SelfSigned => Tls::self_signed().map(Some),
        TlsConfig::Files { cert, key } => Tls::from_files(cert, key).map(Some),
    }
}

/// A server identity, offering `h2` and `http/1.1` in this order.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

impl Tls {
    /// The certificate chain, leaf first, and the private key (PKCS#8, PKCS#1 or SEC1), both PEM.
    pub fn from_files(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        let in_file = |what, path: &Path| {
            let path = path.to_path_buf();
            move |source| TlsError::Pem { what, path, source }
        };
        let chain = CertificateDer::pem_file_iter(certificates)
            .map_err(in_file("certificates", certificates))?
            .collect::<Result<Vec<_>, _>>()
            .map_err(in_file("certificates", certificates))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate(certificates.to_path_buf()));
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(in_file("the private key", key))?;
        Self::new(chain, key)
    }

    /// A fresh key and a certificate for `localhost`, `127.0.0.1` and `::1`, gone when the process ends.
    pub fn self_signed() -> Result<Self, TlsError> {
        let names: Vec<String> = SELF_SIGNED_NAMES.map(String::from).into();
        let made = rcgen::generate_simple_self_signed(names)?;
        let key =
            PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("the generator writes PKCS#8");
        Self::new(vec![made.cert.der().clone()], key)
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let certificate = chain.first().expect("checked by the callers").clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            certificate,
        })
    }

    /// The leaf certificate, for clients that are to trust exactly this server.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        Arc::clone(&self.config).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn self_signed_identity_survives_pem_files() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let tls = Tls::from_files(&cert, &key).unwrap();
        assert_eq!(tls.certificate(), made.cert.der());
        assert_eq!(tls.config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }

    #[test]
    fn missing_empty_and_foreign_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let absent = dir.path().join("absent.pem");
        assert!(matches!(
            Tls::from_files(&absent, &empty),
            Err(TlsError::Pem { .. })
        ));
        assert!(matches!(
            Tls::from_files(&empty, &empty),
            Err(TlsError::NoCertificate(_))
        ));

        let cert = dir.path().join("cert.pem");
        let (a, b) = (
            rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap(),
            rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap(),
        );
        std::fs::write(&cert, a.cert.pem()).unwrap();
        let key = dir.path().join("key.pem");
        std::fs::write(&key, b.signing_key.serialize_pem()).unwrap();
        assert!(matches!(Tls::from_files(&cert, &key), Err(TlsError::Unusable(_))));
    }
}
