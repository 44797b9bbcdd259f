//! Three processes, and SIGKILL: what was acknowledged is there once and in order, and writers go on.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::cell::{PATIENCE, free_ports};

pub const BASIN: &str = "killed-nodes";

pub struct Process {
    pub http: SocketAddr,
    pub child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn start(dir: &Path, ports: &[u16], node: usize) -> Process {
    start_as(
        Command::new(env!("CARGO_BIN_EXE_millrace")),
        dir,
        ports,
        node,
        &[],
    )
}

/// With a program that takes the arguments of a node.
pub fn start_as(mut program: Command, dir: &Path, ports: &[u16], node: usize, more: &[&str]) -> Process {
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let peers: Vec<_> = (0..3)
        .map(|node| format!("{}={}", node + 1, at(ports[node])))
        .collect();
    let http = at(ports[3 + node]);
    let store = format!("file://{}", dir.join("store").display());
    let store: &[&str] = match more.contains(&"--store") {
        true => &[],
        false => &["--store", &store],
    };
    let child = program
        .arg("server")
        .args(["--node-id", &(node + 1).to_string()])
        .args(["--peers", &peers.join(",")])
        .args(["--cluster-addr", &at(ports[node]).to_string()])
        .args(["--cluster-plain", "--election-timeout", "1s", "--log", "error"])
        .args(["--http-addr", &http.to_string()])
        .args(store)
        .arg("--data-dir")
        .arg(dir.join(format!("node-{node}")))
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join(format!("node-{node}.log"))).expect("a log"))
        .spawn()
        .expect("the node starts");
    Process { http, child }
}

pub async fn ready(client: &reqwest::Client, node: &Process) {
    let deadline = Instant::now() + PATIENCE;
    let url = format!("http://{}/health", node.http);
    loop {
        let answer = client.get(&url).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        assert!(Instant::now() < deadline, "the node serves in time");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Appends one record; its place, or `None` when the outcome is unknown or nothing happened.
pub async fn append(client: &reqwest::Client, node: SocketAddr, number: u64) -> Result<Option<u64>, String> {
    let url = format!("http://{node}/v1/streams/s/records");
    let sent = client
        .post(url)
        .header("s2-basin", BASIN)
        .json(&json!({"records": [{"body": number.to_string()}]}))
        .send()
        .await;
    let Ok(answer) = sent else { return Ok(None) };
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    match status.as_u16() {
        200 | 201 => Ok(body["start"]["seq_num"].as_u64()),
        // Nothing happened, or nobody knows.
        500 | 502 | 503 => Ok(None),
        _ => Err(format!("{status}: {body}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_records_survive_the_death_of_any_node() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports(6);
    let client = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
    let mut nodes: Vec<Option<Process>> = (0..3).map(|node| Some(start(dir.path(), &ports, node))).collect();
    for node in nodes.iter().flatten() {
        ready(&client, node).await;
    }
    let http = |node: usize| SocketAddr::from(([127, 0, 0, 1], ports[3 + node]));
    let made = client
        .put(format!("http://{}/v1/basins/{BASIN}", http(0)))
        .json(&json!({"config": {"create_stream_on_append": true}}))
        .send()
        .await
        .unwrap();
    assert!(made.status().is_success(), "{made:?}");

    let mut acked = Vec::new();
    let mut number = 0;
    for victim in [0, 1, 2] {
        let through = http((victim + 1) % 3);
        for step in 0..40 {
            if step == 20 {
                drop(nodes[victim].take());
            }
            number += 1;
            if let Some(seq_num) = append(&client, through, number).await.expect("an honest answer") {
                acked.push((seq_num, number));
            }
        }
        // The stream is served again: the last appends are not all lost to the dead node.
        let last = acked.last().expect("acknowledged appends").1;
        assert!(
            number - last < 10,
            "appends go on after node {victim} died: {last} of {number}"
        );
        nodes[victim] = Some(start(dir.path(), &ports, victim));
        ready(&client, nodes[victim].as_ref().expect("it was started")).await;
    }

    for node in 0..3 {
        let url = format!("http://{}/v1/streams/s/records?seq_num=0&count=1000", http(node));
        let answer = client.get(url).header("s2-basin", BASIN).send().await.unwrap();
        assert_eq!(answer.status(), 200, "a read through node {node}");
        let body: Value = answer.json().await.unwrap();
        let records: Vec<(u64, u64)> = body["records"]
            .as_array()
            .expect("records")
            .iter()
            .map(|record| {
                let seq_num = record["seq_num"].as_u64().unwrap();
                (seq_num, record["body"].as_str().unwrap().parse().unwrap())
            })
            .collect();
        assert!(
            records
                .iter()
                .map(|(seq_num, _)| *seq_num)
                .eq(0..records.len() as u64),
            "dense"
        );
        for ack in &acked {
            assert!(
                records.contains(ack),
                "{ack:?} was acknowledged and is not in the read through node {node}"
            );
        }
        let numbers: Vec<u64> = records.iter().map(|(_, number)| *number).collect();
        assert!(
            numbers.is_sorted_by(|a, b| a < b),
            "once and in order: {numbers:?}"
        );
    }
}
