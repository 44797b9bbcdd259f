//! Logs and metrics of the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use millrace_api::id::ChannelId;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

use crate::channel::stats::ChannelStats;
use crate::config::LogFormat;

/// Sets up logging to stderr for the whole process. `filter` in the syntax of `tracing`'s environment filter.
pub fn init_logging(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("log filter {filter:?}: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let result = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    result.map_err(|error| error.to_string())
}

/// Everything that the node tells Prometheus.
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub fn new(channels: Vec<(ChannelId, Arc<ChannelStats>)>) -> Self {
        let mut registry = Registry::with_prefix("millrace");
        registry.register_collector(Box::new(ChannelCollector { channels }));
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

/// Sums over the channels of the node.
#[derive(Debug)]
struct ChannelCollector {
    channels: Vec<(ChannelId, Arc<ChannelStats>)>,
}

type Field = fn(&ChannelStats) -> &AtomicU64;

/// Name, help and source of each counter of the channels.
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
    ("wal_chunks", "Chunks given to the writer", |s| &s.chunks),
    (
        "wal_chunk_bytes",
        "Bytes of the chunks given to the writer",
        |s| &s.chunk_bytes,
    ),
    ("wal_chunks_durable", "Chunks held by a quorum", |s| {
        &s.chunks_durable
    }),
    (
        "wal_chunk_retries",
        "Attempts to write a chunk that failed and were made again",
        |s| &s.chunk_retries,
    ),
    (
        "wal_chunk_create_microseconds",
        "Time from submission to quorum, summed over durable chunks",
        |s| &s.chunk_create_micros,
    ),
];

impl Collector for ChannelCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        for (name, help, field) in CHANNEL_COUNTERS {
            let total = self
                .channels
                .iter()
                .map(|(_, stats)| field(stats).load(Relaxed))
                .sum::<u64>();
            let counter = ConstCounter::new(total);
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_named_typed_and_summed_over_channels() {
        let stats = [
            Arc::new(ChannelStats::default()),
            Arc::new(ChannelStats::default()),
        ];
        stats[0].append_received(3, 100);
        stats[1].append_received(4, 11);
        let channels = stats
            .into_iter()
            .enumerate()
            .map(|(i, s)| (ChannelId(i as u32), s))
            .collect();
        let text = Metrics::new(channels).render();
        assert!(text.contains("# TYPE millrace_channel_records counter"), "{text}");
        assert!(text.contains("millrace_channel_records_total 7"), "{text}");
        assert!(
            text.contains("millrace_channel_metered_bytes_total 111"),
            "{text}"
        );
    }
}
