//! What an operator can set: by flag, by environment (`MILLRACE_*`), by TOML file, in this order of precedence, over
//! the defaults of the command.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use millrace_wal::segment::CHAIN_ENTRIES_MAX;
use serde::Deserialize;

use crate::channel::flush::FlushLimits;
use crate::cluster::ClusterConfig;

mod cluster;
mod express;

pub use self::cluster::NAME_DEFAULT as CLUSTER_NAME_DEFAULT;
pub(crate) use self::cluster::{parse_peers, tls_files};
pub use self::express::{ExpressConfig, ExpressZone};

/// Every setting, each of them optional: one level of precedence.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Number of this node in its cluster; never reused after its disk was lost
    #[arg(long, value_name = "N", env = "MILLRACE_NODE_ID", requires = "cluster_addr")]
    pub node_id: Option<u64>,

    /// Name of the cluster: nodes of another are turned away [default: millrace]
    #[arg(
        long,
        value_name = "NAME",
        env = "MILLRACE_CLUSTER",
        requires = "cluster_addr"
    )]
    pub cluster: Option<String>,

    /// Members that form the cluster, this one among them and the same on all: 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT.
    /// Without it a fresh node waits until `millrace cluster add` is told of it
    #[arg(long, value_name = "LIST", env = "MILLRACE_PEERS", requires = "cluster_addr")]
    pub peers: Option<String>,

    /// Address for members of the metadata group; makes this node one of several
    #[arg(long, value_name = "HOST:PORT", env = "MILLRACE_CLUSTER_ADDR", value_parser = parse_addr, requires = "node_id")]
    #[serde(default, deserialize_with = "deserialize_addr")]
    pub cluster_addr: Option<SocketAddr>,

    /// How members reach the cluster address [default: as in --peers, or --cluster-addr]
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "MILLRACE_CLUSTER_ADVERTISE",
        requires = "cluster_addr"
    )]
    pub cluster_advertise: Option<String>,

    /// Address for requests that other nodes pass on [default: the cluster address with a free port]
    #[arg(long, value_name = "HOST:PORT", env = "MILLRACE_FORWARD_ADDR", value_parser = parse_addr, requires = "cluster_addr")]
    #[serde(default, deserialize_with = "deserialize_addr")]
    pub forward_addr: Option<SocketAddr>,

    /// How nodes reach the forward address [default: the advertised host with the forward port]
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "MILLRACE_FORWARD_ADVERTISE",
        requires = "cluster_addr"
    )]
    pub forward_advertise: Option<String>,

    /// Where this node stands; channels are spread over zones
    #[arg(long, value_name = "NAME", env = "MILLRACE_ZONE")]
    pub zone: Option<String>,

    /// Certificate authority of the cluster's nodes, PEM; with --cluster-tls-cert and --cluster-tls-key, nodes prove
    /// themselves to each other
    #[arg(long, value_name = "FILE", env = "MILLRACE_CLUSTER_TLS_CA", requires_all = ["cluster_tls_cert", "cluster_tls_key"])]
    pub cluster_tls_ca: Option<PathBuf>,

    /// This node's certificate for other nodes, PEM; names its host
    #[arg(long, value_name = "FILE", env = "MILLRACE_CLUSTER_TLS_CERT", requires_all = ["cluster_tls_ca", "cluster_tls_key"])]
    pub cluster_tls_cert: Option<PathBuf>,

    /// Its private key, PEM
    #[arg(long, value_name = "FILE", env = "MILLRACE_CLUSTER_TLS_KEY", requires_all = ["cluster_tls_ca", "cluster_tls_cert"])]
    pub cluster_tls_key: Option<PathBuf>,

    /// Let nodes talk in clear, believing whoever reaches the ports
    #[arg(long, env = "MILLRACE_CLUSTER_PLAIN", num_args = 0..=1, default_missing_value = "true")]
    pub cluster_plain: Option<bool>,

    /// How long a node may answer without hearing from the leader; a crash is noticed after that. At least twice the
    /// longest election [default: 6s]
    #[arg(long, value_name = "DURATION", env = "MILLRACE_LEASE_TTL", value_parser = humantime::parse_duration)]
    #[serde(default, with = "humantime_serde::option")]
    pub lease_ttl: Option<Duration>,

    /// The longest that an election waits; a leader's crash is noticed within it. Heartbeats and the shortest wait
    /// follow from it [default: 3s]
    #[arg(long, value_name = "DURATION", env = "MILLRACE_ELECTION_TIMEOUT", value_parser = humantime::parse_duration)]
    #[serde(default, with = "humantime_serde::option")]
    pub election_timeout: Option<Duration>,

    /// Directory of this node's metadata; with no --store also of its streams
    #[arg(long, value_name = "DIR", env = "MILLRACE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// Where streams are stored: file:///DIR, s3://BUCKET/PREFIX?endpoint=URL&region=NAME, gs://…, az://…, or
    /// memory:// (lost at exit). Credentials come from the environment (AWS_ACCESS_KEY_ID, …). With none there are
    /// Express streams alone, whose segments are in the zones of --express; that is the default of a cluster's node
    /// with --express
    #[arg(long, value_name = "URL", env = "MILLRACE_STORE")]
    pub store: Option<String>,

    /// The three zones that streams of class Express are written to, two of which must have a record before it is
    /// acknowledged: URL,URL,URL, each as for --store, or disk://NODE for the disk of the node with that number. Their
    /// order numbers the zones and is the same on every node. Without it such streams are written as Standard ones
    #[arg(long, value_name = "URLS", env = "MILLRACE_EXPRESS")]
    pub express: Option<String>,

    /// The Express zone that this node reads from first: 1, 2 or 3 [default: its own disk, if that is a zone]
    #[arg(long, value_name = "N", env = "MILLRACE_EXPRESS_NEAR", requires = "express")]
    pub express_near: Option<usize>,

    /// Accept the empty store that --express names for zone N in the place of the one that was written to, which is lost.
    /// For one start of a node that is alone; a cluster is asked by `millrace cluster zones replace N`
    #[arg(
        long,
        value_name = "N",
        env = "MILLRACE_EXPRESS_REPLACE",
        requires = "express"
    )]
    pub express_replace: Option<u32>,

    /// As --linger, for Express [default: 1ms]
    #[arg(long, value_name = "DURATION", env = "MILLRACE_EXPRESS_LINGER", value_parser = humantime::parse_duration, requires = "express")]
    #[serde(default, with = "humantime_serde::option")]
    pub express_linger: Option<Duration>,

    /// Address of the HTTP API; port 0 picks a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT", env = "MILLRACE_HTTP_ADDR", value_parser = parse_addr)]
    #[serde(default, deserialize_with = "deserialize_addr")]
    pub http_addr: Option<SocketAddr>,

    /// Serve basins as subdomains of this domain too: {basin}.DOMAIN
    #[arg(long, value_name = "DOMAIN", env = "MILLRACE_BASIN_DOMAIN")]
    pub basin_domain: Option<String>,

    /// Certificate chain for TLS, PEM
    #[arg(long, value_name = "FILE", env = "MILLRACE_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Private key for TLS, PEM
    #[arg(long, value_name = "FILE", env = "MILLRACE_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// TLS with a certificate made at start for localhost, signed by nobody
    #[arg(long, env = "MILLRACE_TLS_SELF", num_args = 0..=1, default_missing_value = "true",
          conflicts_with_all = ["tls_cert", "tls_key"])]
    pub tls_self: Option<bool>,

    /// Do not answer cross-origin requests of browsers
    #[arg(long, env = "MILLRACE_NO_CORS", num_args = 0..=1, default_missing_value = "true")]
    pub no_cors: Option<bool>,

    /// Basins and streams to create or converge at start (TOML or JSON)
    #[arg(long, value_name = "FILE", env = "MILLRACE_INIT_FILE")]
    pub init_file: Option<PathBuf>,

    /// Connections served at a time; more wait to be accepted [default: 10000]
    #[arg(long, value_name = "N", env = "MILLRACE_CONNECTIONS_MAX")]
    pub connections_max: Option<usize>,

    /// WAL writers on this node for each class of streams; each sequences the appends of many streams. Those that exist already are kept when
    /// the number is lowered [default: 1]
    #[arg(long, value_name = "N", env = "MILLRACE_CHANNELS")]
    pub channels: Option<u32>,

    /// Chunks that one channel writes at a time [default: 16]
    #[arg(long, value_name = "N", env = "MILLRACE_INFLIGHT_CHUNKS")]
    pub inflight_chunks: Option<usize>,

    /// Size at which a chunk is written without waiting for more [default: 4MiB]
    #[arg(long, value_name = "SIZE", env = "MILLRACE_CHUNK_BYTES")]
    pub chunk_bytes: Option<ByteSize>,

    /// How long a record may wait for others while a chunk is being written; bounds the number of PUT requests
    /// [default: 2ms on local disks and in memory, 50ms otherwise]
    #[arg(long, value_name = "DURATION", env = "MILLRACE_LINGER", value_parser = humantime::parse_duration)]
    #[serde(default, with = "humantime_serde::option")]
    pub linger: Option<Duration>,

    /// Memory for appends that are not durable yet, over all clients [default: 64MiB]
    #[arg(long, value_name = "SIZE", env = "MILLRACE_APPEND_BYTES_IN_FLIGHT")]
    pub append_bytes_in_flight: Option<ByteSize>,

    /// How long an append waits for room, and then for storage, before it fails [default: 30s]
    #[arg(long, value_name = "DURATION", env = "MILLRACE_APPEND_TIMEOUT", value_parser = humantime::parse_duration)]
    #[serde(default, with = "humantime_serde::option")]
    pub append_timeout: Option<Duration>,

    /// Memory for the newest records of all streams, from which readers near the tail are served [default: 64MiB]
    #[arg(long, value_name = "SIZE", env = "MILLRACE_RECENT_BYTES")]
    pub recent_bytes: Option<ByteSize>,

    /// Memory for reading ahead of readers that catch up, beyond the piece of about 1 MiB that each of them has
    /// [default: 64MiB]
    #[arg(long, value_name = "SIZE", env = "MILLRACE_READ_AHEAD_BYTES")]
    pub read_ahead_bytes: Option<ByteSize>,

    /// Memory for indexes of chunks that readers need again [default: 32MiB]
    #[arg(long, value_name = "SIZE", env = "MILLRACE_FOOTER_CACHE_BYTES")]
    pub footer_cache_bytes: Option<ByteSize>,

    /// Memory for parts of chunks that readers behind the tail fetched lately [default: 32MiB]
    #[arg(long, value_name = "SIZE", env = "MILLRACE_CHUNK_CACHE_BYTES")]
    pub chunk_cache_bytes: Option<ByteSize>,

    /// A channel moves its records from chunks into segments when it has so many bytes that are not there yet. It
    /// refuses appends at eight times as much, and a crash leaves at most that to replay [default: 32MiB]
    #[arg(long, value_name = "SIZE", env = "MILLRACE_FLUSH_BYTES")]
    pub flush_bytes: Option<ByteSize>,

    /// A channel moves its records into segments when the oldest has waited this long [default: 20s]
    #[arg(long, value_name = "DURATION", env = "MILLRACE_FLUSH_INTERVAL", value_parser = humantime::parse_duration)]
    #[serde(default, with = "humantime_serde::option")]
    pub flush_interval: Option<Duration>,

    /// Memory for parts of segments that were read or written lately [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "MILLRACE_CACHE_BYTES")]
    pub cache_bytes: Option<ByteSize>,

    /// How long objects that nothing names any more are kept, for readers that have begun with them [default: 60s]
    #[arg(long, value_name = "DURATION", env = "MILLRACE_READER_GRACE", value_parser = humantime::parse_duration)]
    #[serde(default, with = "humantime_serde::option")]
    pub reader_grace: Option<Duration>,

    /// How often retention, delete-on-empty and segments that are worth merging are looked for [default: 60s]
    #[arg(long, value_name = "DURATION", env = "MILLRACE_HOUSEKEEPING_INTERVAL", value_parser = humantime::parse_duration)]
    #[serde(default, with = "humantime_serde::option")]
    pub housekeeping_interval: Option<Duration>,

    /// Segments of one stream that go into an index in the store together, when metadata name a quarter more of them;
    /// from 4 to 4096 [default: 1024]
    #[arg(long, value_name = "N", env = "MILLRACE_CHAIN_ROWS")]
    pub chain_rows: Option<usize>,

    /// How often the store is looked through for objects that nothing names and nothing can come to name: what a crash
    /// left between two steps. They are removed when they are found a second time [default: 1h]
    #[arg(long, value_name = "DURATION", env = "MILLRACE_SWEEP_INTERVAL", value_parser = humantime::parse_duration)]
    #[serde(default, with = "humantime_serde::option")]
    pub sweep_interval: Option<Duration>,

    /// A stream that was not used for this long rests, if nothing of it is in the WAL [default: 60s]
    #[arg(long, value_name = "DURATION", env = "MILLRACE_IDLE_TIMEOUT", value_parser = humantime::parse_duration)]
    #[serde(default, with = "humantime_serde::option")]
    pub idle_timeout: Option<Duration>,

    /// How long the name of a deleted stream stays taken [default: 10s]
    #[arg(long, value_name = "DURATION", env = "MILLRACE_DELETION_GRACE", value_parser = humantime::parse_duration)]
    #[serde(default, with = "humantime_serde::option")]
    pub deletion_grace: Option<Duration>,

    /// How long a graceful stop waits for clients [default: 10s]
    #[arg(long, value_name = "DURATION", env = "MILLRACE_STOP_TIMEOUT", value_parser = humantime::parse_duration)]
    #[serde(default, with = "humantime_serde::option")]
    pub stop_timeout: Option<Duration>,

    /// What to log: error, warn, info, debug, trace, or a filter such as info,millrace_wal=debug
    /// [default: info,openraft=warn; warn with `dev`]
    #[arg(long, value_name = "FILTER", env = "MILLRACE_LOG")]
    pub log: Option<String>,

    /// How to log: text or json
    #[arg(long, value_name = "FORMAT", env = "MILLRACE_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {cause}")]
    Unreadable { path: PathBuf, cause: std::io::Error },
    #[error("{path}: {cause}")]
    Malformed {
        path: PathBuf,
        cause: Box<toml::de::Error>,
    },
    #[error("{0}")]
    Invalid(String),
}

