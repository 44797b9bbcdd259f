//! Reads of the state.
//!
//! [`View`] has the queries, over any state at one moment. [`StateReader`] answers them from the state of this node:
//! each call from one moment, and several from the same moment with [`StateReader::at_once`]. What it answers may be
//! stale; a caller who must not miss a committed change asks [`crate::group::Meta::linearize`] first.

mod chain;
mod segments;

use std::sync::Arc;

use millrace_api::id::{BasinId, ChannelId, Epoch, NodeId, StreamId, ZoneGen};
use millrace_api::limits::LIST_PAGE_MAX;
use millrace_api::name::{BasinName, StreamName};
use millrace_api::position::{SeqNum, Timestamp};
use millrace_api::segment::SegmentObjectId;

use crate::error::StoreError;
use crate::state::checksum::checksum;
use crate::state::kv::Read;
use crate::state::record::*;
use crate::state::table::*;
use crate::store::state::StateDb;

pub use self::chain::{ChainIndexNames, ChainLink};
pub use self::segments::{DeadObjectCursor, DeadObjectRecord};
pub use crate::state::record::{
    BasinRecord, ChannelRecord, ChannelStreamlet, Deletion, EpochState, Fencing, NodeRecord, OpenStreamlet,
    Owner, Seal, Slot, StreamEntry, StreamRecord, ZoneRecord,
};
pub use crate::state::segment::{
    ChainIndexRecord, ChainIndexRow, IndexRow, PackedSegment, SegmentObjectRecord, SegmentRecord, SegmentRow,
};

/// One page of a listing, in byte order of the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub has_more: bool,
}

/// A deleting stream with its place in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletingStreamRecord {
    pub stream: StreamRecord,
    /// To go on after this one.
    pub cursor: DeletingCursor,
}

/// A place in the queue of deleting streams: oldest mark first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeletingCursor(u64, StreamId);

/// A deleting basin and how far its streams are marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletingBasinRecord {
    pub basin: BasinRecord,
    /// Every stream of it is marked.
    pub marked: bool,
}

/// Rows that one step of a walk over a family reads.
const STEP: usize = 1024;

/// The queries over one state.
#[derive(Clone, Copy)]
pub struct View<'a> {
    state: &'a dyn Read,
}

impl<'a> View<'a> {
    pub fn new(state: &'a dyn Read) -> Self {
        Self { state }
    }

    /// `None` before the cell was initialised.
    pub fn cell_id(&self) -> Result<Option<u128>, StoreError> {
        self.state.row::<CellTable>(&())
    }

    /// Index of the last applied entry; 0 before the first.
    pub fn applied_index(&self) -> Result<u64, StoreError> {
        let applied = self.state.row::<AppliedTable>(&())?;
        Ok(applied
            .and_then(|applied| applied.last)
            .map_or(0, |last| last.index))
    }

    /// Registered zones in order of their numbers.
    pub fn zones(&self) -> Result<Vec<ZoneRecord>, StoreError> {
        let row = |(zone, gen_id): (u32, ZoneGen)| ZoneRecord { zone, gen_id };
        Ok(self.all::<Zones>(&[])?.into_iter().map(row).collect())
    }

    pub fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError> {
        Ok(self
            .all::<Nodes>(&[])?
            .into_iter()
            .map(|(_, node)| node)
            .collect())
    }

    pub fn node(&self, node: NodeId) -> Result<Option<NodeRecord>, StoreError> {
        self.state.row::<Nodes>(&node)
    }

    pub fn basin(&self, name: &BasinName) -> Result<Option<BasinRecord>, StoreError> {
        self.state.row::<Basins>(name)
    }

    pub fn basin_by_id(&self, id: BasinId) -> Result<Option<BasinRecord>, StoreError> {
        match self.state.row::<BasinIds>(&id)? {
            Some(name) => self.basin(&name),
            None => Ok(None),
        }
    }

