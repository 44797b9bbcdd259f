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
    /// It can fail.
    Proxied(Proxied),
}

impl Store {
    /// A directory in `dir`, or a prefix of its own in the store of `url`.
    pub async fn new(url: Option<&str>, dir: &Path, network: &Network, nodes: usize) -> anyhow::Result<Self> {
        match url {
            Some(url) => Ok(Self::Proxied(
                Proxied::new(url, "store", dir, network, nodes).await?,
            )),
            None => {
                let dir = std::path::absolute(dir.join("store"))?;
                Ok(Self::Directory(format!("file://{}", dir.display())))
            }
        }
    }

    /// For `--store` of a node.
    pub fn url(&self, node: usize) -> String {
        match self {
            Self::Directory(url) => url.clone(),
            Self::Proxied(proxied) => proxied.url(node),
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
            Self::Proxied(proxied) => {
                proxied.set(nodes, manners);
                Ok(())
            }
        }
    }
}

/// A place on an S3 server, with one proxy for each node.
#[derive(Debug)]
pub struct Proxied {
    /// For each node.
    urls: Vec<String>,
    /// For each node.
    proxies: Vec<Proxy>,
}

impl Proxied {
    /// Called `name` in the store of `url`, and of nobody but the cluster whose files are in `dir`.
    pub async fn new(
        url: &str,
        name: &str,
        dir: &Path,
        network: &Network,
        nodes: usize,
    ) -> anyhow::Result<Self> {
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
            urls.push(format!("{base}/jepsen-{run}/{own}/{name}?{query}"));
            proxies.push(proxy);
        }
        Ok(Self { urls, proxies })
    }

    /// As a node has to call it. A further node shares the first one's proxy.
    pub fn url(&self, node: usize) -> String {
        self.urls.get(node).unwrap_or(&self.urls[0]).clone()
    }

    /// How it is to these nodes from now on.
    pub fn set(&self, nodes: &[usize], manners: Manners) {
        nodes.iter().for_each(|node| self.proxies[*node].set(manners));
    }

    /// How it is to all nodes from now on.
    pub fn set_all(&self, manners: Manners) {
        self.proxies.iter().for_each(|proxy| proxy.set(manners));
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
