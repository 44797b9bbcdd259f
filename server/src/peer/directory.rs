//! The way to every node of the cell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use millrace_api::id::{ChannelId, NodeId};
use millrace_raft::group::Meta;
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};

use super::link::{self, Outgoing};
use super::pb::{self, peer_client::PeerClient};
use crate::channel::handle::ChannelHandle;
use crate::env::Env;
use crate::tls::ClientTls;

/// Names the cell in every call: a node of another one is turned away.
pub const CELL: &str = "millrace-cell";

/// Links to one node: appends must not wait behind long reads, nor reads behind appends that wait for room.
const LANES: usize = 2;
/// Requests that may wait for a link before those who send them wait too.
const QUEUED_MAX: usize = 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that does not answer a ping for this long is taken for gone.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// What a peer may send of one answer before it is read: several batches of 1 MiB.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
/// Over all lanes and calls of one connection.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Two batches of the largest size with their headers.
const MESSAGE_MAX: usize = 8 * 1024 * 1024;

/// Knows the nodes. Clones share their links.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    env: Env,
    meta: Meta,
    cell: AsciiMetadataValue,
    tls: Option<ClientTls>,
    links: Mutex<BTreeMap<NodeId, [mpsc::Sender<Outgoing>; LANES]>>,
    /// One connection per node and address; it is made when it is needed, and again when it broke.
    connections: Mutex<BTreeMap<NodeId, (String, Channel)>>,
}

impl Peers {
    pub fn new(env: Env, meta: Meta, cell_id: u128, tls: Option<ClientTls>) -> Self {
        let cell = format!("{cell_id:032x}")
            .try_into()
            .expect("hexadecimal digits are valid in metadata");
        Self {
            shared: Arc::new(Shared {
                env,
                meta,
                cell,
                tls,
                links: Mutex::default(),
                connections: Mutex::default(),
            }),
        }
    }

    /// A handle on a channel of another node. Whether the node serves it, it says itself.
    pub fn channel(&self, node: NodeId, channel: ChannelId) -> ChannelHandle {
        let mut links = self.shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        let [appends, others] = links.entry(node).or_insert_with(|| {
            std::array::from_fn(|_lane| {
                let (sender, outgoing) = mpsc::channel(QUEUED_MAX);
                tokio::spawn(link::run(self.dialer(node), outgoing));
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
        let dialer = self.dialer(node);
        let call = async {
            let mut client = dialer.client()?;
            let answer = client.heartbeat(dialer.request(request)).await?;
            Ok(answer.into_inner())
        };
        tokio::time::timeout(timeout, call)
            .await
            .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer in time")))
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

    /// Opens a link.
    pub async fn link(
        &self,
    ) -> Result<(mpsc::Sender<pb::LinkRequest>, Streaming<pb::LinkReply>), tonic::Status> {
        let client = self.client()?;
        link::open(client, |messages| self.request(messages)).await
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert(CELL, self.shared.cell.clone());
        request
    }

    fn client(&self) -> Result<PeerClient<Channel>, tonic::Status> {
        let address = self.address()?;
        let mut connections = self
            .shared
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let channel = match connections.get(&self.node) {
            Some((known, channel)) if *known == address => channel.clone(),
            _ => {
                let channel = self.connection(&address)?;
                connections.insert(self.node, (address, channel.clone()));
                channel
            }
        };
        Ok(PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX))
    }

    fn connection(&self, address: &str) -> Result<Channel, tonic::Status> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let (env, tls) = (self.shared.env.clone(), self.shared.tls.clone());
        let connector = tower::service_fn(move |uri: Uri| {
            let (env, tls) = (env.clone(), tls.clone());
            async move {
                let address = uri.authority().map(ToString::to_string).unwrap_or_default();
                let io = env.network.connect(&address).await?;
                let io = match tls {
                    Some(tls) => tls.connect(&address, io).await?,
                    None => io,
                };
                Ok::<_, std::io::Error>(TokioIo::new(io))
            }
        });
        Ok(endpoint.connect_with_connector_lazy(connector))
    }

    fn address(&self) -> Result<String, tonic::Status> {
        let record = self.shared.meta.state().node(self.node);
        match record {
            Ok(Some(node)) if !node.address.is_empty() => Ok(node.address),
            Ok(_) => Err(tonic::Status::not_found(format!(
                "node {} has no address",
                self.node
            ))),
            Err(error) => Err(tonic::Status::internal(error.to_string())),
        }
    }
}
