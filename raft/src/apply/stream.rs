//! Streams: created, replaced, changed, marked.

use millrace_api::config::{StreamConfig, StreamReconfiguration};
use millrace_api::id::{Epoch, StreamletId};
use millrace_api::name::StreamName;

use super::Outcome;
use super::{basin, channel, segments};
use crate::command::{
    CreateMode, CreateStream, DeleteEmptyStream, DeleteStream, Outcome as Did, ReconfigureStream, Response,
    StreamProvisioned,
};
use crate::error::StoreError;
use crate::refused::Refused;
use crate::state::record::{BasinRecord, Deletion, Fencing, StreamEntry, StreamRecord};
use crate::state::table::{DeletingStreams, ReadTable, StreamNames, Streams};
use crate::state::txn::Txn;

pub fn create(txn: &mut Txn<'_>, c: &CreateStream) -> Outcome<Response> {
    must_be_valid(&c.config)?;
    let basin = basin::find(txn, &c.basin)?;
    let found = lookup(txn, &basin, &c.name)?;
    if let (CreateMode::Auto, Some(stream)) = (c.mode, &found)
        && stream.deletion.is_none()
    {
        let outcome = if stream.id == c.id {
            Did::Created
        } else {
            Did::Noop
        };
        return answer(outcome, stream.clone());
    }
    if basin.deleted_at_ms.is_some() {
        return Err(Refused::BasinDeletionPending(c.basin.clone()).into());
    }
    match found {
        None => new(txn, c, &basin),
        Some(stream) if stream.deletion.is_some() => {
            Err(Refused::StreamDeletionPending(c.name.clone()).into())
        }
        Some(stream) => existing(txn, c, &basin, stream),
    }
}

fn new(txn: &mut Txn<'_>, c: &CreateStream, basin: &BasinRecord) -> Outcome<Response> {
    if txn.row::<Streams>(&c.id)?.is_some() {
        return Err(Refused::IdTaken.into());
    }
    let request_key = match c.mode {
        CreateMode::CreateOnly { request_key } => request_key,
        CreateMode::Ensure | CreateMode::Auto => None,
    };
    let stream = StreamRecord {
        id: c.id,
        basin: basin.id,
        name: c.name.clone(),
        config: c.config.resolve(&basin.config.default_stream_config),
        cipher: basin.config.stream_cipher,
        created_at_ms: c.now_ms,
        request_key,
        tail: Default::default(),
        fencing: Fencing::default(),
        trim: 0,
        forgotten: 0,
        open: None,
        last_closed: StreamletId(0),
        deletion: None,
        empty_since_ms: Some(c.now_ms),
        segments: Some(0),
        unpacked_through: 0,
    };
    write(txn, &stream);
    answer(Did::Created, stream)
}

fn existing(
    txn: &mut Txn<'_>,
    c: &CreateStream,
    basin: &BasinRecord,
    mut stream: StreamRecord,
) -> Outcome<Response> {
    match c.mode {
        // The id is random: this is the same proposal, asked again because its outcome was unknown.
        _ if stream.id == c.id => answer(Did::Created, stream),
        CreateMode::CreateOnly { request_key } => {
            match request_key.is_some() && stream.request_key == request_key {
                true => answer(Did::Noop, stream),
                false => Err(Refused::StreamExists(c.name.clone()).into()),
            }
        }
        CreateMode::Ensure => {
            let config = c.config.resolve(&basin.config.default_stream_config);
            if stream.config == config {
                return answer(Did::Noop, stream);
            }
            stream.config = config;
            txn.write::<Streams>(&stream.id, &stream);
            answer(Did::Updated, stream)
        }
        CreateMode::Auto => answer(Did::Noop, stream),
    }
}

pub fn reconfigure(txn: &mut Txn<'_>, c: &ReconfigureStream) -> Outcome<Response> {
    let basin = basin::active(txn, &c.basin)?;
    let mut stream = lookup(txn, &basin, &c.name)?.ok_or_else(|| Refused::StreamNotFound(c.name.clone()))?;
    if stream.deletion.is_some() {
        return Err(Refused::StreamDeletionPending(c.name.clone()).into());
    }
    let change: StreamReconfiguration = c.change;
    let wanted = change.apply(&stream.config.into());
    must_be_valid(&wanted)?;
    let config = wanted.resolve(&basin.config.default_stream_config);
    if config == stream.config {
        return answer(Did::Noop, stream);
    }
    stream.config = config;
    txn.write::<Streams>(&stream.id, &stream);
    answer(Did::Updated, stream)
}

