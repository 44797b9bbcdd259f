//! Between the metadata model's answers and the service's types.

use millrace_raft::command::{BasinProvisioned, Outcome, StreamProvisioned};
use millrace_raft::query::{BasinRecord, StreamEntry, StreamRecord};

use super::types::{BasinInfo, ProvisionOutcome, Provisioned, StreamInfo};

pub fn basin_info(record: &BasinRecord) -> BasinInfo {
    BasinInfo {
        name: record.name.clone(),
        location: record.location.clone(),
        created_at_ms: record.created_at_ms,
        deleted_at_ms: record.deleted_at_ms,
    }
}

pub fn stream_entry_info(entry: StreamEntry) -> StreamInfo {
    StreamInfo {
        name: entry.name,
        created_at_ms: entry.created_at_ms,
        deleted_at_ms: entry.deleted_at_ms,
        cipher: entry.cipher,
    }
}

fn stream_info(record: &StreamRecord) -> StreamInfo {
    StreamInfo {
        name: record.name.clone(),
        created_at_ms: record.created_at_ms,
        deleted_at_ms: record.deletion.map(|deletion| deletion.at_ms),
        cipher: record.cipher,
    }
}

pub fn provisioned_basin(reply: &BasinProvisioned) -> Provisioned<BasinInfo> {
    Provisioned {
        outcome: outcome(reply.outcome),
        item: basin_info(&reply.basin),
    }
}

pub fn provisioned_stream(reply: &StreamProvisioned) -> Provisioned<StreamInfo> {
    Provisioned {
        outcome: outcome(reply.outcome),
        item: stream_info(&reply.stream),
    }
}

fn outcome(outcome: Outcome) -> ProvisionOutcome {
    match outcome {
        Outcome::Created => ProvisionOutcome::Created,
        Outcome::Updated => ProvisionOutcome::Updated,
        Outcome::Noop => ProvisionOutcome::Noop,
    }
}
