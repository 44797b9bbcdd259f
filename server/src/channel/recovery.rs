//! Taking over a channel: a new epoch, the end of the earlier ones, and the state that their chunks add up to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, StreamExt, TryStreamExt};
use millrace_api::bug::{Bug, planted};
use millrace_api::command::Command;
use millrace_api::id::{
    ChannelId, ChunkSeq, Epoch, Incarnation, NodeId, Nonce, StreamId, StreamletId, WriterId, ZoneGen,
};
use millrace_api::position::{SeqNum, StreamPosition};
use millrace_api::proto;
use millrace_raft::command::{ActivateChannel, AssignChannel, SealEpoch};
use millrace_raft::error::{MetaError, StoreError};
use millrace_raft::group::Meta;
use millrace_raft::query::{ChannelRecord, ChannelStreamlet, Fencing, Slot};
use millrace_raft::refused::Refused;
use millrace_wal::{
    ChannelHistory, ChunkBuilder, ChunkId, EpochWriter, FencedBy, Footer, FooterEntry, Frame, FrameKind,
    Judge, JudgeError, SealedEpoch, UnsealedEpoch, Wal, WriteEvent,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::flush::FlushStart;
use super::index::SlotIndex;
use super::log::{ChunkLog, Extent, LogPosition};
use super::state::{ChannelLimits, ChannelState};
use super::streamlet::{Streamlet, StreamletStart, Streamlets};
use super::writer_table::WriterTable;
use super::writers::{Sequenced, Writers};
use crate::env::Env;
use crate::wals::NoWal;

/// Frames with commands that are read at a time.
const COMMAND_READS: usize = 32;

/// Before a read that failed is made again.
const READ_PAUSE: Duration = Duration::from_millis(500);
/// Epochs that other processes may have been quicker in before this one gives up.
const CLAIMS_MAX: usize = 100;

/// Who takes over.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    pub node: NodeId,
    pub incarnation: Incarnation,
}

/// A channel that is ready to sequence.
pub struct TakenOver {
    pub epoch: Epoch,
    pub state: ChannelState,
    pub writer: EpochWriter,
    pub written: mpsc::UnboundedReceiver<WriteEvent>,
    /// Streamlets of streams that are being deleted: to be closed, nothing of them is served.
    pub deleting: Vec<(StreamId, StreamletId)>,
    /// Everything before it is in segments.
    pub checkpoint: ChunkId,
}

#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("metadata: {0}")]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Wal(#[from] millrace_wal::RecoveryError),
    #[error(transparent)]
    NoWal(#[from] NoWal),
    #[error("reading a command back: {0}")]
    Read(#[from] millrace_wal::ReadError),
    #[error(
        "the store is far ahead of this node's metadata: they are an old copy, or other processes write with copies of them"
    )]
    Contended,
    /// Chunks and metadata contradict each other: nothing is guessed.
    #[error("stream {stream}: {what}")]
    Inconsistent { stream: StreamId, what: String },
}

impl From<StoreError> for RecoveryError {
    fn from(error: StoreError) -> Self {
        Self::Meta(error.into())
    }
}

