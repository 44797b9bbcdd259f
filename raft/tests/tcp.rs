//! Members that reach each other over loopback TCP.

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millrace_api::id::{Incarnation, NodeId};
use millrace_raft::command::{COMMAND_BYTES_MAX, InitCell, RegisterNode};
use millrace_raft::error::MetaError;
use millrace_raft::group::{Fresh, Meta};
use millrace_raft::grpc::Lost;
use millrace_raft::identity::{ClusterId, DirectoryId};
use millrace_raft::refused::Refused;
use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_group_is_formed_once_in_every_order_of_starts() {
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [1, 3, 2]] {
        let cluster = Cluster::new(3).await;
        let mut starting = Vec::new();
        for node in order {
            let seat = cluster.seat(node);
            starting.push(tokio::spawn(seat.start()));
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        let mut members = Vec::new();
        for started in starting {
            members.push(started.await.unwrap().unwrap());
        }
        let ids: BTreeSet<_> = (1..=3).map(NodeId).collect();
        for member in &members {
            member.linearize().await.unwrap();
            let known = member.members();
            assert_eq!(
                known.iter().map(|member| member.node).collect::<BTreeSet<_>>(),
                ids
            );
            assert!(
                known
                    .iter()
                    .all(|member| member.voter && member.directory.is_some())
            );
        }
        let made = members[0].propose(create(1)).await.unwrap();
        for member in &members {
            member.linearize().await.unwrap();
            assert_eq!(
                member.state().basin(&made.basin.name).unwrap().as_ref(),
                Some(&made.basin)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_founder_that_dies_before_it_is_heard_goes_on_after_its_restart() {
    let cluster = Cluster::new(3).await;
    // The others say that they are fresh, and are gone before the founder can reach them.
    let starting = [2, 3].map(|node| tokio::spawn(cluster.seat(node).start()));
    let founder = tokio::spawn(cluster.seat(1).start());
    let founder = founder.await.unwrap().unwrap();
    for task in &starting {
        task.abort();
    }
    drop(founder);
    for task in starting {
        if let Ok(Ok(member)) = task.await {
            drop(member);
        }
    }
    let members = cluster.start_all().await;
    for member in &members {
        member.linearize().await.unwrap();
        assert_eq!(member.members().len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn peer_lists_that_differ_are_refused_by_name() {
    let cluster = Cluster::new(3).await;
    let mut odd = cluster.seat(2);
    odd.peers.pop();
    // Whoever asks first ends; the other does not reach it any more then.
    let first = tokio::select! {
        first = odd.start() => first,
        first = cluster.seat(1).start() => first,
    };
    match first {
        Err(MetaError::Unusable(why)) => assert!(why.contains("has the peer list"), "{why}"),
        other => panic!("{:?}", other.map(|meta| meta.metrics())),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_whose_disk_was_replaced_is_refused() {
    let cluster = Cluster::new(3).await;
    let mut members = cluster.start_all().await;
    members[0].propose(create(1)).await.unwrap();
    let lost = members.remove(2);
    lost.shutdown().await;
    drop(lost);
    let mut wiped = cluster.seat(3);
    wiped.dir = cluster.fresh_dir();
    wiped.directory = DirectoryId(999);
    match wiped.start().await {
        Err(MetaError::Unusable(why)) => assert!(why.contains("lost or replaced"), "{why}"),
        other => panic!("{:?}", other.map(|meta| meta.metrics())),
    }
    // One that only waits to be added is not taken for the member that it was.
    let mut wiped = cluster.seat(3);
    wiped.dir = cluster.fresh_dir();
    wiped.directory = DirectoryId(999);
    wiped.fresh = Some(Fresh::Join);
    let wiped = wiped.start().await.unwrap();
    for n in 2..20 {
        members[0].propose(create(n)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(wiped.members().is_empty());
    assert_eq!(wiped.applied_index(), 0);
    assert!(matches!(
        wiped.propose(InitCell { cell_id: 1 }).await,
        Err(MetaError::Retry(_))
    ));
}

/// Restarts a member with a copy of its directory that was made before its last life.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_with_an_old_copy_of_its_directory_is_refused_and_the_others_go_on() {
    // What the leader knows of its log, or what everybody knows of its lives, gives it away.
    for (lives, same_leader) in [(false, true), (true, false)] {
        let cluster = Cluster::new(3).await;
        let mut members = cluster.start_all().await;
        members[0].propose(create(1)).await.unwrap();
        let led_by = members.iter().position(leads).expect("somebody leads");
        let old = (led_by + 1) % 3;
        let node = NodeId(old as u64 + 1);
        let stop = async |member: Meta| {
            member.shutdown().await;
            drop(member);
        };
        let begin = async |member: &Meta, life| {
            member.remember_life(Incarnation(life)).await.unwrap();
            member.propose(register(node, Incarnation(life))).await.unwrap();
        };
        if lives {
            begin(&members[old], 76).await;
        }
        stop(members.remove(old)).await;
        let copy = cluster.fresh_dir();
        copy_dir(&cluster.seat(node.0).dir, &copy);
        let again = cluster
            .seat(node.0)
            .start()
            .await
            .expect("a copy of now is no old one");
        if lives {
            begin(&again, 77).await;
        }
        for n in 2..12 {
            again.propose(create(n)).await.unwrap();
        }
        let index = again.applied_index();
        stop(again).await;
        if !same_leader {
            // The new leader has never heard of the member.
            let leader = members
                .iter()
                .find(|member| leads(member))
                .expect("somebody leads");
            let next = cluster.other_than(leader, node);
            leader.transfer_leader(next).await.unwrap();
        }
        for member in &members {
            member.wait_applied(index).await.unwrap();
        }
        let mut restored = cluster.seat(node.0);
        restored.dir = copy;
        match restored.start().await {
            Err(MetaError::Unusable(why)) => {
                assert!(
                    why.contains("is an old copy") && why.contains("Remove node"),
                    "{why}"
                )
            }
            other => panic!("{:?}", other.map(|meta| meta.metrics())),
        }
        members[0].propose(create(100)).await.expect("the others go on");
        let back = cluster
            .seat(node.0)
            .start()
            .await
            .expect("the directory that was in use last");
        back.wait_applied(index).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_of_another_cluster_is_turned_away() {
    let cluster = Cluster::new(3).await;
    let members = cluster.start_all().await;
    let mut foreign = cluster.seat(4);
    foreign.cluster = ClusterId::of_name("another");
    foreign.fresh = Some(Fresh::Join);
    let foreign = foreign.start().await.unwrap();
    let address = cluster.address(4);
    match members[0].add_learner(NodeId(4), &address).await {
        Err(error) => assert!(error.to_string().contains("cluster"), "{error}"),
        Ok(()) => panic!("a foreign node was added"),
    }
    // Its own calls do not get through either.
    let mut forming = cluster.seat(5);
    forming.cluster = ClusterId::of_name("another");
    forming.peers.push(forming.peer());
    let formed = tokio::time::timeout(Duration::from_secs(2), forming.start()).await;
    assert!(formed.is_err(), "it waits for peers that turn it away");
    drop(foreign);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stranger_may_not_propose_and_a_joiner_carries_the_state() {
    let cluster = Cluster::new(3).await;
    let members = cluster.start_all().await;
    let mut joiner = cluster.seat(4);
    joiner.fresh = Some(Fresh::Join);
    let joiner = joiner.start().await.unwrap();
    let follower = members.iter().find(|member| !leads(member)).unwrap();
    follower
        .add_learner(NodeId(4), &cluster.address(4))
        .await
        .unwrap();
    let made = joiner.propose(create(7)).await.unwrap();
    assert_eq!(joiner.state().basin(&made.basin.name).unwrap(), Some(made.basin));
    within("the joiner becomes a voter", async || {
        joiner.promote(NodeId(4)).await.is_ok()
    })
    .await;
    follower.remove(NodeId(4)).await.unwrap();
    within("it is gone", async || follower.members().len() == 3).await;
    // It knows its former peers, but is none of them any more.
    let turned_away = create(8);
    let name = turned_away.name.clone();
    // An attempt that is on its way when time is up has an unknown outcome for whoever made it.
    let proposed = joiner.propose(turned_away).await;
    assert!(
        matches!(proposed, Err(MetaError::Retry(_) | MetaError::Unknown(_))),
        "{proposed:?}"
    );
    follower.linearize().await.unwrap();
    assert_eq!(follower.state().basin(&name).unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_that_is_removed_hands_over_and_leaves() {
    let cluster = Cluster::new(3).await;
    let members = cluster.start_all().await;
    members[0].linearize().await.unwrap();
    let leader = members.iter().position(leads).unwrap();
    let id = NodeId(leader as u64 + 1);
    within("the leader leaves", async || {
        members[leader].remove(id).await.is_ok()
    })
    .await;
    let left: Vec<&Meta> = members
        .iter()
        .filter(|member| !std::ptr::eq(*member, &members[leader]))
        .collect();
    for member in &left {
        member.propose(create(u128::from(id.0) + 50)).await.unwrap();
        within("it is gone", async || {
            member.members().iter().all(|member| member.node != id)
        })
        .await;
    }
    let error = left[0].promote(NodeId(9)).await.unwrap_err();
    assert!(matches!(error, MetaError::Refused(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_voter_stays_while_one_that_just_died_would_be_needed_without_it() {
    let cluster = Cluster::new(3).await;
    let members = cluster.start_all().await;
    members[0].propose(create(1)).await.unwrap();
    let leader = members.iter().position(leads).expect("somebody leads");
    let (dead, victim) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.cut(dead as u64 + 1);
    // Nobody has noticed yet.
    let removed = members[leader].remove(NodeId(victim as u64 + 1)).await;
    assert!(matches!(removed, Err(MetaError::Retry(_))), "{removed:?}");
    members[leader]
        .propose(create(2))
        .await
        .expect("two of three go on");
    assert_eq!(members[leader].metrics().voters, [1, 2, 3]);
    // The dead one itself may go.
    members[leader].remove(NodeId(dead as u64 + 1)).await.unwrap();
    members[leader].propose(create(3)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leadership_moves_where_it_is_sent() {
    let cluster = Cluster::new(3).await;
    let members = cluster.start_all().await;
    for to in [2, 1, 3] {
        within("the leader hands over", async || {
            members[0].transfer_leader(NodeId(to)).await.is_ok()
        })
        .await;
        let led = &members[to as usize - 1];
        within("it knows", async || led.leadership().borrow().leads).await;
        led.confirm_leadership().await.unwrap();
        for (n, member) in members.iter().enumerate() {
            if n + 1 != to as usize {
                assert!(matches!(
                    member.confirm_leadership().await,
                    Err(MetaError::Retry(_))
                ));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_that_was_away_for_long_comes_back_by_snapshot() {
    let cluster = Cluster::new(3).await;
    let mut members = cluster.start_all().await;
    members[0].linearize().await.unwrap();
    let away = members.iter().position(|member| !leads(member)).unwrap();
    let member = members.remove(away);
    member.shutdown().await;
    let seen = member.applied_index();
    drop(member);
    // A hundred thousand are for an afternoon.
    let commands = std::env::var("MILLRACE_AWAY_COMMANDS").map_or(2000, |count| count.parse().unwrap());
    for part in 0..commands / 200 {
        let all = (0..200).map(|n| members[0].propose(purge(part * 200 + n)));
        for done in futures::future::join_all(all).await {
            done.unwrap();
        }
    }
    members[0].propose(create(3)).await.unwrap();
    within("the log is purged", async || {
        members.iter().all(|m| m.metrics().purged_index > seen)
    })
    .await;
    let back = cluster.seat(away as u64 + 1).start().await.unwrap();
    let index = members[0].linearize().await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), back.wait_applied(index))
        .await
        .unwrap()
        .unwrap();
    within("it took a snapshot in", async || {
        back.metrics().purged_index > seen
    })
    .await;
    assert_eq!(
        back.state().checksum().unwrap(),
        members[0].state().checksum().unwrap()
    );
    back.compare_state().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_that_moved_tells_where_it_is() {
    let cluster = Cluster::new(3).await;
    let mut members = cluster.start_all().await;
    members[0].propose(create(1)).await.unwrap();
    let moved = members.remove(2);
    moved.shutdown().await;
    drop(moved);
    let mut seat = cluster.seat(3);
    seat.listen_elsewhere().await;
    let address = seat.address.clone();
    let back = seat.start().await.unwrap();
    within("the membership has the new address", async || {
        let members = members[0].members();
        members
            .iter()
            .any(|member| member.node == NodeId(3) && member.address == address)
    })
    .await;
    let index = members[0].linearize().await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), back.wait_applied(index))
        .await
        .unwrap()
        .unwrap();
}

/// What became of the commands of a storm.
#[derive(Default)]
struct Tally {
    done: AtomicU64,
    retry: AtomicU64,
    unknown: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_followers_were_told_is_what_happened_though_the_leader_died() {
    let cluster = Cluster::new(3).await;
    let mut members = cluster.start_all().await;
    members[0].linearize().await.unwrap();
    let leader = members.iter().position(leads).unwrap();
    let dying = members.remove(leader);
    let tally = Arc::new(Tally::default());
    let known = Arc::new(std::sync::Mutex::new((BTreeSet::new(), BTreeSet::new())));
    let mut storm = Vec::new();
    for task in 0..64u128 {
        let member = members[task as usize % 2].clone();
        let (tally, known) = (tally.clone(), known.clone());
        storm.push(tokio::spawn(async move {
            for n in 0..40u128 {
                let id = task * 1000 + n + 1;
                let begun = tokio::time::Instant::now();
                let made = member.propose(create(id)).await;
                assert!(
                    begun.elapsed() < PROPOSE_TIMEOUT + Duration::from_secs(2),
                    "{:?}",
                    begun.elapsed()
                );
                let mut known = known.lock().unwrap();
                match made {
                    Ok(made) => {
                        assert_eq!(member.state().basin(&made.basin.name).unwrap(), Some(made.basin));
                        known.0.insert(id);
                        tally.done.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(MetaError::Refused(why)) => panic!("{id} was applied twice: {why}"),
                    Err(MetaError::Retry(_)) => {
                        known.1.insert(id);
                        tally.retry.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(MetaError::Unknown(_)) => {
                        tally.unknown.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
        }));
    }
    within("the storm has begun", async || {
        tally.done.load(Ordering::Relaxed) > 100
    })
    .await;
    // Dead at once for the others: nothing it says gets out any more.
    cluster.cut(leader as u64 + 1);
    for task in storm {
        tokio::time::timeout(Duration::from_secs(120), task)
            .await
            .expect("no call hangs")
            .unwrap();
    }
    drop(dying);
    let (done, never) = std::mem::take(&mut *known.lock().unwrap());
    println!(
        "done {}, retry {}, unknown {}",
        done.len(),
        never.len(),
        tally.unknown.load(Ordering::Relaxed)
    );
    assert!(done.len() > 1000, "the new leader took over");
    for member in &members {
        member.linearize().await.unwrap();
        for id in &done {
            assert!(
                member.state().basin(&name(*id)).unwrap().is_some(),
                "{id} is lost"
            );
        }
        for id in &never {
            assert!(
                member.state().basin(&name(*id)).unwrap().is_none(),
                "{id} was applied after all"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_has_no_certificate_of_the_cluster_is_turned_away() {
    let authority = Authority::new();
    let mut cluster = Cluster::new(3).await;
    cluster.tls = Some(authority.tls());
    let members = cluster.start_all().await;
    members[2].propose(create(1)).await.unwrap();

    for tls in [None, Some(Authority::new().tls())] {
        let mut stranger = cluster.seat(4);
        stranger.tls = tls;
        stranger.peers = vec![cluster.peer(1), stranger.peer()];
        let formed = tokio::time::timeout(Duration::from_secs(2), stranger.start()).await;
        assert!(formed.is_err(), "it cannot speak to a member");
    }
    let mut friend = cluster.seat(4);
    friend.fresh = Some(Fresh::Join);
    let friend = friend.start().await.unwrap();
    members[0]
        .add_learner(NodeId(4), &cluster.address(4))
        .await
        .unwrap();
    let index = members[0].linearize().await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), friend.wait_applied(index))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_operator_reaches_the_services_for_operators_of_its_cluster_and_nothing_else() {
    const REFUSED: &str = "7";
    const NOBODY_THERE: &str = "12";
    let authority = Authority::new();
    let mut cluster = Cluster::new(1).await;
    cluster.tls = Some(authority.tls());
    let _members = cluster.start_all().await;
    let asked = async |tls, name: &str, path: &str| {
        let mut channel = cluster.operator(tls, name).channel(&cluster.address(1));
        let mut request = http::Request::new(tonic::body::Body::empty());
        *request.uri_mut() = format!("http://millrace.test{path}").parse().unwrap();
        *request.method_mut() = http::Method::POST;
        let answer = tower::Service::call(&mut channel, request).await?;
        let status = answer.headers().get("grpc-status");
        Ok::<_, Lost>(status.map(|status| status.to_str().unwrap().to_owned()))
    };
    let admin = "/millrace.admin.v1.Admin/Describe";
    let group = [
        "/millrace.node.v1.Group/Call",
        "/millrace.node.v1.Group/InstallSnapshot",
    ];
    let own = Some(authority.tls());
    let answer = asked(own.clone(), "test", admin).await.unwrap();
    assert_eq!(answer.as_deref(), Some(NOBODY_THERE), "past the guard");
    for path in group {
        let answer = asked(own.clone(), "test", path).await.unwrap();
        assert_eq!(answer.as_deref(), Some(REFUSED), "{path}");
    }
    let answer = asked(own, "another", admin).await.unwrap();
    assert_eq!(answer.as_deref(), Some(REFUSED), "of another cluster");
    for tls in [None, Some(Authority::new().tls())] {
        let answer = asked(tls, "test", admin).await;
        assert!(answer.is_err(), "no certificate of the cluster: {answer:?}");
    }
}

/// Not a test of speed, but a way to see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a measurement"]
async fn commands_per_second() {
    let cluster = Cluster::new(3).await;
    let members = cluster.start_all().await;
    members[0].linearize().await.unwrap();
    members[0].propose(create(1)).await.unwrap();
    let leader = members.iter().position(leads).unwrap();
    for (what, member) in [
        ("leader", &members[leader]),
        ("follower", &members[(leader + 1) % 3]),
    ] {
        let begun = tokio::time::Instant::now();
        let clients = (0..64u128).map(|client| {
            let (member, what) = (member.clone(), what);
            tokio::spawn(async move {
                for n in 0..200 {
                    member.propose(stream(what, client * 1000 + n)).await.unwrap();
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        let rate = 64.0 * 200.0 / begun.elapsed().as_secs_f64();
        println!("through the {what}: {rate:.0} streams a second");
    }
}

/// Why a command was refused, however often it takes to hear it.
async fn why_refused(member: &Meta, command: RegisterNode) -> String {
    loop {
        match member.propose(command.clone()).await {
            Err(MetaError::Refused(Refused::Invalid(why))) => return why,
            Err(error) if error.retryable() => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_largest_commands_pass_between_members_and_larger_ones_do_not() {
    let cluster = Cluster::new(3).await;
    let members = cluster.start_all().await;
    let follower = members.iter().find(|member| !leads(member)).unwrap();
    let large = |less: usize| RegisterNode {
        address: "x".repeat(COMMAND_BYTES_MAX - less),
        ..register(NodeId(1), Incarnation(1))
    };
    // The state refuses them; the log takes them.
    let whys =
        futures::future::join_all([200, 300, 400].map(|less| why_refused(follower, large(less)))).await;
    assert!(
        whys.iter().all(|why| why.contains("at most 256 bytes")),
        "{whys:?}"
    );
    let why = why_refused(follower, large(0)).await;
    assert!(why.starts_with("a command of"), "{why}");
    let decided = follower.propose(create(1)).await.unwrap();
    for member in &members {
        member.linearize().await.unwrap();
        let found = member.state().basin(&decided.basin.name).unwrap();
        assert_eq!(found.as_ref(), Some(&decided.basin));
    }
}
