//! A cell for tests: real metadata in a directory of their own, a store in memory, one channel, one stream.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use millrace_api::config::{BasinConfig, StorageClass, StreamConfig};
use millrace_api::id::{
    BasinId, ChannelId, ChunkSeq, Epoch, FlushSeq, Incarnation, NodeId, Nonce, StreamId, StreamletId,
    WriterId, ZoneGen,
};
use millrace_api::name::{BasinName, StreamName};
use millrace_api::position::StreamPosition;
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use millrace_raft::command::*;
use millrace_raft::group::{Meta, MetaOptions};
use millrace_raft::query::{ChannelRecord, Fencing, Slot};
use millrace_wal::{
    Chunk, ChunkBuilder, ChunkId, ChunkKind, ChunkMeta, Frame, FrameFlags, FrameHeader, FrameKind,
    FrameWriter, MemoryStore, Payload, Run, SegmentObjectBuilder, Wal, WalOptions, Zone, ZoneStore,
};

use super::cell::Cell;
use crate::cache::{PageCache, PageCacheOptions};
use crate::chain::Chains;
use crate::env::Env;
use crate::wals::Wals;

pub const CHANNEL: ChannelId = ChannelId(4);
pub const NODE: NodeId = NodeId(1);
pub const STREAM: StreamId = StreamId(0xabc);
const GEN: ZoneGen = ZoneGen(9);
const LIFE: Incarnation = Incarnation(1);

pub struct Fixture {
    pub cell: Cell,
    pub store: Arc<MemoryStore>,
    streamlet: StreamletId,
    _dir: tempfile::TempDir,
}

