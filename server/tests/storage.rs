//! `millrace storage`, as an operator runs it, on what real nodes have stored.

#[path = "../../jepsen/src/live/ports.rs"]
mod ports;
mod support;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use ports::Ports;
use support::{Node, Scratch, Server};

const BASIN: &str = "stored-basin";
const PATIENCE: Duration = Duration::from_secs(60);
/// Of an epoch that is over, in the channel that every node has, and of one that nobody has.
const ORPHAN: &str = "segments/00000001/0000000000000000/f0000000000000001-00000000";
const UNKNOWN: &str = "segments/0000ffff/0000000000000001/f0000000000000001-00000000";

/// A node that moves records into segments at once.
fn hasty(dir: &Path) -> Node {
    let mut node = Node::local(dir, "node");
    for interval in ["--flush-interval", "--reader-grace", "--housekeeping-interval"] {
        node.args.extend([interval, "200ms"].map(Into::into));
    }
    node
}

fn store_dir(node: &Node) -> PathBuf {
    node.store.strip_prefix("file://").expect("a directory").into()
}

async fn append(server: &Server, streams: usize) -> Result<()> {
    let http = reqwest::Client::new();
    let basin = json!({"config": {"create_stream_on_append": true}});
    let made = http.put(format!("{}/v1/basins/{BASIN}", server.url()));
    made.json(&basin).send().await?.error_for_status()?;
    for number in 0..streams {
        let url = format!("{}/v1/streams/s{number}/records", server.url());
        let body = json!({"records": [{"body": "x".repeat(200)}, {"body": "y"}]});
        let appended = http.post(url).header("s2-basin", BASIN).json(&body);
        appended.send().await?.error_for_status()?;
    }
    Ok(())
}

/// Every stream still has what was appended to it.
async fn assert_holds(server: &Server, streams: usize) -> Result<()> {
    let http = reqwest::Client::new();
    for number in 0..streams {
        let url = format!("{}/v1/streams/s{number}/records?seq_num=0", server.url());
        let read = http.get(url).header("s2-basin", BASIN).send().await?;
        let read: Value = read.error_for_status()?.json().await?;
        let bodies = read["records"].as_array().expect("records");
        let bodies: Vec<_> = bodies.iter().map(|record| record["body"].clone()).collect();
        assert_eq!(bodies, [json!("x".repeat(200)), json!("y")], "s{number}");
    }
    Ok(())
}

/// Files of segment objects.
fn segments(node: &Node) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![store_dir(node).join("segments")]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    found
}

async fn flushed(node: &Node) {
    let deadline = Instant::now() + PATIENCE;
    while segments(node).is_empty() {
        assert!(
            Instant::now() < deadline,
            "nothing is flushed: {}",
            node.log_tail()
        );
        sleep(Duration::from_millis(50)).await;
    }
}

async fn storage(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command.arg("storage").args(args).env_remove("MILLRACE_CONFIG");
    command.output().await.expect("the command runs")
}

