//! Requests of this member to others.

use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use millrace_api::id::NodeId;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};

use super::{Call, Peer, Pieces, Transport, TransportError};
use crate::codec::{DecodeError, rpc};
use crate::group::{Book, peer};
use crate::state::record::MemberNode;
use crate::store::blocking::Blocking;
use crate::store::snapshot::Snapshot;
use crate::types::{TypeConfig, Vote};

type RpcError = RPCError<TypeConfig>;
type Offered = openraft::alias::SnapshotOf<TypeConfig, Arc<Snapshot>>;

/// About 4 MB/s: slower than any way between members should be.
const BYTES_PER_MS_MIN: usize = 4096;

/// Makes the ways to single members.
#[derive(Clone)]
pub struct Network {
    pub transport: Arc<dyn Transport>,
    pub blocking: Blocking,
    /// Where members are now: a way that was made earlier follows them.
    pub book: Book,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &MemberNode) -> Link {
        Link {
            first: peer(NodeId(target), node),
            book: self.book.clone(),
            transport: self.transport.clone(),
            blocking: self.blocking,
        }
    }
}

/// The way to one member.
pub struct Link {
    /// As it was when the way was made.
    first: Peer,
    book: Book,
    transport: Arc<dyn Transport>,
    blocking: Blocking,
}

impl Link {
    fn peer(&self) -> Peer {
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
        book.get(&self.first.node.0)
            .map_or_else(|| self.first.clone(), |member| peer(self.first.node, member))
    }

    async fn call<T>(
        &self,
        call: Call,
        request: Vec<u8>,
        option: &RPCOption,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<T, RpcError> {
        let answer = self
            .transport
            .call(&self.peer(), call, request, option.hard_ttl())
            .await;
        decode(&answer.map_err(not_sent)?).map_err(not_understood)
    }
}

/// What the bytes of a request may take to be sent, and to be written.
fn time_for(bytes: usize) -> Duration {
    Duration::from_millis((bytes / BYTES_PER_MS_MIN) as u64)
}

fn not_sent(error: TransportError) -> RpcError {
    match error {
        TransportError::Unreachable(_) | TransportError::Rejected(_) => {
            RPCError::Unreachable(Unreachable::new(&error))
        }
        TransportError::Failed(_) => RPCError::Network(NetworkError::new(&error)),
    }
}

/// A peer that answers nonsense is not asked again at once.
fn not_understood(error: DecodeError) -> RpcError {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Arc<Snapshot>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let encoded = rpc::encode_append(&request);
        // The library's limit is that of a heartbeat. A large entry gets the time that it takes on a slow way: given up
        // again and again, it would keep the log from going on.
        let option = RPCOption::new(option.hard_ttl() + time_for(encoded.len()));
        let answer = self
            .call(Call::Append, encoded, &option, rpc::decode_appended)
            .await?;
        // Without a previous entry there is nothing to conflict with: the core relies on it.
        if request.prev_log_id.is_none() && answer.is_conflict() {
            let error = AnyError::error("a conflict without a previous entry");
            return Err(RPCError::Unreachable(Unreachable::new(&error)));
        }
        Ok(answer)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(
            Call::Vote,
            rpc::encode_vote_request(&request),
            &option,
            rpc::decode_vote_response,
        )
        .await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(
            Call::PreVote,
            rpc::encode_vote_request(&request),
            &option,
            rpc::decode_vote_response,
        )
        .await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        self.call(
            Call::TransferLeader,
            rpc::encode_transfer(&request),
            &option,
            rpc::decode_transferred,
        )
        .await
    }

    /// Takes as long as the transport sees progress: the library's limit on the whole is not used.
    async fn full_snapshot(
        &mut self,
        vote: Vote,
        offered: Offered,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let opening = rpc::encode_opening(&vote, offered.snapshot.manifest());
        let pieces = pieces(&offered.snapshot, self.blocking);
        let to = self.peer();
        let sending = self.transport.send_snapshot(&to, opening, pieces);
        let answer = tokio::select! {
            answer = sending => answer.map_err(not_sent)?,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        Ok(rpc::decode_installed(&answer).map_err(not_understood)?)
    }
}

/// The pieces of a snapshot, each read when it is asked for. Ends after an error.
fn pieces(snapshot: &Arc<Snapshot>, blocking: Blocking) -> Pieces {
    let next = move |reader: Option<crate::store::snapshot::Pieces>| async move {
        let mut reader = reader?;
        let read = blocking.run(move || {
            let piece = reader.next_piece()?;
            Ok((piece, reader))
        });
        match read.await {
            Ok((piece, reader)) => Some((Ok(piece?), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    };
    stream::unfold(Some(snapshot.pieces()), next).boxed()
}
