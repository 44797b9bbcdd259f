//! The group's transport over gRPC.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use http::Uri;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Response, Status};

use super::MESSAGE_BYTES_MAX;
use super::channel::{Channel, Lost, Shared};
use super::connect::Connect;
use super::signer::Signer;
use super::tls::Tls;
use crate::group::{GroupRuntime, MemberSlot};
use crate::network::{Call, Peer, Pieces, Transport, TransportError};
use crate::pb::node as pb;

type Client = pb::group_client::GroupClient<Channel>;

/// Peers whose connections are kept. Far more than members; beyond, the connections are made anew.
const PEERS_MAX: usize = 256;

/// A snapshot of which nothing moves for this long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A peer that has everything may take this long to install it.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);

/// A peer: node, address, directory.
type Key = (u64, String, Option<u128>);

/// Carries calls and snapshots to members of the group; gives channels to them for whatever else nodes say. Clones
/// share connections.
#[derive(Clone)]
pub struct GrpcTransport {
    shared: Arc<Shared>,
    /// Who this node is: said in every call.
    slot: MemberSlot,
    channels: Arc<Mutex<BTreeMap<Key, Channel>>>,
}

impl std::fmt::Debug for GrpcTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcTransport")
            .field("tls", &self.shared.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl GrpcTransport {
    /// `slot` and `runtime` are the member's own: the one says who calls, the other drives the connections. Plain
    /// without `tls`.
    pub fn new(connect: impl Connect, tls: Option<Tls>, slot: MemberSlot, runtime: GroupRuntime) -> Self {
        let shared = Shared {
            connect: Box::new(connect),
            tls,
            runtime,
        };
        Self {
            shared: Arc::new(shared),
            slot,
            channels: Arc::default(),
        }
    }

    /// The connection to a peer that all small calls share.
    pub fn channel(&self, peer: &Peer) -> Channel {
        let key = (
            peer.node.0,
            peer.address.clone(),
            peer.directory.map(|directory| directory.0),
        );
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&key) {
            return channel.clone();
        }
        if channels.len() >= PEERS_MAX {
            channels.clear();
        }
        let channel = self.new_channel(peer);
        channels.insert(key, channel.clone());
        channel
    }

    /// A connection to a peer for one caller, whose bulk delays no other.
    pub fn new_channel(&self, peer: &Peer) -> Channel {
        let signer = Signer::Member {
            slot: self.slot.clone(),
            to: peer.clone(),
        };
        Channel::new(self.shared.clone(), signer)
    }

    fn client(channel: Channel) -> Client {
        let origin = Uri::from_static("http://millrace.node");
        Client::with_origin(channel, origin)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[async_trait]
impl Transport for GrpcTransport {
    async fn call(
        &self,
        peer: &Peer,
        call: Call,
        request: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, TransportError> {
        let deadline = Instant::now() + timeout;
        let channel = self.channel(peer);
        match tokio::time::timeout_at(deadline, channel.ready()).await {
            Ok(Ok(())) => {}
            Ok(Err(lost)) => return Err(TransportError::Unreachable(lost.to_string())),
            Err(_) => return Err(TransportError::Unreachable("no connection in time".into())),
        }
        let request = pb::CallRequest {
            call: u32::from(call as u8),
            body: request.into(),
        };
        match tokio::time::timeout_at(deadline, Self::client(channel).call(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner().body.into()),
            Ok(Err(status)) => Err(not_answered(&status)),
            Err(_) => Err(TransportError::Failed("no answer in time".into())),
        }
    }

    async fn send_snapshot(
        &self,
        peer: &Peer,
        opening: Vec<u8>,
        pieces: Pieces,
    ) -> Result<Vec<u8>, TransportError> {
        let channel = self.new_channel(peer);
        let connected = channel.ready().await;
        connected.map_err(|lost| TransportError::Unreachable(lost.to_string()))?;
        let (moved, moves) = watch::channel(Progress::Moving(0));
        let unread = Unread::default();
        let parts = parts(opening, pieces, moved, unread.clone());
        let installed = install(Self::client(channel), parts);
        let answer = tokio::select! {
            answer = installed => answer,
            () = stalled(moves) => {
                return Err(TransportError::Failed("the snapshot stands still".into()));
            }
        };
        if let Some(error) = unread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(TransportError::Failed(error));
        }
        match answer {
            Ok(response) => Ok(response.into_inner().body.into()),
            Err(status) => Err(not_answered(&status)),
        }
    }
}

/// Why the source of a snapshot could not be read.
type Unread = Arc<Mutex<Option<String>>>;

/// What is sent. Ends early, so that the receiver finds it incomplete, if the source cannot be read.
fn parts(opening: Vec<u8>, pieces: Pieces, moved: watch::Sender<Progress>, unread: Unread) -> Parts {
    use pb::snapshot_part::Part;
    let opening = pb::SnapshotPart {
        part: Some(Part::Opening(opening.into())),
    };
    let pieces = pieces
        .map(Some)
        .chain(stream::iter([None]))
        .scan(0, move |sent, piece| {
            *sent += 1;
            moved.send_replace(match piece {
                Some(_) => Progress::Moving(*sent),
                None => Progress::Sent,
            });
            let part = piece.and_then(|piece| match piece {
                Ok(piece) => Some(pb::SnapshotPart {
                    part: Some(Part::Piece(piece.into())),
                }),
                Err(error) => {
                    *unread.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                    None
                }
            });
            futures::future::ready(part)
        });
    Parts(stream::iter([opening]).chain(pieces).boxed())
}

/// A stream with a name: the compiler cannot see that a call with a nameless one may move between threads.
struct Parts(BoxStream<'static, pb::SnapshotPart>);

impl Stream for Parts {
    type Item = pb::SnapshotPart;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<pb::SnapshotPart>> {
        self.0.poll_next_unpin(context)
    }
}

fn install(
    mut client: Client,
    parts: Parts,
) -> BoxFuture<'static, Result<Response<pb::CallResponse>, Status>> {
    Box::pin(async move { client.install_snapshot(parts).await })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Pieces that were taken from the source.
    Moving(u64),
    Sent,
}

/// Returns when a transfer has not moved for too long.
async fn stalled(mut moves: watch::Receiver<Progress>) {
    loop {
        let timeout = match *moves.borrow_and_update() {
            Progress::Moving(_) => STALL_TIMEOUT,
            Progress::Sent => INSTALL_TIMEOUT,
        };
        match tokio::time::timeout(timeout, moves.changed()).await {
            Ok(Ok(())) => {}
            // The source is dropped when everything was sent, or the call has ended.
            Ok(Err(_)) => return tokio::time::sleep(INSTALL_TIMEOUT).await,
            Err(_) => return,
        }
    }
}

fn not_answered(status: &Status) -> TransportError {
    let source = std::error::Error::source(status);
    if let Some(lost) = source.and_then(|source| source.downcast_ref::<Lost>()) {
        return match lost {
            Lost::NotSent(why) => TransportError::Unreachable(why.to_string()),
            Lost::Sent(why) => TransportError::Failed(why.to_string()),
        };
    }
    match status.code() {
        // Given only by a peer that did not act.
        Code::PermissionDenied | Code::FailedPrecondition | Code::Unimplemented => {
            TransportError::Rejected(status.message().to_owned())
        }
        _ => TransportError::Failed(format!("{:?}: {}", status.code(), status.message())),
    }
}
