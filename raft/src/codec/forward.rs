//! Commands, reads and changes on their way to the leader, and what comes back.

use std::time::Duration;

use millrace_api::id::{Incarnation, NodeId};
use prost::Message;

use super::common::{id, id_bytes};
use super::{DecodeError, command, refused, required, response};
use crate::command::Command;
use crate::error::MetaError;
use crate::group::{Change, Decided, Undone};
use crate::identity::{ClusterId, DirectoryId, Identity, Introduction, Known, Member, PeerAddress};
use crate::pb;

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub fn encode_propose<'a>(commands: impl Iterator<Item = &'a Command>, budget: Duration) -> Vec<u8> {
    pb::ProposeRequest {
        commands: commands.map(command::encode).collect(),
        budget_ms: ms(budget),
    }
    .encode_to_vec()
}

pub fn decode_propose(bytes: &[u8]) -> Result<(Vec<Command>, Duration), DecodeError> {
    let request = pb::ProposeRequest::decode(bytes)?;
    let commands = request.commands.into_iter().map(command::decode);
    Ok((
        commands.collect::<Result<_, _>>()?,
        Duration::from_millis(request.budget_ms),
    ))
}

pub fn encode_answers(answers: &[Result<Decided, Undone>]) -> Vec<u8> {
    pb::ProposeResponse {
        answers: answers.iter().map(answer_message).collect(),
    }
    .encode_to_vec()
}

pub fn decode_answers(bytes: &[u8]) -> Result<Vec<Result<Decided, Undone>>, DecodeError> {
    let response = pb::ProposeResponse::decode(bytes)?;
    response.answers.into_iter().map(answer).collect()
}

fn answer_message(answer: &Result<Decided, Undone>) -> pb::Answer {
    use pb::answer::Outcome;
    let (outcome, log_index) = match answer {
        Ok(Decided {
            answer: Ok(done),
            index,
        }) => (Outcome::Response(response::encode(done)), *index),
        Ok(Decided {
            answer: Err(why),
            index,
        }) => {
            let refused = pb::failure::Kind::Refused(refused::encode(why));
            (Outcome::Failure(pb::Failure { kind: Some(refused) }), *index)
        }
        Err(undone) => (Outcome::Failure(failure_message(undone)), 0),
    };
    pb::Answer {
        outcome: Some(outcome),
        log_index,
    }
}

fn answer(message: pb::Answer) -> Result<Result<Decided, Undone>, DecodeError> {
    use pb::answer::Outcome;
    let index = message.log_index;
    Ok(match required(message.outcome, "outcome")? {
        Outcome::Response(message) => Ok(Decided {
            answer: Ok(response::decode(message)?),
            index,
        }),
        Outcome::Failure(message) => match failure(message)? {
            Undone::Error(MetaError::Refused(why)) if index > 0 => Ok(Decided {
                answer: Err(why),
                index,
            }),
            undone => Err(undone),
        },
    })
}

/// An error of the store is told as one whose outcome is unknown: what it means to its node means nothing elsewhere.
fn failure_message(undone: &Undone) -> pb::Failure {
    use pb::failure::{Kind, NotLeading};
    let kind = match undone {
        Undone::NotLeading(leader) => Kind::NotLeading(NotLeading { leader: *leader }),
        Undone::Error(error) => match error {
            MetaError::Retry(why) => Kind::Retry(why.to_string()),
            MetaError::Unknown(why) => Kind::Unknown(why.to_string()),
            MetaError::Closed(why) => Kind::Closed(why.to_string()),
            MetaError::Refused(why) => Kind::Refused(refused::encode(why)),
            MetaError::Invalid(why) => Kind::Invalid(why.to_string()),
            MetaError::Unusable(why) => Kind::Unusable(why.to_string()),
            MetaError::Store(error) => Kind::Unknown(error.to_string()),
        },
    };
    pb::Failure { kind: Some(kind) }
}

fn failure(message: pb::Failure) -> Result<Undone, DecodeError> {
    use pb::failure::Kind;
    let error = match required(message.kind, "failure")? {
        Kind::NotLeading(m) => return Ok(Undone::NotLeading(m.leader)),
        Kind::Retry(why) => MetaError::Retry(why.into()),
        Kind::Unknown(why) => MetaError::Unknown(why.into()),
        Kind::Closed(why) => MetaError::Closed(why.into()),
        Kind::Refused(why) => MetaError::Refused(refused::decode(why)?),
        Kind::Invalid(why) => MetaError::Invalid(why.into()),
        Kind::Unusable(why) => MetaError::Unusable(why.into()),
    };
    Ok(Undone::Error(error))
}

pub fn encode_read_index(budget: Duration) -> Vec<u8> {
    pb::ReadIndexRequest {
        budget_ms: ms(budget),
    }
    .encode_to_vec()
}

pub fn decode_read_index(bytes: &[u8]) -> Result<Duration, DecodeError> {
    Ok(Duration::from_millis(
        pb::ReadIndexRequest::decode(bytes)?.budget_ms,
    ))
}

pub fn encode_index(index: &Result<u64, Undone>) -> Vec<u8> {
    use pb::read_index_response::Result;
    let result = match index {
        Ok(index) => Result::Index(*index),
        Err(undone) => Result::Failure(failure_message(undone)),
    };
    pb::ReadIndexResponse { result: Some(result) }.encode_to_vec()
}