    /// Basins whose names start with `prefix` and come after `start_after` (exclusive; empty means from the start).
    /// A limit of 0 or above 1000 means 1000.
    pub fn list_basins(
        &self,
        prefix: &str,
        start_after: &str,
        limit: usize,
    ) -> Result<Page<BasinRecord>, StoreError> {
        let after = (!start_after.is_empty()).then_some(start_after.as_bytes());
        self.page::<Basins, _>(prefix.as_bytes(), after, limit, |_, basin| basin)
    }

    /// The stream that the name leads to, deleting or not.
    pub fn stream(&self, basin: BasinId, name: &StreamName) -> Result<Option<StreamRecord>, StoreError> {
        match self.state.row::<StreamNames>(&(basin, name.clone()))? {
            Some(entry) => self.stream_by_id(entry.id),
            None => Ok(None),
        }
    }

    pub fn stream_by_id(&self, id: StreamId) -> Result<Option<StreamRecord>, StoreError> {
        self.state.row::<Streams>(&id)
    }

    /// Streams of a basin as [`View::list_basins`] lists basins. A basin that does not exist has none.
    pub fn list_streams(
        &self,
        basin: BasinId,
        prefix: &str,
        start_after: &str,
        limit: usize,
    ) -> Result<Page<StreamEntry>, StoreError> {
        let within = |text: &str| [&basin.to_bytes()[..], text.as_bytes()].concat();
        let after = (!start_after.is_empty()).then(|| within(start_after));
        self.page::<StreamNames, _>(&within(prefix), after.as_deref(), limit, |_, entry| entry)
    }

    pub fn channel(&self, channel: ChannelId) -> Result<Option<ChannelRecord>, StoreError> {
        let Some(row) = self.state.row::<Channels>(&channel)? else {
            return Ok(None);
        };
        let epochs = self.all::<Epochs>(&channel.0.to_be_bytes())?;
        Ok(Some(channel_record(channel, row, epochs.into_iter())))
    }

    /// Every channel, in order of their numbers. Epochs are read in one go, for they have the same order.
    pub fn channels(&self) -> Result<Vec<ChannelRecord>, StoreError> {
        let mut epochs = self.all::<Epochs>(&[])?.into_iter().peekable();
        let mut channels = Vec::new();
        for (channel, row) in self.all::<Channels>(&[])? {
            while epochs.next_if(|((of, _), _)| *of < channel).is_some() {}
            let own = std::iter::from_fn(|| epochs.next_if(|((of, _), _)| *of == channel));
            channels.push(channel_record(channel, row, own));
        }
        Ok(channels)
    }

    /// What is open on a channel, deleting streams included, in order of their ids. Reads one row per streamlet.
    pub fn open_streamlets(&self, channel: ChannelId) -> Result<Vec<ChannelStreamlet>, StoreError> {
        self.all::<ChannelStreamlets>(&channel.0.to_be_bytes())?
            .into_iter()
            .map(|((_, id), streamlet)| {
                let stream = self.stream_by_id(id)?;
                let open = stream.and_then(|stream| Some((stream.open?, stream)));
                match open {
                    Some((open, stream)) if open.streamlet == streamlet && open.channel == channel => {
                        Ok(channel_streamlet(open, stream))
                    }
                    _ => Err(StoreError::corrupt(
                        "channel_streamlets",
                        format_args!("streamlet {streamlet} of {id} is not open on channel {channel}"),
                    )),
                }
            })
            .collect()
    }

    /// How many streamlets are open on a channel, deleting ones included. Reads one short row for each.
    pub fn open_streamlets_count(&self, channel: ChannelId) -> Result<usize, StoreError> {
        let prefix = channel.0.to_be_bytes();
        let (mut count, mut after) = (0, None);
        loop {
            let step = self
                .state
                .rows::<ChannelStreamlets>(&prefix, after.as_deref(), STEP)?;
            count += step.len();
            match step.last() {
                Some((last, _)) if step.len() == STEP => after = Some(ChannelStreamlets::key(last)),
                _ => return Ok(count),
            }
        }
    }