impl Settings {
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        read_toml(path)
    }

    /// These settings, and where they are silent the `lower` ones.
    pub fn over(self, lower: Settings) -> Settings {
        macro_rules! merge {
            ($($field:ident),* $(,)?) => { Settings { $($field: self.$field.or(lower.$field)),* } };
        }
        merge!(
            node_id,
            cluster,
            peers,
            cluster_addr,
            cluster_advertise,
            forward_addr,
            forward_advertise,
            zone,
            cluster_tls_ca,
            cluster_tls_cert,
            cluster_tls_key,
            cluster_plain,
            lease_ttl,
            election_timeout,
            data_dir,
            store,
            express,
            express_near,
            express_replace,
            express_linger,
            http_addr,
            basin_domain,
            tls_cert,
            tls_key,
            tls_self,
            no_cors,
            init_file,
            connections_max,
            channels,
            inflight_chunks,
            chunk_bytes,
            linger,
            append_bytes_in_flight,
            append_timeout,
            recent_bytes,
            read_ahead_bytes,
            footer_cache_bytes,
            chunk_cache_bytes,
            flush_bytes,
            flush_interval,
            cache_bytes,
            reader_grace,
            housekeeping_interval,
            chain_rows,
            sweep_interval,
            idle_timeout,
            deletion_grace,
            stop_timeout,
            log,
            log_format,
        )
    }
}

