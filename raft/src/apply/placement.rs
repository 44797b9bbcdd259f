//! Streams come to a channel and rest again.

use millrace_api::bug::{Bug, planted};
use millrace_api::id::{ChannelId, StreamletId};

use super::Outcome;
use super::{channel, segments};
use crate::command::{ActivateStream, Activation, DeactivateStream, Outcome as Did, Response};
use crate::refused::Refused;
use crate::state::record::{ChannelRow, OpenStreamlet, StreamRecord};
use crate::state::table::{ChannelStreamlets, ReadTable, Streams};
use crate::state::txn::Txn;

pub fn activate(txn: &mut Txn<'_>, c: &ActivateStream, index: u64) -> Outcome<Response> {
    let mut stream = txn.row::<Streams>(&c.stream)?.ok_or(Refused::StreamGone)?;
    if stream.deletion.is_some() {
        return Err(Refused::StreamDeletionPending(stream.name).into());
    }
    if let Some(open) = stream.open {
        let row = channel::channel(txn, open.channel)?;
        return answer(Did::Noop, stream, open, &row);
    }
    let row = channel::active(txn, c.channel)?;
    let open = OpenStreamlet {
        channel: c.channel,
        streamlet: StreamletId(index),
        start: stream.tail,
    };
    stream.open = Some(open);
    txn.write::<Streams>(&stream.id, &stream);
    txn.write::<ChannelStreamlets>(&(c.channel, stream.id), &open.streamlet);
    answer(Did::Created, stream, open, &row)
}

fn answer(outcome: Did, stream: StreamRecord, open: OpenStreamlet, row: &ChannelRow) -> Outcome<Response> {
    Ok(Response::Activation(Box::new(Activation {
        outcome,
        channel: open.channel,
        streamlet: open.streamlet,
        epoch: row.epoch,
        owner: row.owner.map(|owner| (owner.node, owner.incarnation)),
        start: open.start,
        fencing: stream.fencing,
        trim: stream.trim,
        forgotten: stream.forgotten,
        config: stream.config,
        cipher: stream.cipher,
    })))
}

pub fn deactivate(txn: &mut Txn<'_>, c: &DeactivateStream) -> Outcome<Response> {
    let mut stream = txn.row::<Streams>(&c.stream)?.ok_or(Refused::StreamGone)?;
    let open = match stream.open {
        Some(open) if open.streamlet == c.streamlet && open.channel == c.channel => open,
        None if stream.last_closed == c.streamlet && stream.deletion.is_none() => return Ok(Response::Done),
        _ => return Err(Refused::StreamletNotOpen(c.streamlet).into()),
    };
    if stream.deletion.is_some() {
        return Err(Refused::StreamDeletionPending(stream.name).into());
    }
    must_be_owner(txn, c.channel, c)?;
    must_be_flushed(c, &stream)?;
    stream.fencing = stream.fencing.merge(c.fencing.clone());
    stream.trim = stream.trim.max(c.trim);
    stream.forgotten = stream.forgotten.max(c.forgotten);
    stream.open = None;
    stream.last_closed = open.streamlet;
    segments::note_empty(&mut stream, c.now_ms);
    txn.write::<Streams>(&stream.id, &stream);
    txn.remove::<ChannelStreamlets>(&(open.channel, stream.id));
    segments::note_trimmed(txn, &stream)?;
    Ok(Response::Done)
}

fn must_be_owner(txn: &Txn<'_>, id: ChannelId, c: &DeactivateStream) -> Outcome<()> {
    let row = channel::active(txn, id)?;
    match row.epoch == c.epoch {
        true => Ok(()),
        false => Err(Refused::EpochMoved {
            channel: id,
            epoch: row.epoch,
        }
        .into()),
    }
}

fn must_be_flushed(c: &DeactivateStream, stream: &StreamRecord) -> Outcome<()> {
    if planted(Bug::RestUnflushed) {
        return Ok(());
    }
    if c.flushed != c.tail.seq_num || c.tail.seq_num > stream.tail.seq_num {
        return Err(Refused::NotFlushed.into());
    }
    let fits = c.tail == stream.tail
        && c.trim <= c.tail.seq_num
        && c.forgotten <= c.tail.seq_num
        && c.fencing.seq_num.is_none_or(|seq| seq < c.tail.seq_num);
    match fits {
        true => Ok(()),
        false => Err(Refused::Invalid("the state of the streamlet does not fit its tail".into()).into()),
    }
}
