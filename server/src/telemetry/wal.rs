//! What the WALs count, by class, and by zone where it is a zone's.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use millrace_api::config::StorageClass;
use millrace_wal::{LatencySnapshot, Wal, WalMetrics};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::metrics::buckets;
use crate::wals::Wals;
use crate::zones::zone_numbers;

type ClassLabel = [(&'static str, &'static str); 1];
type ZoneLabels = [(&'static str, String); 2];

/// One of the two, and its counts.
struct Counted {
    class: StorageClass,
    wal: Wal,
}

type Counter = fn(&WalMetrics, usize) -> u64;

/// Name, help and source of each counter of a zone, which is given by its place.
const ZONE_COUNTERS: &[(&str, &str, Counter)] = &[
    ("wal_get_bytes", "Bytes read from the store", |m, zone| {
        get(&m.zones[zone].read_bytes)
    }),
    ("wal_store_errors", "Creates and reads that failed", |m, zone| {
        get(&m.zones[zone].create_failed_total) + get(&m.zones[zone].read_failed_total)
    }),
    (
        "wal_bad_copies",
        "Objects read that did not pass their CRC",
        |m, zone| get(&m.zones[zone].bad_copies_total),
    ),
    (
        "wal_laggards_dropped",
        "Chunks that were durable elsewhere and given up in this zone, to be repaired",
        |m, zone| get(&m.zones[zone].laggards_dropped_total),
    ),
];

pub(super) fn encode(encoder: &mut DescriptorEncoder, wals: &Wals) -> fmt::Result {
    let all: Vec<Counted> = wals.all().map(|(class, wal)| Counted { class, wal }).collect();
    let help = "From giving a chunk to the writer to its quorum";
    let kind = MetricType::Histogram;
    let mut metric = encoder.encode_descriptor("wal_durable", help, Some(&Unit::Seconds), kind)?;
    for counted in &all {
        let label = counted.label();
        seconds(
            metric.encode_family(&label)?,
            &counted.wal.metrics().durable.snapshot(),
        )?;
    }
    let help = "Chunks held by a quorum";
    let mut metric = encoder.encode_descriptor("wal_chunks_durable", help, None, MetricType::Counter)?;
    for counted in &all {
        let total = get(&counted.wal.metrics().chunks_durable_total);
        ConstCounter::new(total).encode(metric.encode_family(&counted.label())?)?;
    }
    let histograms = [
        ("wal_put", "Creates in the store that answered"),
        ("wal_get", "Reads of the store that answered"),
    ];
    for (name, help) in histograms {
        let mut metric = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?;
        for (counted, zone, labels) in zones(&all) {
            let zone = &counted.wal.metrics().zones[zone];
            let snapshot = match name {
                "wal_put" => zone.create.snapshot(),
                _ => zone.read.snapshot(),
            };
            seconds(metric.encode_family(&labels)?, &snapshot)?;
        }
    }
    for (name, help, of) in ZONE_COUNTERS {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (counted, zone, labels) in zones(&all) {
            let total = of(counted.wal.metrics(), zone);
            ConstCounter::new(total).encode(metric.encode_family(&labels)?)?;
        }
    }
    let help = "Bytes of durable chunks that are kept in memory for the sake of a slow zone";
    let mut metric = encoder.encode_descriptor("wal_lagging_bytes", help, None, MetricType::Gauge)?;
    for (counted, zone, labels) in zones(&all) {
        let lagging = i64::try_from(counted.wal.lagging_bytes()[zone]).unwrap_or(i64::MAX);
        ConstGauge::new(lagging).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Counted {
    fn class(&self) -> &'static str {
        match self.class {
            StorageClass::Standard => "standard",
            StorageClass::Express => "express",
        }
    }

    fn label(&self) -> ClassLabel {
        [("class", self.class())]
    }
}

/// Every zone of every WAL, by its place, with its labels.
fn zones(all: &[Counted]) -> impl Iterator<Item = (&Counted, usize, ZoneLabels)> {
    all.iter().flat_map(|counted| {
        let numbered = zone_numbers(counted.class).enumerate();
        numbered.map(move |(zone, number)| {
            let labels = [
                ("class", counted.class().to_owned()),
                ("zone", number.to_string()),
            ];
            (counted, zone, labels)
        })
    })
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

fn seconds(mut encoder: MetricEncoder<'_>, of: &LatencySnapshot) -> fmt::Result {
    encoder.encode_histogram::<NoLabelSet>(of.sum.as_secs_f64(), of.count, &buckets(of), None)
}