/// An address with a port, by number or by name.
pub fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    let mut addrs = text
        .to_socket_addrs()
        .map_err(|error| format!("{error}; expected HOST:PORT"))?;
    addrs.next().ok_or_else(|| "the host has no address".to_owned())
}

fn deserialize_addr<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| parse_addr(&text).map_err(serde::de::Error::custom))
        .transpose()
}

/// A TOML file in the given shape.
pub fn read_toml<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Unreadable {
        path: path.to_owned(),
        cause,
    })?;
    toml::from_str(&text).map_err(|cause| ConfigError::Malformed {
        path: path.to_owned(),
        cause: Box::new(cause),
    })
}

/// Settings with every default filled in and checked.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// `None`: the node is alone.
    pub cluster: Option<ClusterConfig>,
    pub data_dir: PathBuf,
    /// `None`: the cell has Express streams alone, and its segments are in their zones.
    pub store: Option<String>,
    /// `None`: there are no Express channels.
    pub express: Option<ExpressConfig>,
    pub http_addr: SocketAddr,
    pub basin_domain: Option<String>,
    pub tls: TlsConfig,
    pub cors: bool,
    pub init_file: Option<PathBuf>,
    pub connections_max: usize,
    pub channels: u32,
    pub inflight_chunks: usize,
    pub chunk_bytes: usize,
    pub linger: Duration,
    pub append_bytes_in_flight: usize,
    pub append_timeout: Duration,
    pub recent_bytes: usize,
    pub read_ahead_bytes: usize,
    pub footer_cache_bytes: usize,
    pub chunk_cache_bytes: usize,
    pub flush_bytes: usize,
    pub flush_interval: Duration,
    pub cache_bytes: usize,
    pub reader_grace: Duration,
    pub housekeeping_interval: Duration,
    pub chain_rows: usize,
    pub sweep_interval: Duration,
    pub idle_timeout: Duration,
    pub deletion_grace: Duration,
    pub stop_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsConfig {
    Off,
    /// A certificate made at start.
    SelfSigned,
    Files {
        cert: PathBuf,
        key: PathBuf,
    },
}

