//! Takes calls and snapshots in.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::MESSAGE_BYTES_MAX;
use super::connect::Io;
use super::guard::{Guard, Said};
use super::tls::Tls;
use crate::error::MetaError;
use crate::group::{MemberSlot, Meta};
use crate::identity::Caller;
use crate::network::Call;
use crate::pb::node as pb;
use pb::group_server::{Group, GroupServer};

/// Connections at the same time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;

/// Handshakes at the same time; more wait to be accepted.
const HANDSHAKES_MAX: usize = 64;

/// A peer that takes longer to shake hands is turned away.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

const STREAMS_PER_CONNECTION_MAX: u32 = 1024;
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const FRAME_BYTES_MAX: u32 = 1 << 20;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Snapshots that are taken in at the same time: an old leader may not have heard of a new one yet.
const SNAPSHOTS_MAX: usize = 2;

/// A sender from which nothing comes for this long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The group's own service, to be mounted with whatever else nodes say to each other.
pub fn service(slot: MemberSlot) -> Routes {
    let service = GroupServer::new(Service {
        slot,
        snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
    });
    Routes::new(
        service
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
    )
}

/// Serves accepted connections until their stream ends; to be spawned on the member's runtime. Every call is checked
/// to come from this cluster and to mean this node, whichever service it is for, and has its [`Caller`] as an
/// extension. Plain without `tls`. An error of one connection ends that one.
pub async fn serve<IO: Io, E: std::fmt::Display + Send + 'static>(
    incoming: impl Stream<Item = Result<IO, E>> + Send + 'static,
    routes: Routes,
    slot: MemberSlot,
    tls: Option<Tls>,
) {
    let said = Said::default();
    let refused = said.clone();
    let guard = tower::layer::layer_fn(move |inner| Guard::new(inner, slot.clone(), said.clone()));
    let served = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .layer(guard)
        .add_routes(routes)
        .serve_with_incoming(secured(incoming, tls, refused))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "members are not served any more");
    }
}

/// A connection that is ready for calls.
struct Accepted {
    io: Box<dyn Io>,
    _permit: OwnedSemaphorePermit,
}

impl Accepted {
    fn new(io: impl Io, permit: OwnedSemaphorePermit) -> Self {
        Self {
            io: Box::new(io),
            _permit: permit,
        }
    }
}

/// Shakes hands with several at a time, and drops those with whom it fails.
fn secured<IO: Io, E: std::fmt::Display + Send + 'static>(
    incoming: impl Stream<Item = Result<IO, E>> + Send + 'static,
    tls: Option<Tls>,
    said: Said,
) -> impl Stream<Item = Result<Accepted, std::convert::Infallible>> + Send + 'static {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let shake = move |accepted: Result<IO, E>| {
        let acceptor = tls.as_ref().map(Tls::acceptor);
        let (room, said) = (room.clone(), said.clone());
        async move {
            let permit = room.acquire_owned().await.ok()?;
            let io = match accepted {
                Ok(io) => io,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of a peer");
                    return None;
                }
            };
            let Some(acceptor) = acceptor else {
                return Some(Ok(Accepted::new(io, permit)));
            };
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(io)).await {
                Ok(Ok(io)) => Some(Ok(Accepted::new(io, permit))),
                Ok(Err(error)) => {
                    said.turned_away(&format!("TLS: {error}"));
                    None
                }
                Err(_) => None,
            }
        }
    };
    incoming
        .map(shake)
        .buffer_unordered(HANDSHAKES_MAX)
        .filter_map(futures::future::ready)
}

struct Service {
    slot: MemberSlot,
    snapshots: Arc<Semaphore>,
}

impl Service {
    fn member(&self) -> Result<Meta, Status> {
        self.slot
            .member()
            .ok_or_else(|| Status::failed_precondition("the node is starting or stopping"))
    }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().copied();
    caller.ok_or_else(|| Status::permission_denied("nobody has said who calls"))
}

#[async_trait]
impl Group for Service {
    async fn call(&self, request: Request<pb::CallRequest>) -> Result<Response<pb::CallResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let call = u8::try_from(request.call).ok().and_then(Call::from_number);
        let call = call.ok_or_else(|| Status::unimplemented(format!("there is no call {}", request.call)))?;
        let answer = self.member()?.serve_caller(&caller, call, &request.body).await;
        Ok(Response::new(pb::CallResponse {
            body: answer.map_err(status)?.into(),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotPart>>,
    ) -> Result<Response<pb::CallResponse>, Status> {
        use pb::snapshot_part::Part;
        let caller = caller(&request)?;
        let member = self.member()?;
        member.admit(&caller, Call::Append).map_err(status)?;
        let permit = self.snapshots.clone().try_acquire_owned();
        let _permit = permit.map_err(|_| Status::resource_exhausted("others send snapshots, too"))?;
        let mut parts = request.into_inner();
        let Some(Part::Opening(opening)) = next(&mut parts).await? else {
            return Err(Status::invalid_argument("a snapshot begins with its opening"));
        };
        let mut incoming = member.receive_snapshot(&opening).await.map_err(status)?;
        drop(member);
        while let Some(part) = next(&mut parts).await? {
            let Part::Piece(piece) = part else {
                return Err(Status::invalid_argument("a snapshot has one opening"));
            };
            incoming = incoming.accept(piece.into()).await.map_err(status)?;
        }
        let body = incoming.finish().await.map_err(status)?.into();
        Ok(Response::new(pb::CallResponse { body }))
    }
}

/// The next part; `None` at the end.
async fn next(parts: &mut Streaming<pb::SnapshotPart>) -> Result<Option<pb::snapshot_part::Part>, Status> {
    let message = tokio::time::timeout(STALL_TIMEOUT, parts.message()).await;
    let message = message.map_err(|_| Status::deadline_exceeded("nothing comes any more"))??;
    let part = |message: pb::SnapshotPart| {
        message
            .part
            .ok_or_else(|| Status::invalid_argument("a part of a later release"))
    };
    message.map(part).transpose()
}

fn status(error: MetaError) -> Status {
    let text = error.to_string();
    match error {
        // Whoever is turned away.
        MetaError::Refused(_) => Status::permission_denied(text),
        MetaError::Invalid(_) => Status::invalid_argument(text),
        MetaError::Retry(_) | MetaError::Closed(_) => Status::unavailable(text),
        MetaError::Unknown(_) => Status::unknown(text),
        MetaError::Unusable(_) | MetaError::Store(_) => Status::internal(text),
    }
}

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

mod io {
    //! A connection is what it wraps.

    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Accepted;

    impl AsyncRead for Accepted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Accepted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.io).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(context)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffers: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.io).poll_write_vectored(context, buffers)
        }

        fn is_write_vectored(&self) -> bool {
            self.io.is_write_vectored()
        }
    }
}