impl Fixture {
    /// The channel is in its first epoch, the stream active on it and empty.
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let meta = Meta::open(MetaOptions::new(dir.path().join("meta"), NODE)).await;
        let meta = meta.expect("fresh metadata");
        let store = Arc::new(MemoryStore::new());
        let zone = Zone::new(store.clone(), GEN);
        let wal = Wal::new(vec![zone], 1, WalOptions::default()).expect("one zone");
        let cell = Cell {
            meta: meta.clone(),
            segments: store.clone(),
            wals: Wals::only(wal),
        };
        let basin = BasinName::new("basin-one").unwrap();
        meta.propose(InitCell { cell_id: 7 }).await.unwrap();
        meta.propose(RegisterZone {
            zone: 0,
            gen_id: GEN,
            replaces: None,
        })
        .await
        .unwrap();
        let register = RegisterNode {
            node: NODE,
            incarnation: LIFE,
            zone: String::new(),
            address: String::new(),
            proves_old_dead: true,
            now_ms: 1,
        };
        meta.propose(register).await.unwrap();
        let class = StorageClass::Standard;
        let channel = CHANNEL;
        meta.propose(CreateChannel { channel, class }).await.unwrap();
        let create = CreateBasin {
            name: basin.clone(),
            id: BasinId(1),
            config: BasinConfig::default(),
            location: None,
            mode: CreateMode::Ensure,
            now_ms: 1,
        };
        meta.propose(create).await.unwrap();
        let create = CreateStream {
            basin,
            name: StreamName::new("s").unwrap(),
            id: STREAM,
            config: StreamConfig::default(),
            mode: CreateMode::Ensure,
            now_ms: 1,
        };
        meta.propose(create).await.unwrap();
        let mut fixture = Self {
            cell,
            store,
            streamlet: StreamletId(0),
            _dir: dir,
        };
        fixture.next_epoch(0).await;
        let stream = STREAM;
        let activated = meta.propose(ActivateStream { stream, channel }).await.unwrap();
        fixture.streamlet = activated.streamlet;
        fixture
    }

    /// Zones from 0 on, the store among them, of which so many have each chunk.
    pub fn spread(&mut self, others: &[Arc<MemoryStore>], quorum: usize) {
        let others = others.iter().zip(100..);
        let others = others.map(|(store, zone_gen)| Zone::new(store.clone(), ZoneGen(zone_gen)));
        let zones = [Zone::new(self.store.clone(), GEN)].into_iter().chain(others);
        let wal = Wal::new(zones.collect(), quorum, WalOptions::default()).expect("zones");
        self.cell.wals = Wals::only(wal);
    }

    pub fn channel(&self) -> ChannelRecord {
        self.cell.meta.state().channel(CHANNEL).unwrap().unwrap()
    }

    /// The channel's next epoch begins; the one before, if there is one, has ended at this slot.
    pub async fn next_epoch(&self, end: u64) -> Epoch {
        let meta = &self.cell.meta;
        let assign = AssignChannel {
            channel: CHANNEL,
            node: NODE,
            incarnation: LIFE,
            gens: vec![GEN],
        };
        let epoch = meta.propose(assign).await.unwrap();
        if epoch.0 > 1 {
            let seal = SealEpoch {
                channel: CHANNEL,
                epoch: Epoch(epoch.0 - 1),
                end: ChunkSeq(end),
                by: epoch,
                adopted: 0,
            };
            meta.propose(seal).await.unwrap();
        }
        let channel = CHANNEL;
        meta.propose(ActivateChannel { channel, epoch }).await.unwrap();
        epoch
    }

    /// A name that the current epoch may use.
    pub fn name(&self, origin: SegmentOrigin, seq: u64) -> SegmentObjectId {
        SegmentObjectId {
            channel: CHANNEL,
            epoch: self.channel().epoch,
            origin,
            seq: FlushSeq(seq),
            part: 0,
        }
    }

    /// Flushes the next `count` records up to this slot of the current epoch, as `change` makes metadata believe.
    pub async fn flush_changed(
        &self,
        count: u32,
        slot: u64,
        change: impl FnOnce(&mut FlushedStream, &mut Vec<FlushedObject>),
    ) -> SegmentObjectId {
        let channel = self.channel();
        let id = self.name(SegmentOrigin::Flush, channel.flush_seq.0 + 1);
        let first = self
            .cell
            .meta
            .state()
            .stream_by_id(STREAM)
            .unwrap()
            .unwrap()
            .tail
            .seq_num;
        let mut builder = SegmentObjectBuilder::new(id);
        builder.push(&batch(first, count));
        let object = builder.finish();
        self.store.upload(&id.to_string(), &object.payload).await.unwrap();
        let run: Run = object.runs[0];
        let mut flushed = FlushedStream {
            stream: STREAM,
            streamlet: self.streamlet,
            tail: StreamPosition::new(run.end_seq, run.last_timestamp),
            fencing: Fencing::default(),
            trim: 0,
            forgotten: 0,
            run: Some(FlushedRun {
                part: 0,
                offset: run.offset,
                frames_len: run.frames_len,
                index_len: run.index_len,
                first_seq: run.first_seq,
                first_timestamp: run.first_timestamp,
                metered_bytes: run.metered_bytes,
            }),
        };
        let mut objects = vec![FlushedObject {
            part: 0,
            len: object.payload.len(),
        }];
        change(&mut flushed, &mut objects);
        let commit = CommitFlush {
            channel: CHANNEL,
            epoch: channel.epoch,
            flush_seq: id.seq,
            from: channel.checkpoint,
            through: Slot {
                epoch: channel.epoch,
                slot: ChunkSeq(slot),
            },
            objects,
            streams: vec![flushed],
            now_ms: 1,
        };
        self.cell.meta.propose(commit).await.unwrap();
        id
    }

    pub async fn flush(&self, count: u32, slot: u64) -> SegmentObjectId {
        self.flush_changed(count, slot, |_, _| {}).await
    }

    /// Nobody may read the stream's first records any more: those of the flush that trims, and all before.
    pub async fn flush_a_trim(&self, count: u32, slot: u64) -> SegmentObjectId {
        self.flush_changed(count, slot, |flushed, _| flushed.trim = flushed.tail.seq_num)
            .await
    }

    /// The same, and the segments have gone.
    pub async fn flush_and_trim(&self, count: u32, slot: u64) -> SegmentObjectId {
        let id = self.flush_a_trim(count, slot).await;
        let drop = DropSegments {
            stream: STREAM,
            limit: 0,
            now_ms: 2,
        };
        assert!(self.cell.meta.propose(drop).await.unwrap().done);
        id
    }

    pub fn chains(&self) -> Chains {
        Chains {
            env: Env::system(),
            meta: self.cell.meta.clone(),
            store: self.store.clone(),
            cache: PageCache::new(self.store.clone(), &PageCacheOptions::default()),
        }
    }

    /// Puts so many of the stream's segments from this record on into an index.
    pub async fn pack(&self, first_seq: u64, count: usize) -> SegmentObjectId {
        let id = self.name(SegmentOrigin::Index, self.channel().pack_seq.0 + 1);
        let segments = self.cell.meta.state().packable(STREAM, first_seq, count).unwrap();
        let name = (id.channel, id.epoch, id.seq);
        let packed = self
            .chains()
            .pack(name, id.part, STREAM, &segments)
            .await
            .unwrap();
        assert_eq!(packed as usize, count);
        id
    }

    /// An object under any name.
    pub async fn put(&self, key: impl ToString, bytes: impl Into<Bytes>) -> String {
        let key = key.to_string();
        self.store
            .upload(&key, &Payload::from(bytes.into()))
            .await
            .unwrap();
        key
    }

    pub async fn chunk(&self, epoch: u64, slot: u64) -> String {
        let mut builder = ChunkBuilder::new();
        builder.push(batch(slot, 1));
        self.stand(builder.finish(meta(epoch, slot, ChunkKind::Chunk)))
            .await
    }

    pub async fn seal(&self, epoch: u64, slot: u64) -> String {
        let by = Epoch(epoch + 1);
        self.stand(Chunk::seal(meta(epoch, slot, ChunkKind::Seal { by })))
            .await
    }

    async fn stand(&self, chunk: Chunk) -> String {
        let key = chunk.meta().id.key();
        self.store.upload(&key, &chunk.payload).await.unwrap();
        key
    }

    /// Every key of the store.
    pub async fn keys(&self) -> Vec<String> {
        self.store.list("", None, usize::MAX).await.unwrap()
    }
}

pub fn chunk_key(channel: ChannelId, epoch: u64, slot: u64) -> String {
    ChunkId::new(channel, Epoch(epoch), ChunkSeq(slot)).key()
}

fn meta(epoch: u64, slot: u64, kind: ChunkKind) -> ChunkMeta {
    ChunkMeta {
        id: ChunkId::new(CHANNEL, Epoch(epoch), ChunkSeq(slot)),
        kind,
        nonce: Nonce(3),
    }
}

/// Records that end a millisecond apart.
fn batch(first_seq: u64, count: u32) -> Frame {
    let mut buffer = BytesMut::new();
    let mut writer = FrameWriter::begin(&mut buffer, 100);
    writer.body().put_bytes(b'x', 100);
    writer.finish(FrameHeader {
        kind: FrameKind::Records,
        flags: FrameFlags::NONE,
        stream: STREAM,
        streamlet: StreamletId(1),
        first_seq,
        record_count: count,
        metered_bytes: 100,
        first_timestamp: 1000 + first_seq,
        last_timestamp: 999 + first_seq + u64::from(count),
        writer: WriterId(0),
        number: 0,
        body_len: 0,
        body_crc: 0,
    })
}
