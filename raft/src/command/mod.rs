//! What may change, and what the change answers.
//!
//! A command is complete: ids, times and random choices were made by whoever proposes it. Proposing the same
//! command twice is safe, unless its documentation says otherwise: an unknown outcome is resolved by asking again.

mod chain;
mod segments;

use millrace_api::config::{
    BasinConfig, BasinReconfiguration, Cipher, ResolvedStreamConfig, StorageClass, StreamConfig,
    StreamReconfiguration,
};
use millrace_api::id::{
    BasinId, ChannelId, ChunkSeq, Epoch, Incarnation, NodeId, StreamId, StreamletId, ZoneGen,
};
use millrace_api::name::{BasinName, StreamName};
use millrace_api::position::{SeqNum, StreamPosition};

pub use self::chain::*;
pub use self::segments::*;
use crate::state::record::{BasinRecord, Fencing, StreamRecord};

/// Encoded bytes of one command. A larger one gets into no log.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;

/// Streams that one [`MarkBasinStreams`] may mark. Zero and larger limits mean this.
pub const MARK_LIMIT_MAX: u32 = 1000;

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident => $reply:ty, $take:pat => $out:expr;)*) => {
        /// One change of the metadata.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Command { $($(#[$doc])* $name($name)),* }

        impl Command {
            /// The command's name, for logs and metrics.
            pub fn name(&self) -> &'static str {
                match self { $(Command::$name(_) => stringify!($name)),* }
            }

            /// Whether it may change which channels there are, who owns them, whether they serve, or under which zones
            /// they are written.
            pub fn concerns_channels(&self) -> bool {
                matches!(
                    self,
                    Command::RegisterZone(_)
                        | Command::RegisterNode(_)
                        | Command::ExpireNode(_)
                        | Command::CreateChannel(_)
                        | Command::AssignChannel(_)
                        | Command::ReleaseChannels(_)
                        | Command::ActivateChannel(_)
                )
            }
        }

        $(
            impl From<$name> for Command {
                fn from(command: $name) -> Self {
                    Command::$name(command)
                }
            }

            impl Proposal for $name {
                type Reply = $reply;
                fn reply(response: Response) -> Option<$reply> {
                    match response {
                        $take => Some($out),
                        _ => None,
                    }
                }
            }
        )*
    };
}

/// A command together with the type of its answer.
pub trait Proposal: Into<Command> {
    type Reply;

    /// The answer in its own type; `None` if the response belongs to another command.
    fn reply(response: Response) -> Option<Self::Reply>;
}

impl Proposal for Command {
    type Reply = Response;

    fn reply(response: Response) -> Option<Response> {
        Some(response)
    }
}

commands! {
    InitCell => (), Response::Done => ();
    RegisterZone => (), Response::Done => ();
    RegisterNode => NodeRegistered, Response::NodeRegistered(reply) => reply;
    ExpireNode => NodeExpired, Response::NodeExpired(reply) => reply;
    CreateChannel => (), Response::Done => ();
    AssignChannel => Epoch, Response::Assigned(epoch) => epoch;
    ReleaseChannels => ChannelsReleased, Response::ChannelsReleased(reply) => reply;
    SealEpoch => EpochSealed, Response::EpochSealed(reply) => reply;
    ActivateChannel => (), Response::Done => ();
    CreateBasin => BasinProvisioned, Response::Basin(reply) => reply;
    ReconfigureBasin => BasinProvisioned, Response::Basin(reply) => reply;
    DeleteBasin => BasinProvisioned, Response::Basin(reply) => reply;
    MarkBasinStreams => StreamsMarked, Response::StreamsMarked(reply) => reply;
    PurgeBasin => (), Response::Done => ();
    CreateStream => StreamProvisioned, Response::Stream(reply) => *reply;
    ReconfigureStream => StreamProvisioned, Response::Stream(reply) => *reply;
    DeleteStream => StreamProvisioned, Response::Stream(reply) => *reply;
    CloseStreamlet => (), Response::Done => ();
    PurgeStream => (), Response::Done => ();
    ActivateStream => Activation, Response::Activation(reply) => *reply;
    DeactivateStream => (), Response::Done => ();
    CompareState => StateChecksum, Response::StateChecksum(reply) => reply;
    CheckState => (), Response::Done => ();
    CommitFlush => Flushed, Response::Flushed(reply) => reply;
    DropSegments => SegmentsDropped, Response::SegmentsDropped(reply) => reply;
    ExpireSegments => SegmentsDropped, Response::SegmentsDropped(reply) => reply;
    ForgetObjects => (), Response::Done => ();
    DeleteEmptyStream => StreamProvisioned, Response::Stream(reply) => *reply;
    CommitMerge => Merged, Response::Merged(reply) => reply;
    PackChain => ChainPacked, Response::ChainPacked(reply) => reply;
    UnpackChain => ChainUnpacked, Response::ChainUnpacked(reply) => reply;
}

