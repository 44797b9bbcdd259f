//! How a client is made.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, Uri};

use crate::call::Shared;
use crate::client::Client;
use crate::edge;
use crate::endpoints::{Endpoints, parse_endpoint};
use crate::error::Error;
use crate::retry::RetryPolicy;
use crate::transport::{Connector, Io, TransportConfig, Windows};

/// Whom to trust as a server, and how to show who is asking. Used for `https://` endpoints only.
#[derive(Debug, Clone)]
pub struct Tls(ClientTlsConfig);

impl Tls {
    /// Trusts the certificate authorities of the operating system.
    pub fn system() -> Self {
        Self(ClientTlsConfig::new().with_native_roots())
    }

    /// Trusts the given certificate authorities, in PEM, and no others.
    pub fn ca_pem(pem: impl AsRef<[u8]>) -> Self {
        Self(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
    }

    /// Shows this certificate to the server; both in PEM.
    pub fn with_identity_pem(self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        Self(self.0.identity(Identity::from_pem(certificate, key)))
    }

    /// The name that the server's certificate must have, instead of the endpoint's host.
    pub fn with_server_name(self, name: impl Into<String>) -> Self {
        Self(self.0.domain_name(name))
    }
}

/// Collects what a [`Client`] needs; made by [`Client::builder`].
#[must_use]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    tls: Option<Tls>,
    token: Option<String>,
    connect_timeout: Duration,
    request_timeout: Duration,
    retry: RetryPolicy,
    windows: Windows,
    connector: Option<Connector>,
    seed: Option<u64>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            tls: None,
            token: None,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(10),
            retry: RetryPolicy::default(),
            windows: Windows::default(),
            connector: None,
            seed: None,
        }
    }
}

impl ClientBuilder {
    /// Nodes of one cluster, as `http://host:port` or `https://host:port`; at least one. Any node answers any call;
    /// several let the client go on when one is away.
    pub fn endpoints<T: Into<String>>(mut self, endpoints: impl IntoIterator<Item = T>) -> Self {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// Default: [`Tls::system`].
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sent with each call as a bearer token.
    pub fn access_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Bound of making a connection. Default: 3 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Bound of one try of a call, connecting included, and of the wait for the next ack of an append session. A read
    /// that waits has its own wait on top. Default: 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How failures are met.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Flow-control windows.
    pub fn windows(mut self, windows: Windows) -> Self {
        self.windows = windows;
        self
    }

    /// Makes connections by `connect` instead of TCP; TLS goes on top of what it gives. For simulations, and for
    /// proxies that need words first.
    pub fn connector<F, T>(mut self, connect: impl Fn(Uri) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<T>> + Send + 'static,
        T: Io,
    {
        self.connector = Some(Arc::new(move |uri| {
            let connecting = connect(uri);
            async move { connecting.await.map(|io| Box::pin(io) as Pin<Box<dyn Io>>) }.boxed()
        }));
        self
    }

    /// Decides all that is random in the client: pauses, request tokens, the first endpoint. Two runs with one seed do
    /// the same; two clients with one seed would also retry in step. Default: random.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Checks the parameters. Connects to nothing: that happens with the first call.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no endpoint, or if one, the certificates or the token do not parse.
    pub fn build(self) -> Result<Client, Error> {
        let seed = self.seed.unwrap_or_else(edge::seed);
        let uris = self.endpoints.iter().map(|text| parse_endpoint(text));
        let uris = uris.collect::<Result<Vec<_>, _>>()?;
        let secure = uris.iter().any(|uri| uri.scheme_str() == Some("https"));
        let tls = match self.tls {
            Some(tls) => Some(tls.0),
            None => secure.then(|| Tls::system().0),
        };
        let config = TransportConfig {
            tls,
            connect_timeout: self.connect_timeout,
            windows: self.windows,
            connector: self.connector,
        };
        let endpoints = Endpoints::new(uris, config, seed as usize)?;
        let token = self.token.map(|token| bearer(&token)).transpose()?;
        let shared = Shared::new(endpoints, self.retry, self.request_timeout, token, seed);
        Ok(Client::new(Arc::new(shared)))
    }
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, Error> {
    let mut value = MetadataValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Error::invalid("the access token has characters that no header can carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_before_anything_is_sent() {
        for endpoints in [
            vec![],
            vec![""],
            vec!["localhost"],
            vec!["http://a/b"],
            vec!["ftp://a"],
        ] {
            let built = Client::builder().endpoints(endpoints.clone()).build();
            assert!(matches!(built, Err(Error::Invalid(_))), "{endpoints:?}");
        }
        let token = Client::builder()
            .endpoints(["http://a"])
            .access_token("a\nb")
            .build();
        assert!(matches!(token, Err(Error::Invalid(_))));
        let ca = Client::builder()
            .endpoints(["https://a"])
            .tls(Tls::ca_pem(
                "-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----",
            ))
            .build();
        assert!(matches!(ca, Err(Error::Invalid(_))));
    }
}