/// What `--store` says where there is to be none.
const NO_STORE: &str = "none";
/// Where a node listens if nobody says otherwise.
pub const HTTP_ADDR_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
/// Where a node keeps its data if nobody says otherwise.
pub const DATA_DIR_DEFAULT: &str = "./millrace-data";

impl NodeConfig {
    pub fn resolve(settings: Settings) -> Result<Self, ConfigError> {
        const MIB: u64 = 1024 * 1024;
        let cluster = cluster::resolve(&settings)?;
        let express = express::resolve(&settings, cluster.as_ref())?;
        let data_dir = settings.data_dir.unwrap_or_else(|| DATA_DIR_DEFAULT.into());
        let data_dir = std::path::absolute(&data_dir).map_err(|cause| ConfigError::Unreadable {
            path: data_dir.clone(),
            cause,
        })?;
        let store = match settings.store {
            Some(none) if none == NO_STORE => None,
            Some(url) => Some(url),
            None if cluster.is_some() && express.is_some() => None,
            None => Some(local_store_url(&data_dir)?),
        };
        if store.is_none() && express.is_none() {
            return Err(ConfigError::Invalid(
                "without a store there have to be Express zones (--express), which the segments are in then"
                    .into(),
            ));
        }
        let is_local = |store: &String| {
            let schemes = ["file:", "memory:"];
            schemes.iter().any(|scheme| store.starts_with(scheme)) && !store.contains("shape=")
        };
        let local = store.as_ref().is_none_or(is_local);
        let flush = FlushLimits::default();
        let linger_default = Duration::from_millis(if local { 2 } else { 50 });
        let config = Self {
            cluster,
            http_addr: settings.http_addr.unwrap_or(HTTP_ADDR_DEFAULT),
            basin_domain: settings.basin_domain,
            tls: match (settings.tls_cert, settings.tls_key, settings.tls_self) {
                (Some(cert), Some(key), _) => TlsConfig::Files { cert, key },
                (None, None, Some(true)) => TlsConfig::SelfSigned,
                (None, None, _) => TlsConfig::Off,
                _ => return Err(ConfigError::Invalid("tls-cert and tls-key go together".into())),
            },
            cors: !settings.no_cors.unwrap_or(false),
            init_file: settings.init_file,
            connections_max: at_least("connections-max", settings.connections_max.unwrap_or(10_000), 1)?,
            channels: at_least("channels", settings.channels.unwrap_or(1), 1)?,
            inflight_chunks: at_least("inflight-chunks", settings.inflight_chunks.unwrap_or(16), 1)?,
            chunk_bytes: at_most(
                "chunk-bytes",
                bytes("chunk-bytes", settings.chunk_bytes, 4 * MIB, 1)?,
                64 * MIB as usize,
            )?,
            linger: settings.linger.unwrap_or(linger_default),
            append_bytes_in_flight: bytes(
                "append-bytes-in-flight",
                settings.append_bytes_in_flight,
                64 * MIB,
                4 * MIB,
            )?,
            append_timeout: settings.append_timeout.unwrap_or(Duration::from_secs(30)),
            recent_bytes: bytes("recent-bytes", settings.recent_bytes, 64 * MIB, 0)?,
            read_ahead_bytes: bytes("read-ahead-bytes", settings.read_ahead_bytes, 64 * MIB, 4 * MIB)?,
            footer_cache_bytes: bytes("footer-cache-bytes", settings.footer_cache_bytes, 32 * MIB, MIB)?,
            chunk_cache_bytes: bytes("chunk-cache-bytes", settings.chunk_cache_bytes, 32 * MIB, 0)?,
            flush_bytes: at_most(
                "flush-bytes",
                bytes("flush-bytes", settings.flush_bytes, flush.bytes, 1)?,
                512 * MIB as usize,
            )?,
            flush_interval: settings.flush_interval.unwrap_or(flush.interval),
            cache_bytes: bytes("cache-bytes", settings.cache_bytes, 256 * MIB, 0)?,
            reader_grace: settings.reader_grace.unwrap_or(Duration::from_secs(60)),
            housekeeping_interval: settings.housekeeping_interval.unwrap_or(Duration::from_secs(60)),
            chain_rows: chain_rows(settings.chain_rows)?,
            sweep_interval: settings.sweep_interval.unwrap_or(Duration::from_secs(3600)),
            idle_timeout: settings.idle_timeout.unwrap_or(Duration::from_secs(60)),
            deletion_grace: settings.deletion_grace.unwrap_or(Duration::from_secs(10)),
            stop_timeout: settings.stop_timeout.unwrap_or(Duration::from_secs(10)),
            data_dir,
            store,
            express,
        };
        Ok(config)
    }

