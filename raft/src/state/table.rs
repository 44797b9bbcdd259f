//! Typed rows over families: the only place that joins a key with its value's encoding.

use millrace_api::id::{BasinId, ChannelId, Epoch, FlushSeq, NodeId, StreamId, StreamletId, ZoneGen};
use millrace_api::name::{BasinName, StreamName};
use millrace_api::position::SeqNum;
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use prost::Message;

use crate::codec::common::{basin_name, id, id_bytes, stream_name};
use crate::codec::{DecodeError, record, segments};
use crate::error::StoreError;
use crate::pb;
use crate::state::kv::Read;
use crate::state::record::*;
use crate::state::segment::{ChainIndexRow, ChainRow, SegmentObjectRow};
use crate::state::txn::Txn;
use crate::store::keys::{Family, key_after, prefix_end};

/// One family: what its keys and its values are.
pub trait Table {
    const FAMILY: Family;
    type Key;
    type Row;

    fn key(key: &Self::Key) -> Vec<u8>;
    fn parse_key(bytes: &[u8]) -> Result<Self::Key, DecodeError>;
    fn encode(row: &Self::Row) -> Vec<u8>;
    fn decode(key: &Self::Key, bytes: &[u8]) -> Result<Self::Row, DecodeError>;
}

/// Rows with their keys, in key order.
pub type Rows<T> = Vec<(<T as Table>::Key, <T as Table>::Row)>;

/// Reads of typed rows.
pub trait ReadTable: Read {
    fn row<T: Table>(&self, key: &T::Key) -> Result<Option<T::Row>, StoreError> {
        let Some(bytes) = self.get(T::FAMILY, &T::key(key))? else {
            return Ok(None);
        };
        let row = T::decode(key, &bytes).map_err(|error| error.in_store(T::FAMILY.name()))?;
        Ok(Some(row))
    }

    /// The first `limit` rows whose keys start with `prefix` and, if given, come after `after`.
    fn rows<T: Table>(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows<T>, StoreError> {
        let from = match after.map(key_after) {
            Some(after) if after.as_slice() > prefix => after,
            _ => prefix.to_vec(),
        };
        self.scan(T::FAMILY, &from, prefix_end(prefix).as_deref(), limit)?
            .into_iter()
            .map(|(key, value)| {
                let key = T::parse_key(&key)?;
                let row = T::decode(&key, &value)?;
                Ok((key, row))
            })
            .collect::<Result<_, DecodeError>>()
            .map_err(|error| error.in_store(T::FAMILY.name()))
    }
}

impl<R: Read + ?Sized> ReadTable for R {}

impl Txn<'_> {
    pub fn write<T: Table>(&mut self, key: &T::Key, row: &T::Row) {
        self.put(T::FAMILY, T::key(key), T::encode(row));
    }

    pub fn remove<T: Table>(&mut self, key: &T::Key) {
        self.delete(T::FAMILY, T::key(key));
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], DecodeError> {
    bytes
        .get(at..at + N)
        .and_then(|part| part.try_into().ok())
        .ok_or_else(|| DecodeError::unknown("key", format_args!("{} bytes", bytes.len())))
}

fn whole<const N: usize>(bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    bytes
        .try_into()
        .map_err(|_| DecodeError::unknown("key", format_args!("{} bytes", bytes.len())))
}

fn text(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|error| DecodeError::unknown("key", error))
}

/// The numbers are stored: see [`Family`].
const ORIGIN_FLUSH: u8 = 1;
const ORIGIN_MERGE: u8 = 2;
const ORIGIN_INDEX: u8 = 3;

fn object_key(object: &SegmentObjectId) -> Vec<u8> {
    let origin = match object.origin {
        SegmentOrigin::Flush => ORIGIN_FLUSH,
        SegmentOrigin::Merge => ORIGIN_MERGE,
        SegmentOrigin::Index => ORIGIN_INDEX,
    };
    [
        &object.channel.0.to_be_bytes()[..],
        &object.epoch.0.to_be_bytes(),
        &[origin],
        &object.seq.0.to_be_bytes(),
        &object.part.to_be_bytes(),
    ]
    .concat()
}

