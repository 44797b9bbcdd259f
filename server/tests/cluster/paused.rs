//! A process that stands still for longer than its lease.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::cell::{PATIENCE, free_ports};
use crate::processes::{BASIN, Process, append, ready, start};

/// Three times as long as a lease in these tests.
const PAUSE: Duration = Duration::from_secs(6);

fn signal(process: &Process, signal: Signal) {
    let pid = Pid::from_raw(process.child.id() as i32).expect("a process");
    kill_process(pid, signal).expect("it is ours");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stood_still_tells_nothing_stale_and_nobody_takes_its_place_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports(6);
    let client = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
    let mut nodes: Vec<_> = (0..3).map(|node| start(dir.path(), &ports, node)).collect();
    for node in &nodes {
        ready(&client, node).await;
    }
    let config = json!({"config": {"create_stream_on_append": true}});
    let url = format!("http://{}/v1/basins/{BASIN}", nodes[0].http);
    let made = client.put(url).json(&config).send().await.unwrap();
    assert!(made.status().is_success(), "{made:?}");
    let mut number = 0;
    for victim in 0..3 {
        let (still, other) = (nodes[victim].http, nodes[(victim + 1) % 3].http);
        signal(&nodes[victim], Signal::STOP);
        // Another process on its directory, which the one that stands still has locked.
        let mut second = start(dir.path(), &ports, victim);
        let paused = Instant::now();
        let mut tail = None;
        while paused.elapsed() < PAUSE || tail.is_none() {
            number += 1;
            let acked = append(&client, other, number).await.expect("an honest answer");
            tail = acked.map(|at| at + 1).or(tail);
        }
        let status = second.child.wait().unwrap();
        let said = std::fs::read_to_string(dir.path().join(format!("node-{victim}.log"))).unwrap();
        assert!(
            !status.success() && said.contains("another process"),
            "{status}: {said}"
        );
        // Asked while it stands still: it answers when it wakes up, believing that no time has passed.
        let tail_url = format!("http://{still}/v1/streams/s/records/tail");
        let asked: Vec<_> = (0..20)
            .map(|_| {
                let request = client.get(&tail_url).header("s2-basin", BASIN);
                tokio::spawn(async move { request.send().await?.json::<Value>().await })
            })
            .collect();
        sleep(Duration::from_millis(100)).await;
        signal(&nodes[victim], Signal::CONT);
        for asked in asked {
            let answer = timeout(PATIENCE, asked).await.expect("an answer").unwrap();
            // None on a connection that was not accepted in time.
            let Ok(answer) = answer else { continue };
            if let Some(told) = answer["tail"]["seq_num"].as_u64() {
                assert!(Some(told) >= tail, "{told} of {tail:?}");
            }
        }
        ready(&client, &nodes[victim]).await;
    }
    for node in &mut nodes {
        assert!(
            node.child.try_wait().unwrap().is_none(),
            "a node that was paused goes on"
        );
    }
}