pub fn delete(txn: &mut Txn<'_>, c: &DeleteStream, index: u64) -> Outcome<Response> {
    let basin = basin::find(txn, &c.basin)?;
    let stream = lookup(txn, &basin, &c.name)?.ok_or_else(|| Refused::StreamNotFound(c.name.clone()))?;
    if stream.deletion.is_some() {
        return answer(Did::Noop, stream);
    }
    let stream = mark(txn, stream, c.now_ms, index)?;
    answer(Did::Updated, stream)
}

pub fn delete_empty(txn: &mut Txn<'_>, c: &DeleteEmptyStream, index: u64) -> Outcome<Response> {
    let stream = txn.row::<Streams>(&c.stream)?.ok_or(Refused::StreamGone)?;
    if stream.deletion.is_some() {
        return answer(Did::Noop, stream);
    }
    let is_empty = stream.open.is_none()
        && stream.trim == stream.tail.seq_num
        && segments::first_end(txn, stream.id)?.is_none();
    if !is_empty || !is_due(&stream, c.now_ms) {
        return Err(Refused::NotEmpty.into());
    }
    let stream = mark(txn, stream, c.now_ms, index)?;
    answer(Did::Updated, stream)
}

/// Whether the stream's configuration lets go of it after the time for which it has been empty.
fn is_due(stream: &StreamRecord, now_ms: u64) -> bool {
    let min_age_secs = stream.config.delete_on_empty_min_age_secs;
    let due = stream
        .empty_since_ms
        .zip(min_age_secs.checked_mul(1000))
        .and_then(|(since, age)| since.checked_add(age));
    min_age_secs > 0 && due.is_some_and(|due| due <= now_ms)
}

/// Marks a stream as deleting and queues it for its purge.
pub fn mark(txn: &mut Txn<'_>, mut stream: StreamRecord, now_ms: u64, index: u64) -> Outcome<StreamRecord> {
    let channel_epoch = match stream.open {
        Some(open) => channel::channel(txn, open.channel)?.epoch,
        None => Epoch(0),
    };
    stream.deletion = Some(Deletion {
        at_ms: now_ms,
        log_index: index,
        channel_epoch,
    });
    write(txn, &stream);
    txn.write::<DeletingStreams>(&(index, stream.id), &());
    Ok(stream)
}

/// The stream that the name leads to.
fn lookup(txn: &Txn<'_>, basin: &BasinRecord, name: &StreamName) -> Result<Option<StreamRecord>, StoreError> {
    match txn.row::<StreamNames>(&(basin.id, name.clone()))? {
        Some(entry) => by_entry(txn, &entry).map(Some),
        None => Ok(None),
    }
}

/// The record behind a name.
pub fn by_entry(txn: &Txn<'_>, entry: &StreamEntry) -> Result<StreamRecord, StoreError> {
    txn.row::<Streams>(&entry.id)?
        .ok_or_else(|| StoreError::corrupt("stream_names", format_args!("{:?} leads nowhere", entry.name)))
}

/// Writes the record, and what a listing shows of it.
fn write(txn: &mut Txn<'_>, stream: &StreamRecord) {
    let entry = StreamEntry {
        name: stream.name.clone(),
        id: stream.id,
        created_at_ms: stream.created_at_ms,
        deleted_at_ms: stream.deletion.map(|deletion| deletion.at_ms),
        cipher: stream.cipher,
    };
    txn.write::<StreamNames>(&(stream.basin, stream.name.clone()), &entry);
    txn.write::<Streams>(&stream.id, stream);
}

fn must_be_valid(config: &StreamConfig) -> Outcome<()> {
    Ok(config
        .validate()
        .map_err(|error| Refused::Invalid(error.to_string()))?)
}

fn answer(outcome: Did, stream: StreamRecord) -> Outcome<Response> {
    Ok(Response::Stream(Box::new(StreamProvisioned { outcome, stream })))
}
