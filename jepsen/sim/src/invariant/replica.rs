//! A replica's state in memory, for tests: what an invariant must refuse is made here.

use millrace_api::config::{BasinConfig, StorageClass, StreamConfig};
use millrace_api::id::{BasinId, ChannelId, Epoch, Incarnation, NodeId, StreamId, ZoneGen};
use millrace_api::name::{BasinName, StreamName};
use millrace_raft::apply::{advance, apply};
use millrace_raft::command::{
    AssignChannel, Command, CreateBasin, CreateChannel, CreateMode, CreateStream, InitCell, RegisterNode,
    RegisterZone,
};
use millrace_raft::query::View;
use millrace_raft::state::memory::MemoryState;
use millrace_raft::state::record::{LogPosition, StreamRecord};
use millrace_raft::state::table::Streams;
use millrace_raft::state::txn::Txn;

const CHANNEL: ChannelId = ChannelId(1);
const GEN: ZoneGen = ZoneGen(7);
pub const STREAM: StreamId = StreamId(3);

#[derive(Clone, Default)]
pub struct Replica {
    state: MemoryState,
    index: u64,
}

impl Replica {
    /// Two nodes, a channel of nobody, and a stream.
    pub fn new() -> Self {
        let name = BasinName::new("basin-one").expect("a name");
        let mut replica = Self::default();
        replica.apply(InitCell { cell_id: 1 });
        replica.apply(RegisterZone {
            zone: 0,
            gen_id: GEN,
            replaces: None,
        });
        for node in [1, 2] {
            replica.apply(RegisterNode {
                node: NodeId(node),
                incarnation: Incarnation(u128::from(node)),
                zone: String::new(),
                address: String::new(),
                proves_old_dead: true,
                now_ms: 0,
            });
        }
        replica.apply(CreateChannel {
            channel: CHANNEL,
            class: StorageClass::Standard,
        });
        let mode = || CreateMode::CreateOnly { request_key: None };
        replica.apply(CreateBasin {
            name: name.clone(),
            id: BasinId(1),
            config: BasinConfig::default(),
            location: None,
            mode: mode(),
            now_ms: 0,
        });
        replica.apply(CreateStream {
            basin: name,
            name: StreamName::new("stream").expect("a name"),
            id: STREAM,
            config: StreamConfig::default(),
            mode: mode(),
            now_ms: 0,
        });
        replica
    }

    /// Gives the channel to the node, and answers nothing: what is refused changes nothing.
    pub fn assign(&mut self, node: u64) {
        self.apply(AssignChannel {
            channel: CHANNEL,
            node: NodeId(node),
            incarnation: Incarnation(u128::from(node)),
            gens: vec![GEN],
        });
    }

    /// The channel's epoch.
    pub fn epoch(&self) -> Epoch {
        let channel = self.view().channel(CHANNEL).expect("a sound state");
        channel.expect("the channel").epoch
    }

    /// An entry that changes nothing.
    pub fn advance(&mut self) {
        self.change(|_| {});
    }

    /// Changes the stream behind the back of all rules.
    pub fn forge(&mut self, forge: impl FnOnce(&mut StreamRecord)) {
        let stream = self.view().stream_by_id(STREAM).expect("a sound state");
        let mut stream = stream.expect("the stream");
        forge(&mut stream);
        self.change(|txn| txn.write::<Streams>(&STREAM, &stream));
    }

    pub fn view(&self) -> View<'_> {
        View::new(&self.state)
    }

    fn apply(&mut self, command: impl Into<Command>) {
        let (command, at) = (command.into(), self.at(1));
        self.change(|txn| {
            let applied = apply(txn, &command, at).expect("a sound state");
            applied.expect("nothing against it");
        });
    }

    fn change(&mut self, change: impl FnOnce(&mut Txn<'_>)) {
        let mut txn = Txn::new(&self.state);
        change(&mut txn);
        advance(&mut txn, self.at(1), None).expect("a sound state");
        let changes = txn.into_changes();
        self.state.commit(changes);
        self.index += 1;
    }

    fn at(&self, further: u64) -> LogPosition {
        LogPosition {
            term: 1,
            node: 1,
            index: self.index + further,
        }
    }
}