    /// Whether what the node stores ends with the process.
    pub fn is_in_memory(&self) -> bool {
        let in_memory = |url: &str| url.starts_with("memory:");
        match (&self.store, &self.express) {
            (Some(store), _) => in_memory(store),
            (None, Some(express)) => express
                .zones
                .iter()
                .all(|zone| matches!(zone, ExpressZone::Url(url) if in_memory(url))),
            (None, None) => false,
        }
    }
}

fn at_least<T: PartialOrd + std::fmt::Display>(name: &str, value: T, min: T) -> Result<T, ConfigError> {
    if value < min {
        return Err(ConfigError::Invalid(format!(
            "{name} is at least {min}, not {value}"
        )));
    }
    Ok(value)
}

fn at_most<T: PartialOrd + std::fmt::Display>(name: &str, value: T, max: T) -> Result<T, ConfigError> {
    if value > max {
        return Err(ConfigError::Invalid(format!(
            "{name} is at most {max}, not {value}"
        )));
    }
    Ok(value)
}

fn bytes(name: &str, value: Option<ByteSize>, default: u64, min: u64) -> Result<usize, ConfigError> {
    let bytes = at_least(name, value.map_or(default, |size| size.as_u64()), min)?;
    // What a semaphore can count on every platform.
    match u32::try_from(bytes) {
        Ok(bytes) => Ok(bytes as usize),
        Err(_) => Err(ConfigError::Invalid(format!("{name} is less than 4 GiB"))),
    }
}

