//! A state in memory that commands are applied to, one log entry each.

use std::collections::BTreeMap;

use millrace_api::config::{BasinConfig, StorageClass, StreamConfig};
use millrace_api::id::*;
use millrace_api::name::{BasinName, StreamName};
use millrace_api::position::StreamPosition;
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};

use crate::apply::{advance, apply};
use crate::command::*;
use crate::query::{ChainLink, PackedSegment, View};
use crate::refused::Refused;
use crate::state::memory::MemoryState;
use crate::state::record::{Fencing, LogPosition, Slot, StreamRecord};
use crate::state::txn::Txn;

#[derive(Default)]
pub struct Model {
    pub state: MemoryState,
    pub index: u64,
    /// Chain indexes, as they were written before they were proposed.
    pub written: Written,
}

pub type Written = BTreeMap<SegmentObjectId, Vec<PackedSegment>>;

impl Model {
    /// The command's response; the log advances by one.
    pub fn run(&mut self, command: impl Into<Command>) -> Result<Response, Refused> {
        self.index += 1;
        let at = LogPosition {
            term: 1,
            node: 1,
            index: self.index,
        };
        let mut txn = Txn::new(&self.state);
        let before = txn_checksum(&txn);
        let answer = apply(&mut txn, &command.into(), at).expect("a sound state");
        if answer.is_err() {
            assert_eq!(txn_checksum(&txn), before, "a refused command changes nothing");
        }
        advance(&mut txn, at, None).expect("a sound state");
        let changes = txn.into_changes();
        self.state.commit(changes);
        answer
    }

    pub fn ok<P: Proposal>(&mut self, command: P) -> P::Reply {
        let command: Command = command.into();
        let name = command.name();
        match self.run(command) {
            Ok(response) => P::reply(response).expect("the command's own response"),
            Err(refused) => panic!("{name}: {refused}"),
        }
    }

    pub fn refused(&mut self, command: impl Into<Command>) -> Refused {
        let command: Command = command.into();
        let name = command.name();
        match self.run(command) {
            Err(refused) => refused,
            Ok(response) => panic!("{name} was not refused: {response:?}"),
        }
    }

    /// The command's error code as a client sees it.
    pub fn code(&mut self, command: impl Into<Command>) -> &'static str {
        self.refused(command).code().as_str()
    }

    pub fn view(&self) -> View<'_> {
        View::new(&self.state)
    }

    pub fn stream(&self, name: &str) -> Option<StreamRecord> {
        let basin = self.view().basin(&basin_name()).unwrap()?;
        self.view().stream(basin.id, &stream_name(name)).unwrap()
    }

    /// The next flush of the channel: so many more records of each of these streams, in one object, a millisecond
    /// apart. The run of a stream takes 110 bytes.
    pub fn flush_of(&self, streams: &[(u128, u64)]) -> CommitFlush {
        let channel = self.view().channel(CHANNEL).unwrap().unwrap();
        let flushed = |(at, (id, count)): (usize, &(u128, u64))| {
            let stream = self.view().stream_by_id(StreamId(*id)).unwrap().unwrap();
            let first = stream.tail.seq_num;
            let tail = StreamPosition::new(first + count, 1000 + first + count);
            FlushedStream {
                stream: stream.id,
                streamlet: stream.open.expect("an active stream").streamlet,
                tail,
                fencing: Fencing::default(),
                trim: 0,
                forgotten: 0,
                run: Some(FlushedRun {
                    part: 0,
                    offset: 110 * at as u64,
                    frames_len: 100,
                    index_len: 10,
                    first_seq: first,
                    first_timestamp: 1000 + first,
                    metered_bytes: 80,
                }),
            }
        };
        CommitFlush {
            channel: CHANNEL,
            epoch: channel.epoch,
            flush_seq: FlushSeq(channel.flush_seq.0 + 1),
            from: channel.checkpoint,
            through: Slot {
                epoch: channel.epoch,
                slot: ChunkSeq(channel.checkpoint.slot.0 + 1),
            },
            objects: vec![FlushedObject {
                part: 0,
                len: 110 * streams.len() as u64 + 20,
            }],
            streams: streams.iter().enumerate().map(flushed).collect(),
            now_ms: 5000,
        }
    }

    /// Where the segments of a stream begin and end.
    pub fn segments(&self, id: u128) -> Vec<(u64, u64)> {
        let links = self.view().chain(StreamId(id), 0, 0).unwrap();
        let segments = links.iter().filter_map(ChainLink::segment);
        segments
            .map(|segment| (segment.row.first_seq, segment.end_seq))
            .collect()
    }

    /// Where the indexes of a stream begin and end.
    pub fn indexes(&self, id: u128) -> Vec<(u64, u64)> {
        let links = self.view().chain(StreamId(id), 0, 0).unwrap();
        let indexes = links.iter().filter(|link| link.segment().is_none());
        indexes.map(|link| (link.first_seq(), link.end_seq())).collect()
    }

    /// Objects with their live runs and live bytes.
    pub fn objects(&self) -> Vec<(SegmentObjectId, u64, u64)> {
        let objects = self.view().segment_objects(None, None, 0).unwrap();
        objects
            .iter()
            .map(|object| (object.object, object.live_runs, object.live_bytes))
            .collect()
    }

    pub fn dead(&self) -> Vec<SegmentObjectId> {
        let dead = self.view().dead_objects(None, 0).unwrap();
        dead.iter().map(|dead| dead.object).collect()
    }

    pub fn by_id(&self, id: u128) -> StreamRecord {
        self.view().stream_by_id(StreamId(id)).unwrap().unwrap()
    }

    /// Lets a stream rest at its flushed tail, with this trim point.
    pub fn rest(&mut self, id: u128, trim: u64, now_ms: u64) {
        let stream = self.by_id(id);
        self.ok(DeactivateStream {
            stream: StreamId(id),
            streamlet: stream.open.expect("an active stream").streamlet,
            channel: CHANNEL,
            epoch: self.view().channel(CHANNEL).unwrap().unwrap().epoch,
            tail: stream.tail,
            flushed: stream.tail.seq_num,
            fencing: Fencing::default(),
            trim,
            forgotten: 0,
            now_ms,
        });
    }

    /// [`Model::with_channel`] with active streams of these ids, named after them.
    pub fn with_active(ids: &[u128]) -> Self {
        let mut model = Self::with_channel();
        for id in ids {
            model.ok(create_stream(&format!("s{id}"), *id));
            model.ok(ActivateStream {
                stream: StreamId(*id),
                channel: CHANNEL,
            });
        }
        model
    }

    /// A model with one basin, one zone, and one active channel of one node.
    pub fn with_channel() -> Self {
        let mut model = Self::default();
        model.ok(create_basin(BasinConfig::default()));
        model.ok(RegisterZone {
            zone: 0,
            gen_id: GEN,
            replaces: None,
        });
        model.ok(register(1, 1));
        model.ok(CreateChannel {
            channel: CHANNEL,
            class: StorageClass::Express,
        });
        assert_eq!(model.ok(assign(1, 1)), Epoch(1));
        model.ok(ActivateChannel {
            channel: CHANNEL,
            epoch: Epoch(1),
        });
        model
    }
}