    pub fn deleting_basins(&self) -> Result<Vec<DeletingBasinRecord>, StoreError> {
        self.all::<DeletingBasins>(&[])?
            .into_iter()
            .map(|(id, work)| match self.basin_by_id(id)? {
                Some(basin) => Ok(DeletingBasinRecord {
                    basin,
                    marked: work.marked,
                }),
                None => Err(StoreError::corrupt(
                    "deleting_basins",
                    format_args!("no basin {id}"),
                )),
            })
            .collect()
    }

    /// Up to `limit` deleting streams, oldest mark first, after the cursor.
    pub fn deleting_streams(
        &self,
        after: Option<DeletingCursor>,
        limit: usize,
    ) -> Result<Vec<DeletingStreamRecord>, StoreError> {
        let after = after.map(|DeletingCursor(index, id)| DeletingStreams::key(&(index, id)));
        self.state
            .rows::<DeletingStreams>(&[], after.as_deref(), limit)?
            .into_iter()
            .map(|((index, id), ())| match self.stream_by_id(id)? {
                Some(stream) => Ok(DeletingStreamRecord {
                    stream,
                    cursor: DeletingCursor(index, id),
                }),
                None => Err(StoreError::corrupt(
                    "deleting_streams",
                    format_args!("no stream {id}"),
                )),
            })
            .collect()
    }

    /// One number over the whole state. Reads all of it.
    pub fn checksum(&self) -> Result<u32, StoreError> {
        checksum(self.state)
    }

    fn all<T: Table>(&self, prefix: &[u8]) -> Result<Rows<T>, StoreError> {
        let mut rows: Rows<T> = Vec::new();
        loop {
            let after = rows.last().map(|(key, _)| T::key(key));
            let step = self.state.rows::<T>(prefix, after.as_deref(), STEP)?;
            let more = step.len() == STEP;
            rows.extend(step);
            if !more {
                return Ok(rows);
            }
        }
    }

    fn page<T: Table, I>(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        item: impl Fn(T::Key, T::Row) -> I,
    ) -> Result<Page<I>, StoreError> {
        let limit = page_limit(limit);
        let mut rows = self.state.rows::<T>(prefix, after, limit + 1)?;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Ok(Page {
            items: rows.into_iter().map(|(key, row)| item(key, row)).collect(),
            has_more,
        })
    }
}

/// What a caller's limit means.
fn page_limit(limit: usize) -> usize {
    match limit {
        0 => LIST_PAGE_MAX,
        limit => limit.min(LIST_PAGE_MAX),
    }
}

/// `epochs` are those of the channel.
fn channel_record(
    channel: ChannelId,
    row: ChannelRow,
    epochs: impl Iterator<Item = ((ChannelId, Epoch), EpochState)>,
) -> ChannelRecord {
    let epochs: Vec<_> = epochs.map(|((_, epoch), state)| (epoch, state)).collect();
    let current = epochs
        .iter()
        .find(|(epoch, _)| *epoch == row.epoch)
        .map(|(_, state)| state);
    ChannelRecord {
        channel,
        class: row.class,
        owner: row.owner,
        epoch: row.epoch,
        activated: current.is_some_and(|state| state.activated && state.seal.is_none()),
        sealed_through: row.sealed_through,
        checkpoint: row.checkpoint,
        flush_seq: row.flush_seq,
        merge_seq: row.merge_seq,
        pack_seq: row.pack_seq,
        gens: current.map(|state| state.gens.clone()).unwrap_or_default(),
        epochs,
    }
}

fn channel_streamlet(open: OpenStreamlet, stream: StreamRecord) -> ChannelStreamlet {
    ChannelStreamlet {
        stream: stream.id,
        streamlet: open.streamlet,
        flushed: stream.tail,
        fencing: stream.fencing,
        trim: stream.trim,
        forgotten: stream.forgotten,
        config: stream.config,
        cipher: stream.cipher,
        deleting: stream.deletion.is_some(),
    }
}

