//! Real nodes: started, killed, stopped, gone on with, asked whether they serve.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use super::clocks::Clocks;
use super::edge;
use super::network::Network;
use super::ports::Ports;
use super::store::Store;
use super::zones::{self, Zones};

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The program `millrace`.
    pub program: PathBuf,
    /// Everything of the run goes here.
    pub dir: PathBuf,
    /// How many nodes.
    pub nodes: usize,
    /// As `--election-timeout`; a lease is twice as long.
    pub election_timeout: Duration,
    /// An S3 server, as `--store` of a node but by way of proxies; a directory if there is none.
    pub store: Option<String>,
    /// What the Express zones are; all streams are of class Express then, and of class Standard otherwise.
    pub zones: Option<zones::Kind>,
    /// Whether wall clocks are to be set.
    pub clocks: bool,
    /// WAL channels of each node.
    pub channels: u32,
    /// What else is passed to each node.
    pub further: Vec<String>,
}

/// The nodes of one run. They die with it.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    /// Where they stand.
    pub network: Network,
    /// What they store on.
    pub store: Store,
    /// What streams of class Express are on.
    pub zones: Zones,
    /// What time they take it to be.
    pub clocks: Clocks,
    nodes: Vec<Node>,
    /// Where a further node stands, when there is one.
    spare: SocketAddr,
    guest: Option<Child>,
    guests: usize,
    _ports: Ports,
}

#[derive(Debug)]
struct Node {
    http: SocketAddr,
    cluster: SocketAddr,
    process: Option<Child>,
    paused: bool,
}

/// A node that ended although nobody asked it to.
#[derive(Debug, Clone)]
pub struct Fallen {
    /// Counted from 0.
    pub node: usize,
    /// How it ended.
    pub status: String,
}