/// Begins an epoch of the channel, ends all earlier ones, and rebuilds the state from the checkpoint on. Everything
/// that was ever acknowledged is in it.
///
/// Nobody else acknowledges in the channel afterwards: the epoch is claimed by creating its first free slot, and an
/// epoch in which another process, started from a copy of the same metadata, was quicker is ended like any earlier
/// one, with all that it holds.
pub async fn take_over(
    channel: ChannelId,
    owner: Owner,
    gens: Vec<ZoneGen>,
    limits: ChannelLimits,
    env: &Env,
    meta: &Meta,
    wal: &Wal,
) -> Result<TakenOver, RecoveryError> {
    let started = Instant::now();
    let Owner { node, incarnation } = owner;
    for _ in 0..CLAIMS_MAX {
        let epoch = meta
            .propose(AssignChannel {
                channel,
                node,
                incarnation,
                gens: gens.clone(),
            })
            .await?;
        let nonce = Nonce(env.random_u128());
        let (fold, first_slot) = replay(channel, epoch, nonce, meta, wal).await?;
        meta.propose(ActivateChannel { channel, epoch }).await?;
        let (mut writer, mut written) = wal.writer(channel, epoch, nonce, first_slot);
        if let Some(by) = claim(&mut writer, &mut written).await {
            tracing::warn!(%channel, %epoch, ?by, "another process has written in this epoch; it is ended now");
            continue;
        }
        tracing::info!(%channel, %epoch, streams = fold.streams.len(), took = ?started.elapsed(),
            "took the channel over");
        let log_index = meta.applied_index();
        let record = channel_record(channel, meta)?;
        let log = ChunkLog::new(channel, extents(&record), epoch);
        let flush = FlushStart {
            checkpoint: LogPosition {
                epoch: record.checkpoint.epoch,
                slot: record.checkpoint.slot,
            },
            seq: record.flush_seq,
            log_index,
            bytes: fold.bytes,
            at_once: record.epochs.iter().any(|(_, state)| state.gens != record.gens),
        };
        let (streams, deleting) = fold.finish();
        let state = ChannelState::new(epoch, writer.next_slot(), log, streams, flush, limits);
        let Slot { epoch: first, slot } = record.checkpoint;
        return Ok(TakenOver {
            checkpoint: ChunkId::new(channel, first, slot),
            epoch,
            state,
            writer,
            written,
            deleting,
        });
    }
    Err(RecoveryError::Contended)
}

/// Ends the earlier epochs and folds their chunks. Answers the first free slot of the current epoch too.
async fn replay(
    channel: ChannelId,
    epoch: Epoch,
    nonce: Nonce,
    meta: &Meta,
    wal: &Wal,
) -> Result<(Fold, ChunkSeq), RecoveryError> {
    let record = channel_record(channel, meta)?;
    must_be_current(&record, epoch)?;
    let history = history(&record);
    let mut fold = Fold::new(meta.state().open_streamlets(channel)?, Instant::now());
    let judge = MetaJudge { meta: meta.clone() };
    let recovered = millrace_wal::recover(wal, &history, &judge, nonce, |chunk, footer| {
        fold.chunk(chunk, footer)
    })
    .await?;
    if let Some(broken) = fold.broken.take() {
        return Err(broken);
    }
    let commands = std::mem::take(&mut fold.commands);
    fold.apply_commands(read_commands(wal, commands).await?);
    let tables = fold.writer_tables();
    fold.apply_tables(read_tables(wal, tables).await?);
    Ok((fold, recovered.next_slot))
}

/// Writes an empty chunk into the epoch's first free slot. Whoever else would write there is fenced from then on; if
/// somebody has written there already, answers who.
async fn claim(
    writer: &mut EpochWriter,
    written: &mut mpsc::UnboundedReceiver<WriteEvent>,
) -> Option<FencedBy> {
    writer.submit(ChunkBuilder::new());
    loop {
        match written
            .recv()
            .await
            .expect("the writer reports until it is closed")
        {
            WriteEvent::Durable { .. } => return None,
            WriteEvent::Fenced { by, .. } => return Some(by),
            WriteEvent::Retrying { error, since, .. } => {
                tracing::warn!(%error, waiting = ?since, "storage does not take the first chunk yet");
            }
        }
    }
}

fn channel_record(channel: ChannelId, meta: &Meta) -> Result<ChannelRecord, RecoveryError> {
    let record = meta.state().channel(channel)?;
    Ok(record.ok_or(MetaError::Refused(Refused::ChannelUnknown(channel)))?)
}

/// The epoch may be over before its owner comes to look: a later one is not its to recover into.
fn must_be_current(record: &ChannelRecord, epoch: Epoch) -> Result<(), RecoveryError> {
    match record.epoch == epoch {
        true => Ok(()),
        false => Err(MetaError::Refused(Refused::EpochMoved {
            channel: record.channel,
            epoch: record.epoch,
        })
        .into()),
    }
}

