//! The same log on different stores, in different batches, through a snapshot.

use std::sync::Arc;

use millrace_api::id::NodeId;
use openraft::EntryPayload;
use proptest::prelude::*;

use super::harness::Model;
use super::random::{commands, steer};
use crate::codec::log::log_id_at;
use crate::command::{CheckState, Command, CompareState, InitCell, Response, StateChecksum};
use crate::query::StateReader;
use crate::state::checksum::checksum;
use crate::state::memory::MemoryState;
use crate::state::record::LogPosition;
use crate::state::table::CellTable;
use crate::state::txn::Txn;
use crate::store::blocking::Blocking;
use crate::store::dir::MetaDir;
use crate::store::machine::Machine;
use crate::store::snapshot::Snapshot;
use crate::types::Entry;

fn machine(dir: &std::path::Path) -> Arc<Machine> {
    Machine::open(MetaDir::open(dir, NodeId(1)).unwrap(), Blocking::Inline).unwrap()
}

fn entries(commands: &[Command]) -> Vec<Entry> {
    let entry = |(n, command): (usize, &Command)| Entry {
        log_id: log_id_at(LogPosition {
            term: 1,
            node: 1,
            index: n as u64 + 1,
        }),
        payload: EntryPayload::Normal(command.clone()),
    };
    commands.iter().enumerate().map(entry).collect()
}

fn sum(machine: &Machine) -> u32 {
    StateReader::new(machine.state()).checksum().unwrap()
}

/// Sends a snapshot as it travels between nodes.
fn ship(snapshot: &Arc<Snapshot>, to: &Machine) -> Arc<Snapshot> {
    let mut receiver = to.receive(&snapshot.manifest()).unwrap();
    let mut pieces = snapshot.pieces();
    while let Some(piece) = pieces.next_piece().unwrap() {
        receiver.accept(&piece).unwrap();
    }
    receiver.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_store_and_every_batching_gives_the_same_state(
        commands in commands(100), batch in 1usize..40, cut in any::<proptest::sample::Index>(),
    ) {
        let mut model = Model::default();
        let mut expected = Vec::new();
        let mut steered = Vec::new();
        for command in commands {
            steered.push(steer(&mut model, command));
            expected.push(Some(model.run(steered[steered.len() - 1].clone())));
        }
        let entries = entries(&steered);

        let dir = tempfile::tempdir().unwrap();
        let batched = machine(&dir.path().join("a"));
        let mut answers = Vec::new();
        for part in entries.chunks(batch) {
            answers.extend(batched.apply_batch(part).unwrap());
        }
        prop_assert_eq!(&answers, &expected);
        prop_assert_eq!(sum(&batched), checksum(&model.state).unwrap());

        // A replica that gets a snapshot and then the rest of the log.
        let cut = cut.index(entries.len()) + 1;
        let source = machine(&dir.path().join("b"));
        source.apply_batch(&entries[..cut]).unwrap();
        let made = source.build().unwrap();
        let replica = machine(&dir.path().join("c"));
        replica.apply_batch(&entries[..1]).unwrap();
        let received = ship(&made.snapshot, &replica);
        let pinned = StateReader::new(replica.state());
        replica.install(&made.meta, &received).unwrap();
        prop_assert_eq!(pinned.applied_index().unwrap(), 1, "an old reader keeps its state");
        prop_assert_eq!(sum(&replica), sum(&source));
        replica.apply_batch(&entries[cut..]).unwrap();
        prop_assert_eq!(sum(&replica), sum(&batched));
        drop((replica, received, pinned));

        let reopened = machine(&dir.path().join("c"));
        prop_assert_eq!(sum(&reopened), sum(&batched));
        prop_assert_eq!(reopened.newest().map(|s| s.index()), Some(cut as u64));
    }
}