impl Cluster {
    /// Starts all nodes and waits until each serves.
    pub async fn start(plan: Plan, network: Network, within: Duration) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&plan.dir).with_context(|| format!("cannot make {}", plan.dir.display()))?;
        let ports = Ports::reserve(2 * plan.nodes + 1).context("no ports for the nodes")?;
        let nodes = (0..plan.nodes).map(|node| Node {
            http: SocketAddr::new(network.ip(node), ports[2 * node]),
            cluster: SocketAddr::new(network.ip(node), ports[2 * node + 1]),
            process: None,
            paused: false,
        });
        let store = Store::new(plan.store.as_deref(), &plan.dir, &network, plan.nodes).await?;
        let zones = Zones::new(plan.zones, plan.store.as_deref(), &plan.dir, &network, plan.nodes).await?;
        let mut cluster = Self {
            clocks: Clocks::new(plan.clocks, &plan.dir)?,
            store,
            zones,
            nodes: nodes.collect(),
            spare: SocketAddr::new(network.ip(plan.nodes), ports[2 * plan.nodes]),
            guest: None,
            guests: 0,
            _ports: ports,
            network,
            plan,
        };
        for node in 0..cluster.len() {
            cluster.start_node(node)?;
        }
        for node in 0..cluster.len() {
            cluster.serves(node, within).await?;
        }
        Ok(cluster)
    }

    /// How many nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where clients reach a node.
    pub fn http(&self, node: usize) -> SocketAddr {
        self.nodes[node].http
    }

    /// The log of a node, over all its processes.
    pub fn log(&self, node: usize) -> PathBuf {
        self.plan.dir.join(format!("node-{}.log", node + 1))
    }

    /// The data directory of a node.
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.plan.dir.join(format!("node-{}", node + 1))
    }

    /// Whether its process is there and not paused.
    pub fn runs(&self, node: usize) -> bool {
        self.nodes[node].process.is_some() && !self.nodes[node].paused
    }

    /// Whether its process is there, and stands still.
    pub fn is_paused(&self, node: usize) -> bool {
        self.nodes[node].process.is_some() && self.nodes[node].paused
    }

    /// Starts a node that is not running; does not wait until it serves.
    pub fn start_node(&mut self, node: usize) -> anyhow::Result<()> {
        ensure!(self.nodes[node].process.is_none(), "node {} runs", node + 1);
        let peers: Vec<String> = (1..)
            .zip(&self.nodes)
            .map(|(id, node)| format!("{id}={}", node.cluster))
            .collect();
        let it = &self.nodes[node];
        let process = self
            .command(node, node, it.cluster)?
            .args(["--peers", &peers.join(",")])
            .args(["--http-addr", &it.http.to_string()])
            .spawn()
            .with_context(|| format!("cannot start {}", self.plan.program.display()))?;
        self.nodes[node].process = Some(process);
        self.nodes[node].paused = false;
        Ok(())
    }

    /// The node of this index, to stand at `place`.
    fn command(
        &self,
        node: usize,
        place: usize,
        cluster: SocketAddr,
    ) -> anyhow::Result<tokio::process::Command> {
        let output = append_to(&self.log(node))?;
        let timeout = humantime::format_duration(self.plan.election_timeout);
        let mut command = self.network.command(place, &self.plan.program);
        command
            .arg("server")
            .args(["--node-id", &(node + 1).to_string()])
            .args(["--cluster-addr", &cluster.to_string()])
            .arg("--cluster-plain")
            .args(["--zone", &format!("zone-{}", node + 1)])
            .args(["--election-timeout", &timeout.to_string()])
            .args(["--channels", &self.plan.channels.to_string()])
            .args(["--store", &self.store.url(node)])
            .arg("--data-dir")
            .arg(self.data_dir(node))
            // Names are used again soon.
            .args(["--deletion-grace", "1s"])
            .args(["--log", "info,openraft=warn", "--log-format", "json"])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        if let Some(zones) = self.zones.urls(node) {
            command.args(["--express", &zones]);
        }
        self.clocks.give(node, &mut command)?;
        command.args(&self.plan.further);
        Ok(command)
    }

    /// Starts a node beyond those of the plan, which belongs to nobody yet; its number and cluster address. One at a
    /// time, and never the same number twice.
    pub fn start_guest(&mut self) -> anyhow::Result<(u64, String)> {
        ensure!(self.guest.is_none(), "there is a further node already");
        let node = self.len() + self.guests;
        self.guests += 1;
        let process = self
            .command(node, self.len(), self.spare)?
            .args(["--http-addr", &SocketAddr::new(self.spare.ip(), 0).to_string()])
            .spawn()
            .with_context(|| format!("cannot start {}", self.plan.program.display()))?;
        self.guest = Some(process);
        Ok((node as u64 + 1, self.spare.to_string()))
    }

    /// SIGKILL to it.
    pub async fn end_guest(&mut self) {
        if let Some(mut process) = self.guest.take() {
            // A process that cannot be killed is gone.
            let _ = process.kill().await;
        }
    }

    /// Where other nodes reach it.
    pub fn cluster_address(&self, node: usize) -> String {
        self.nodes[node].cluster.to_string()
    }

    /// SIGKILL, and waits for the end. Nothing if it does not run.
    pub async fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        if let Some(mut process) = self.nodes[node].process.take() {
            process.start_kill()?;
            process.wait().await?;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end, which is to be a good one.
    pub async fn stop(&mut self, node: usize, within: Duration) -> anyhow::Result<()> {
        self.signal(node, Signal::TERM)?;
        let Some(mut process) = self.nodes[node].process.take() else {
            return Ok(());
        };
        match timeout(within, process.wait()).await {
            Ok(status) => {
                let status = status?;
                ensure!(status.success(), "node {} stopped with {status}", node + 1);
                Ok(())
            }
            Err(_) => {
                process.start_kill()?;
                process.wait().await?;
                bail!("node {} did not stop within {within:?}", node + 1)
            }
        }
    }

    /// SIGSTOP.
    pub fn pause(&mut self, node: usize) -> anyhow::Result<()> {
        self.signal(node, Signal::STOP)?;
        self.nodes[node].paused = true;
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&mut self, node: usize) -> anyhow::Result<()> {
        self.signal(node, Signal::CONT)?;
        self.nodes[node].paused = false;
        Ok(())
    }

    fn signal(&self, node: usize, signal: Signal) -> anyhow::Result<()> {
        let process = self.nodes[node].process.as_ref().and_then(Child::id);
        let pid = process.and_then(|pid| Pid::from_raw(pid as i32));
        let pid = pid.with_context(|| format!("node {} does not run", node + 1))?;
        Ok(kill_process(pid, signal)?)
    }

    /// Milliseconds that a node's wall clock is ahead of this machine's, as it tells in its answers: see
    /// [`edge::ahead_ms`].
    pub async fn ahead_ms(&self, node: usize) -> std::io::Result<i64> {
        edge::ahead_ms(self.http(node), Duration::from_secs(1)).await
    }

    /// Those that ended by themselves since the last look. They are not started again.
    pub fn fallen(&mut self) -> Vec<Fallen> {
        let mut fallen = Vec::new();
        for (node, it) in self.nodes.iter_mut().enumerate() {
            let Some(process) = &mut it.process else { continue };
            if let Ok(Some(status)) = process.try_wait() {
                it.process = None;
                fallen.push(Fallen {
                    node,
                    status: status.to_string(),
                });
            }
        }
        fallen
    }

    /// Waits until the node says that it serves.
    pub async fn serves(&mut self, node: usize, within: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        loop {
            if edge::get(self.http(node), "/health", Duration::from_secs(1))
                .await
                .is_ok()
            {
                return Ok(());
            }
            if let Some(fallen) = self.fallen().into_iter().find(|fallen| fallen.node == node) {
                let log = self.log(node);
                bail!(
                    "node {} ended, {}: see {}",
                    node + 1,
                    fallen.status,
                    log.display()
                );
            }
            ensure!(
                Instant::now() < deadline,
                "node {} does not serve within {within:?}",
                node + 1
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// CPU time that the processes of all nodes have used, in seconds.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let processes = self.nodes.iter().filter_map(|node| node.process.as_ref()?.id());
        let ticks = processes.map(cpu_ticks).sum::<anyhow::Result<u64>>()?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// SIGKILL to all that run.
    pub async fn kill_all(&mut self) {
        for node in 0..self.len() {
            // A process that cannot be killed is gone.
            let _ = self.kill(node).await;
        }
        self.end_guest().await;
    }
}

/// In user and kernel mode: the 14th and 15th field of `/proc/PID/stat`, of which the second may contain anything in
/// parentheses.
fn cpu_ticks(pid: u32) -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
    let times = fields.context("no process status")?.skip(11).take(2);
    Ok(times.map(str::parse::<u64>).sum::<Result<u64, _>>()?)
}

fn append_to(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))
}
