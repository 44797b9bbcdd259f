//! Removing what was marked, in bounded steps.

use millrace_api::id::Epoch;

use super::Outcome;
use super::segments::first_end;
use super::stream::{by_entry, mark};
use crate::command::{
    CloseStreamlet, MARK_LIMIT_MAX, MarkBasinStreams, PurgeBasin, PurgeStream, Response, StreamsMarked,
};
use crate::error::StoreError;
use crate::refused::Refused;
use crate::state::record::{OpenStreamlet, StreamRecord};
use crate::state::table::{
    BasinIds, Basins, ChannelStreamlets, Channels, DeletingBasins, DeletingStreams, ReadTable, StreamNames,
    Streams, Table,
};
use crate::state::txn::Txn;

pub fn mark_basin_streams(txn: &mut Txn<'_>, c: &MarkBasinStreams, index: u64) -> Outcome<Response> {
    let Some(mut work) = txn.row::<DeletingBasins>(&c.basin)? else {
        // Purged already, or never deleted.
        return match txn.row::<BasinIds>(&c.basin)? {
            None => marked(Vec::new(), true),
            Some(_) => Err(Refused::NotDeleting.into()),
        };
    };
    if work.marked {
        return marked(Vec::new(), true);
    }
    let limit = match c.limit {
        0 => MARK_LIMIT_MAX,
        limit => limit.min(MARK_LIMIT_MAX),
    } as usize;
    let prefix = c.basin.to_bytes();
    let after = work.cursor.clone().map(|name| StreamNames::key(&(c.basin, name)));
    let step = txn.rows::<StreamNames>(&prefix, after.as_deref(), limit)?;
    work.marked = step.len() < limit;
    let mut list = Vec::new();
    for ((_, name), entry) in step {
        work.cursor = Some(name);
        let stream = by_entry(txn, &entry)?;
        if stream.deletion.is_none() {
            let stream = mark(txn, stream, c.now_ms, index)?;
            list.push((stream.id, stream.open.map(|open| (open.channel, open.streamlet))));
        }
    }
    txn.write::<DeletingBasins>(&c.basin, &work);
    marked(list, work.marked)
}

fn marked(
    marked: Vec<(
        millrace_api::id::StreamId,
        Option<(millrace_api::id::ChannelId, millrace_api::id::StreamletId)>,
    )>,
    done: bool,
) -> Outcome<Response> {
    Ok(Response::StreamsMarked(StreamsMarked { marked, done }))
}

pub fn basin(txn: &mut Txn<'_>, c: &PurgeBasin) -> Outcome<Response> {
    let Some(name) = txn.row::<BasinIds>(&c.basin)? else {
        return Ok(Response::Done);
    };
    if txn.row::<DeletingBasins>(&c.basin)?.is_none() {
        return Err(Refused::NotDeleting.into());
    }
    if !txn.rows::<StreamNames>(&c.basin.to_bytes(), None, 1)?.is_empty() {
        return Err(Refused::BasinNotEmpty(name).into());
    }
    txn.remove::<Basins>(&name);
    txn.remove::<BasinIds>(&c.basin);
    txn.remove::<DeletingBasins>(&c.basin);
    Ok(Response::Done)
}

pub fn close_streamlet(txn: &mut Txn<'_>, c: &CloseStreamlet) -> Outcome<Response> {
    let Some(mut stream) = txn.row::<Streams>(&c.stream)? else {
        return Ok(Response::Done);
    };
    if stream.deletion.is_none() {
        return Err(Refused::NotDeleting.into());
    }
    let Some(open) = stream.open else {
        return Ok(Response::Done);
    };
    if open.streamlet != c.streamlet || open.channel != c.channel {
        return Err(Refused::StreamletNotOpen(c.streamlet).into());
    }
    let row = super::channel::channel(txn, c.channel)?;
    if row.epoch != c.epoch {
        return Err(Refused::EpochMoved {
            channel: c.channel,
            epoch: row.epoch,
        }
        .into());
    }
    txn.remove::<ChannelStreamlets>(&(open.channel, stream.id));
    stream.open = None;
    stream.last_closed = open.streamlet;
    txn.write::<Streams>(&stream.id, &stream);
    Ok(Response::Done)
}

pub fn stream(txn: &mut Txn<'_>, c: &PurgeStream) -> Outcome<Response> {
    let Some(stream) = txn.row::<Streams>(&c.stream)? else {
        return Ok(Response::Done);
    };
    let Some(deletion) = stream.deletion else {
        return Err(Refused::NotDeleting.into());
    };
    if let Some((open, epoch)) = answering(txn, &stream)? {
        return Err(Refused::StreamletOpen {
            channel: open.channel,
            streamlet: open.streamlet,
            epoch,
        }
        .into());
    }
    if first_end(txn, stream.id)?.is_some() {
        return Err(Refused::SegmentsLeft.into());
    }
    txn.remove::<StreamNames>(&(stream.basin, stream.name.clone()));
    txn.remove::<Streams>(&stream.id);
    txn.remove::<DeletingStreams>(&(deletion.log_index, stream.id));
    if let Some(open) = stream.open {
        txn.remove::<ChannelStreamlets>(&(open.channel, stream.id));
    }
    Ok(Response::Done)
}

/// Where somebody may still answer for a deleting stream, and the epoch that has to end: until its streamlet was
/// closed, or the epoch that was current when the mark was set is sealed. A later owner began after the mark and knows
/// of it.
pub fn answering(txn: &Txn<'_>, stream: &StreamRecord) -> Result<Option<(OpenStreamlet, Epoch)>, StoreError> {
    let (Some(open), Some(deletion)) = (stream.open, stream.deletion) else {
        return Ok(None);
    };
    let sealed_through = txn.row::<Channels>(&open.channel)?.map(|row| row.sealed_through);
    let ended = sealed_through.is_some_and(|through| through >= deletion.channel_epoch);
    Ok((!ended).then_some((open, deletion.channel_epoch)))
}
