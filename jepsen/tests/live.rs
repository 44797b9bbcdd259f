//! A short live run: three real processes, one of them killed and one paused, and every promise kept.
//!
//! `MILLRACE_BIN` names the program to test; without it, it is the one that was built beside this test, as it is when
//! the whole workspace is tested.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_jepsen::live::cluster::{Cluster, Plan};
use millrace_jepsen::live::network::Network;
use millrace_jepsen::live::run::{Run, Until};
use millrace_jepsen::nemesis::{Nemesis, Outcome};
use millrace_jepsen::workload::Workload;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep};

fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("MILLRACE_BIN") {
        return program.into();
    }
    let test = std::env::current_exe().expect("a test knows where it is");
    let built = test
        .parent()
        .and_then(|deps| deps.parent())
        .expect("tests are in target/<profile>/deps");
    let program = built.join("millrace");
    assert!(
        program.is_file(),
        "there is no {}: build it with `cargo build -p millrace-server`, or name one in MILLRACE_BIN",
        program.display()
    );
    program
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_one_stream_while_a_node_is_killed_and_one_is_paused() {
    let dir = tempfile::tempdir().unwrap();
    let run = Run {
        plan: Plan {
            program: program(),
            dir: dir.path().to_owned(),
            nodes: 3,
            election_timeout: Duration::from_millis(1000),
            store: None,
            zones: None,
            clocks: false,
            channels: 1,
            further: Vec::new(),
        },
        workloads: vec![Workload::Plain],
        nemeses: vec![Nemesis::KillOwner, Nemesis::PauseLeader],
        until: Until::Rounds(2),
        rounds_per_cluster: 2,
        seed: 5,
        pause: Duration::from_millis(10),
        loopback: true,
        keep: true,
    };
    let report = run.run(|round| println!("{round}")).await;
    let good = report.as_ref().is_ok_and(|report| report.is_good());
    if !good {
        let kept = dir.keep();
        panic!("files in {}: {report:?}", kept.display());
    }
    let report = report.unwrap();
    assert!(
        report.rounds.iter().all(|round| round.fault.state == "installed"),
        "{report}"
    );
    assert!(
        report.rounds.iter().all(|round| round.outcomes["appended"] > 0),
        "{report}"
    );
}

/// Longer than anything here takes unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// One node, whose wall clock is to be set.
async fn alone(dir: &Path, program: PathBuf) -> Cluster {
    let plan = Plan {
        program,
        dir: dir.to_owned(),
        nodes: 1,
        election_timeout: Duration::from_millis(1000),
        store: None,
        zones: None,
        clocks: true,
        channels: 1,
        further: Vec::new(),
    };
    let started = Cluster::start(plan, Network::loopback("a test"), PATIENCE).await;
    started.expect("a node")
}

/// What becomes of the fault. Without the library it is said to be missing, and nothing more is to be seen here.
async fn set_clocks(cluster: &mut Cluster) -> Option<Outcome> {
    let obstacle = cluster.clocks.obstacle();
    let outcome = Nemesis::Clock
        .install(cluster, &mut SmallRng::seed_from_u64(3))
        .await;
    let Some(obstacle) = obstacle else {
        return Some(outcome);
    };
    assert!(
        matches!(&outcome, Outcome::Skipped(why) if why == obstacle),
        "{outcome:?} in spite of this: {obstacle}"
    );
    eprintln!("skipped: {obstacle}");
    None
}

/// Waits until the node tells that its clock is right, give or take two seconds.
async fn right(cluster: &Cluster) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let told = cluster.ahead_ms(0).await;
        if told.as_ref().is_ok_and(|ahead| (-2000..2000).contains(ahead)) {
            return;
        }
        assert!(Instant::now() < deadline, "{told:?} ms ahead");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_set_are_those_that_a_node_goes_by_until_they_are_right_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = alone(dir.path(), program()).await;
    right(&cluster).await;
    let Some(outcome) = set_clocks(&mut cluster).await else {
        return;
    };
    let Outcome::Installed(fault) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(fault.target.contains("node 1 "), "{fault:?}");
    fault.heal(&mut cluster).await.expect("files can be written");
    right(&cluster).await;
    cluster.kill_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_no_process_goes_by_are_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    // As with a program that does not load libraries.
    let script = format!(
        "#!/bin/sh\nunset LD_PRELOAD\nexec '{}' \"$@\"\n",
        program().display()
    );
    let deaf = dir.path().join("deaf");
    std::fs::write(&deaf, script).unwrap();
    std::fs::set_permissions(&deaf, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut cluster = alone(dir.path(), deaf).await;
    if let Some(outcome) = set_clocks(&mut cluster).await {
        let Outcome::Skipped(why) = &outcome else {
            panic!("nobody follows: {outcome:?}");
        };
        assert!(why.contains("node 1 was set +4000 ms and tells"), "{why}");
    }
    cluster.kill_all().await;
}
