//! Which nodes there are in the zone, and the way to them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use millrace_api::id::NodeId;
use millrace_api::segment::SegmentObjectId;
use millrace_raft::error::StoreError;
use millrace_raft::group::Meta;
use millrace_raft::grpc::GrpcTransport;
use millrace_raft::network::Peer;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::client::GrpcService;

/// Metadata are asked this often at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The nodes of a zone, as one of them sees them.
#[async_trait]
pub trait Neighbours: Send + Sync {
    /// This node.
    fn here(&self) -> NodeId;

    /// The living nodes of this node's zone, itself among them once it is registered.
    fn living(&self) -> Arc<[NodeId]>;

    /// The other node of the zone that wrote the object in its present life, if there is one: it may still have what
    /// it wrote.
    fn maker(&self, object: SegmentObjectId) -> Option<NodeId>;

    /// Sends a request to another node.
    async fn call(&self, node: NodeId, request: http::Request<Body>) -> Result<http::Response<Body>, Status>;
}

/// The nodes that metadata name, over connections of their own: pages delay nothing else.
///
/// A node is alive until the group has found that its time is up; until then it is passed over for not answering. Nodes
/// whose zone has no name are one zone.
pub struct Neighbourhood {
    here: NodeId,
    zone: String,
    /// `None` once the node stops.
    meta: Arc<ArcSwapOption<Meta>>,
    transport: GrpcTransport,
    seen: Mutex<Option<Seen>>,
}

struct Seen {
    at: Instant,
    nodes: Arc<[NodeId]>,
    peers: Arc<[Peer]>,
}

impl Neighbourhood {
    /// Metadata are let go with `stop`; there is nobody left then.
    pub fn new(
        here: NodeId,
        zone: String,
        meta: Meta,
        transport: GrpcTransport,
        stop: CancellationToken,
    ) -> Self {
        let meta = Arc::new(ArcSwapOption::from_pointee(meta));
        let closing = meta.clone();
        tokio::spawn(async move {
            stop.cancelled().await;
            closing.store(None);
        });
        Self {
            here,
            zone,
            meta,
            transport,
            seen: Mutex::new(None),
        }
    }

    fn seen(&self) -> (Arc<[NodeId]>, Arc<[Peer]>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen.as_ref().filter(|seen| seen.at.elapsed() < LOOK_EVERY) {
            return (seen.nodes.clone(), seen.peers.clone());
        }
        let peers: Arc<[Peer]> = self.look().unwrap_or_else(|error| {
            tracing::warn!(%error, "metadata do not tell which nodes are in the zone");
            Arc::default()
        });
        let nodes: Arc<[NodeId]> = peers.iter().map(|peer| peer.node).collect();
        *seen = Some(Seen {
            at: Instant::now(),
            nodes: nodes.clone(),
            peers: peers.clone(),
        });
        (nodes, peers)
    }

    fn look(&self) -> Result<Arc<[Peer]>, StoreError> {
        let Some(meta) = self.meta.load_full() else {
            return Ok(Arc::default());
        };
        let nodes = meta.state().nodes()?;
        let living = nodes
            .into_iter()
            .filter(|node| !node.expired && node.zone == self.zone && !node.address.is_empty());
        let peers = living.map(|node| Peer {
            node: node.node,
            address: node.address,
            directory: None,
        });
        Ok(peers.collect())
    }
}

#[async_trait]
impl Neighbours for Neighbourhood {
    fn here(&self) -> NodeId {
        self.here
    }

    fn living(&self) -> Arc<[NodeId]> {
        self.seen().0
    }

    fn maker(&self, object: SegmentObjectId) -> Option<NodeId> {
        let meta = self.meta.load_full()?;
        let channel = meta.state().channel(object.channel).ok().flatten()?;
        let maker = channel.owner.filter(|_| channel.epoch == object.epoch)?.node;
        (maker != self.here && self.living().contains(&maker)).then_some(maker)
    }

    async fn call(&self, node: NodeId, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let peers = self.seen().1;
        let peer = peers.iter().find(|peer| peer.node == node);
        let peer = peer.ok_or_else(|| Status::not_found(format!("node {node} has no address")))?;
        let answer = self.transport.channel(peer).call(request).await;
        answer.map_err(|lost| Status::unavailable(lost.to_string()))
    }
}
