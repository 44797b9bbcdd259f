use millrace_api::id::NodeId;

use super::*;
use crate::identity::{ClusterId, DirectoryId, Identity, Member};

fn peers() -> Vec<PeerAddress> {
    let peer = |node: u64| PeerAddress {
        node: NodeId(node),
        address: format!("host-{node}:1"),
    };
    (1..=3).map(peer).collect()
}

fn fresh(node: u64) -> Introduction {
    Introduction {
        identity: Identity {
            cluster: Some(ClusterId(1)),
            node: NodeId(node),
            directory: Some(DirectoryId(u128::from(node) * 11)),
        },
        initialized: false,
        members: Vec::new(),
        peers: peers(),
        known: Vec::new(),
    }
}

fn member(node: u64, directory: Option<u128>) -> Member {
    Member {
        node: NodeId(node),
        address: String::new(),
        voter: true,
        directory: directory.map(DirectoryId),
    }
}

fn of_group(node: u64, members: Vec<Member>) -> Introduction {
    Introduction {
        initialized: true,
        members,
        ..fresh(node)
    }
}

type Said = (PeerAddress, Result<Introduction, String>);

fn says(node: u64, answer: Introduction) -> Said {
    (peers()[node as usize - 1].clone(), Ok(answer))
}

fn silent(node: u64) -> Said {
    let peer = peers()[node as usize - 1].clone();
    let why = format!("node {peer}: nobody answers");
    (peer, Err(why))
}

fn waits(verdict: Result<Verdict, MetaError>, text: &str) {
    match verdict {
        Ok(Verdict::Wait(why)) => assert!(why.contains(text), "{why}"),
        other => panic!("{other:?}"),
    }
}

fn refuses(verdict: Result<Verdict, MetaError>, text: &str) {
    match verdict {
        Err(MetaError::Unusable(why)) => assert!(why.contains(text), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_lowest_founds_the_group_when_all_are_fresh() {
    let answers = [says(2, fresh(2)), says(3, fresh(3))];
    match verdict(&fresh(1), &answers).unwrap() {
        Verdict::Found(members) => {
            assert_eq!(members.len(), 3);
            let three = &members[&3];
            assert_eq!(three.address, "host-3:1");
            assert_eq!(three.directory, Some(DirectoryId(33)));
        }
        other => panic!("{other:?}"),
    }
    let answers = [says(1, fresh(1)), says(3, fresh(3))];
    waits(verdict(&fresh(2), &answers), "node 1=host-1:1 to found");
}

#[test]
fn the_order_of_a_peer_list_does_not_matter() {
    let mut two = fresh(2);
    two.peers.reverse();
    let answers = [says(2, two), says(3, fresh(3))];
    assert!(matches!(verdict(&fresh(1), &answers), Ok(Verdict::Found(_))));
}

#[test]
fn nobody_founds_a_group_while_one_is_silent() {
    waits(
        verdict(&fresh(1), &[says(2, fresh(2)), silent(3)]),
        "node 3=host-3:1",
    );
}

#[test]
fn nobody_founds_a_group_with_a_joiner() {
    let joiner = Introduction {
        peers: Vec::new(),
        ..fresh(3)
    };
    waits(
        verdict(&fresh(1), &[says(2, fresh(2)), says(3, joiner)]),
        "waits to be added",
    );
}

#[test]
fn where_a_group_is_nobody_founds_another() {
    let group = || vec![member(1, Some(11)), member(2, Some(22))];
    let answers = [says(1, of_group(1, group())), silent(2)];
    assert_eq!(verdict(&fresh(3), &answers).unwrap(), Verdict::Join);
    // The founder died before it was heard, or has not called yet.
    let answers = [silent(1), says(2, fresh(2))];
    waits(verdict(&fresh(3), &answers), "nobody answers");
    let whole = vec![member(1, Some(11)), member(2, Some(22)), member(3, Some(33))];
    let answers = [says(1, of_group(1, whole)), says(2, fresh(2))];
    waits(verdict(&fresh(3), &answers), "leader");
}

#[test]
fn a_member_that_lost_its_disk_is_told_so() {
    for directory in [Some(99), None] {
        let group = vec![member(1, Some(11)), member(3, directory)];
        let answers = [says(1, of_group(1, group)), says(2, fresh(2))];
        refuses(verdict(&fresh(3), &answers), "lost or replaced");
    }
}

#[test]
fn lists_that_differ_are_both_named() {
    let mut two = fresh(2);
    two.peers.pop();
    let said = verdict(&fresh(1), &[says(2, two), silent(3)]);
    refuses(said.clone(), "node 2 has 1=host-1:1,2=host-2:1");
    refuses(said, "1=host-1:1,2=host-2:1,3=host-3:1");
}

#[test]
fn another_node_or_cluster_at_an_address_is_refused() {
    refuses(verdict(&fresh(1), &[says(2, fresh(3))]), "is node 3");
    let mut two = fresh(2);
    two.identity.cluster = Some(ClusterId(2));
    refuses(verdict(&fresh(1), &[says(2, two)]), "another cluster");
}

#[test]
fn a_list_names_this_node_and_each_once() {
    let mut options = MetaOptions::new("x", NodeId(1));
    assert!(check(&peers(), &options).is_err(), "without a cluster");
    options.cluster = Some(ClusterId(1));
    options.directory = Some(DirectoryId(1));
    check(&peers(), &options).unwrap();
    options.node = NodeId(4);
    assert!(check(&peers(), &options).is_err());
    options.node = NodeId(1);
    let twice = [peers(), peers()].concat();
    assert!(check(&twice, &options).is_err());
}