pub fn decode_index(bytes: &[u8]) -> Result<Result<u64, Undone>, DecodeError> {
    use pb::read_index_response::Result;
    Ok(
        match required(pb::ReadIndexResponse::decode(bytes)?.result, "read index")? {
            Result::Index(index) => Ok(index),
            Result::Failure(message) => Err(failure(message)?),
        },
    )
}

pub fn encode_change(change: &Change, budget: Duration) -> Vec<u8> {
    use pb::change_request as m;
    let change = match change {
        Change::AddLearner { node, address } => m::Change::AddLearner(m::AddLearner {
            node: node.0,
            address: address.clone(),
        }),
        Change::Voters(voters) => m::Change::ChangeVoters(m::ChangeVoters {
            voters: voters.iter().map(|node| node.0).collect(),
        }),
        Change::Promote(node) => m::Change::Promote(node.0),
        Change::Remove(node) => m::Change::Remove(node.0),
        Change::TransferLeader(node) => m::Change::TransferLeader(node.0),
        Change::SetSelf {
            node,
            address,
            directory,
        } => m::Change::SetSelf(m::SetSelf {
            node: node.0,
            address: address.clone(),
            directory: directory.map(|directory| id_bytes(directory.0)),
        }),
    };
    pb::ChangeRequest {
        change: Some(change),
        budget_ms: ms(budget),
    }
    .encode_to_vec()
}

pub fn decode_change(bytes: &[u8]) -> Result<(Change, Duration), DecodeError> {
    use pb::change_request::Change as Kind;
    let request = pb::ChangeRequest::decode(bytes)?;
    let unknown = || DecodeError::unknown("change", "a kind of a later release");
    let change = match request.change.ok_or_else(unknown)? {
        Kind::AddLearner(m) => Change::AddLearner {
            node: NodeId(m.node),
            address: m.address,
        },
        Kind::ChangeVoters(m) => Change::Voters(m.voters.into_iter().map(NodeId).collect()),
        Kind::Promote(node) => Change::Promote(NodeId(node)),
        Kind::Remove(node) => Change::Remove(NodeId(node)),
        Kind::TransferLeader(node) => Change::TransferLeader(NodeId(node)),
        Kind::SetSelf(m) => Change::SetSelf {
            node: NodeId(m.node),
            address: m.address,
            directory: directory(m.directory)?,
        },
    };
    Ok((change, Duration::from_millis(request.budget_ms)))
}

pub fn encode_changed(changed: &Result<(), Undone>) -> Vec<u8> {
    pb::ChangeResponse {
        failure: changed.as_ref().err().map(failure_message),
    }
    .encode_to_vec()
}

pub fn decode_changed(bytes: &[u8]) -> Result<Result<(), Undone>, DecodeError> {
    Ok(match pb::ChangeResponse::decode(bytes)?.failure {
        None => Ok(()),
        Some(message) => Err(failure(message)?),
    })
}

pub fn encode_introduction(introduction: &Introduction) -> Vec<u8> {
    use pb::introduction as m;
    let identity = &introduction.identity;
    pb::Introduction {
        cluster: identity.cluster.map(|cluster| id_bytes(cluster.0)),
        node: identity.node.0,
        directory: identity.directory.map(|directory| id_bytes(directory.0)),
        initialized: introduction.initialized,
        members: introduction
            .members
            .iter()
            .map(|member| m::Member {
                node: member.node.0,
                address: member.address.clone(),
                voter: member.voter,
                directory: member.directory.map(|directory| id_bytes(directory.0)),
            })
            .collect(),
        peers: introduction
            .peers
            .iter()
            .map(|peer| m::Peer {
                node: peer.node.0,
                address: peer.address.clone(),
            })
            .collect(),
        known: introduction
            .known
            .iter()
            .map(|known| m::Known {
                node: known.node.0,
                incarnation: known.incarnation.map(|incarnation| id_bytes(incarnation.0)),
                reached: known.reached,
            })
            .collect(),
    }
    .encode_to_vec()
}

pub fn decode_introduction(bytes: &[u8]) -> Result<Introduction, DecodeError> {
    let message = pb::Introduction::decode(bytes)?;
    let cluster = message.cluster.map(|bytes| id(&bytes, "cluster")).transpose()?;
    Ok(Introduction {
        identity: Identity {
            cluster: cluster.map(ClusterId),
            node: NodeId(message.node),
            directory: directory(message.directory)?,
        },
        initialized: message.initialized,
        members: message
            .members
            .into_iter()
            .map(|m| {
                Ok(Member {
                    node: NodeId(m.node),
                    address: m.address,
                    voter: m.voter,
                    directory: directory(m.directory)?,
                })
            })
            .collect::<Result<_, DecodeError>>()?,
        peers: message
            .peers
            .into_iter()
            .map(|m| PeerAddress {
                node: NodeId(m.node),
                address: m.address,
            })
            .collect(),
        known: message
            .known
            .into_iter()
            .map(|m| {
                let incarnation = m.incarnation.map(|bytes| id(&bytes, "incarnation"));
                Ok(Known {
                    node: NodeId(m.node),
                    incarnation: incarnation.transpose()?.map(Incarnation),
                    reached: m.reached,
                })
            })
            .collect::<Result<_, DecodeError>>()?,
    })
}

fn directory(bytes: Option<Vec<u8>>) -> Result<Option<DirectoryId>, DecodeError> {
    let directory = bytes.map(|bytes| id(&bytes, "directory")).transpose()?;
    Ok(directory.map(DirectoryId))
}