fn txn_checksum(txn: &Txn<'_>) -> u32 {
    crate::state::checksum::checksum(txn).expect("a sound state")
}

/// Part 0 of a flush of the channel in epoch 1.
pub fn flushed_object(seq: u64) -> SegmentObjectId {
    SegmentObjectId {
        channel: CHANNEL,
        epoch: Epoch(1),
        origin: SegmentOrigin::Flush,
        seq: FlushSeq(seq),
        part: 0,
    }
}

pub const CHANNEL: ChannelId = ChannelId(4);
pub const GEN: ZoneGen = ZoneGen(0xabc);

pub fn basin_name() -> BasinName {
    BasinName::new("basin-one").unwrap()
}

pub fn stream_name(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

pub fn create_basin(config: BasinConfig) -> CreateBasin {
    CreateBasin {
        name: basin_name(),
        id: BasinId(1),
        config,
        location: None,
        mode: CreateMode::CreateOnly { request_key: None },
        now_ms: 100,
    }
}

pub fn create_stream(name: &str, id: u128) -> CreateStream {
    CreateStream {
        basin: basin_name(),
        name: stream_name(name),
        id: StreamId(id),
        config: StreamConfig::default(),
        mode: CreateMode::CreateOnly { request_key: None },
        now_ms: 200,
    }
}

pub fn delete_stream(name: &str) -> DeleteStream {
    DeleteStream {
        basin: basin_name(),
        name: stream_name(name),
        now_ms: 300,
    }
}

pub fn register(node: u64, incarnation: u128) -> RegisterNode {
    RegisterNode {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        zone: "a".into(),
        address: "host:1".into(),
        proves_old_dead: false,
        now_ms: 50,
    }
}

pub fn assign(node: u64, incarnation: u128) -> AssignChannel {
    AssignChannel {
        channel: CHANNEL,
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        gens: vec![GEN],
    }
}

pub fn expire(node: u64, incarnation: u128) -> ExpireNode {
    ExpireNode {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        term: 1,
    }
}

pub fn seal(epoch: u64, end: u64, by: u64, adopted: u64) -> SealEpoch {
    SealEpoch {
        channel: CHANNEL,
        epoch: Epoch(epoch),
        end: ChunkSeq(end),
        by: Epoch(by),
        adopted,
    }
}

pub fn activate_channel(epoch: u64) -> ActivateChannel {
    ActivateChannel {
        channel: CHANNEL,
        epoch: Epoch(epoch),
    }
}
