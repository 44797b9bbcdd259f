//! Requests of other members to this one.

use std::sync::Arc;

use super::Call;
use crate::codec::{DecodeError, rpc};
use crate::error::{MetaError, StoreError};
use crate::group::Raft;
use crate::store::blocking::Blocking;
use crate::store::machine::{Machine, offer};
use crate::store::snapshot::Receiver;
use crate::types::Vote;

/// Answers one request of the consensus itself. Bytes that are no request are refused, and change nothing.
pub async fn serve_raft(raft: &Raft, call: Call, request: &[u8]) -> Result<Vec<u8>, MetaError> {
    match call {
        Call::Append => {
            let answer = raft
                .append_entries(rpc::decode_append(request).map_err(bad)?)
                .await;
            Ok(rpc::encode_appended(&answer.map_err(closed)?))
        }
        Call::Vote => {
            let answer = raft.vote(rpc::decode_vote_request(request).map_err(bad)?).await;
            Ok(rpc::encode_vote_response(&answer.map_err(closed)?))
        }
        Call::PreVote => {
            let answer = raft
                .pre_vote(rpc::decode_vote_request(request).map_err(bad)?)
                .await;
            Ok(rpc::encode_vote_response(&answer.map_err(closed)?))
        }
        Call::TransferLeader => {
            let answer = raft
                .handle_transfer_leader(rpc::decode_transfer(request).map_err(bad)?)
                .await;
            Ok(rpc::encode_transferred(&answer.map_err(closed)?))
        }
        Call::Propose | Call::ReadIndex | Call::Change | Call::Identify => Err(MetaError::Invalid(
            format!("{call:?} is not of the consensus").into(),
        )),
    }
}

/// Begins to take in a snapshot.
pub async fn receive_snapshot(
    raft: Raft,
    machine: Arc<Machine>,
    blocking: Blocking,
    opening: &[u8],
) -> Result<IncomingSnapshot, MetaError> {
    let (vote, manifest) = rpc::decode_opening(opening).map_err(bad)?;
    let receiver = blocking
        .run(move || machine.receive(&manifest))
        .await
        .map_err(taken_in)?;
    Ok(IncomingSnapshot {
        raft,
        blocking,
        vote,
        receiver,
    })
}

/// A snapshot on its way in. Dropped before [`IncomingSnapshot::finish`], nothing of it is kept.
pub struct IncomingSnapshot {
    raft: Raft,
    blocking: Blocking,
    vote: Vote,
    receiver: Receiver,
}

impl IncomingSnapshot {
    /// Takes the next piece, checks it and writes it. Pieces come in order; after an error the transfer is over.
    pub async fn accept(self, piece: Vec<u8>) -> Result<Self, MetaError> {
        let Self {
            raft,
            blocking,
            vote,
            mut receiver,
        } = self;
        let written = blocking.run(move || {
            receiver.accept(&piece)?;
            Ok(receiver)
        });
        let receiver = written.await.map_err(taken_in)?;
        Ok(Self {
            raft,
            blocking,
            vote,
            receiver,
        })
    }

    /// Installs what has come; answers the bytes for the sender. The state is then the snapshot's, or already newer.
    pub async fn finish(self) -> Result<Vec<u8>, MetaError> {
        let Self {
            raft,
            blocking,
            vote,
            receiver,
        } = self;
        let offered = blocking
            .run(move || offer(receiver.finish()?))
            .await
            .map_err(taken_in)?;
        let installed = raft.install_full_snapshot(vote, offered).await;
        Ok(rpc::encode_installed(&installed.map_err(closed)?))
    }
}

fn bad(error: DecodeError) -> MetaError {
    MetaError::Invalid(error.to_string().into())
}

/// What is wrong with the bytes that came is the sender's; what the disk says is ours.
fn taken_in(error: StoreError) -> MetaError {
    match error {
        StoreError::Corrupt { .. } => MetaError::Invalid(error.to_string().into()),
        StoreError::Io { .. } => MetaError::Store(error),
    }
}

fn closed(error: impl std::fmt::Display) -> MetaError {
    MetaError::Closed(error.to_string().into())
}
