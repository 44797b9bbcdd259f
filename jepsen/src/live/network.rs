//! Where nodes stand: all on loopback, or each in a network namespace of its own that can be cut off.
//!
//! With namespaces every node has one end of a veth pair, the other ends hang on a bridge, and the harness stands on
//! the bridge too. So packets between two nodes can be dropped, in either direction, without touching those between a
//! node and its clients. Everything is removed when the value is dropped.

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The third byte of the address range 10.213.x.0/24 that is tried first.
const RANGES: std::ops::Range<u8> = 10..250;

/// See the module.
#[derive(Debug)]
pub enum Network {
    /// One address, many ports. Nothing can be cut off.
    Loopback {
        /// Why there is no better.
        because: String,
    },
    /// One address for each node.
    Namespaces(Namespaces),
}

/// Made for one run.
#[derive(Debug)]
pub struct Namespaces {
    range: u8,
    nodes: usize,
}

/// Which packets between two nodes are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Those that come in at the node.
    In,
    /// Those that go out of it.
    Out,
    /// Both.
    Whole,
}

impl Network {
    /// Namespaces where the machine lets us have them.
    pub fn new(nodes: usize) -> Self {
        match Namespaces::new(nodes) {
            Ok(namespaces) => Self::Namespaces(namespaces),
            Err(error) => Self::loopback(format!("{error:#}")),
        }
    }

    /// Loopback.
    pub fn loopback(because: impl Into<String>) -> Self {
        Self::Loopback {
            because: because.into(),
        }
    }

    /// Where a node listens.
    pub fn ip(&self, node: usize) -> IpAddr {
        match self {
            Self::Loopback { .. } => Ipv4Addr::LOCALHOST.into(),
            Self::Namespaces(namespaces) => namespaces.ip(node).into(),
        }
    }

    /// A command that runs where the node stands.
    pub fn command(&self, node: usize, program: &std::path::Path) -> tokio::process::Command {
        match self {
            Self::Loopback { .. } => tokio::process::Command::new(program),
            Self::Namespaces(namespaces) => {
                // `ip netns exec` becomes the program: signals reach the node itself.
                let mut command = tokio::process::Command::new("ip");
                command
                    .args(["netns", "exec", &namespaces.name(node)])
                    .arg(program);
                command
            }
        }
    }

    /// Drops packets between `node` and each of `others`.
    ///
    /// # Errors
    /// What is in the way; then nothing, or only part of it, is dropped, and [`heal`](Self::heal) is in order.
    pub fn cut(&self, node: usize, others: &[usize], cut: Cut) -> anyhow::Result<()> {
        let Self::Namespaces(namespaces) = self else {
            bail!("{}", self.obstacle());
        };
        for other in others {
            let other = namespaces.ip(*other).to_string();
            let name = namespaces.name(node);
            let drop = |chain: &str, direction: &str| {
                run(&[
                    "ip", "netns", "exec", &name, "iptables", "-w", "-A", chain, direction, &other, "-j",
                    "DROP",
                ])
            };
            if cut != Cut::Out {
                drop("INPUT", "-s")?;
            }
            if cut != Cut::In {
                drop("OUTPUT", "-d")?;
            }
        }
        Ok(())
    }

    /// Drops nothing any more.
    pub fn heal(&self) -> anyhow::Result<()> {
        let Self::Namespaces(namespaces) = self else {
            return Ok(());
        };
        for node in 0..namespaces.nodes {
            let name = namespaces.name(node);
            run(&["ip", "netns", "exec", &name, "iptables", "-w", "-F"])?;
        }
        Ok(())
    }

    /// Why nothing can be cut off; empty if it can.
    pub fn obstacle(&self) -> String {
        match self {
            Self::Namespaces(_) => String::new(),
            Self::Loopback { because } => format!("no network namespaces: {because}"),
        }
    }
}

impl Namespaces {
    fn new(nodes: usize) -> anyhow::Result<Self> {
        anyhow::ensure!(nodes <= 9, "at most nine nodes");
        let mut last = None;
        // Another run may have the first ranges.
        for range in RANGES.take(20) {
            if run(&["ip", "link", "show", &format!("mrj{range}")]).is_ok() {
                continue;
            }
            let namespaces = Self { range, nodes };
            match namespaces.make() {
                Ok(()) => return Ok(namespaces),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("all address ranges are in use")))
    }

    fn make(&self) -> anyhow::Result<()> {
        let bridge = self.bridge();
        run(&["ip", "link", "add", &bridge, "type", "bridge"])?;
        run(&[
            "ip",
            "addr",
            "add",
            &format!("{}/24", self.harness()),
            "dev",
            &bridge,
        ])?;
        run(&["ip", "link", "set", &bridge, "up"])?;
        for node in 0..self.nodes {
            let name = self.name(node);
            let (ours, theirs) = (format!("{bridge}n{node}"), format!("{bridge}p{node}"));
            let inside = |command: &[&str]| run(&[&["ip", "netns", "exec", name.as_str()], command].concat());
            run(&["ip", "netns", "add", &name])?;
            run(&[
                "ip", "link", "add", &ours, "type", "veth", "peer", "name", &theirs,
            ])?;
            run(&["ip", "link", "set", &theirs, "netns", &name])?;
            run(&["ip", "link", "set", &ours, "master", &bridge])?;
            run(&["ip", "link", "set", &ours, "up"])?;
            inside(&[
                "ip",
                "addr",
                "add",
                &format!("{}/24", self.ip(node)),
                "dev",
                &theirs,
            ])?;
            inside(&["ip", "link", "set", &theirs, "up"])?;
            inside(&["ip", "link", "set", "lo", "up"])?;
            inside(&["iptables", "-w", "-L", "-n"]).context("iptables does not work here")?;
        }
        Ok(())
    }

    fn ip(&self, node: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.range, 11 + node as u8)
    }

    /// Where nodes reach who stands on the bridge.
    pub fn harness(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.range, 1)
    }

    fn bridge(&self) -> String {
        format!("mrj{}", self.range)
    }

    fn name(&self, node: usize) -> String {
        format!("{}-{}", self.bridge(), node + 1)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // What was not made cannot be removed; nothing else is lost by that.
        for node in 0..self.nodes {
            let _ = run(&["ip", "link", "del", &format!("{}n{node}", self.bridge())]);
            let _ = run(&["ip", "netns", "del", &self.name(node)]);
        }
        let _ = run(&["ip", "link", "del", &self.bridge()]);
    }
}

fn run(command: &[&str]) -> anyhow::Result<()> {
    let shown = command.join(" ");
    let output = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
