//! What the node tells Prometheus. Parts of the node count for themselves; this reads them when it is asked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use millrace_raft::group::{Meta, Role};
use millrace_wal::LatencySnapshot;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use super::{wal, zones};
use crate::cache::{CacheStats, PageCache};
use crate::channel::stats::ChannelStats;
use crate::channels::Channels;
use crate::wals::Wals;
use crate::zones::express::ExpressZones;

/// Where the figures come from.
pub struct Sources {
    pub channels: Channels,
    pub wals: Wals,
    /// `None` without Express.
    pub express: Option<ExpressZones>,
    pub cache: Arc<PageCache>,
    pub meta: Meta,
    /// Room for appends that are not acknowledged, and how much there is when none waits.
    pub append_room: (Arc<Semaphore>, usize),
}

/// The registry of a node.
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub fn new(sources: Sources) -> Self {
        let mut registry = Registry::with_prefix("millrace");
        registry.register_collector(Box::new(NodeCollector(sources)));
        Self { registry }
    }

    /// The text exposition format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        encode(&mut text, &self.registry).expect("metrics encode as text");
        text
    }
}

struct NodeCollector(Sources);

impl fmt::Debug for NodeCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeCollector")
    }
}

type Field = fn(&ChannelStats) -> &AtomicU64;

/// Name, help and source of each counter of the channels, summed over them.
const CHANNEL_COUNTERS: &[(&str, &str, Field)] = &[
    (
        "channel_appends",
        "Append batches taken by channels, refused ones included",
        |s| &s.appends,
    ),
    (
        "channel_records",
        "Records of append batches taken by channels, refused ones included",
        |s| &s.records,
    ),
    (
        "channel_metered_bytes",
        "Metered bytes of append batches taken by channels, refused ones included",
        |s| &s.metered_bytes,
    ),
    ("wal_chunks_submitted", "Chunks given to the writer", |s| {
        &s.chunks
    }),
    (
        "wal_chunk_submitted_bytes",
        "Bytes of the chunks given to the writer",
        |s| &s.chunk_bytes,
    ),
    (
        "wal_chunk_retries",
        "Attempts to write a chunk that failed and were made again",
        |s| &s.chunk_retries,
    ),
    ("flushes", "Flushes of channels that metadata have", |s| {
        &s.flushes
    }),
    ("flushed_chunks", "Chunks whose records are in segments", |s| {
        &s.chunks_flushed
    }),
];

type CacheField = fn(&CacheStats) -> &AtomicU64;

/// The same of the cache of segments.
const CACHE_COUNTERS: &[(&str, &str, CacheField)] = &[
    ("cache_hits", "Pages that were there when a reader asked", |s| {
        &s.hits
    }),
    ("cache_hit_bytes", "Bytes of these", |s| &s.hit_bytes),
    ("cache_misses", "Pages that a reader waited for", |s| &s.misses),
    (
        "cache_downloads",
        "Downloads from the store that succeeded, each of one or more pages",
        |s| &s.downloads,
    ),
    ("cache_downloaded_bytes", "Bytes of these", |s| {
        &s.downloaded_bytes
    }),
    (
        "cache_failures",
        "Requests for pages that the store did not answer",
        |s| &s.failures,
    ),
    (
        "cache_hedges",
        "Slow requests for pages that were sent a second time",
        |s| &s.hedges,
    ),
    (
        "cache_breaker_opens",
        "Times that the store was given up for a while",
        |s| &s.breaker_opens,
    ),
    (
        "cache_forgotten",
        "Pages thrown away because a frame in them failed its check",
        |s| &s.forgotten,
    ),
    (
        "cache_zone_hits",
        "Pages that another node of the zone gave to this one",
        |s| &s.zone_hits,
    ),
    ("cache_zone_hit_bytes", "Bytes of these", |s| &s.zone_hit_bytes),
    (
        "cache_zone_misses",
        "Pages that another node of the zone looks after and this one read from the store itself",
        |s| &s.zone_misses,
    ),
    (
        "cache_zone_passed_over",
        "Nodes that look after a page and had too much to do or did not answer",
        |s| &s.zone_passed_over,
    ),
    (
        "cache_zone_served",
        "Pages that this node gave to others of the zone",
        |s| &s.zone_served,
    ),
    ("cache_zone_served_bytes", "Bytes of these", |s| {
        &s.zone_served_bytes
    }),
    (
        "cache_zone_refused",
        "Requests of other nodes for pages that were turned away because too many were under way",
        |s| &s.zone_refused,
    ),
];

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let sources = &self.0;
        for (name, help, field) in CHANNEL_COUNTERS {
            let channels = sources.channels.all_stats();
            let total = channels
                .iter()
                .map(|stats| field(stats).load(Relaxed))
                .sum::<u64>();
            counter(&mut encoder, name, help, total)?;
        }
        for (name, help, field) in CACHE_COUNTERS {
            let total = field(sources.cache.stats()).load(Relaxed);
            counter(&mut encoder, name, help, total)?;
        }
        let kept = sources.cache.kept_bytes();
        gauge(
            &mut encoder,
            "cache_bytes",
            "Bytes of the pages that are kept",
            kept,
        )?;
        wal::encode(&mut encoder, &sources.wals)?;
        if let Some(express) = &sources.express {
            zones::encode(&mut encoder, &express.views())?;
        }
        let group = sources.meta.metrics();
        let help = "Index of the last log entry that this node's metadata contains";
        gauge(&mut encoder, "raft_applied_index", help, group.applied_index)?;
        gauge(
            &mut encoder,
            "raft_term",
            "Term of the metadata group",
            group.term,
        )?;
        let help = "1 if somebody leads the metadata group, as far as this node knows; 0 otherwise";
        gauge(
            &mut encoder,
            "raft_has_leader",
            help,
            u64::from(group.leader.is_some()),
        )?;
        let help = "1 on the node that leads the metadata group, as far as it knows; 0 on others";
        gauge(
            &mut encoder,
            "raft_leads",
            help,
            u64::from(group.role == Role::Leader),
        )?;
        let help = "Index of the last entry in this node's log of the metadata group";
        gauge(&mut encoder, "raft_log_index", help, group.last_log_index)?;
        let help = "Channels that this node serves";
        gauge(
            &mut encoder,
            "channels_owned",
            help,
            sources.channels.owned().len() as u64,
        )?;
        let (room, room_max) = &sources.append_room;
        let in_flight = room_max.saturating_sub(room.available_permits()) as u64;
        let help = "Bytes of memory held by appends that are not acknowledged";
        gauge(&mut encoder, "append_in_flight_bytes", help, in_flight)
    }
}

fn counter(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

/// Upper bounds in seconds, and observations up to each.
pub(super) fn buckets(of: &LatencySnapshot) -> Vec<(f64, u64)> {
    let bucket = |(bound, count): &(Duration, u64)| match *bound {
        Duration::MAX => (f64::INFINITY, *count),
        bound => (bound.as_secs_f64(), *count),
    };
    of.buckets.iter().map(bucket).collect()
}
