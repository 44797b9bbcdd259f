//! The log: entries, votes, log ids, membership. An upstream field that changes is a compile error here, and never
//! a change of what is stored.

use openraft::vote::RaftLeaderIdExt;
use openraft::{EntryPayload, Membership, StoredMembership};
use prost::Message;

use super::common::{id, id_bytes};
use super::{DecodeError, command, required};
use crate::identity::DirectoryId;
use crate::pb;
use crate::state::record::{LogPosition, MemberNode, Members};
use crate::types::{Entry, LeaderId, LogId, StoredMembers, Vote};

pub fn log_position_message(position: LogPosition) -> pb::LogId {
    pb::LogId {
        term: position.term,
        node: position.node,
        index: position.index,
    }
}

pub fn log_position(message: pb::LogId) -> LogPosition {
    LogPosition {
        term: message.term,
        node: message.node,
        index: message.index,
    }
}

pub fn position_of(log_id: &LogId) -> LogPosition {
    LogPosition {
        term: log_id.leader_id.term,
        node: log_id.leader_id.node_id,
        index: log_id.index,
    }
}

pub fn log_id_at(position: LogPosition) -> LogId {
    LogId::new(
        LeaderId::new_committed(position.term, position.node),
        position.index,
    )
}

pub fn members_message(members: &Members) -> pb::Membership {
    pb::Membership {
        configs: members
            .configs
            .iter()
            .map(|set| pb::membership::VoterSet {
                voters: set.iter().copied().collect(),
            })
            .collect(),
        members: members
            .nodes
            .iter()
            .map(|(node, member)| pb::membership::Member {
                node: *node,
                address: member.address.clone(),
                directory: member.directory.map(|directory| id_bytes(directory.0)),
            })
            .collect(),
    }
}

pub fn members(message: pb::Membership) -> Result<Members, DecodeError> {
    Ok(Members {
        configs: message
            .configs
            .into_iter()
            .map(|set| set.voters.into_iter().collect())
            .collect(),
        nodes: message
            .members
            .into_iter()
            .map(|m| {
                let directory = m.directory.map(|bytes| id(&bytes, "directory")).transpose()?;
                let member = MemberNode {
                    address: m.address,
                    directory: directory.map(DirectoryId),
                };
                Ok((m.node, member))
            })
            .collect::<Result<_, DecodeError>>()?,
    })
}

pub fn members_of(membership: &Membership<u64, MemberNode>) -> Members {
    Members {
        configs: membership.get_joint_config().clone(),
        nodes: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
    }
}

pub fn membership_of(members: &Members) -> Result<Membership<u64, MemberNode>, DecodeError> {
    if *members == Members::default() {
        return Ok(Membership::default());
    }
    Membership::new(members.configs.clone(), members.nodes.clone())
        .map_err(|error| DecodeError::unknown("membership", error))
}

pub fn stored_membership(at: Option<LogPosition>, members: &Members) -> Result<StoredMembers, DecodeError> {
    Ok(StoredMembership::new(at.map(log_id_at), membership_of(members)?))
}

pub fn encode_log_id(log_id: &LogId) -> Vec<u8> {
    log_position_message(position_of(log_id)).encode_to_vec()
}

pub fn decode_log_id(bytes: &[u8]) -> Result<LogId, DecodeError> {
    Ok(log_id_at(log_position(pb::LogId::decode(bytes)?)))
}

pub fn vote_message(vote: &Vote) -> pb::Vote {
    pb::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub fn vote_of(vote: pb::Vote) -> Vote {
    Vote {
        leader_id: LeaderId {
            term: vote.term,
            node_id: vote.node,
        },
        committed: vote.committed,
    }
}

pub fn encode_vote(vote: &Vote) -> Vec<u8> {
    vote_message(vote).encode_to_vec()
}

pub fn decode_vote(bytes: &[u8]) -> Result<Vote, DecodeError> {
    Ok(vote_of(pb::Vote::decode(bytes)?))
}

pub fn entry_message(entry: &Entry) -> pb::Entry {
    use pb::entry::Payload;
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(pb::Blank {}),
        EntryPayload::Normal(command) => Payload::Command(command::encode(command)),
        EntryPayload::Membership(membership) => Payload::Membership(members_message(&members_of(membership))),
    };
    pb::Entry {
        log_id: Some(log_position_message(position_of(&entry.log_id))),
        payload: Some(payload),
    }
}

pub fn entry_of(entry: pb::Entry) -> Result<Entry, DecodeError> {
    use pb::entry::Payload;
    let log_id = log_id_at(log_position(required(entry.log_id, "log id")?));
    let unknown = || DecodeError::unknown("entry payload", "a kind of a later release");
    let payload = match entry.payload.ok_or_else(unknown)? {
        Payload::Blank(_) => EntryPayload::Blank,
        Payload::Command(command) => EntryPayload::Normal(command::decode(command)?),
        Payload::Membership(message) => EntryPayload::Membership(membership_of(&members(message)?)?),
    };
    Ok(Entry { log_id, payload })
}

pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    entry_message(entry).encode_to_vec()
}

pub fn decode_entry(bytes: &[u8]) -> Result<Entry, DecodeError> {
    entry_of(pb::Entry::decode(bytes)?)
}