/// Gives the cell its identity, once. The same id again is no change; another is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitCell {
    pub cell_id: u128,
}

/// Registers the life of a zone store. Refused with the registered one if that is another, unless it is the one that
/// this replaces: a zone is replaced deliberately, never by mistake. A life that is registered for another zone is
/// refused, too: one store cannot be two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterZone {
    pub zone: u32,
    pub gen_id: ZoneGen,
    /// The registered life that ends with this: epochs that were written under it are not written to the new one.
    pub replaces: Option<ZoneGen>,
}

/// A process begins its life as `node`. The same incarnation again updates zone and address. An incarnation that was
/// replaced or has expired is refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterNode {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// At most 256 bytes.
    pub zone: String,
    /// At most 256 bytes.
    pub address: String,
    /// The registering process holds the lock on the data directory of its predecessors, so they have ended: their
    /// channels are free at once. Without proof the channels stay with them until [`ExpireNode`].
    pub proves_old_dead: bool,
    pub now_ms: u64,
}

/// Ends the ownership of one incarnation: its channels are free afterwards. Another incarnation that is registered
/// by then keeps its registration and its channels. An unknown incarnation is no change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpireNode {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// The term whose leader granted it nothing for long enough. Refused in another, where somebody else may have. 0 in
    /// entries that were stored without.
    pub term: u64,
}

/// Creates a channel without owner, at epoch 0. The same class again is no change; another is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateChannel {
    pub channel: ChannelId,
    pub class: StorageClass,
}

/// Begins the next epoch of a channel, owned by the given incarnation and written under `gens`. Refused while
/// another live incarnation owns the channel. Asked again by the owner itself, it begins another epoch: what an earlier
/// attempt wrote into its own may still arrive there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignChannel {
    pub channel: ChannelId,
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// One to sixteen, distinct, each registered.
    pub gens: Vec<ZoneGen>,
}

/// The owner gives channels back. Before it proposes this it has stopped for good, for these epochs. Channels that
/// it does not own at the named epoch are left as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseChannels {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub channels: Vec<ReleasedChannel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleasedChannel {
    pub channel: ChannelId,
    pub epoch: Epoch,
    /// The owner sealed its own epoch at this slot, so the next owner finds it closed. Ignored if the epoch was
    /// never activated.
    pub sealed_end: Option<ChunkSeq>,
}

/// Records where an epoch ended. Refused unless `by` is the channel's current epoch and `epoch` its oldest unsealed
/// one; the verdict that this same `by` has already recorded is answered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealEpoch {
    pub channel: ChannelId,
    pub epoch: Epoch,
    /// Exclusive: slots from here on are garbage even where they hold chunks.
    pub end: ChunkSeq,
    pub by: Epoch,
    /// Slots `[0, adopted)` of `by` continue the sealed epoch; durable before this is proposed.
    pub adopted: u64,
}

/// Opens the current epoch for sequencing. Refused unless every earlier epoch is sealed. Again is no change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivateChannel {
    pub channel: ChannelId,
    pub epoch: Epoch,
}

/// How a create treats what exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateMode {
    /// Refused if the name is taken, unless by the same request. The key is the caller's hash over request token and
    /// requested configuration; `None` never matches.
    CreateOnly { request_key: Option<[u8; 32]> },
    /// Replaces the configuration of what exists.
    Ensure,
    /// Answers a stream that exists as it is. Not for basins.
    Auto,
}

/// Creates a basin, or replaces its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateBasin {
    pub name: BasinName,
    /// New and random; not used if the basin exists.
    pub id: BasinId,
    pub config: BasinConfig,
    /// `None` keeps the location of a basin that exists; another than it has is refused.
    pub location: Option<String>,
    pub mode: CreateMode,
    pub now_ms: u64,
}

/// Changes single fields of a basin's configuration. Existing streams are not touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconfigureBasin {
    pub name: BasinName,
    pub change: BasinReconfiguration,
}

/// Marks a basin as deleting. A basin that is deleting already keeps its first mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteBasin {
    pub name: BasinName,
    pub now_ms: u64,
}

/// One bounded step of deleting a basin's streams: looks at the next `limit` names after the stored cursor and marks
/// those that are not marked yet. To be proposed again until it answers that it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkBasinStreams {
    pub basin: BasinId,
    /// See [`MARK_LIMIT_MAX`].
    pub limit: u32,
    pub now_ms: u64,
}

/// Frees the name of a deleting basin. Refused while it has a stream. A basin that is gone is no change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeBasin {
    pub basin: BasinId,
}

/// Creates a stream, replaces its configuration, or answers it as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateStream {
    pub basin: BasinName,
    pub name: StreamName,
    /// New and random; not used if the stream exists.
    pub id: StreamId,
    /// As asked for: what is `None` comes from the basin's default.
    pub config: StreamConfig,
    pub mode: CreateMode,
    pub now_ms: u64,
}

