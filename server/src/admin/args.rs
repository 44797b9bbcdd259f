//! What `millrace cluster` takes, and which nodes it asks if nobody says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cluster::TlsFiles;
use crate::config::{CLUSTER_NAME_DEFAULT, ConfigError, Settings, tls_files};

/// Where nodes of a cluster are asked if nothing names one.
const NODE_DEFAULT: &str = "127.0.0.1:9080";

/// Look at a cluster, and change who belongs to it
///
/// Asks the nodes that --node names on their cluster addresses, finds the leader through them, and asks that for what
/// only the leader knows. On a machine with the settings of a node (MILLRACE_* or --config) none of the flags is needed.
/// With TLS the command shows a certificate, which the authority of the cluster must have signed as it signs those of
/// nodes.
///
/// Ends with 0 when it did what was asked, with 1 otherwise; `status` and `check` also end with 1 when what they find
/// is not as it should be. A node that is alone has no cluster address and cannot be asked.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    #[command(flatten)]
    pub reach: ReachArgs,
    #[command(subcommand)]
    pub command: ClusterCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum ClusterCommand {
    /// Say in one line whether the cluster is as it should be, and why not
    ///
    /// Ends with 1 if it is not: if nobody leads, a member does not answer, a node is silent or expired, or a channel has
    /// no owner or is not recovered yet.
    Status,
    /// List the nodes: what they are in the group, how they are, and what they own
    ///
    /// STATE is alive; silent (no heartbeat lately: what it owns is still its own); expired (silent for too long: others
    /// own what it had); draining (to own nothing); joining (added, and not heard of yet); unknown (nobody leads who
    /// could say). LAG counts the entries of the log that a member has not got yet.
    Nodes {
        /// Nodes that were removed, too
        #[arg(long)]
        all: bool,
    },
    /// List the channels, which write the streams: who owns them, in which epoch, and how busy they are
    Channels,
    /// List the streams of a basin, and where those are that are active
    Streams {
        basin: String,
        /// Only names that begin so
        #[arg(long, value_name = "TEXT", default_value = "")]
        prefix: String,
        /// Not more than so many; 0 for all
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: u64,
    },
    /// Add a node, which runs with a fresh data directory and without --peers, and wait until it has caught up
    ///
    /// It follows the log without a vote, carries channels, and serves every request. Interrupted, the same command goes
    /// on. The number of a node whose disk was lost is never given to another.
    Add {
        /// The number that the node was started with
        node: u64,
        /// Its cluster address, as the other nodes reach it
        #[arg(value_name = "HOST:PORT", value_parser = host_and_port)]
        address: String,
        /// Give it a vote, too, once it has caught up
        #[arg(long)]
        promote: bool,
    },
    /// Give a node a vote: one that was added and has caught up
    ///
    /// Three voters survive the loss of one, five of two. An even number survives no more than the odd one below it.
    Promote { node: u64 },
    /// Take a node out of the cluster for good
    ///
    /// One that is alive gives its channels and its leadership away first. Refused while too few of the voters that
    /// would be left answer: bring one back, or add a node and promote it, before. Afterwards the node's process is to be
    /// stopped, and neither its number nor its data directory is to be used again.
    Remove { node: u64 },
    /// Have a node give its channels and its leadership to others, and wait until it has
    ///
    /// It goes on serving requests, through the owners of the channels, and keeps its vote. Lasts until `resume`, or until
    /// the node is restarted: what is done before work on a machine, or before a restart.
    Drain { node: u64 },
    /// Let a node that was drained own channels again
    Resume { node: u64 },
    /// Have another voter lead
    TransferLeader {
        /// [default: the voter that answers and lacks least]
        node: Option<u64>,
    },
    /// List the Express zones: how they are, and what they lack; or accept another store for one
    ///
    /// STATE is ok; dark (it does not answer, and what it missed is repaired when it returns); blank (its store lost
    /// what was written, or is a new one: it is not used); foreign (its store is another one: it is not used); unknown.
    /// It is the worst that any node says, and NODES how many of those that answer say ok. LAG counts bytes of durable
    /// chunks that nodes keep in memory for the zone's sake, BACKLOG chunks that it lacks.
    Zones {
        #[command(subcommand)]
        command: Option<ZonesCommand>,
    },
    /// Have all replicas compare their metadata at one place in the log, and print the checksum
    ///
    /// Each replica reads all of its metadata for that. One that differs stops, and its log says so.
    Check,
}

