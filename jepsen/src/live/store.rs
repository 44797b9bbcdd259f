//! The store that a cluster is on: a directory, or an S3 server behind proxies that can misbehave.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, bail};

use super::network::Network;
use super::proxy::{Manners, Proxy};

/// See the module.
#[derive(Debug)]
pub enum Store {
    /// Shared by all nodes.
    Directory(String),
    /// One proxy for each node.
    Proxied {
        /// For each node.
        urls: Vec<String>,
        /// For each node.
        proxies: Vec<Proxy>,
    },
}

impl Store {
    /// A directory in `dir`, or a prefix of its own in the store of `url`.
    pub async fn new(url: Option<&str>, dir: &Path, network: &Network, nodes: usize) -> anyhow::Result<Self> {
        let Some(url) = url else {
            let dir = std::path::absolute(dir.join("store"))?;
            return Ok(Self::Directory(format!("file://{}", dir.display())));
        };
        let Url { base, host, further } = Url::parse(url)?;
        let own = dir
            .file_name()
            .context("a cluster has a directory")?
            .to_string_lossy();
        let run = std::process::id();
        let mut urls = Vec::new();
        let mut proxies = Vec::new();
        for node in 0..nodes {
            let proxy = Proxy::start(here(network), host.clone(), node as u64).await?;
            let endpoint = format!("endpoint=http://{}", proxy.address());
            let query = [vec![endpoint], further.clone()].concat().join("&");
            urls.push(format!("{base}/jepsen-{run}/{own}?{query}"));
            proxies.push(proxy);
        }
        Ok(Self::Proxied { urls, proxies })
    }

    /// For `--store` of a node.
    pub fn url(&self, node: usize) -> String {
        match self {
            Self::Directory(url) => url.clone(),
            // A further node shares the first one's proxy.
            Self::Proxied { urls, .. } => urls.get(node).unwrap_or(&urls[0]).clone(),
        }
    }

    /// How the store is to these nodes from now on.
    ///
    /// # Errors
    /// It cannot be made to misbehave.
    pub fn set(&self, nodes: &[usize], manners: Manners) -> anyhow::Result<()> {
        match self {
            Self::Directory(_) => {
                bail!("the store is a directory: --store s3://…?endpoint=http://… has one that can fail")
            }
            Self::Proxied { proxies, .. } => {
                nodes.iter().for_each(|node| proxies[*node].set(manners));
                Ok(())
            }
        }
    }
}

/// Where nodes reach the harness.
fn here(network: &Network) -> IpAddr {
    match network {
        Network::Loopback { .. } => Ipv4Addr::LOCALHOST.into(),
        Network::Namespaces(namespaces) => namespaces.harness().into(),
    }
}

/// `s3://BUCKET/PREFIX?endpoint=http://HOST:PORT&…`
struct Url {
    base: String,
    host: String,
    further: Vec<String>,
}

impl Url {
    fn parse(url: &str) -> anyhow::Result<Self> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (endpoint, further): (Vec<_>, Vec<_>) = query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .partition(|part| part.starts_with("endpoint="));
        let host = endpoint
            .first()
            .and_then(|part| part.strip_prefix("endpoint=http://"))
            .context(
                "the store's URL needs endpoint=http://HOST:PORT, for a proxy to stand in front of it",
            )?;
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            host: host.trim_end_matches('/').to_owned(),
            further,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let url =
            Url::parse("s3://test/a/?region=x&endpoint=http://127.0.0.1:8333/&allow_http=true").unwrap();
        assert_eq!(
            (url.base.as_str(), url.host.as_str()),
            ("s3://test/a", "127.0.0.1:8333")
        );
        assert_eq!(url.further, ["region=x", "allow_http=true"]);
        assert!(Url::parse("s3://test").is_err());
        assert!(Url::parse("s3://test?endpoint=https://x").is_err());
    }
}