#[test]
fn a_damaged_transfer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = machine(&dir.path().join("a"));
    let commands: Vec<Command> = vec![crate::command::InitCell { cell_id: 1 }.into()];
    source.apply_batch(&entries(&commands)).unwrap();
    let snapshot = source.build().unwrap().snapshot;
    assert!(snapshot.length() > 0);
    let target = machine(&dir.path().join("b"));

    let mut pieces = Vec::new();
    let mut reader = snapshot.pieces();
    while let Some(piece) = reader.next_piece().unwrap() {
        pieces.push(piece);
    }
    assert!(pieces.len() >= 3);
    let begin = || target.receive(&snapshot.manifest()).unwrap();

    let mut flipped = pieces[0].clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(begin().accept(&flipped).is_err(), "a wrong checksum");
    assert!(begin().accept(&pieces[1]).is_err(), "out of order");
    let mut twice = begin();
    twice.accept(&pieces[0]).unwrap();
    assert!(twice.accept(&pieces[0]).is_err(), "the same again");
    drop(twice);
    let mut short = begin();
    short.accept(&pieces[0]).unwrap();
    assert!(short.finish().is_err(), "pieces are missing");
    let left: Vec<_> = std::fs::read_dir(dir.path().join("b/incoming"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "nothing of it is kept: {left:?}");
}

#[test]
fn a_manifest_cannot_lead_out_of_its_directory() {
    use prost::Message;
    let dir = tempfile::tempdir().unwrap();
    let target = machine(dir.path());
    for name in ["../x.sst", "/tmp/x.sst", "a/b.sst", "", "identity", "x\0.sst"] {
        let file = crate::pb::snapshot_manifest::File {
            name: name.into(),
            length: 1,
        };
        let manifest = crate::pb::SnapshotManifest {
            format: 1,
            files: vec![file],
            ..Default::default()
        };
        assert!(target.receive(&manifest.encode_to_vec()).is_err(), "{name:?}");
    }
    let later = crate::pb::SnapshotManifest {
        format: 2,
        ..Default::default()
    };
    assert!(target.receive(&later.encode_to_vec()).is_err());
}

#[test]
fn only_the_newest_snapshot_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let machine = machine(dir.path());
    let commands: Vec<Command> = (0..3)
        .map(|n| {
            crate::command::PurgeBasin {
                basin: millrace_api::id::BasinId(n),
            }
            .into()
        })
        .collect();
    for entry in entries(&commands) {
        machine.apply_batch(std::slice::from_ref(&entry)).unwrap();
        machine.build().unwrap();
        machine.build().unwrap();
    }
    let kept: Vec<_> = std::fs::read_dir(dir.path().join("snapshots")).unwrap().collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
}

#[test]
fn a_replica_that_differs_fails_and_names_both_checksums() {
    let dir = tempfile::tempdir().unwrap();
    let (leader, replica) = (machine(&dir.path().join("a")), machine(&dir.path().join("b")));
    let compare = |index: u64| {
        let mut all = entries(&[CompareState {}.into()]);
        all[0].log_id.index = index;
        all
    };
    let computed = |machine: &Machine, index| match &machine.apply_batch(&compare(index)).unwrap()[..] {
        [Some(Ok(Response::StateChecksum(computed)))] => *computed,
        other => panic!("{other:?}"),
    };
    let check = |computed: StateChecksum, index: u64| {
        let mut all = entries(&[CheckState { computed }.into()]);
        all[0].log_id.index = index;
        all
    };
    let first = entries(&[InitCell { cell_id: 1 }.into()]);
    leader.apply_batch(&first).unwrap();
    replica.apply_batch(&first).unwrap();
    let at_two = computed(&leader, 2);
    assert_eq!(computed(&replica, 2), at_two);
    replica.apply_batch(&check(at_two, 3)).unwrap();
    leader.apply_batch(&check(at_two, 3)).unwrap();

    // A change that no entry made.
    let empty = MemoryState::default();
    let mut txn = Txn::new(&empty);
    txn.write::<CellTable>(&(), &2);
    replica.state().commit(txn.into_changes()).unwrap();
    let at_four = computed(&leader, 4);
    assert_ne!(computed(&replica, 4), at_four);
    leader.apply_batch(&check(at_four, 5)).unwrap();
    let error = replica.apply_batch(&check(at_four, 5)).unwrap_err().to_string();
    assert!(
        error.contains("differ") && error.contains(&format!("{:08x}", at_four.checksum)),
        "{error}"
    );

    // One that does not remember says nothing.
    drop(replica);
    let replica = machine(&dir.path().join("b"));
    replica.apply_batch(&check(at_four, 5)).unwrap();
}
