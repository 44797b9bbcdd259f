//! How this node sees the Express zones, by their numbers.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::zones::express::{ZoneState, ZoneView};

type ZoneLabel = [(&'static str, String); 1];
type StateLabels = [(&'static str, String); 2];

pub(super) fn encode(encoder: &mut DescriptorEncoder, zones: &[ZoneView]) -> fmt::Result {
    let help = "1 for the state that the Express zone is in as this node sees it, 0 for every other";
    let mut metric = encoder.encode_descriptor("zone_state", help, None, MetricType::Gauge)?;
    for zone in zones {
        for state in ZoneState::NAMES {
            let labels: StateLabels = [("zone", zone.number.to_string()), ("state", state.to_owned())];
            let is_so = i64::from(zone.state.name() == state);
            ConstGauge::new(is_so).encode(metric.encode_family(&labels)?)?;
        }
    }
    let help = "Chunks and segment objects that the Express zone lacks, of those that this node looks after";
    let mut metric = encoder.encode_descriptor("zone_repair_backlog", help, None, MetricType::Gauge)?;
    for zone in zones {
        let backlog = i64::try_from(zone.backlog).unwrap_or(i64::MAX);
        ConstGauge::new(backlog).encode(metric.encode_family(&label(zone))?)?;
    }
    let help = "Chunks and segment objects that this node gave the Express zone because it lacked them";
    let mut metric = encoder.encode_descriptor("zone_repaired", help, None, MetricType::Counter)?;
    for zone in zones {
        ConstCounter::new(zone.repaired).encode(metric.encode_family(&label(zone))?)?;
    }
    Ok(())
}

fn label(zone: &ZoneView) -> ZoneLabel {
    [("zone", zone.number.to_string())]
}
