//! The records of the state, in the vocabulary of the rest of the program.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use millrace_api::config::{BasinConfig, Cipher, ResolvedStreamConfig, StorageClass};
use millrace_api::id::{
    BasinId, ChannelId, ChunkSeq, Epoch, FlushSeq, Incarnation, NodeId, StreamId, StreamletId, ZoneGen,
};
use millrace_api::name::{BasinName, FencingToken, StreamName};
use millrace_api::position::{SeqNum, StreamPosition};

use crate::identity::DirectoryId;

/// An entry's place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogPosition {
    pub term: u64,
    /// The leader that proposed it.
    pub node: u64,
    pub index: u64,
}

/// Voters and learners of the group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// One set of voters, or two while a change is under way.
    pub configs: Vec<BTreeSet<u64>>,
    /// Voters and learners.
    pub nodes: BTreeMap<u64, MemberNode>,
}

/// Where a member is, and what proves that it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberNode {
    pub address: String,
    /// `None` for a member that joined before directories had ids.
    pub directory: Option<DirectoryId>,
}

/// How far the state follows the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    pub last: Option<LogPosition>,
    pub membership_at: Option<LogPosition>,
    pub membership: Members,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneRecord {
    pub zone: u32,
    pub gen_id: ZoneGen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub zone: String,
    pub address: String,
    pub registered_at_ms: u64,
    /// The incarnation has ended, and no other has registered since.
    pub expired: bool,
    /// Incarnations that ended or were replaced, newest last; bounded.
    pub former: Vec<Incarnation>,
}

/// Who may own a channel: one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub node: NodeId,
    pub incarnation: Incarnation,
}

/// A slot of a channel's WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    pub epoch: Epoch,
    pub slot: ChunkSeq,
}

/// The row of a channel.
///
/// * `sealed_through < epoch`, or both are the same when the owner sealed its own epoch as it released it.
/// * Every epoch in `(sealed_through, epoch]` is unsealed, every one up to `sealed_through` is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelRow {
    pub class: StorageClass,
    pub owner: Option<Owner>,
    /// 0 before the first assignment.
    pub epoch: Epoch,
    pub sealed_through: Epoch,
    /// Where a replay starts.
    pub checkpoint: Slot,
    /// The last flush that was committed; 0 before the first.
    pub flush_seq: FlushSeq,
    /// The last merge that was committed; 0 before the first.
    pub merge_seq: FlushSeq,
    /// The last chain index that was committed; 0 before the first.
    pub pack_seq: FlushSeq,
}

/// How an epoch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// Exclusive.
    pub end: ChunkSeq,
    /// The epoch that sealed it; itself if its owner did so on the way out.
    pub by: Epoch,
    /// Slots `[0, adopted)` of `by` continue it.
    pub adopted: u64,
    /// Where the log says so.
    pub log_index: u64,
}

/// One ownership of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochState {
    pub owner: Owner,
    /// The zone lives that it writes under.
    pub gens: Vec<ZoneGen>,
    /// It may hold chunks of its own beyond what it adopted.
    pub activated: bool,
    /// Its first slots that continue an earlier epoch, as named by a committed seal.
    pub adopted: u64,
    pub seal: Option<Seal>,
}

/// A channel with all of its epochs from the checkpoint on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelRecord {
    pub channel: ChannelId,
    pub class: StorageClass,
    pub owner: Option<Owner>,
    /// 0 before the first assignment.
    pub epoch: Epoch,
    /// The current epoch is activated and not sealed.
    pub activated: bool,
    pub sealed_through: Epoch,
    pub checkpoint: Slot,
    /// The last flush that was committed; 0 before the first.
    pub flush_seq: FlushSeq,
    /// The last merge that was committed; 0 before the first.
    pub merge_seq: FlushSeq,
    /// The last chain index that was committed; 0 before the first.
    pub pack_seq: FlushSeq,
    /// Gens of the current epoch; empty before the first assignment.
    pub gens: Vec<ZoneGen>,
    /// Every epoch from the checkpoint's on, the current one last.
    pub epochs: Vec<(Epoch, EpochState)>,
}

impl ChannelRecord {
    /// Epochs since the checkpoint whose end is recorded, oldest first: what a replay reads.
    pub fn sealed(&self) -> impl Iterator<Item = (Epoch, &EpochState, &Seal)> {
        self.epochs
            .iter()
            .filter_map(|(epoch, state)| Some((*epoch, state, state.seal.as_ref()?)))
    }