fn history(record: &ChannelRecord) -> ChannelHistory {
    ChannelHistory {
        channel: record.channel,
        checkpoint: (record.checkpoint.epoch, record.checkpoint.slot),
        sealed: record
            .sealed()
            .map(|(epoch, _, seal)| SealedEpoch {
                epoch,
                end: seal.end,
                by: seal.by,
                adopted: seal.adopted,
            })
            .collect(),
        unsealed: record
            .unsealed_earlier()
            .map(|(epoch, state)| UnsealedEpoch {
                epoch,
                activated: state.activated,
                adopted: (state.adopted > 0).then_some(state.adopted),
                gens: state.gens.clone(),
            })
            .collect(),
        current: record.epoch,
        gens: record.gens.clone(),
    }
}

/// Chunks of earlier epochs, all sealed by now.
fn extents(record: &ChannelRecord) -> Vec<Extent> {
    let first = |epoch: Epoch| {
        if epoch == record.checkpoint.epoch {
            record.checkpoint.slot
        } else {
            ChunkSeq(0)
        }
    };
    record
        .sealed()
        .filter(|(epoch, ..)| *epoch < record.epoch)
        .map(|(epoch, _, seal)| Extent {
            epoch,
            first: first(epoch),
            end: seal.end,
        })
        .collect()
}

/// The metadata group's word on where epochs end.
struct MetaJudge {
    meta: Meta,
}

#[async_trait]
impl Judge for MetaJudge {
    async fn seal_epoch(
        &self,
        channel: ChannelId,
        epoch: Epoch,
        end: ChunkSeq,
        by: Epoch,
        adopted: u64,
    ) -> Result<ChunkSeq, JudgeError> {
        match self
            .meta
            .propose(SealEpoch {
                channel,
                epoch,
                end,
                by,
                adopted,
            })
            .await
        {
            Ok(sealed) => Ok(sealed.end),
            Err(MetaError::Refused(refused)) => Err(JudgeError::Refused(refused.to_string())),
            Err(error) => Err(JudgeError::Retry(error.to_string())),
        }
    }

    async fn verdict(&self, channel: ChannelId, epoch: Epoch) -> Result<Option<SealedEpoch>, JudgeError> {
        let unknown = |error: String| JudgeError::Retry(error);
        self.meta
            .linearize()
            .await
            .map_err(|error| unknown(error.to_string()))?;
        let record = self
            .meta
            .state()
            .channel(channel)
            .map_err(|error| unknown(error.to_string()))?;
        Ok(record.and_then(|record| {
            record
                .sealed()
                .find(|(sealed, ..)| *sealed == epoch)
                .map(|(epoch, _, seal)| SealedEpoch {
                    epoch,
                    end: seal.end,
                    by: seal.by,
                    adopted: seal.adopted,
                })
        }))
    }
}

/// A frame with commands: its chunk, and which entry of the footer it is.
type CommandFrame = (ChunkId, Arc<Footer>, usize);
/// A frame that tells a stream's writers, likewise.
type TableFrame = CommandFrame;

/// The state of every open streamlet, as chunks are folded into it in order.
struct Fold {
    streams: BTreeMap<StreamId, Folded>,
    commands: Vec<CommandFrame>,
    broken: Option<RecoveryError>,
    /// Of all frames that were folded.
    bytes: u64,
    now: Instant,
}

struct Folded {
    start: StreamletStart,
    index: SlotIndex,
    writers: Writers,
    /// The last frame that tells the writers; what follows it is in `since`.
    table: Option<TableFrame>,
    since: Vec<(WriterId, u64, Sequenced)>,
    deleting: bool,
}

impl Fold {
    fn new(open: Vec<ChannelStreamlet>, now: Instant) -> Self {
        let streams = open.into_iter().map(|open| {
            let start = StreamletStart {
                id: open.streamlet,
                config: open.config,
                tail: open.flushed,
                flushed: open.flushed,
                fencing: open.fencing,
                trim: open.trim,
                forgotten: open.forgotten,
            };
            (
                open.stream,
                Folded {
                    writers: Writers::new(open.forgotten),
                    start,
                    index: SlotIndex::default(),
                    table: None,
                    since: Vec::new(),
                    deleting: open.deleting,
                },
            )
        });
        Self {
            streams: streams.collect(),
            commands: Vec::new(),
            broken: None,
            bytes: 0,
            now,
        }
    }

    fn chunk(&mut self, chunk: ChunkId, footer: &Arc<Footer>) {
        for (index, entry) in footer.entries.iter().enumerate() {
            if let Err(error) = self.frame(chunk, footer, index, entry) {
                self.broken.get_or_insert(error);
            }
        }
    }

