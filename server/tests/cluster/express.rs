//! Three processes on three Express zones: nodes die, and a zone is lost for good while records come in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep};

use crate::cell::{PATIENCE, free_ports};
use crate::ports::Ports;
use crate::processes::{BASIN, Process, append, ready, start_as};

/// Takes away all that a zone in a directory has.
fn empty(dir: &Path) {
    std::fs::remove_file(dir.join("zone")).unwrap();
    // Until nothing was written in between.
    for part in ["wal", "segments"].map(|part| dir.join(part)) {
        while part.exists() && std::fs::remove_dir_all(&part).is_err() {}
    }
}

/// Files below a directory.
fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let count = entries.map(|entry| match entry.path() {
        path if path.is_dir() => files(&path),
        _ => 1,
    });
    count.sum()
}

/// Chain indexes in a zone.
fn indexes(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let count = entries.map(|entry| match entry.path() {
        path if path.is_dir() => indexes(&path),
        _ => usize::from(entry.file_name().to_string_lossy().starts_with('i')),
    });
    count.sum()
}

fn zone(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("zone-{number}"))
}

struct Nodes {
    dir: tempfile::TempDir,
    ports: Ports,
    running: Vec<Option<Process>>,
    client: reqwest::Client,
    /// As `--express` has them.
    zones: String,
    more: &'static [&'static str],
}

/// Flushes every now and then.
const SOMETIMES: &[&str] = &["--flush-interval", "2s"];
/// Nothing but the zones, and chains that soon are long.
const PACKING: &[&str] = &[
    "--store",
    "none",
    "--flush-interval",
    "200ms",
    "--housekeeping-interval",
    "300ms",
    "--chain-rows",
    "4",
];

impl Nodes {
    /// Three that serve, and a basin whose streams are of class Express.
    async fn start(zones: impl FnOnce(&Path) -> String, more: &'static [&'static str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes = Self {
            zones: zones(dir.path()),
            more,
            dir,
            ports: free_ports(6),
            running: (0..3).map(|_| None).collect(),
            client: reqwest::Client::builder().timeout(PATIENCE).build().unwrap(),
        };
        for node in 0..3 {
            nodes.spawn(node);
        }
        for node in nodes.running.iter().flatten() {
            ready(&nodes.client, node).await;
        }
        let config = json!({
            "create_stream_on_append": true,
            "default_stream_config": {"storage_class": "express"},
        });
        let url = format!("http://{}/v1/basins/{BASIN}", nodes.http(0));
        let made = nodes
            .client
            .put(url)
            .json(&json!({"config": config}))
            .send()
            .await
            .unwrap();
        assert!(made.status().is_success(), "{made:?}");
        nodes
            .until_zones("every zone is in use", |zones| {
                zones.len() == 3 && zones.iter().all(|zone| zone["state"] == "ok")
            })
            .await;
        nodes
    }

    fn spawn(&mut self, node: usize) {
        let program = Command::new(env!("CARGO_BIN_EXE_millrace"));
        let more = [&["--express", self.zones.as_str()], self.more].concat();
        self.running[node] = Some(start_as(program, self.dir.path(), &self.ports, node, &more));
    }

    /// Kills a node and starts it again after a while.
    async fn lose_for(&mut self, node: usize, time: Duration) {
        drop(self.running[node].take());
        sleep(time).await;
        self.spawn(node);
        ready(&self.client, self.running[node].as_ref().expect("it was started")).await;
    }

    /// Appends through all of them in turn, until it is told to stop: what was acknowledged, and where.
    fn write(&self, stop: Arc<AtomicBool>) -> JoinHandle<Vec<(u64, u64)>> {
        let client = self.client.clone();
        let through = [self.http(0), self.http(1), self.http(2)];
        tokio::spawn(async move {
            let (mut acked, mut number) = (Vec::new(), 0);
            while !stop.load(Relaxed) {
                number += 1;
                let answer = append(&client, through[number as usize % 3], number).await;
                if let Some(seq_num) = answer.expect("an honest answer") {
                    acked.push((seq_num, number));
                }
            }
            acked
        })
    }

    /// Every node delivers what was acknowledged, once and in order.
    async fn assert_holds(&self, acked: &[(u64, u64)]) {
        assert!(acked.len() > 50, "{} acknowledgements", acked.len());
        for node in 0..3 {
            let bodies = self.bodies(node).await;
            assert!(
                bodies.is_sorted_by(|a, b| a < b),
                "once and in order through node {node}"
            );
            for (seq_num, number) in acked {
                let stored = bodies.get(*seq_num as usize);
                assert_eq!(stored, Some(number), "acknowledged, through node {node}");
            }
        }
    }