/// Reads of this node's state. Cheap to make and to clone; kept for long, it pins a state that a snapshot may have
/// replaced.
#[derive(Clone)]
pub struct StateReader {
    db: Arc<StateDb>,
}

macro_rules! at_one_moment {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        impl StateReader {
            $(
                #[doc = concat!("[`View::", stringify!($name), "`] at one moment.")]
                pub fn $name(&self, $($arg: $type),*) -> Result<$out, StoreError> {
                    self.at_once(|view| view.$name($($arg),*))
                }
            )*
        }
    };
}

impl StateReader {
    pub(crate) fn new(db: Arc<StateDb>) -> Self {
        Self { db }
    }

    /// Runs several queries over the same moment.
    pub fn at_once<T>(&self, queries: impl FnOnce(View<'_>) -> T) -> T {
        self.db.at_once(|state| queries(View::new(state)))
    }

    /// The latest row, without a snapshot: one get.
    pub fn basin(&self, name: &BasinName) -> Result<Option<BasinRecord>, StoreError> {
        View::new(&*self.db).basin(name)
    }

    /// The latest row, without a snapshot: one get.
    pub fn stream_by_id(&self, id: StreamId) -> Result<Option<StreamRecord>, StoreError> {
        View::new(&*self.db).stream_by_id(id)
    }

    /// The latest row, without a snapshot: one get.
    pub fn node(&self, node: NodeId) -> Result<Option<NodeRecord>, StoreError> {
        View::new(&*self.db).node(node)
    }

    /// The latest value, without a snapshot: one get.
    pub fn cell_id(&self) -> Result<Option<u128>, StoreError> {
        View::new(&*self.db).cell_id()
    }
}

at_one_moment! {
    applied_index() -> u64;
    zones() -> Vec<ZoneRecord>;
    nodes() -> Vec<NodeRecord>;
    basin_by_id(id: BasinId) -> Option<BasinRecord>;
    list_basins(prefix: &str, start_after: &str, limit: usize) -> Page<BasinRecord>;
    stream(basin: BasinId, name: &StreamName) -> Option<StreamRecord>;
    list_streams(basin: BasinId, prefix: &str, start_after: &str, limit: usize) -> Page<StreamEntry>;
    channel(channel: ChannelId) -> Option<ChannelRecord>;
    channels() -> Vec<ChannelRecord>;
    open_streamlets(channel: ChannelId) -> Vec<ChannelStreamlet>;
    open_streamlets_count(channel: ChannelId) -> usize;
    deleting_basins() -> Vec<DeletingBasinRecord>;
    deleting_streams(after: Option<DeletingCursor>, limit: usize) -> Vec<DeletingStreamRecord>;
    checksum() -> u32;
    chain(stream: StreamId, from_seq: SeqNum, limit: usize) -> Vec<ChainLink>;
    chain_at_time(stream: StreamId, from_seq: SeqNum, timestamp: Timestamp) -> Option<ChainLink>;
    packable(stream: StreamId, first_seq: SeqNum, limit: usize) -> Vec<PackedSegment>;
    chain_indexes(after: Option<SegmentObjectId>, limit: usize) -> Vec<ChainIndexNames>;
    segment_object(id: SegmentObjectId) -> Option<SegmentObjectRecord>;
    segment_objects(channel: Option<ChannelId>, after: Option<SegmentObjectId>, limit: usize)
        -> Vec<SegmentObjectRecord>;
    dead_objects(after: Option<DeadObjectCursor>, limit: usize) -> Vec<DeadObjectRecord>;
    trimmed_streams(after: Option<StreamId>, limit: usize) -> Vec<StreamId>;
    streams_after(after: Option<StreamId>, limit: usize) -> Vec<StreamRecord>;
}