/// Changes single fields of a stream's configuration; a cleared field takes the basin's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconfigureStream {
    pub basin: BasinName,
    pub name: StreamName,
    pub change: StreamReconfiguration,
}

/// Marks a stream as deleting. A stream that is deleting already keeps its first mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteStream {
    pub basin: BasinName,
    pub name: StreamName,
    pub now_ms: u64,
}

/// The owner has stopped sequencing and answering for a deleting stream. A streamlet that is closed already, or
/// whose stream is gone, is no change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseStreamlet {
    pub stream: StreamId,
    pub streamlet: StreamletId,
    pub channel: ChannelId,
    pub epoch: Epoch,
}

/// Removes a deleting stream and frees its name. Refused until its streamlet was closed, or the channel's epoch at
/// the time of the mark was sealed; and while it has segments. A stream that is gone is no change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeStream {
    pub stream: StreamId,
}

/// Opens a streamlet for a dormant stream. An active stream answers the streamlet that it has, on whatever channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivateStream {
    pub stream: StreamId,
    pub channel: ChannelId,
}

/// The owner lets a stream rest. Before it proposes this it has stopped answering for the stream, and goes on only
/// when it knows that it was refused. Refused unless everything is flushed: `tail` is where the last flush ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeactivateStream {
    pub stream: StreamId,
    pub streamlet: StreamletId,
    pub channel: ChannelId,
    pub epoch: Epoch,
    pub tail: StreamPosition,
    /// Everything below is in segments.
    pub flushed: SeqNum,
    pub fencing: Fencing,
    /// Earliest sequence number to keep.
    pub trim: SeqNum,
    /// 1 + the highest sequence number of any frame whose writer is no longer remembered.
    pub forgotten: SeqNum,
    /// 0 in entries that were stored without: since when the stream is empty is then left as it is.
    pub now_ms: u64,
}

/// Lets every replica compute the checksum of its state as it is at this entry, and remember it for a while. Changes
/// nothing. Costs a read of the whole state on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompareState {}

/// What the leader computed for an earlier [`CompareState`]. A replica that remembers another checksum for that entry
/// fails; one that remembers none, because it was restarted or took in a snapshot since, says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckState {
    pub computed: StateChecksum,
}

/// What a command answers when it was not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// True now, whether or not this command made it so.
    Done,
    NodeRegistered(NodeRegistered),
    NodeExpired(NodeExpired),
    Assigned(Epoch),
    ChannelsReleased(ChannelsReleased),
    EpochSealed(EpochSealed),
    Basin(BasinProvisioned),
    StreamsMarked(StreamsMarked),
    Stream(Box<StreamProvisioned>),
    Activation(Box<Activation>),
    StateChecksum(StateChecksum),
    Flushed(Flushed),
    SegmentsDropped(SegmentsDropped),
    Merged(Merged),
    ChainPacked(ChainPacked),
    ChainUnpacked(ChainUnpacked),
}

/// The checksum of a state as it was just before the entry at `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateChecksum {
    pub index: u64,
    pub checksum: u32,
}

/// What a create, replace, change or delete did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Created,
    Updated,
    Noop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRegistered {
    /// The incarnation that this one replaced.
    pub replaced: Option<Incarnation>,
    /// Channels that became free by proof.
    pub freed: Vec<ChannelId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeExpired {
    pub freed: Vec<ChannelId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelsReleased {
    pub released: Vec<ChannelId>,
}

/// The recorded verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochSealed {
    pub end: ChunkSeq,
    pub by: Epoch,
    pub adopted: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasinProvisioned {
    pub outcome: Outcome,
    /// As it is now.
    pub basin: BasinRecord,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamProvisioned {
    pub outcome: Outcome,
    /// As it is now; if it is active, its owner wants to hear of the change.
    pub stream: StreamRecord,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamsMarked {
    /// Streams that this step marked, with the streamlet that is open.
    pub marked: Vec<(StreamId, Option<(ChannelId, StreamletId)>)>,
    /// Every stream of the basin is marked.
    pub done: bool,
}

/// Where an active stream is, and what it starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    pub outcome: Outcome,
    pub channel: ChannelId,
    pub streamlet: StreamletId,
    /// The channel's epoch and owner as of this command.
    pub epoch: Epoch,
    pub owner: Option<(NodeId, Incarnation)>,
    /// Where the streamlet starts.
    pub start: StreamPosition,
    /// As of the last flush or rest, like `trim` and `forgotten`.
    pub fencing: Fencing,
    pub trim: SeqNum,
    pub forgotten: SeqNum,
    pub config: ResolvedStreamConfig,
    pub cipher: Option<Cipher>,
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
