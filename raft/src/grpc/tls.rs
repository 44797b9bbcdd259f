//! Mutual TLS: a member shows its certificate to whoever it calls and to whoever calls it.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const ALPN: &[u8] = b"h2";

/// Both sides of a member's TLS. Certificates name the host of the address under which others reach the member.
#[derive(Clone)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{what}: {cause}")]
    Pem {
        what: &'static str,
        cause: rustls::pki_types::pem::Error,
    },
    #[error("the {0} has no certificate in it")]
    Empty(&'static str),
    #[error("cluster TLS: {0}")]
    Config(String),
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// From configurations that the caller made: the server's must ask for a certificate. Both are made to speak
    /// HTTP/2 alone.
    pub fn new(mut client: ClientConfig, mut server: ServerConfig) -> Self {
        client.alpn_protocols = vec![ALPN.to_vec()];
        server.alpn_protocols = vec![ALPN.to_vec()];
        Self {
            client: Arc::new(client),
            server: Arc::new(server),
        }
    }

    /// From the cluster's authority, this member's certificate with what leads to the authority, and its key, each as
    /// PEM. Who has no certificate of that authority is turned away, on both sides.
    pub fn from_pem(authority: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let config = |cause: &dyn std::fmt::Display| TlsError::Config(cause.to_string());
        let mut roots = RootCertStore::empty();
        for root in certificates(authority, "cluster authority")? {
            roots.add(root).map_err(|error| config(&error))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(certificate, "cluster certificate")?;
        let key = || {
            PrivateKeyDer::from_pem_slice(key).map_err(|cause| TlsError::Pem {
                what: "cluster key",
                cause,
            })
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| config(&error))?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), key()?)
            .map_err(|error| config(&error))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| config(&error))?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| config(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key()?)
            .map_err(|error| config(&error))?;
        Ok(Self::new(client, server))
    }

    pub(super) fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.client.clone())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.server.clone())
    }
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let parsed = parsed.map_err(|cause| TlsError::Pem { what, cause })?;
    match parsed.is_empty() {
        true => Err(TlsError::Empty(what)),
        false => Ok(parsed),
    }
}

/// The host of `host:port`, as a certificate names it.
pub fn server_name(address: &str) -> Result<ServerName<'static>, String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no host name"))
}
