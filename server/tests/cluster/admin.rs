//! `millrace cluster`, as an operator runs it, against nodes that are processes of their own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use millrace_raft::group::{Blocking, GroupRuntime};
use millrace_raft::grpc::{Connect, Io, OperatorTransport};
use millrace_raft::identity::ClusterId;
use millrace_server::env::Env;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::cell::{PATIENCE, free_ports};
use crate::ports::Ports;
use crate::processes::{Process, ready};

const BASIN: &str = "looked-after";
const STREAMS: usize = 8;
const FOUNDERS: usize = 3;

/// Nodes 1 to 4, of which the first three form the cluster.
struct Nodes {
    dir: tempfile::TempDir,
    ports: Ports,
    running: Vec<Option<Process>>,
    http: reqwest::Client,
}

impl Nodes {
    async fn start() -> Self {
        let mut nodes = Self {
            dir: tempfile::tempdir().unwrap(),
            ports: free_ports(8),
            running: (0..4).map(|_| None).collect(),
            http: reqwest::Client::builder().timeout(PATIENCE).build().unwrap(),
        };
        for node in 1..=FOUNDERS {
            nodes.running[node - 1] = Some(nodes.spawn(node, &format!("node-{node}"), Stdio::inherit()));
        }
        for node in nodes.running.iter().flatten() {
            ready(&nodes.http, node).await;
        }
        let made = nodes
            .http
            .put(format!("http://{}/v1/basins/{BASIN}", nodes.api(1)))
            .json(&json!({"config": {"create_stream_on_append": true}}));
        let made = made.send().await.unwrap();
        assert!(made.status().is_success(), "{made:?}");
        nodes
    }

