//! The way to every node of the cell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_api::id::{ChannelId, NodeId};
use millrace_raft::group::Meta;
use millrace_raft::grpc::{Channel, GrpcTransport};
use millrace_raft::network::Peer;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::link::{self, Opened, Outgoing};
use super::pb::{self, peer_client::PeerClient};
use crate::channel::handle::ChannelHandle;

/// Links to one node: appends must not wait behind long reads, nor reads behind appends that wait for room.
const LANES: usize = 2;
/// Requests that may wait for a link before those who send them wait too.
const QUEUED_MAX: usize = 1024;
/// Two batches of the largest size with their headers and more.
pub const MESSAGE_MAX: usize = 8 * 1024 * 1024;

/// Knows the nodes. Clones share their links.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    meta: Meta,
    transport: GrpcTransport,
    links: Mutex<BTreeMap<NodeId, [mpsc::Sender<Outgoing>; LANES]>>,
    /// Ends the links.
    stop: CancellationToken,
}

impl Peers {
    /// Links end with `stop`; what waits on them is told then that the other node cannot be reached.
    pub fn new(meta: Meta, transport: GrpcTransport, stop: CancellationToken) -> Self {
        Self {
            shared: Arc::new(Shared {
                meta,
                transport,
                links: Mutex::default(),
                stop,
            }),
        }
    }

    /// A handle on a channel of another node. Whether the node serves it, it says itself.
    pub fn channel(&self, node: NodeId, channel: ChannelId) -> ChannelHandle {
        let mut links = self.shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        let [appends, others] = links.entry(node).or_insert_with(|| {
            std::array::from_fn(|_lane| {
                let (sender, outgoing) = mpsc::channel(QUEUED_MAX);
                let (dialer, stop) = (self.dialer(node), self.shared.stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = link::run(dialer, outgoing) => {}
                        () = stop.cancelled() => {}
                    }
                });
                sender
            })
        });
        ChannelHandle::remote(channel, appends.clone(), others.clone())
    }

    /// Asks a node that leads, or is believed to, for the right to answer.
    pub async fn heartbeat(
        &self,
        node: NodeId,
        request: pb::HeartbeatRequest,
        timeout: Duration,
    ) -> Result<pb::HeartbeatResponse, tonic::Status> {
        let peer = self.dialer(node).peer()?;
        let mut client = client(self.shared.transport.channel(&peer));
        match tokio::time::timeout(timeout, client.heartbeat(request)).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(tonic::Status::deadline_exceeded("no answer in time")),
        }
    }

    /// Where metadata say that a node is.
    pub fn peer(&self, node: NodeId) -> Result<Peer, tonic::Status> {
        self.dialer(node).peer()
    }

    /// A connection for one caller, made when it is used.
    pub fn connection(&self, peer: &Peer) -> Channel {
        self.shared.transport.new_channel(peer)
    }

    fn dialer(&self, node: NodeId) -> Dialer {
        Dialer {
            node,
            shared: self.shared.clone(),
        }
    }
}

/// Connects to one node, wherever metadata says it is.
pub struct Dialer {
    node: NodeId,
    shared: Arc<Shared>,
}

impl Dialer {
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whether this node's metadata name no other node as the channel's owner.
    pub fn may_own(&self, channel: ChannelId) -> bool {
        let record = self.shared.meta.state().channel(channel);
        let owner = record.ok().flatten().and_then(|record| record.owner);
        owner.is_none_or(|owner| owner.node == self.node)
    }

    /// Follows changes of ownership in this node's metadata.
    pub fn channels_changed(&self) -> watch::Receiver<u64> {
        self.shared.meta.channels_changed()
    }

    /// Opens a link, on a connection of its own.
    pub async fn link(&self) -> Result<Opened, tonic::Status> {
        let peer = self.peer()?;
        link::open(self.shared.transport.new_channel(&peer)).await
    }

    fn peer(&self) -> Result<Peer, tonic::Status> {
        let state = self.shared.meta.state();
        let record = state
            .node(self.node)
            .map_err(|error| tonic::Status::internal(error.to_string()))?;
        match record {
            Some(node) if !node.address.is_empty() => Ok(Peer {
                node: self.node,
                address: node.address,
                directory: None,
            }),
            _ => Err(tonic::Status::not_found(format!(
                "node {} has no address",
                self.node
            ))),
        }
    }
}

fn client(channel: Channel) -> PeerClient<Channel> {
    let origin = http::Uri::from_static("http://millrace.peer");
    PeerClient::with_origin(channel, origin)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX)
}
