//! `millrace dev --nodes N`: a cluster on one machine, each node a process of its own.
//!
//! Their output is passed on with the node's number in front. A node that ends by itself is reported and left alone:
//! what the others do then is what one wants to see.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// Members of the metadata group listen so many ports above the HTTP API of their node.
const CLUSTER_PORT_DISTANCE: u16 = 1000;
/// The cluster's name.
const CLUSTER: &str = "dev";
/// Nodes of which a majority is left when one dies, up to the most that vote.
const NODES_MAX: u16 = 9;

struct Node {
    number: u16,
    http: SocketAddr,
    process: Child,
}

/// Runs until `stop`, or until every node has ended.
pub async fn run(
    nodes: u16,
    data_dir: &Path,
    store: Option<&str>,
    first_http: SocketAddr,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    ensure!((1..=NODES_MAX).contains(&nodes), "--nodes is 1 to {NODES_MAX}");
    ensure!(
        first_http.port() != 0,
        "several nodes need a port to count from: --http-addr with a port that is not 0"
    );
    ensure!(
        first_http.port() <= u16::MAX - CLUSTER_PORT_DISTANCE - nodes,
        "there are not enough ports above that of --http-addr"
    );
    std::fs::create_dir_all(data_dir).with_context(|| format!("cannot make {}", data_dir.display()))?;
    let data_dir = std::fs::canonicalize(data_dir)?;
    let stored = stored(nodes, &data_dir, store);
    let (lines, mut printed) = mpsc::channel(1024);
    let mut running = Vec::new();
    for number in 1..=nodes {
        running.push(start(number, nodes, &data_dir, &stored, first_http, &lines)?);
    }
    drop(lines);
    announce(&running, &data_dir, at(first_http, CLUSTER_PORT_DISTANCE));
    if stored.iter().any(|argument| argument == "none") {
        println!(
            "Streams are of class express, in two of three nodes' disks before they are acknowledged. For class standard \
             begin in another --data-dir with a store, such as --store file:///tmp/streams."
        );
    }
    tokio::pin!(stop);
    let mut stopping = false;
    loop {
        tokio::select! {
            line = printed.recv() => match line {
                Some(line) => println!("{line}"),
                // Nobody writes any more: every node has ended.
                None => break,
            },
            () = &mut stop, if !stopping => {
                stopping = true;
                for node in &running {
                    end(node);
                }
            }
        }
    }
    let ended = join_all(running.iter_mut().map(|node| node.process.wait())).await;
    let failed = ended
        .into_iter()
        .flatten()
        .filter(|status| !status.success())
        .count();
    ensure!(failed == 0, "{failed} of {nodes} nodes did not end by themselves");
    Ok(())
}

fn start(
    number: u16,
    nodes: u16,
    data_dir: &Path,
    stored: &[String],
    first_http: SocketAddr,
    lines: &mpsc::Sender<String>,
) -> anyhow::Result<Node> {
    let http = at(first_http, number - 1);
    let cluster = |number: u16| at(first_http, CLUSTER_PORT_DISTANCE + number - 1);
    let peers: Vec<String> = (1..=nodes).map(|n| format!("{n}={}", cluster(n))).collect();
    let mut process = Command::new(std::env::current_exe().context("cannot find this program")?)
        .arg("server")
        .args(["--node-id", &number.to_string()])
        .args(["--cluster", CLUSTER])
        .args(["--peers", &peers.join(",")])
        .args(["--cluster-addr", &cluster(number).to_string()])
        .arg("--cluster-plain")
        .args(["--zone", &format!("zone-{number}")])
        .args(["--election-timeout", "1s"])
        .args(["--http-addr", &http.to_string()])
        .arg("--data-dir")
        .arg(data_dir.join(format!("node-{number}")))
        .args(stored)
        .args(["--log", "warn,openraft=error"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start node {number}"))?;
    if let Some(stdout) = process.stdout.take() {
        tokio::spawn(pass_on(number, stdout, lines.clone()));
    }
    if let Some(stderr) = process.stderr.take() {
        tokio::spawn(pass_on(number, stderr, lines.clone()));
    }
    Ok(Node {
        number,
        http,
        process,
    })
}

/// Where streams are stored. From three nodes on, the disks of the first three are the Express zones, and nothing else
/// is needed: as on three machines. Fewer share a directory, and so do more if they are told to, or did before.
fn stored(nodes: u16, data_dir: &Path, store: Option<&str>) -> Vec<String> {
    let shared = data_dir.join("streams");
    let store = match store {
        Some(store) => store.to_owned(),
        None if nodes < 3 || shared.is_dir() => format!("file://{}", shared.display()),
        None => "none".to_owned(),
    };
    let mut stored = vec!["--store".to_owned(), store];
    if nodes >= 3 {
        stored.extend(["--express".to_owned(), "disk://1,disk://2,disk://3".to_owned()]);
    }
    stored
}

fn at(first: SocketAddr, distance: u16) -> SocketAddr {
    SocketAddr::new(first.ip(), first.port() + distance)
}

async fn pass_on(number: u16, output: impl AsyncRead + Unpin, lines: mpsc::Sender<String>) {
    let mut output = BufReader::new(output).lines();
    while let Ok(Some(line)) = output.next_line().await {
        if lines.send(format!("[node {number}] {line}")).await.is_err() {
            return;
        }
    }
    let _ = lines.send(format!("[node {number}] ended")).await;
}

/// Asks the node to stop; Ctrl-C in a terminal has asked it already, which does no harm.
fn end(node: &Node) {
    let pid = node.process.id().and_then(|id| Pid::from_raw(id as i32));
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        tracing::warn!(node = node.number, %error, "the node could not be asked to stop");
    }
}

fn announce(nodes: &[Node], data_dir: &Path, cluster: SocketAddr) {
    println!("{} nodes, data in {}", nodes.len(), data_dir.display());
    for node in nodes {
        let pid = node.process.id().unwrap_or_default();
        println!("  node {}  http://{}  pid {pid}", node.number, node.http);
    }
    if let Some(first) = nodes.first() {
        println!(
            r#"
Every node serves every stream. With the s2 command:
  export S2_ACCOUNT_ENDPOINT=http://{0} S2_BASIN_ENDPOINT=http://{0} S2_ACCESS_TOKEN=local

How the cluster is, from another terminal:
  millrace cluster status --cluster {CLUSTER} --cluster-plain --node {cluster}

Kill one and see the others go on; start it again with Ctrl-C and the same command. Ctrl-C stops all.
"#,
            first.http
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_nodes_share_a_directory_if_they_are_told_to_or_did_before() {
        let data_dir = tempfile::tempdir().unwrap();
        let data_dir = data_dir.path();
        let shared = format!("file://{}", data_dir.join("streams").display());
        let store = |nodes, told| stored(nodes, data_dir, told).swap_remove(1);
        assert_eq!(store(2, None), shared);
        assert_eq!(store(3, None), "none");
        assert_eq!(store(3, Some("memory://")), "memory://");
        std::fs::create_dir(data_dir.join("streams")).unwrap();
        assert_eq!(store(3, None), shared);
    }
}