#[derive(Debug, Clone, Subcommand)]
pub enum ZonesCommand {
    /// Accept the empty store that the nodes have for a zone in the place of the one that was written to
    ///
    /// For a store that is lost for good, or was emptied. For a bucket or directory, every node is first restarted with
    /// the new URL in its --express; the disk of a node is replaced by starting the node with an empty one. Every Express
    /// channel then begins a new epoch on the new store and moves what is older into segments. The command waits for
    /// that, and says when it is safe to lose another zone. Interrupted, it is asked again or watched with `zones`.
    Replace {
        /// 1, 2 or 3: the place of the zone in --express
        zone: u32,
    },
}

/// How the cluster is reached.
#[derive(Debug, Clone, Default, Args)]
pub struct ReachArgs {
    /// Cluster address of any node; several times, or a list [default: the nodes of this machine's settings, or
    /// 127.0.0.1:9080]
    #[arg(long = "node", value_name = "HOST:PORT", global = true, value_delimiter = ',', value_parser = host_and_port)]
    pub nodes: Vec<String>,

    /// Name of the cluster [default: millrace]
    #[arg(long, value_name = "NAME", env = "MILLRACE_CLUSTER", global = true)]
    pub cluster: Option<String>,

    /// Certificate authority of the cluster's nodes, PEM
    #[arg(long, value_name = "FILE", env = "MILLRACE_CLUSTER_TLS_CA", global = true)]
    pub cluster_tls_ca: Option<PathBuf>,

    /// Certificate to show to nodes, PEM, signed by that authority
    #[arg(long, value_name = "FILE", env = "MILLRACE_CLUSTER_TLS_CERT", global = true)]
    pub cluster_tls_cert: Option<PathBuf>,

    /// Its private key, PEM
    #[arg(long, value_name = "FILE", env = "MILLRACE_CLUSTER_TLS_KEY", global = true)]
    pub cluster_tls_key: Option<PathBuf>,

    /// Talk in clear, to nodes that do
    #[arg(long, env = "MILLRACE_CLUSTER_PLAIN", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", global = true)]
    pub cluster_plain: Option<bool>,

    /// Settings of a node, from which the above are taken where they are not given
    #[arg(long, value_name = "FILE", env = "MILLRACE_CONFIG", global = true)]
    pub config: Option<PathBuf>,

    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,

    /// How long the command may take [default: 15s; 10m for what waits: add, remove, drain; none
    /// for what goes through all that is stored]
    #[arg(long, value_name = "DURATION", global = true, value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,

    /// The settings of a node on this machine.
    #[arg(long, hide = true, env = "MILLRACE_PEERS", global = true)]
    pub peers: Option<String>,
    #[arg(long, hide = true, env = "MILLRACE_CLUSTER_ADDR", global = true)]
    pub cluster_addr: Option<String>,
    #[arg(long, hide = true, env = "MILLRACE_CLUSTER_ADVERTISE", global = true)]
    pub cluster_advertise: Option<String>,
}

/// Which cluster, where, and how.
#[derive(Debug, Clone)]
pub struct Reach {
    pub cluster: String,
    /// Never empty.
    pub nodes: Vec<String>,
    pub tls: Option<TlsFiles>,
}

impl ReachArgs {
    pub fn resolve(&self) -> Result<Reach, ConfigError> {
        let file = match &self.config {
            None => Settings::default(),
            Some(path) => Settings::from_file(path)?,
        };
        let nodes = match self.nodes.is_empty() {
            false => self.nodes.clone(),
            true => self.own_nodes(&file)?,
        };
        let cluster = self.cluster.clone().or_else(|| file.cluster.clone());
        Ok(Reach {
            cluster: cluster.unwrap_or_else(|| CLUSTER_NAME_DEFAULT.to_owned()),
            nodes,
            tls: self.tls(&file)?,
        })
    }