    fn at(&self, port: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[port]))
    }

    fn cluster(&self, node: usize) -> SocketAddr {
        self.at(node - 1)
    }

    fn api(&self, node: usize) -> SocketAddr {
        self.at(3 + node)
    }

    fn data_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spawn(&self, node: usize, dir: &str, stderr: Stdio) -> Process {
        let http = self.api(node);
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        command
            .arg("server")
            .args(["--node-id", &node.to_string()])
            .args(["--cluster-addr", &self.cluster(node).to_string()])
            .args(["--cluster-plain", "--election-timeout", "1s", "--log", "error"])
            .args(["--http-addr", &http.to_string()])
            .args(["--store", &format!("file://{}", self.data_dir("store").display())])
            .arg("--data-dir")
            .arg(self.data_dir(dir))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        if node <= FOUNDERS {
            let peers: Vec<_> = (1..=FOUNDERS)
                .map(|node| format!("{node}={}", self.cluster(node)))
                .collect();
            command.args(["--peers", &peers.join(",")]);
        }
        let child = command.spawn().expect("the node starts");
        Process { http, child }
    }

    /// Asks through a node. Waits for the command without holding up the runtime.
    async fn run(&self, through: usize, args: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_millrace"));
        command
            .arg("cluster")
            .args(args)
            .args(["--cluster-plain", "--timeout", "60s"])
            .args(["--node", &self.cluster(through).to_string()]);
        command.output().await.expect("the command runs")
    }

    /// What the command says to programs, having done what it was asked.
    async fn json(&self, through: usize, args: &[&str]) -> Value {
        let args = [args, &["--json"]].concat();
        let output = self.run(through, &args).await;
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{args:?}: {out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
    }

    async fn nodes(&self, through: usize) -> Vec<Value> {
        let listed = self.json(through, &["nodes"]).await;
        listed.as_array().expect("an array").clone()
    }

    /// Until the command says what is wanted of it.
    async fn until(&self, what: &str, through: usize, args: &[&str], wanted: impl Fn(&Output) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.run(through, args).await;
            if wanted(&output) {
                return;
            }
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            assert!(
                Instant::now() < deadline,
                "not in time: {what}; last was {out}{err}"
            );
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn append_to_all(&self, through: usize, body: &str) {
        for stream in 0..STREAMS {
            let url = format!("http://{}/v1/streams/s{stream}/records", self.api(through));
            let appended = self
                .http
                .post(url)
                .header("s2-basin", BASIN)
                .json(&json!({"records": [{"body": body}]}));
            let answer = appended.send().await.unwrap();
            let status = answer.status();
            let said = answer.text().await.unwrap_or_default();
            assert!(
                status.is_success(),
                "{body} to s{stream} through node {through}: {status}: {said}"
            );
        }
    }

    async fn assert_all_hold(&self, through: usize, bodies: &[&str]) {
        for stream in 0..STREAMS {
            let url = format!(
                "http://{}/v1/streams/s{stream}/records?seq_num=0",
                self.api(through)
            );
            let read = self.http.get(url).header("s2-basin", BASIN).send().await.unwrap();
            let read: Value = read.json().await.unwrap();
            let found: Vec<&str> = read["records"]
                .as_array()
                .unwrap_or_else(|| panic!("s{stream} through node {through}: {read}"))
                .iter()
                .map(|record| record["body"].as_str().unwrap())
                .collect();
            assert_eq!(found, bodies, "s{stream} through node {through}");
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn of(nodes: &[Value], node: u64) -> &Value {
    let found = nodes.iter().find(|known| known["node"] == node);
    found.unwrap_or_else(|| panic!("node {node} in {nodes:?}"))
}

fn leader(nodes: &[Value]) -> u64 {
    let leads = nodes.iter().find(|node| node["leader"] == true);
    leads.and_then(|node| node["node"].as_u64()).expect("a leader")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_adds_promotes_drains_and_removes_nodes_and_nothing_is_lost() {
    let mut nodes = Nodes::start().await;
    let succeeded = |output: &Output| output.status.success();
    nodes
        .until("three nodes are healthy", 2, &["status"], succeeded)
        .await;
    nodes.append_to_all(1, "by three").await;

    // One that waits says for what.
    nodes.running[3] = Some(nodes.spawn(4, "node-4", Stdio::inherit()));
    let waits = |output: &Output| {
        !output.status.success() && text(&output.stdout).contains("millrace cluster add 4 HOST:PORT")
    };
    nodes
        .until("node 4 waits to be added", 4, &["status"], waits)
        .await;

    let fourth = nodes.cluster(4).to_string();
    let added = nodes.json(3, &["add", "4", &fourth]).await;
    assert_eq!(added, json!({"node": 4, "member": true, "voter": false}));
    let again = nodes.json(1, &["add", "4", &fourth]).await;
    assert_eq!(again, added, "adding it again changes nothing");
    let listed = nodes.nodes(4).await;
    assert_eq!(
        (&of(&listed, 4)["voter"], &of(&listed, 4)["state"]),
        (&json!(false), &json!("alive"))
    );
    let carries = |output: &Output| {
        let channels: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let owned = |channel: &Value| channel["owner"] == 4 && channel["activated"] == true;
        channels
            .as_array()
            .is_some_and(|channels| channels.iter().any(owned))
    };
    nodes
        .until(
            "the learner carries channels",
            1,
            &["channels", "--json"],
            carries,
        )
        .await;
    ready(&nodes.http, nodes.running[3].as_ref().unwrap()).await;
    nodes.append_to_all(4, "with a learner").await;

    nodes.json(1, &["promote", "4"]).await;
    assert_eq!(of(&nodes.nodes(1).await, 4)["voter"], true);
    let checked = nodes.json(2, &["check"]).await;
    assert_eq!(checked["agree"], json!([1, 2, 3, 4]), "{checked}");

    // The leader gives everything away, and takes requests as before.
    let drained = leader(&nodes.nodes(1).await);
    nodes.json(1, &["drain", &drained.to_string()]).await;
    let listed = nodes.nodes(1).await;
    assert_ne!(leader(&listed), drained);
    let state = &of(&listed, drained)["state"];
    assert_eq!(
        (state, &of(&listed, drained)["channels"]),
        (&json!("draining"), &json!(0))
    );
    nodes.append_to_all(drained as usize, "drained").await;
    nodes.json(1, &["resume", &drained.to_string()]).await;
    assert_eq!(of(&nodes.nodes(1).await, drained)["state"], "alive");

    for to in [2, 1] {
        let led = nodes.json(3, &["transfer-leader", &to.to_string()]).await;
        assert_eq!(led, json!({"leader": to}));
    }
    nodes.json(1, &["remove", "4"]).await;
    assert!(nodes.nodes(1).await.iter().all(|node| node["node"] != 4));
    drop(nodes.running[3].take());
    nodes.append_to_all(3, "without the fourth").await;

    // Two of three answer: neither of them can go, the third can.
    drop(nodes.running[2].take());
    let silent = |output: &Output| !output.status.success() && text(&output.stdout).starts_with("degraded");
    nodes.until("node 3 is missed", 1, &["status"], silent).await;
    let seen =
        |output: &Output| !output.status.success() && text(&output.stderr).contains("which is no majority");
    nodes.until("node 2 has to stay", 1, &["remove", "2"], seen).await;
    let wiped = nodes.spawn(3, "node-3-wiped", Stdio::piped());
    let wiped = tokio::task::spawn_blocking(move || {
        let mut wiped = wiped;
        let mut said = String::new();
        let stderr = wiped.child.stderr.as_mut().expect("a pipe");
        std::io::Read::read_to_string(stderr, &mut said).unwrap();
        (wiped.child.wait().unwrap(), said)
    });
    let (ended, said) = wiped.await.unwrap();
    assert!(
        !ended.success() && said.contains("Remove node 3 from the group"),
        "{said}"
    );
    nodes.json(1, &["remove", "3"]).await;
    let all_well = |output: &Output| {
        let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        output.status.success() && listed["voters"] == json!([1, 2]) && listed["healthy"] == true
    };
    nodes
        .until("two nodes are healthy", 2, &["status", "--json"], all_well)
        .await;

    let all = ["by three", "with a learner", "drained", "without the fourth"];
    nodes.assert_all_hold(1, &all).await;
    nodes.assert_all_hold(2, &all).await;
    let streams = nodes
        .json(2, &["streams", BASIN, "--prefix", "s", "--limit", "5"])
        .await;
    assert_eq!(streams.as_array().map(Vec::len), Some(5), "{streams}");

    // What a node knows that has nobody to ask, and that it is not all.
    drop(nodes.running[1].take());
    let nobody = |output: &Output| !output.status.success() && text(&output.stdout).starts_with("no leader");
    nodes.until("the leader is missed", 1, &["status"], nobody).await;
    let listed = nodes.run(1, &["nodes"]).await;
    assert!(
        listed.status.success() && text(&listed.stderr).contains("no leader"),
        "{listed:?}"
    );
}

struct Network(Env);

#[async_trait]
impl Connect for Network {
    async fn connect(&self, address: &str) -> std::io::Result<Box<dyn Io>> {
        Ok(Box::new(self.0.network.connect(address).await?))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_of_other_clusters_are_turned_away_and_none_speaks_as_a_node() {
    let nodes = Nodes::start().await;
    let foreign = nodes.run(1, &["status", "--cluster", "another"]).await;
    let said = text(&foreign.stderr);
    assert!(!foreign.status.success() && said.contains("cluster"), "{said}");

    let wrong_port = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args(["cluster", "status", "--cluster-plain", "--node"])
        .arg(nodes.api(1).to_string())
        .output()
        .unwrap();
    assert!(!wrong_port.status.success());

    let all = |output: &Output| output.status.success();
    nodes.until("three nodes are healthy", 1, &["status"], all).await;
    let listed = nodes.nodes(1).await;
    let runtime = GroupRuntime::start(Blocking::Inline).unwrap();
    let cluster = ClusterId::of_name("millrace");
    let operator = OperatorTransport::new(Network(Env::system()), None, cluster, runtime);
    for (port, path) in [
        ("cluster_address", "/millrace.node.v1.Group/Call"),
        ("forward_address", "/millrace.peer.v1.Peer/Heartbeat"),
        ("forward_address", "/millrace.peer.v1.Peer/Link"),
    ] {
        let address = of(&listed, 1)[port].as_str().expect("an address");
        let mut request = http::Request::new(tonic::body::Body::empty());
        *request.uri_mut() = format!("http://millrace.test{path}").parse().unwrap();
        *request.method_mut() = http::Method::POST;
        let answer = tower::Service::call(&mut operator.channel(address), request).await;
        let status = answer.expect("an answer").headers().get("grpc-status").cloned();
        assert_eq!(status.unwrap(), "7", "{path} is not for operators");
    }
}
