//! What members tell each other about commands is what was told.

use std::time::Duration;

use millrace_api::id::*;
use proptest::prelude::*;

use super::harness::{Model, basin_name, stream_name};
use super::random::{command, commands, steer};
use crate::codec::forward::*;
use crate::command::{Response, StateChecksum};
use crate::error::{MetaError, StoreError};
use crate::group::{Change, Decided, Undone};
use crate::identity::*;
use crate::refused::Refused;

fn there_and_back(answer: Result<Decided, Undone>) -> (String, String) {
    let said = format!("{:?}", [&answer]);
    let bytes = encode_answers(&[answer]);
    (said, format!("{:?}", decode_answers(&bytes).unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn answers_of_the_log_arrive_as_they_were(commands in commands(60)) {
        let mut model = Model::default();
        let mut answers = Vec::new();
        for command in commands {
            let command = steer(&mut model, command);
            let answer = model.run(command);
            answers.push(Ok(Decided { answer, index: model.index }));
        }
        let arrived = decode_answers(&encode_answers(&answers)).unwrap();
        prop_assert_eq!(format!("{arrived:?}"), format!("{answers:?}"));
    }

    #[test]
    fn commands_arrive_as_they_were(batch in proptest::collection::vec(command(), 0..20), ms in 0u64..100_000) {
        let budget = Duration::from_millis(ms);
        let bytes = encode_propose(batch.iter(), budget);
        prop_assert_eq!(decode_propose(&bytes).unwrap(), (batch, budget));
    }

    #[test]
    fn damaged_answers_never_panic(
        commands in commands(20), at in any::<proptest::sample::Index>(), flip in 1u8..=255,
    ) {
        let mut model = Model::default();
        let answers: Vec<_> = commands
            .into_iter()
            .map(|command| Ok(Decided { answer: model.run(command), index: 1 }))
            .collect();
        let mut bytes = encode_answers(&answers);
        let at = at.index(bytes.len());
        let _ = decode_answers(&bytes[..at]);
        bytes[at] ^= flip;
        let _ = decode_answers(&bytes);
        let _ = (decode_propose(&bytes), decode_change(&bytes), decode_introduction(&bytes));
        let _ = (decode_index(&bytes), decode_changed(&bytes), decode_read_index(&bytes));
    }
}

#[test]
fn every_refusal_arrives_as_it_was() {
    let (basin, stream) = (basin_name, || stream_name("s"));
    let (channel, epoch, node) = (ChannelId(1), Epoch(2), NodeId(3));
    let (incarnation, streamlet) = (Incarnation(4), StreamletId(5));
    let all = [
        Refused::BasinNotFound(basin()),
        Refused::BasinDeletionPending(basin()),
        Refused::BasinExists(basin()),
        Refused::StreamNotFound(stream()),
        Refused::StreamDeletionPending(stream()),
        Refused::StreamExists(stream()),
        Refused::StreamGone,
        Refused::Invalid("why".into()),
        Refused::IdTaken,
        Refused::CellInitialized { cell_id: 6 },
        Refused::ZoneRegistered {
            zone: 7,
            registered: ZoneGen(8),
        },
        Refused::NodeUnknown(node),
        Refused::IncarnationEnded { node, incarnation },
        Refused::ChannelUnknown(channel),
        Refused::ChannelClass(channel),
        Refused::ChannelOwned {
            channel,
            node,
            incarnation,
            epoch,
        },
        Refused::EpochMoved { channel, epoch },
        Refused::ChannelInactive(channel),
        Refused::SealOutOfOrder {
            channel,
            oldest: epoch,
        },
        Refused::AlreadySealed {
            channel,
            epoch,
            end: ChunkSeq(9),
            by: Epoch(10),
            adopted: 11,
        },
        Refused::EarlierEpochUnsealed {
            channel,
            oldest: epoch,
        },
        Refused::StreamletNotOpen(streamlet),
        Refused::NotFlushed,
        Refused::StreamletOpen {
            channel,
            streamlet,
            epoch,
        },
        Refused::BasinNotEmpty(basin()),
        Refused::NotDeleting,
        Refused::TermOver,
    ];
    for refused in all {
        let answer = Ok(Decided {
            answer: Err(refused.clone()),
            index: 12,
        });
        let (said, heard) = there_and_back(answer);
        assert_eq!(said, heard);
        let (said, heard) = there_and_back(Err(Undone::Error(MetaError::Refused(refused))));
        assert_eq!(said, heard);
    }
}

#[test]
fn every_error_keeps_its_remedy() {
    for error in [
        MetaError::Retry("a".into()),
        MetaError::Unknown("b".into()),
        MetaError::Closed("c".into()),
        MetaError::Invalid("d".into()),
        MetaError::Unusable("e".into()),
    ] {
        let (said, heard) = there_and_back(Err(Undone::Error(error.clone())));
        assert_eq!(said, heard);
        let index = decode_index(&encode_index(&Err(Undone::Error(error.clone())))).unwrap();
        assert!(index.is_err());
        let changed = decode_changed(&encode_changed(&Err(Undone::Error(error)))).unwrap();
        assert!(changed.is_err());
    }
    for leader in [None, Some(3)] {
        let (said, heard) = there_and_back(Err(Undone::NotLeading(leader)));
        assert_eq!(said, heard);
    }
    let store = StoreError::corrupt("state", "torn");
    let (_, heard) = there_and_back(Err(Undone::Error(MetaError::Store(store))));
    assert!(heard.contains("Unknown") && heard.contains("torn"), "{heard}");
    let closed = Undone::Error(MetaError::Closed("c".into())).told_by_leader();
    assert!(
        matches!(closed, Undone::Error(MetaError::Unknown(_))),
        "its end is not ours"
    );
    let (said, heard) = there_and_back(Ok(Decided {
        answer: Ok(Response::StateChecksum(StateChecksum {
            index: 1,
            checksum: 2,
        })),
        index: 3,
    }));
    assert_eq!(said, heard);
}

#[test]
fn changes_and_introductions_arrive_as_they_were() {
    let node = NodeId(1);
    let budget = Duration::from_millis(1500);
    for change in [
        Change::AddLearner {
            node,
            address: "a:1".into(),
        },
        Change::Voters([node, NodeId(2)].into()),
        Change::Promote(node),
        Change::Remove(node),
        Change::TransferLeader(node),
        Change::SetSelf {
            node,
            address: "a:2".into(),
            directory: Some(DirectoryId(3)),
        },
    ] {
        let bytes = encode_change(&change, budget);
        assert_eq!(decode_change(&bytes).unwrap(), (change, budget));
    }
    let introduction = Introduction {
        identity: Identity {
            cluster: Some(ClusterId(4)),
            node,
            directory: None,
        },
        initialized: true,
        members: vec![Member {
            node,
            address: "a:3".into(),
            voter: true,
            directory: Some(DirectoryId(5)),
        }],
        peers: vec![PeerAddress {
            node,
            address: "a:4".into(),
        }],
        known: vec![Known {
            node: NodeId(2),
            incarnation: Some(Incarnation(7)),
            reached: Some(9),
        }],
    };
    let bytes = encode_introduction(&introduction);
    assert_eq!(decode_introduction(&bytes).unwrap(), introduction);
    assert_eq!(decode_index(&encode_index(&Ok(6))).unwrap().unwrap(), 6);
    decode_changed(&encode_changed(&Ok(()))).unwrap().unwrap();
    assert_eq!(decode_read_index(&encode_read_index(budget)).unwrap(), budget);
}
