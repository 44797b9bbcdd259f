//! The settings that make a node one of several.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use millrace_api::id::NodeId;
use millrace_raft::group::Timing;
use millrace_raft::identity::PeerAddress;

use super::{ConfigError, Settings};
use crate::cluster::{ClusterConfig, TlsFiles};
use crate::control::leases::LeaseTiming;

/// The cluster of nodes that name none.
pub const NAME_DEFAULT: &str = "millrace";
/// Of an election's longest wait: its shortest one, and a heartbeat.
const ELECTION_MIN_PART: u32 = 2;
const HEARTBEAT_PART: u32 = 10;

/// `None` where nothing asks for other nodes.
pub(super) fn resolve(settings: &Settings) -> Result<Option<ClusterConfig>, ConfigError> {
    let (node, cluster_addr) = match (settings.node_id, settings.cluster_addr) {
        (None, None) if settings.peers.is_none() => return Ok(None),
        (Some(node), Some(addr)) => (NodeId(node), addr),
        _ => return Err(invalid("node-id and cluster-addr go together")),
    };
    let peers = settings.peers.as_deref().map_or(Ok(Vec::new()), parse_peers)?;
    let own = peers.iter().find(|peer| peer.node == node);
    if !peers.is_empty() && own.is_none() {
        return Err(invalid(format!("peers does not name this node, {node}")));
    }
    let cluster_advertise = settings
        .cluster_advertise
        .clone()
        .or_else(|| own.map(|peer| peer.address.clone()))
        .unwrap_or_else(|| cluster_addr.to_string());
    let timing = timing(settings.election_timeout);
    let lease = LeaseTiming {
        ttl: settings.lease_ttl.unwrap_or(timing.election_timeout_max * 2),
        ..LeaseTiming::default()
    };
    if lease.ttl < timing.election_timeout_max * 2 {
        return Err(invalid(format!(
            "lease-ttl must be at least twice the election timeout, which is {:?}",
            timing.election_timeout_max
        )));
    }
    Ok(Some(ClusterConfig {
        name: settings
            .cluster
            .clone()
            .unwrap_or_else(|| NAME_DEFAULT.to_owned()),
        node,
        zone: settings.zone.clone().unwrap_or_default(),
        peers,
        cluster_addr,
        cluster_advertise,
        forward_addr: settings
            .forward_addr
            .unwrap_or_else(|| SocketAddr::new(cluster_addr.ip(), 0)),
        forward_advertise: settings.forward_advertise.clone(),
        tls: tls_files(
            settings.cluster_tls_ca.clone(),
            settings.cluster_tls_cert.clone(),
            settings.cluster_tls_key.clone(),
            settings.cluster_plain,
        )?,
        lease,
        timing,
    }))
}

fn timing(election_timeout: Option<Duration>) -> Timing {
    match election_timeout {
        None => Timing::default(),
        Some(max) => Timing {
            heartbeat_interval: max / HEARTBEAT_PART,
            election_timeout_min: max / ELECTION_MIN_PART,
            election_timeout_max: max,
            ..Timing::default()
        },
    }
}

/// What those who talk to nodes of the cluster prove themselves with: all three files. `None` is talking in clear, and
/// only when `plain` asks for it.
pub fn tls_files(
    authority: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    plain: Option<bool>,
) -> Result<Option<TlsFiles>, ConfigError> {
    let plain = plain.unwrap_or(false);
    match (authority, certificate, key) {
        (None, None, None) if plain => Ok(None),
        _ if plain => Err(invalid("--cluster-plain goes with none of --cluster-tls-*")),
        (Some(authority), Some(certificate), Some(key)) => Ok(Some(TlsFiles {
            authority,
            certificate,
            key,
        })),
        (None, None, None) => Err(invalid(
            "who talks to a node of a cluster proves itself with --cluster-tls-ca, --cluster-tls-cert and \
             --cluster-tls-key; --cluster-plain does without, where nobody else reaches the nodes and all are started \
             with it",
        )),
        _ => Err(invalid(
            "--cluster-tls-ca, --cluster-tls-cert and --cluster-tls-key go together",
        )),
    }
}

/// `1=HOST:PORT,2=HOST:PORT`, each node once.
pub fn parse_peers(list: &str) -> Result<Vec<PeerAddress>, ConfigError> {
    let mut seen = BTreeSet::new();
    list.split(',')
        .map(|item| {
            let bad = || invalid(format!("peers: {item:?} is not N=HOST:PORT"));
            let (node, address) = item.trim().split_once('=').ok_or_else(bad)?;
            let node = NodeId(node.parse().map_err(|_| bad())?);
            let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
            if host.is_empty() || port.parse::<u16>().is_err() {
                return Err(bad());
            }
            if !seen.insert(node) {
                return Err(invalid(format!("peers names node {node} twice")));
            }
            Ok(PeerAddress {
                node,
                address: address.to_owned(),
            })
        })
        .collect()
}

fn invalid(why: impl Into<String>) -> ConfigError {
    ConfigError::Invalid(why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Settings {
        Settings {
            node_id: Some(2),
            cluster_addr: Some(([127, 0, 0, 1], 7002).into()),
            peers: Some("1=a:7001,2=b:7002,3=[::1]:7003".into()),
            cluster_plain: Some(true),
            ..Settings::default()
        }
    }

    #[test]
    fn a_node_that_names_no_others_is_alone() {
        assert!(resolve(&Settings::default()).unwrap().is_none());
    }

    #[test]
    fn what_is_left_out_follows_from_the_list() {
        let config = resolve(&three()).unwrap().unwrap();
        assert_eq!(config.cluster_advertise, "b:7002");
        assert_eq!(config.peers[2].address, "[::1]:7003");
        assert_eq!(config.lease.ttl, config.timing.election_timeout_max * 2);
        assert_eq!(config.forward_addr.port(), 0);
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_reason() {
        let refused = |change: fn(&mut Settings)| {
            let mut settings = three();
            change(&mut settings);
            resolve(&settings).unwrap_err().to_string()
        };
        assert!(refused(|s| s.node_id = None).contains("go together"));
        assert!(refused(|s| s.node_id = Some(4)).contains("does not name this node"));
        assert!(refused(|s| s.peers = Some("2=b".into())).contains("HOST:PORT"));
        assert!(refused(|s| s.peers = Some("2=b:1,2=c:1".into())).contains("twice"));
        assert!(refused(|s| s.cluster_plain = None).contains("cluster-tls-ca"));
        assert!(refused(|s| s.cluster_tls_ca = Some("ca.pem".into())).contains("none of"));
        let half = |s: &mut Settings| {
            s.cluster_plain = None;
            s.cluster_tls_key = Some("node.key".into());
        };
        assert!(refused(half).contains("go together"));
        assert!(refused(|s| s.lease_ttl = Some(Duration::from_secs(1))).contains("at least twice"));
    }
}
