//! What members of the group say to each other.

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message;

use super::log::{
    entry_message, entry_of, log_id_at, log_position, log_position_message, position_of, vote_message,
    vote_of,
};
use super::{DecodeError, required};
use crate::pb;
use crate::types::{LogId, TypeConfig, Vote};

fn id_message(log_id: &Option<LogId>) -> Option<pb::LogId> {
    log_id
        .as_ref()
        .map(|log_id| log_position_message(position_of(log_id)))
}

fn id_of(message: Option<pb::LogId>) -> Option<LogId> {
    message.map(|message| log_id_at(log_position(message)))
}

fn vote_in(message: Option<pb::Vote>) -> Result<Vote, DecodeError> {
    required(message, "vote").map(vote_of)
}

pub fn encode_append(rpc: &AppendEntriesRequest<TypeConfig>) -> Vec<u8> {
    pb::AppendRequest {
        vote: Some(vote_message(&rpc.vote)),
        previous: id_message(&rpc.prev_log_id),
        entries: rpc.entries.iter().map(entry_message).collect(),
        committed: id_message(&rpc.leader_commit),
    }
    .encode_to_vec()
}

pub fn decode_append(bytes: &[u8]) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    let rpc = pb::AppendRequest::decode(bytes)?;
    Ok(AppendEntriesRequest {
        vote: vote_in(rpc.vote)?,
        prev_log_id: id_of(rpc.previous),
        entries: rpc.entries.into_iter().map(entry_of).collect::<Result<_, _>>()?,
        leader_commit: id_of(rpc.committed),
    })
}

pub fn encode_appended(response: &AppendEntriesResponse<TypeConfig>) -> Vec<u8> {
    use pb::append_response::{Conflict, Partial, Result, Success};
    let result = match response {
        AppendEntriesResponse::Success => Result::Success(Success {}),
        AppendEntriesResponse::PartialSuccess(matching) => Result::Partial(Partial {
            matching: id_message(matching),
        }),
        AppendEntriesResponse::Conflict => Result::Conflict(Conflict {}),
        AppendEntriesResponse::HigherVote(vote) => Result::HigherVote(vote_message(vote)),
    };
    pb::AppendResponse { result: Some(result) }.encode_to_vec()
}

pub fn decode_appended(bytes: &[u8]) -> Result<AppendEntriesResponse<TypeConfig>, DecodeError> {
    use pb::append_response::Result;
    Ok(
        match required(pb::AppendResponse::decode(bytes)?.result, "append result")? {
            Result::Success(_) => AppendEntriesResponse::Success,
            Result::Partial(partial) => AppendEntriesResponse::PartialSuccess(id_of(partial.matching)),
            Result::Conflict(_) => AppendEntriesResponse::Conflict,
            Result::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote_of(vote)),
        },
    )
}

pub fn encode_vote_request(rpc: &VoteRequest<TypeConfig>) -> Vec<u8> {
    pb::VoteRequest {
        vote: Some(vote_message(&rpc.vote)),
        last_log_id: id_message(&rpc.last_log_id),
        leadership_transfer: rpc.leadership_transfer,
    }
    .encode_to_vec()
}

pub fn decode_vote_request(bytes: &[u8]) -> Result<VoteRequest<TypeConfig>, DecodeError> {
    let rpc = pb::VoteRequest::decode(bytes)?;
    Ok(VoteRequest {
        vote: vote_in(rpc.vote)?,
        last_log_id: id_of(rpc.last_log_id),
        leadership_transfer: rpc.leadership_transfer,
    })
}

pub fn encode_vote_response(response: &VoteResponse<TypeConfig>) -> Vec<u8> {
    pb::VoteResponse {
        vote: Some(vote_message(&response.vote)),
        granted: response.vote_granted,
        last_log_id: id_message(&response.last_log_id),
    }
    .encode_to_vec()
}

pub fn decode_vote_response(bytes: &[u8]) -> Result<VoteResponse<TypeConfig>, DecodeError> {
    let response = pb::VoteResponse::decode(bytes)?;
    Ok(VoteResponse {
        vote: vote_in(response.vote)?,
        vote_granted: response.granted,
        last_log_id: id_of(response.last_log_id),
    })
}

pub fn encode_transfer(rpc: &TransferLeaderRequest<TypeConfig>) -> Vec<u8> {
    pb::TransferRequest {
        from_leader: Some(vote_message(rpc.from_leader())),
        to: *rpc.to_node_id(),
        last_log_id: id_message(&rpc.last_log_id().copied()),
    }
    .encode_to_vec()
}

pub fn decode_transfer(bytes: &[u8]) -> Result<TransferLeaderRequest<TypeConfig>, DecodeError> {
    let rpc = pb::TransferRequest::decode(bytes)?;
    Ok(TransferLeaderRequest::new(
        vote_in(rpc.from_leader)?,
        rpc.to,
        id_of(rpc.last_log_id),
    ))
}

pub fn encode_transferred(response: &TransferLeaderResponse<TypeConfig>) -> Vec<u8> {
    use pb::transfer_response::{Done, LogNotFlushed, Result, VoteChanged};
    let result = match response {
        Ok(()) => Result::Done(Done {}),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => Result::VoteChanged(VoteChanged {
            expected: Some(vote_message(expected)),
            actual: Some(vote_message(actual)),
        }),
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            Result::LogNotFlushed(LogNotFlushed {
                expected: id_message(expected),
                actual: id_message(actual),
            })
        }
    };
    pb::TransferResponse { result: Some(result) }.encode_to_vec()
}

pub fn decode_transferred(bytes: &[u8]) -> Result<TransferLeaderResponse<TypeConfig>, DecodeError> {
    use pb::transfer_response::Result;
    Ok(
        match required(pb::TransferResponse::decode(bytes)?.result, "transfer result")? {
            Result::Done(_) => Ok(()),
            Result::VoteChanged(changed) => Err(TransferLeaderError::VoteChanged {
                expected: vote_in(changed.expected)?,
                actual: vote_in(changed.actual)?,
            }),
            Result::LogNotFlushed(log) => Err(TransferLeaderError::LogNotFlushed {
                expected: id_of(log.expected),
                actual: id_of(log.actual),
            }),
        },
    )
}

pub fn encode_opening(vote: &Vote, manifest: Vec<u8>) -> Vec<u8> {
    pb::SnapshotOpening {
        vote: Some(vote_message(vote)),
        manifest,
    }
    .encode_to_vec()
}

/// The sender's vote, and the encoded manifest.
pub fn decode_opening(bytes: &[u8]) -> Result<(Vote, Vec<u8>), DecodeError> {
    let opening = pb::SnapshotOpening::decode(bytes)?;
    Ok((vote_in(opening.vote)?, opening.manifest))
}

pub fn encode_installed(response: &SnapshotResponse<TypeConfig>) -> Vec<u8> {
    pb::SnapshotResponse {
        vote: Some(vote_message(&response.vote)),
    }
    .encode_to_vec()
}

pub fn decode_installed(bytes: &[u8]) -> Result<SnapshotResponse<TypeConfig>, DecodeError> {
    Ok(SnapshotResponse::new(vote_in(
        pb::SnapshotResponse::decode(bytes)?.vote,
    )?))
}