    /// Epochs before the current one whose end is not recorded, oldest first: what a recovery decides.
    pub fn unsealed_earlier(&self) -> impl Iterator<Item = (Epoch, &EpochState)> {
        self.epochs
            .iter()
            .filter(|(epoch, state)| *epoch < self.epoch && state.seal.is_none())
            .map(|(epoch, state)| (*epoch, state))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasinRecord {
    pub name: BasinName,
    pub id: BasinId,
    pub config: BasinConfig,
    pub location: Option<String>,
    pub created_at_ms: u64,
    /// When it was marked as deleting.
    pub deleted_at_ms: Option<u64>,
    pub request_key: Option<[u8; 32]>,
}

/// How far the deletion of a basin's streams has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeletingBasin {
    /// The last name that was looked at.
    pub cursor: Option<StreamName>,
    /// Every stream is marked.
    pub marked: bool,
}

/// What a listing shows of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEntry {
    pub name: StreamName,
    pub id: StreamId,
    pub created_at_ms: u64,
    pub deleted_at_ms: Option<u64>,
    pub cipher: Option<Cipher>,
}

/// The fencing token in force, and the record that set it. `None`: never set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fencing {
    pub token: FencingToken,
    pub seq_num: Option<SeqNum>,
}

impl Fencing {
    /// The one that was set later in the stream.
    pub fn merge(self, other: Fencing) -> Fencing {
        if other.seq_num > self.seq_num { other } else { self }
    }
}

/// The part of a stream that a channel sequences now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenStreamlet {
    pub channel: ChannelId,
    pub streamlet: StreamletId,
    pub start: StreamPosition,
}

/// The mark of a deleting stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletion {
    pub at_ms: u64,
    /// Where the log says so.
    pub log_index: u64,
    /// The epoch that the open streamlet's channel was in; 0 if none was open.
    pub channel_epoch: Epoch,
}

/// One creation of a stream.
///
/// * `tail`, `fencing`, `trim` and `forgotten` are as of the last flush or rest, whichever was later, and `trim` also
///   as of the last expiry: an active stream's owner knows newer ones.
/// * `trim <= tail.seq_num` and `forgotten <= tail.seq_num`; none of them moves back.
/// * Segments tile `[first, tail.seq_num)`, where `first <= trim`. A stream that is not deleting and has none holds no
///   record below `tail`: then `trim == tail.seq_num`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRecord {
    pub id: StreamId,
    pub basin: BasinId,
    pub name: StreamName,
    pub config: ResolvedStreamConfig,
    pub cipher: Option<Cipher>,
    pub created_at_ms: u64,
    pub request_key: Option<[u8; 32]>,
    /// Everything below is in segments. The timestamp is that of the last record below.
    pub tail: StreamPosition,
    pub fencing: Fencing,
    /// Earliest sequence number to keep.
    pub trim: SeqNum,
    pub forgotten: SeqNum,
    /// Dormant without one.
    pub open: Option<OpenStreamlet>,
    /// The streamlet that was closed last; 0 before the first.
    pub last_closed: StreamletId,
    pub deletion: Option<Deletion>,
    /// Since when the stream is known to hold no record, by the clocks of those who proposed. `None` while it may hold
    /// some. An active stream's owner may have sequenced one since.
    pub empty_since_ms: Option<u64>,
    /// Rows that its segments have: all but those in an index. `None` in what an earlier release wrote, until they
    /// change.
    pub segments: Option<u64>,
    /// Segments below were in an index, and are on their way out.
    pub unpacked_through: SeqNum,
}

/// A streamlet that is open on a channel: what the channel's owner has to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelStreamlet {
    pub stream: StreamId,
    pub streamlet: StreamletId,
    /// Everything below is in segments: where the frames that are to be folded begin.
    pub flushed: StreamPosition,
    /// As of `flushed`, like `trim` and `forgotten`: what the frames from there on did is not in it.
    pub fencing: Fencing,
    pub trim: SeqNum,
    pub forgotten: SeqNum,
    pub config: ResolvedStreamConfig,
    pub cipher: Option<Cipher>,
    pub deleting: bool,
}