    fn frame(
        &mut self,
        chunk: ChunkId,
        footer: &Arc<Footer>,
        index: usize,
        entry: &FooterEntry,
    ) -> Result<(), RecoveryError> {
        let header = &entry.header;
        let Some(folded) = self.streams.get_mut(&header.stream) else {
            return Ok(());
        };
        // Frames of another streamlet say nothing about this one.
        if header.streamlet != folded.start.id {
            return Ok(());
        }
        let tail = folded.start.tail;
        if header.kind == FrameKind::Open {
            folded.table = Some((chunk, footer.clone(), index));
            folded.since.clear();
            return Ok(());
        }
        let start = StreamPosition::new(header.first_seq, header.first_timestamp);
        let end = StreamPosition::new(header.end_seq(), header.last_timestamp);
        let done = Sequenced {
            start,
            end,
            slot: None,
        };
        match header.writer {
            WriterId(0) => {}
            _ if planted(Bug::WritersForgotten) => {}
            writer if folded.table.is_some() => folded.since.push((writer, header.number, done)),
            writer => folded.writers.recovered(writer, header.number, done, self.now),
        }
        // In segments already: it tells only what its writer has sent.
        if end.seq_num <= folded.start.flushed.seq_num {
            return Ok(());
        }
        if header.first_seq != tail.seq_num || header.first_timestamp < tail.timestamp {
            let what = format!(
                "chunk {} continues at {} what ends at {}",
                chunk.key(),
                header.first_seq,
                tail.seq_num
            );
            return Err(RecoveryError::Inconsistent {
                stream: header.stream,
                what,
            });
        }
        let position = LogPosition {
            epoch: chunk.epoch,
            slot: chunk.slot,
        };
        folded.index.note(start, position);
        folded.start.tail = end;
        self.bytes += header.frame_len();
        if header.flags.has_commands() {
            self.commands.push((chunk, footer.clone(), index));
        }
        Ok(())
    }

    /// Commands in order of the streams they are in.
    fn apply_commands(&mut self, commands: Vec<(StreamId, SeqNum, Command)>) {
        for (stream, seq_num, command) in commands {
            let Some(folded) = self.streams.get_mut(&stream) else {
                continue;
            };
            match command {
                Command::Fence(_) if planted(Bug::TokenForgotten) => {}
                Command::Trim(_) if planted(Bug::TrimForgotten) => {}
                Command::Fence(token) => {
                    folded.start.fencing = Fencing {
                        token,
                        seq_num: Some(seq_num),
                    };
                }
                Command::Trim(point) => folded.start.trim = folded.start.trim.max(point.min(seq_num + 1)),
            }
        }
    }

    /// Where the last table of each stream's writers is.
    fn writer_tables(&self) -> Vec<TableFrame> {
        let tables = self.streams.values().filter_map(|folded| folded.table.clone());
        tables.collect()
    }

    /// A table tells everything of the writers up to where it stands.
    fn apply_tables(&mut self, tables: Vec<(StreamId, WriterTable)>) {
        let now = self.now;
        for (stream, table) in tables {
            let Some(folded) = self.streams.get_mut(&stream) else {
                continue;
            };
            folded.writers = Writers::of_table(&table, now);
            for (writer, number, done) in std::mem::take(&mut folded.since) {
                folded.writers.recovered(writer, number, done, now);
            }
        }
    }

    /// Streamlets to serve, and those of streams that are being deleted.
    fn finish(self) -> (Streamlets, Vec<(StreamId, StreamletId)>) {
        let now = self.now;
        let mut streams = HashMap::new();
        let mut deleting = Vec::new();
        for (stream, folded) in self.streams {
            if folded.deleting {
                deleting.push((stream, folded.start.id));
            } else {
                streams.insert(
                    stream,
                    Box::new(Streamlet::recovered(
                        folded.start,
                        folded.index,
                        folded.writers,
                        now,
                    )),
                );
            }
        }
        (streams, deleting)
    }
}