/// With the directory of a node that is stopped.
async fn offline(node: &Node, args: &[&str]) -> Output {
    let dir = node.data_dir.to_str().expect("a path");
    storage(&[args, &["--data-dir", dir, "--store", &node.store]].concat()).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A JSON object on each line.
fn lines(output: &Output) -> Vec<Value> {
    let parsed = text(&output.stdout);
    parsed
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

fn plant(node: &Node, key: &str) -> PathBuf {
    let path = store_dir(node).join(key);
    std::fs::create_dir_all(path.parent().expect("a directory")).unwrap();
    std::fs::write(&path, b"left behind").unwrap();
    path
}

#[tokio::test]
async fn what_a_stopped_node_has_stored_is_checked_swept_and_printed() -> Result<()> {
    let scratch = Scratch::new("storage")?;
    let node = hasty(scratch.path());
    let server = node.start().await?;
    append(&server, 5).await?;
    flushed(&node).await;

    let refused = offline(&node, &["verify"]).await;
    assert!(!refused.status.success());
    assert!(
        text(&refused.stderr).contains("in use"),
        "{}",
        text(&refused.stderr)
    );
    assert!(server.terminate().await?.success());

    let verified = offline(&node, &["verify", "--json"]).await;
    assert!(verified.status.success(), "{verified:?}");
    let said = lines(&verified);
    assert_eq!(said.len(), 1, "{said:?}");
    let checked = &said[0];
    assert_eq!(
        (&checked["promises_broken"], &checked["streams"]),
        (&json!(0), &json!(5))
    );
    assert!(
        checked["objects"].as_u64() >= Some(1) && checked["segments"].as_u64() >= Some(5),
        "{checked}"
    );

    // A sweep of a store in order has nothing to do.
    let swept = offline(&node, &["sweep", "--json"]).await;
    assert!(swept.status.success(), "{swept:?}");
    let orphans_of_a_stop = lines(&swept).last().unwrap()["unknown"].clone();
    assert_eq!(orphans_of_a_stop, 0, "{swept:?}");

    let (orphan, unknown) = (plant(&node, ORPHAN), plant(&node, UNKNOWN));
    let dry = offline(&node, &["sweep", "--dry-run"]).await;
    let said = text(&dry.stdout);
    assert!(dry.status.success(), "{dry:?}");
    assert!(said.contains(&format!("orphan   {ORPHAN}: ")), "{said}");
    assert!(said.contains(&format!("unknown  {UNKNOWN}: ")), "{said}");
    assert!(orphan.exists() && unknown.exists(), "a dry run removes nothing");
    let before = segments(&node).len();
    let swept = offline(&node, &["sweep", "--json"]).await;
    assert!(swept.status.success(), "{swept:?}");
    assert!(lines(&swept).contains(&json!({"removed": ORPHAN})), "{swept:?}");
    assert!(!orphan.exists() && unknown.exists());
    assert_eq!(segments(&node).len(), before - 1);
    std::fs::remove_file(unknown)?;

    let server = node.start().await?;
    assert_holds(&server, 5).await?;
    assert!(server.terminate().await?.success());

    let object = segments(&node).remove(0);
    let printed = storage(&["inspect", object.to_str().unwrap()]).await;
    assert!(printed.status.success(), "{printed:?}");
    assert!(
        text(&printed.stdout).starts_with("segment object of "),
        "{printed:?}"
    );

    let mut bytes = std::fs::read(&object)?;
    bytes[60] ^= 0x20;
    std::fs::write(&object, bytes)?;
    let key = object
        .strip_prefix(store_dir(&node))?
        .to_str()
        .expect("a key")
        .to_owned();
    let damaged = storage(&["inspect", &key, "--store", &node.store, "--json"]).await;
    assert_eq!(damaged.status.code(), Some(1));
    assert!(!lines(&damaged)[0]["fault"].is_null(), "{damaged:?}");
    let verified = offline(&node, &["verify"]).await;
    assert_eq!(verified.status.code(), Some(1));
    let said = text(&verified.stdout);
    assert!(said.contains(&format!("BROKEN whole    {key}: ")), "{said}");
    assert!(said.contains("1 promise is BROKEN"), "{said}");

    std::fs::remove_file(&object)?;
    let verified = offline(&node, &["verify", "--json"]).await;
    assert_eq!(verified.status.code(), Some(1));
    assert_eq!(lines(&verified)[0]["broken"], "present");
    Ok(())
}

#[tokio::test]
async fn a_node_that_runs_checks_and_sweeps_when_it_is_asked() -> Result<()> {
    let scratch = Scratch::new("storage-asked")?;
    let mut node = hasty(scratch.path());
    let ports = Ports::reserve(1)?;
    let cluster = format!("127.0.0.1:{}", ports[0]);
    let peers = format!("1={cluster}");
    let args = [
        "--node-id",
        "1",
        "--cluster-addr",
        &cluster,
        "--peers",
        &peers,
        "--cluster-plain",
    ];
    node.args.extend(args.map(Into::into));
    let server = node.start().await?;
    append(&server, 3).await?;
    flushed(&node).await;

    let asked = ["--cluster-plain", "--node", &cluster];
    let verified = storage(&[&["verify", "--json"][..], &asked].concat()).await;
    assert!(verified.status.success(), "{verified:?}");
    assert_eq!(lines(&verified).last().unwrap()["promises_broken"], 0);

    // What is flushed, merged and let go of meanwhile is not missed.
    let busy = async {
        for _ in 0..60 {
            append(&server, 5).await?;
            sleep(Duration::from_millis(30)).await;
        }
        anyhow::Ok(())
    };
    let checks = async {
        for _ in 0..10 {
            let verified = storage(&[&["verify", "--json"][..], &asked].concat()).await;
            assert!(verified.status.success(), "{verified:?}");
            let swept = storage(&[&["sweep", "--json"][..], &asked].concat()).await;
            assert!(swept.status.success(), "{swept:?}");
        }
    };
    tokio::join!(busy, checks).0?;

    let orphan = plant(&node, ORPHAN);
    let dry = storage(&[&["sweep", "--dry-run"][..], &asked].concat()).await;
    assert!(dry.status.success(), "{dry:?}");
    assert!(text(&dry.stdout).contains(ORPHAN) && orphan.exists(), "{dry:?}");
    let swept = storage(&[&["sweep"][..], &asked].concat()).await;
    assert!(swept.status.success(), "{swept:?}");
    assert!(!orphan.exists(), "{swept:?}");

    let url = format!("{}/v1/streams/s0/records/tail", server.url());
    let tail = reqwest::Client::new()
        .get(url)
        .header("s2-basin", BASIN)
        .send()
        .await?;
    let tail: Value = tail.error_for_status()?.json().await?;
    assert_eq!(tail["tail"]["seq_num"], 2 * 61, "{tail}");
    assert!(server.terminate().await?.success());
    let refused = offline(&node, &["verify"]).await;
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("cluster's node"), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_directory_without_a_node_is_refused_and_stays_as_it_is() -> Result<()> {
    let scratch = Scratch::new("storage-empty")?;
    let node = hasty(scratch.path());
    for command in ["verify", "sweep"] {
        let refused = offline(&node, &[command]).await;
        assert!(!refused.status.success());
        assert!(text(&refused.stderr).contains("no node has kept"), "{refused:?}");
    }
    assert!(!node.data_dir.exists());
    Ok(())
}