    /// What the settings of a node on this machine say.
    fn own_nodes(&self, file: &Settings) -> Result<Vec<String>, ConfigError> {
        let advertised = self
            .cluster_advertise
            .clone()
            .or_else(|| file.cluster_advertise.clone());
        let listens = self.cluster_addr.clone();
        let listens = listens.or_else(|| file.cluster_addr.map(|addr| addr.to_string()));
        let mut nodes: Vec<String> = advertised.into_iter().collect();
        if let Some(peers) = self.peers.as_ref().or(file.peers.as_ref()) {
            let peers = crate::config::parse_peers(peers)?;
            nodes.extend(peers.into_iter().map(|peer| peer.address));
        }
        // Where a node listens is the last choice: it may be every address, and no name that a certificate has.
        if nodes.is_empty() {
            nodes.extend(listens.map(|addr| reachable(&addr)));
        }
        if nodes.is_empty() {
            nodes.push(NODE_DEFAULT.to_owned());
        }
        Ok(nodes)
    }

    fn tls(&self, file: &Settings) -> Result<Option<TlsFiles>, ConfigError> {
        let given = |own: &Option<PathBuf>, file: &Option<PathBuf>| own.clone().or_else(|| file.clone());
        let authority = given(&self.cluster_tls_ca, &file.cluster_tls_ca);
        let certificate = given(&self.cluster_tls_cert, &file.cluster_tls_cert);
        let key = given(&self.cluster_tls_key, &file.cluster_tls_key);
        tls_files(
            authority,
            certificate,
            key,
            self.cluster_plain.or(file.cluster_plain),
        )
    }
}

/// An address at which to ask a node that listens on this one: every address means this machine, too.
fn reachable(listens: &str) -> String {
    match listens.parse::<SocketAddr>() {
        Ok(addr) if addr.ip().is_unspecified() => format!("127.0.0.1:{}", addr.port()),
        _ => listens.to_owned(),
    }
}

fn host_and_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => {
            Ok(text.to_owned())
        }
        _ => Err("expected HOST:PORT".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> ReachArgs {
        ReachArgs {
            cluster_plain: Some(true),
            ..ReachArgs::default()
        }
    }

    #[test]
    fn without_settings_a_node_on_this_machine_is_asked() {
        let reach = plain().resolve().unwrap();
        assert_eq!(
            (reach.cluster.as_str(), &reach.nodes[..]),
            ("millrace", &["127.0.0.1:9080".to_owned()][..])
        );
        assert!(reach.tls.is_none());
    }

    #[test]
    fn the_settings_of_a_node_say_whom_to_ask_and_flags_win() {
        let own = ReachArgs {
            peers: Some("1=a:7001,2=b:7002".into()),
            cluster_addr: Some("0.0.0.0:7001".into()),
            ..plain()
        };
        assert_eq!(own.resolve().unwrap().nodes, ["a:7001", "b:7002"]);
        let named = ReachArgs {
            nodes: vec!["c:7003".into()],
            ..own
        };
        assert_eq!(named.resolve().unwrap().nodes, ["c:7003"]);
        let added = ReachArgs {
            cluster_addr: Some("0.0.0.0:7004".into()),
            ..plain()
        };
        assert_eq!(added.resolve().unwrap().nodes, ["127.0.0.1:7004"]);
    }

    #[test]
    fn a_file_of_settings_is_read_as_the_node_reads_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "cluster = 'eu'\nnode-id = 1\ncluster-addr = '127.0.0.1:7001'\ncluster-tls-ca = 'ca.pem'\n\
                    cluster-tls-cert = 'node.pem'\ncluster-tls-key = 'node.key'";
        std::fs::write(file.path(), text).unwrap();
        let args = ReachArgs {
            config: Some(file.path().to_owned()),
            ..ReachArgs::default()
        };
        let reach = args.resolve().unwrap();
        assert_eq!(
            (reach.cluster.as_str(), &reach.nodes[..]),
            ("eu", &["127.0.0.1:7001".to_owned()][..])
        );
        assert_eq!(reach.tls.unwrap().certificate, PathBuf::from("node.pem"));
    }

    #[test]
    fn talking_in_clear_is_asked_for_and_never_assumed() {
        let refused = |args: ReachArgs| args.resolve().unwrap_err().to_string();
        assert!(refused(ReachArgs::default()).contains("--cluster-tls-ca"));
        let both = ReachArgs {
            cluster_tls_ca: Some("ca.pem".into()),
            ..plain()
        };
        assert!(refused(both.clone()).contains("none of"));
        let half = ReachArgs {
            cluster_plain: None,
            ..both
        };
        assert!(refused(half).contains("go together"));
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        assert!(host_and_port("[::1]:9080").is_ok());
        for bad in ["9080", ":9080", "a", "a:", "a:0", "a:70000"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