/// Reads the given tables. Those of one chunk stand close together: one read fetches them.
async fn read_tables(
    wal: &Wal,
    frames: Vec<TableFrame>,
) -> Result<Vec<(StreamId, WriterTable)>, RecoveryError> {
    let mut by_chunk: BTreeMap<ChunkId, (Arc<Footer>, BTreeSet<usize>)> = BTreeMap::new();
    for (chunk, footer, index) in frames {
        let (_, indexes) = by_chunk.entry(chunk).or_insert((footer, BTreeSet::new()));
        indexes.insert(index);
    }
    let reads = by_chunk.into_iter().map(|(chunk, (footer, indexes))| async move {
        let (Some(first), Some(last)) = (indexes.first(), indexes.last()) else {
            return Ok(Vec::new());
        };
        let frames = read_frames(wal, chunk, &footer.entries[*first..=*last]).await?;
        let wanted = frames.into_iter().enumerate();
        let wanted = wanted.filter(|(at, _)| indexes.contains(&(first + at)));
        wanted
            .map(|(_, frame)| {
                let stream = frame.header.stream;
                let table =
                    WriterTable::parse(frame.body()).map_err(|error| RecoveryError::Inconsistent {
                        stream,
                        what: format!("in chunk {}: {error}", chunk.key()),
                    })?;
                Ok((stream, table))
            })
            .collect::<Result<Vec<_>, RecoveryError>>()
    });
    stream::iter(reads).buffered(COMMAND_READS).try_concat().await
}

/// As in the rest of a recovery, a store that does not answer is waited for.
async fn read_frames(
    wal: &Wal,
    chunk: ChunkId,
    entries: &[FooterEntry],
) -> Result<Vec<Frame>, millrace_wal::ReadError> {
    loop {
        match wal.frames(chunk, entries).await {
            Err(error) if error.retryable() => tokio::time::sleep(READ_PAUSE).await,
            done => return done,
        }
    }
}

/// Reads the commands of the given frames, in their order.
async fn read_commands(
    wal: &Wal,
    frames: Vec<CommandFrame>,
) -> Result<Vec<(StreamId, SeqNum, Command)>, RecoveryError> {
    let reads = frames.into_iter().map(|(chunk, footer, index)| async move {
        let frames = read_frames(wal, chunk, &footer.entries[index..=index]).await?;
        let mut commands = Vec::new();
        for frame in frames {
            let stream = frame.header.stream;
            let batch =
                proto::ReadBatch::decode(frame.body()).map_err(|error| RecoveryError::Inconsistent {
                    stream,
                    what: format!("chunk {} holds a frame that is not a batch: {error}", chunk.key()),
                })?;
            for record in batch.records {
                let headers = record
                    .headers
                    .iter()
                    .map(|header| (&header.name[..], &header.value[..]));
                // Only valid commands are ever stored.
                if let Ok(Some(command)) = Command::of(headers, &record.body) {
                    commands.push((stream, record.seq_num, command));
                }
            }
        }
        Ok::<_, RecoveryError>(commands)
    });
    stream::iter(reads).buffered(COMMAND_READS).try_concat().await
}

#[cfg(test)]
mod tests {
    use millrace_api::config::StorageClass;
    use millrace_api::id::FlushSeq;

    use super::*;

    fn record(epoch: u64) -> ChannelRecord {
        ChannelRecord {
            channel: ChannelId(1),
            class: StorageClass::Standard,
            owner: None,
            epoch: Epoch(epoch),
            activated: false,
            sealed_through: Epoch(0),
            checkpoint: Slot {
                epoch: Epoch(1),
                slot: ChunkSeq(0),
            },
            flush_seq: FlushSeq(0),
            merge_seq: FlushSeq(0),
            pack_seq: FlushSeq(0),
            gens: vec![ZoneGen(1)],
            epochs: Vec::new(),
        }
    }

    #[test]
    fn a_late_owner_does_not_recover_into_the_epoch_of_another() {
        assert!(must_be_current(&record(2), Epoch(2)).is_ok());
        let refused = must_be_current(&record(3), Epoch(2));
        assert!(
            matches!(
                refused,
                Err(RecoveryError::Meta(MetaError::Refused(Refused::EpochMoved {
                    epoch: Epoch(3),
                    ..
                })))
            ),
            "{refused:?}"
        );
    }
}
