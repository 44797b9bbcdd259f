//! A short live run: three real processes, one of them killed and one paused, and every promise kept.
//!
//! `MILLRACE_BIN` names the program to test; without it, it is the one that was built beside this test, as it is when
//! the whole workspace is tested.

use std::path::PathBuf;
use std::time::Duration;

use millrace_jepsen::live::cluster::Plan;
use millrace_jepsen::live::run::{Run, Until};
use millrace_jepsen::nemesis::Nemesis;
use millrace_jepsen::workload::Workload;

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