    fn http(&self, node: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[3 + node]))
    }

    async fn cluster(&self, args: &[&str]) -> Output {
        let nodes = (0..3).flat_map(|node| ["--node".to_owned(), format!("127.0.0.1:{}", self.ports[node])]);
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_millrace"));
        command
            .arg("cluster")
            .args(args)
            .args(["--cluster-plain", "--timeout", "60s"])
            .args(nodes);
        command.output().await.expect("the command runs")
    }

    async fn until_zones(&self, what: &str, wanted: impl Fn(&[Value]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.cluster(&["zones", "--json"]).await;
            let zones: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if output.status.success() && wanted(zones.as_array().map_or(&[], Vec::as_slice)) {
                return;
            }
            let err = text(&output.stderr);
            assert!(
                Instant::now() < deadline,
                "not in time: {what}; last was {zones} {err}"
            );
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Bodies of the records of the stream.
    async fn bodies(&self, node: usize) -> Vec<u64> {
        let mut bodies: Vec<u64> = Vec::new();
        loop {
            let from = bodies.len();
            let url = format!(
                "http://{}/v1/streams/s/records?seq_num={from}&count=1000",
                self.http(node)
            );
            let answer = self
                .client
                .get(url)
                .header("s2-basin", BASIN)
                .send()
                .await
                .unwrap();
            let body: Value = match answer.status().as_u16() {
                416 => return bodies,
                200 => answer.json().await.unwrap(),
                status => panic!("{status}: {}", answer.text().await.unwrap_or_default()),
            };
            let records = body["records"].as_array().expect("records");
            if records.is_empty() {
                return bodies;
            }
            bodies.extend(
                records
                    .iter()
                    .map(|record| record["body"].as_str().unwrap().parse::<u64>().unwrap()),
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_nodes_die_and_a_zone_is_lost_and_replaced() {
    let directories = |dir: &Path| {
        let url = |number| format!("file://{}", zone(dir, number).display());
        [url(1), url(2), url(3)].join(",")
    };
    let mut nodes = Nodes::start(directories, PACKING).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = nodes.write(stop.clone());
    sleep(Duration::from_secs(1)).await;
    for victim in [0, 1] {
        nodes.lose_for(victim, Duration::from_secs(3)).await;
    }

    let deadline = Instant::now() + PATIENCE;
    while indexes(&zone(nodes.dir.path(), 2)) == 0 {
        assert!(Instant::now() < deadline, "segments are packed");
        sleep(Duration::from_millis(100)).await;
    }
    let lost = zone(nodes.dir.path(), 2);
    empty(&lost);
    let blank = |zones: &[Value]| {
        let nodes = zones.get(1).and_then(|zone| zone["nodes"].as_array());
        nodes.is_some_and(|nodes| nodes.len() == 3 && nodes.iter().all(|node| node["state"] == "blank"))
    };
    nodes
        .until_zones("every node sees that zone 2 is blank", blank)
        .await;
    let chunks = files(&lost);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(files(&lost), chunks, "nothing is written to it");

    let replaced = nodes.cluster(&["zones", "replace", "2"]).await;
    let (out, err) = (text(&replaced.stdout), text(&replaced.stderr));
    assert!(replaced.status.success() && out.contains("safe"), "{out}{err}");
    let again = nodes.cluster(&["zones", "replace", "2"]).await;
    assert!(!again.status.success(), "there is nothing to replace any more");
    nodes
        .until_zones("every zone is in use again", |zones| {
            zones.iter().all(|zone| zone["state"] == "ok")
        })
        .await;
    // Another zone may go now.
    empty(&zone(nodes.dir.path(), 1));
    sleep(Duration::from_secs(1)).await;
    nodes.lose_for(2, Duration::ZERO).await;
    sleep(Duration::from_secs(2)).await;
    stop.store(true, Relaxed);
    nodes.assert_holds(&writer.await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disks_of_three_nodes_are_zones_that_come_and_go_with_them() {
    let disks = |_: &Path| "disk://1,disk://2,disk://3".to_owned();
    let mut nodes = Nodes::start(disks, SOMETIMES).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = nodes.write(stop.clone());
    sleep(Duration::from_secs(1)).await;
    let in_use = |zones: &[Value]| {
        zones
            .iter()
            .all(|zone| zone["state"] == "ok" && zone["repair_backlog"] == 0)
    };
    for victim in 0..3 {
        nodes.lose_for(victim, Duration::from_secs(3)).await;
        nodes.until_zones("the disk is a zone again", in_use).await;
    }
    // Its disk is lost, and it is started with an empty one.
    drop(nodes.running[1].take());
    let disk = nodes.dir.path().join("node-1").join("zone");
    std::fs::remove_dir_all(&disk).unwrap();
    nodes.lose_for(1, Duration::from_secs(1)).await;
    let own_is_blank = |zones: &[Value]| zones.get(1).is_some_and(|zone| zone["state"] == "blank");
    nodes
        .until_zones("the node says that its disk is blank", own_is_blank)
        .await;
    let replaced = nodes.cluster(&["zones", "replace", "2"]).await;
    let (out, err) = (text(&replaced.stdout), text(&replaced.stderr));
    assert!(replaced.status.success() && out.contains("safe"), "{out}{err}");
    nodes.until_zones("the disk is a zone again", in_use).await;
    nodes.lose_for(0, Duration::from_secs(3)).await;
    sleep(Duration::from_secs(1)).await;
    stop.store(true, Relaxed);
    nodes.assert_holds(&writer.await.unwrap()).await;
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
