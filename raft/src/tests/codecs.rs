use openraft::EntryPayload;
use proptest::prelude::*;

use super::random;
use crate::codec::log::*;
use crate::identity::DirectoryId;
use crate::state::record::{LogPosition, MemberNode};
use crate::types::{Entry, LeaderId, Vote};

fn entry(payload: EntryPayload<crate::command::Command, u64, MemberNode>) -> Entry {
    Entry {
        log_id: log_id_at(LogPosition {
            term: 3,
            node: 2,
            index: 9,
        }),
        payload,
    }
}

proptest! {
    #[test]
    fn an_entry_is_what_was_encoded(command in random::command()) {
        let entry = entry(EntryPayload::Normal(command));
        prop_assert_eq!(decode_entry(&encode_entry(&entry)).unwrap(), entry);
    }

    #[test]
    fn a_damaged_entry_never_panics(
        command in random::command(), at in any::<proptest::sample::Index>(), flip in 1u8..=255,
    ) {
        let mut bytes = encode_entry(&entry(EntryPayload::Normal(command)));
        let at = at.index(bytes.len());
        let _ = decode_entry(&bytes[..at]);
        bytes[at] ^= flip;
        let _ = decode_entry(&bytes);
    }

    #[test]
    fn a_vote_is_what_was_encoded(term in any::<u64>(), node_id in any::<u64>(), committed in any::<bool>()) {
        let vote = Vote { leader_id: LeaderId { term, node_id }, committed };
        prop_assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
    }
}

#[test]
fn blank_and_membership_entries_round_trip() {
    let member = |n: u64| MemberNode {
        address: format!("host:{n}"),
        directory: (n > 1).then_some(DirectoryId(n.into())),
    };
    let nodes: std::collections::BTreeMap<u64, MemberNode> = (1..5).map(|n| (n, member(n))).collect();
    let joint = vec![[1, 2].into(), [2, 3].into()];
    let membership = openraft::Membership::new(joint, nodes).unwrap();
    for payload in [EntryPayload::Blank, EntryPayload::Membership(membership)] {
        let entry = entry(payload);
        assert_eq!(decode_entry(&encode_entry(&entry)).unwrap(), entry);
    }
}

#[test]
fn a_command_of_a_later_release_is_refused_by_name() {
    use prost::Message;
    // Field 3 of the entry is the command; field 900 of it is nothing that this release knows.
    let id = crate::pb::LogId {
        term: 1,
        node: 1,
        index: 1,
    }
    .encode_to_vec();
    let unknown = [0xa2, 0x38, 0x00];
    let bytes = [
        &[0x0a, id.len() as u8][..],
        &id,
        &[0x1a, unknown.len() as u8],
        &unknown,
    ]
    .concat();
    let error = decode_entry(&bytes).unwrap_err().to_string();
    assert!(
        error.contains("command") && error.contains("later release"),
        "{error}"
    );
}

/// The bytes of this release, kept: a later one reads them.
#[test]
fn stored_bytes_stay_readable() {
    let entry = entry(EntryPayload::Normal(super::harness::seal(1, 3, 2, 4).into()));
    let kept = [
        10, 6, 8, 3, 16, 2, 24, 9, 26, 12, 66, 10, 8, 4, 16, 1, 24, 3, 32, 2, 40, 4,
    ];
    assert_eq!(encode_entry(&entry), kept);
    assert_eq!(decode_entry(&kept).unwrap(), entry);
}

/// A membership as it was written before members had directories: still read, and still written the same.
#[test]
fn a_membership_without_directories_stays_readable() {
    let member = MemberNode {
        address: "host:1".into(),
        directory: None,
    };
    let nodes = std::collections::BTreeMap::from([(1, member)]);
    let membership = openraft::Membership::new(vec![[1].into()], nodes).unwrap();
    let entry = entry(EntryPayload::Membership(membership));
    let kept = [
        10, 6, 8, 3, 16, 2, 24, 9, 34, 17, 10, 3, 10, 1, 1, 18, 10, 8, 1, 18, 6, 104, 111, 115, 116, 58, 49,
    ];
    assert_eq!(encode_entry(&entry), kept);
    assert_eq!(decode_entry(&kept).unwrap(), entry);
}
