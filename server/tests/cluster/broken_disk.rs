//! A disk that is full or tells something else than was written: the node stops and says why, the others go on.

use std::io::{Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cell::{PATIENCE, free_ports};
use crate::processes::{BASIN, Process, append, ready, start, start_as};

const VICTIM: usize = 2;

/// Three nodes with a basin; the third is started by `victim`.
async fn three(
    client: &reqwest::Client,
    dir: &Path,
    ports: &[u16],
    victim: impl FnOnce() -> Process,
) -> Vec<Process> {
    let mut nodes = vec![start(dir, ports, 0), start(dir, ports, 1), victim()];
    for node in &nodes[..VICTIM] {
        ready(client, node).await;
    }
    let url = format!("http://{}/v1/basins/{BASIN}", http(ports, 0));
    let config = json!({"config": {"create_stream_on_append": true}});
    let made = client.put(url).json(&config).send().await.unwrap();
    assert!(made.status().is_success(), "{made:?}");
    assert!(nodes[VICTIM].child.try_wait().unwrap().is_none(), "{}", log(dir));
    nodes
}

fn http(ports: &[u16], node: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], ports[3 + node]))
}

fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join(format!("node-{VICTIM}.log"))).unwrap_or_default()
}

/// Waits for the victim to stop by itself; what it said.
async fn stopped(dir: &Path, victim: &mut Process) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = victim.child.try_wait().unwrap() {
            assert!(
                status.code().is_some_and(|code| code != 0),
                "{status}: {}",
                log(dir)
            );
            return log(dir);
        }
        assert!(Instant::now() < deadline, "it stops in time: {}", log(dir));
        sleep(Duration::from_millis(50)).await;
    }
}

async fn others_go_on(client: &reqwest::Client, ports: &[u16]) {
    for node in 0..VICTIM {
        let deadline = Instant::now() + PATIENCE;
        while append(client, http(ports, node), 1)
            .await
            .expect("an honest answer")
            .is_none()
        {
            assert!(Instant::now() < deadline, "node {node} goes on in time");
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_metadata_are_corrupt_stops_alone_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports(6);
    let client = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
    let mut nodes = three(&client, dir.path(), &ports, || start(dir.path(), &ports, VICTIM)).await;
    ready(&client, &nodes[VICTIM]).await;
    others_go_on(&client, &ports).await;
    let _ = nodes[VICTIM].child.kill();
    let _ = nodes[VICTIM].child.wait();
    // One bit in the middle of every file of both databases that has a middle.
    let databases = files(&dir.path().join(format!("node-{VICTIM}")).join("meta"));
    let kinds = ["log", "sst"].map(Some);
    for path in databases
        .iter()
        .filter(|path| kinds.contains(&path.extension().and_then(|e| e.to_str())))
    {
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let middle = file.metadata().unwrap().len() / 2;
        let mut byte = [0];
        file.seek(SeekFrom::Start(middle)).unwrap();
        if file.read(&mut byte).unwrap() == 1 {
            file.seek(SeekFrom::Start(middle)).unwrap();
            file.write_all(&[byte[0] ^ 1]).unwrap();
        }
    }
    nodes[VICTIM] = start(dir.path(), &ports, VICTIM);
    let said = stopped(dir.path(), &mut nodes[VICTIM]).await;
    assert!(said.to_lowercase().contains("corrupt"), "{said}");
    others_go_on(&client, &ports).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_is_full_stops_alone_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports(6);
    let client = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
    // No file of this node may grow beyond 192 KiB; the signal that would say so is ignored, as no full disk sends one.
    let limited = || {
        let mut shell = Command::new("sh");
        let script = r#"trap '' XFSZ; ulimit -f 384; exec "$0" "$@""#;
        shell.args(["-c", script, env!("CARGO_BIN_EXE_millrace")]);
        start_as(shell, dir.path(), &ports, VICTIM, &[])
    };
    let mut nodes = three(&client, dir.path(), &ports, limited).await;
    // The log of the group grows with every stream.
    let url = format!("http://{}/v1/streams", http(&ports, 0));
    let description = "x".repeat(200);
    for n in 0..4000 {
        if nodes[VICTIM].child.try_wait().unwrap().is_some() {
            break;
        }
        let name = format!("{description}/{n}");
        let made = client
            .post(&url)
            .header("s2-basin", BASIN)
            .json(&json!({"stream": name}))
            .send()
            .await;
        assert!(made.unwrap().status().is_success());
    }
    let said = stopped(dir.path(), &mut nodes[VICTIM]).await;
    assert!(said.contains("File too large"), "{said}");

    others_go_on(&client, &ports).await;
}