fn object_at(bytes: &[u8], at: usize) -> Result<SegmentObjectId, DecodeError> {
    let origin = match number::<1>(bytes, at + 12)? {
        [ORIGIN_FLUSH] => SegmentOrigin::Flush,
        [ORIGIN_MERGE] => SegmentOrigin::Merge,
        [ORIGIN_INDEX] => SegmentOrigin::Index,
        [other] => return Err(DecodeError::unknown("segment origin", other)),
    };
    Ok(SegmentObjectId {
        channel: ChannelId(u32::from_be_bytes(number(bytes, at)?)),
        epoch: Epoch(u64::from_be_bytes(number(bytes, at + 4)?)),
        origin,
        seq: FlushSeq(u64::from_be_bytes(number(bytes, at + 13)?)),
        part: u32::from_be_bytes(number(bytes, at + 21)?),
    })
}

macro_rules! table {
    (
        $(#[$doc:meta])* $table:ident in $family:ident: $key_type:ty => $row_type:ty;
        key $key:pat => $key_bytes:expr, $bytes:ident => $parsed:expr;
        row $row:pat => $message:expr, ($decode_key:pat, $from:ident: $from_type:ty) => $decoded:expr;
    ) => {
        $(#[$doc])*
        pub struct $table;

        impl Table for $table {
            const FAMILY: Family = Family::$family;
            type Key = $key_type;
            type Row = $row_type;

            fn key($key: &Self::Key) -> Vec<u8> {
                $key_bytes
            }

            fn parse_key($bytes: &[u8]) -> Result<Self::Key, DecodeError> {
                $parsed
            }

            fn encode($row: &Self::Row) -> Vec<u8> {
                $message.encode_to_vec()
            }

            fn decode($decode_key: &Self::Key, bytes: &[u8]) -> Result<Self::Row, DecodeError> {
                let $from = <$from_type>::decode(bytes)?;
                $decoded
            }
        }
    };
}

/// The two keys of the `system` family.
pub const APPLIED: &[u8] = b"applied";
pub const CELL: &[u8] = b"cell";

table! {
    /// How far the state follows the log.
    AppliedTable in System: () => Applied;
    key () => APPLIED.to_vec(), _bytes => Ok(());
    row applied => record::applied_message(applied), (_, message: pb::Applied) => record::applied(message);
}
table! {
    CellTable in System: () => u128;
    key () => CELL.to_vec(), _bytes => Ok(());
    row cell => pb::Cell { cell_id: id_bytes(*cell) }, (_, message: pb::Cell) => id(&message.cell_id, "cell id");
}
table! {
    Zones in Zones: u32 => ZoneGen;
    key zone => zone.to_be_bytes().to_vec(), bytes => Ok(u32::from_be_bytes(whole(bytes)?));
    row gen_id => pb::Zone { r#gen: id_bytes(gen_id.0) },
        (_, message: pb::Zone) => Ok(ZoneGen(id(&message.r#gen, "zone gen")?));
}
table! {
    Nodes in Nodes: NodeId => NodeRecord;
    key node => node.0.to_be_bytes().to_vec(), bytes => Ok(NodeId(u64::from_be_bytes(whole(bytes)?)));
    row node => record::node_message(node), (key, message: pb::Node) => record::node(*key, message);
}
table! {
    Channels in Channels: ChannelId => ChannelRow;
    key channel => channel.0.to_be_bytes().to_vec(), bytes => Ok(ChannelId(u32::from_be_bytes(whole(bytes)?)));
    row channel => record::channel_message(channel), (_, message: pb::Channel) => record::channel(message);
}
table! {
    Epochs in Epochs: (ChannelId, Epoch) => EpochState;
    key (channel, epoch) => [&channel.0.to_be_bytes()[..], &epoch.0.to_be_bytes()].concat(),
        bytes => Ok((
            ChannelId(u32::from_be_bytes(number(bytes, 0)?)),
            Epoch(u64::from_be_bytes(number(bytes, 4)?)),
        ));
    row epoch => record::epoch_message(epoch), (_, message: pb::EpochState) => record::epoch(message);
}
table! {
    Basins in Basins: BasinName => BasinRecord;
    key name => name.as_bytes().to_vec(), bytes => basin_name(text(bytes)?);
    row basin => record::basin_message(basin), (key, message: pb::Basin) => record::basin(key.clone(), message);
}
table! {
    BasinIds in BasinIds: BasinId => BasinName;
    key basin => basin.to_bytes().to_vec(), bytes => Ok(BasinId::from_bytes(whole(bytes)?));
    row name => pb::BasinId { name: name.to_string() }, (_, message: pb::BasinId) => basin_name(&message.name);
}
table! {
    DeletingBasins in DeletingBasins: BasinId => DeletingBasin;
    key basin => basin.to_bytes().to_vec(), bytes => Ok(BasinId::from_bytes(whole(bytes)?));
    row work => record::deleting_basin_message(work),
        (_, message: pb::DeletingBasin) => record::deleting_basin(message);
}
table! {
    StreamNames in StreamNames: (BasinId, StreamName) => StreamEntry;
    key (basin, name) => [&basin.to_bytes()[..], name.as_bytes()].concat(),
        bytes => Ok((BasinId::from_bytes(number(bytes, 0)?), stream_name(text(&bytes[16..])?)?));
    row entry => record::entry_message(entry),
        ((_, name), message: pb::StreamName) => record::entry(name.clone(), message);
}
table! {
    Streams in Streams: StreamId => StreamRecord;
    key stream => stream.to_bytes().to_vec(), bytes => Ok(StreamId::from_bytes(whole(bytes)?));
    row stream => record::stream_message(stream), (key, message: pb::Stream) => record::stream(*key, message);
}
table! {
    ChannelStreamlets in ChannelStreamlets: (ChannelId, StreamId) => StreamletId;
    key (channel, stream) => [&channel.0.to_be_bytes()[..], &stream.to_bytes()].concat(),
        bytes => Ok((
            ChannelId(u32::from_be_bytes(number(bytes, 0)?)),
            StreamId::from_bytes(number(bytes, 4)?),
        ));
    row streamlet => pb::ChannelStreamlet { streamlet: streamlet.0 },
        (_, message: pb::ChannelStreamlet) => Ok(StreamletId(message.streamlet));
}
table! {
    DeletingStreams in DeletingStreams: (u64, StreamId) => ();
    key (log_index, stream) => [&log_index.to_be_bytes()[..], &stream.to_bytes()].concat(),
        bytes => Ok((u64::from_be_bytes(number(bytes, 0)?), StreamId::from_bytes(number(bytes, 8)?)));
    row () => pb::DeletingStream {}, (_, _message: pb::DeletingStream) => Ok(());
}
table! {
    Segments in Segments: (StreamId, SeqNum) => ChainRow;
    key (stream, last) => [&stream.to_bytes()[..], &last.to_be_bytes()].concat(),
        bytes => Ok((StreamId::from_bytes(number(bytes, 0)?), u64::from_be_bytes(number(bytes, 16)?)));
    row link => segments::chain_row_message(link), (_, message: pb::Segment) => segments::chain_row(message);
}
table! {
    SegmentObjects in SegmentObjects: SegmentObjectId => SegmentObjectRow;
    key object => object_key(object), bytes => object_at(bytes, 0);
    row object => segments::object_row_message(object),
        (_, message: pb::SegmentObject) => Ok(segments::object_row(message));
}
table! {
    DeadObjects in DeadObjects: (u64, SegmentObjectId) => ();
    key (log_index, object) => [&log_index.to_be_bytes()[..], &object_key(object)].concat(),
        bytes => Ok((u64::from_be_bytes(number(bytes, 0)?), object_at(bytes, 8)?));
    row () => pb::DeadObject {}, (_, _message: pb::DeadObject) => Ok(());
}
table! {
    TrimmedStreams in TrimmedStreams: StreamId => ();
    key stream => stream.to_bytes().to_vec(), bytes => Ok(StreamId::from_bytes(whole(bytes)?));
    row () => pb::TrimmedStream {}, (_, _message: pb::TrimmedStream) => Ok(());
}
table! {
    ChainIndexes in ChainIndexes: SegmentObjectId => ChainIndexRow;
    key object => object_key(object), bytes => object_at(bytes, 0);
    row index => segments::chain_index_message(index),
        (_, message: pb::ChainIndex) => segments::chain_index(message);
}