fn chain_rows(value: Option<usize>) -> Result<usize, ConfigError> {
    let rows = at_least("chain-rows", value.unwrap_or(1024), 4)?;
    at_most("chain-rows", rows, CHAIN_ENTRIES_MAX)
}

fn local_store_url(data_dir: &Path) -> Result<String, ConfigError> {
    let dir = data_dir.join("store");
    url::Url::from_directory_path(&dir)
        .map(String::from)
        .map_err(|()| ConfigError::Invalid(format!("{} cannot be written as a URL", dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_wins_over_file_and_file_over_default() {
        let file: Settings = toml::from_str("linger = '7ms'\nchunk-bytes = '1MiB'\nchannels = 3").unwrap();
        let flags = Settings {
            channels: Some(2),
            ..Settings::default()
        };
        let config = NodeConfig::resolve(flags.over(file)).unwrap();
        assert_eq!(config.channels, 2);
        assert_eq!(config.linger, Duration::from_millis(7));
        assert_eq!(config.chunk_bytes, 1024 * 1024);
        assert_eq!(config.inflight_chunks, 16);
    }

    #[test]
    fn unknown_key_in_the_file_is_refused() {
        let error = toml::from_str::<Settings>("lingr = '7ms'")
            .unwrap_err()
            .to_string();
        assert!(error.contains("lingr"), "{error}");
    }

    #[test]
    fn nonsense_is_refused_with_the_name_of_the_setting() {
        let settings = Settings {
            channels: Some(0),
            ..Settings::default()
        };
        assert!(
            NodeConfig::resolve(settings)
                .unwrap_err()
                .to_string()
                .contains("channels")
        );
        let settings = Settings {
            append_bytes_in_flight: Some(ByteSize::kib(1)),
            ..Settings::default()
        };
        assert!(
            NodeConfig::resolve(settings)
                .unwrap_err()
                .to_string()
                .contains("append-bytes-in-flight")
        );
    }

    #[test]
    fn addresses_may_be_names() {
        let settings: Settings = toml::from_str("http-addr = 'localhost:0'").unwrap();
        assert!(settings.http_addr.unwrap().ip().is_loopback());
        assert!(parse_addr("localhost").is_err());
        let settings = Settings {
            chunk_bytes: Some(ByteSize::gib(1)),
            ..Settings::default()
        };
        assert!(
            NodeConfig::resolve(settings)
                .unwrap_err()
                .to_string()
                .contains("chunk-bytes")
        );
    }

    #[test]
    fn linger_follows_the_kind_of_store() {
        let linger = |store: &str| {
            let settings = Settings {
                store: Some(store.into()),
                ..Settings::default()
            };
            NodeConfig::resolve(settings).unwrap().linger
        };
        assert_eq!(linger("memory://"), Duration::from_millis(2));
        assert_eq!(linger("s3://bucket/prefix"), Duration::from_millis(50));
    }
}
