//! The disk under one node's metadata fills up: a small file system of its own, moved under the data directory while
//! the node is stopped, and filled while it runs. Healed by making room; the node may have ended, as it should, and is
//! then started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::rngs::SmallRng;

use super::{Fault, Outcome, Undo};
use crate::live::cluster::Cluster;
use crate::live::target::Target;

const SIZE: &str = "256m";
const SERVES_WITHIN: Duration = Duration::from_secs(60);

/// A file system that is full.
#[derive(Debug)]
pub(super) struct Full {
    node: usize,
    mount: PathBuf,
    filler: PathBuf,
}

pub(super) async fn install(cluster: &mut Cluster, rng: &mut SmallRng) -> Outcome {
    let node = Target::Any
        .choose(cluster, rng)
        .await
        .first()
        .copied()
        .unwrap_or_default();
    let mount = cluster.data_dir(node);
    if let Err(error) = place(cluster, node, &mount).await {
        let undo = match cluster.runs(node) {
            true => Undo::Nothing,
            false => Undo::Start(vec![node]),
        };
        if let Undo::Start(_) = undo {
            let target = format!("node {}", node + 1);
            return Outcome::Unknown(Fault { target, undo }, format!("{error:#}"));
        }
        return Outcome::Skipped(format!("{error:#}"));
    }
    let filler = mount.join("filler");
    let full = Full { node, mount, filler };
    let filled = full.fill();
    let fault = Fault {
        target: format!("node {}", node + 1),
        undo: Undo::Disk(full),
    };
    match filled {
        Ok(()) => Outcome::Installed(fault),
        Err(error) => Outcome::Unknown(fault, format!("{error:#}")),
    }
}

/// Moves the node's data onto a small file system.
async fn place(cluster: &mut Cluster, node: usize, mount: &Path) -> anyhow::Result<()> {
    let probe = cluster.plan().dir.join("probe");
    fs::create_dir_all(&probe)?;
    run(
        "mount",
        &["-t", "tmpfs", "-o", "size=1m", "millrace-jepsen"],
        &probe,
    )?;
    run("umount", &[], &probe)?;
    cluster.kill(node).await?;
    let aside = mount.with_extension("aside");
    fs::rename(mount, &aside)?;
    fs::create_dir(mount)?;
    let size = format!("size={SIZE}");
    run("mount", &["-t", "tmpfs", "-o", &size, "millrace-jepsen"], mount)?;
    let copied = Command::new("cp")
        .arg("-a")
        .arg(aside.join("."))
        .arg(mount)
        .status()?;
    ensure!(
        copied.success(),
        "the data of node {} does not fit into {SIZE}",
        node + 1
    );
    fs::remove_dir_all(&aside)?;
    cluster.start_node(node)?;
    cluster.serves(node, SERVES_WITHIN).await
}

fn run(program: &str, arguments: &[&str], path: &Path) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .arg(path)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", error.trim());
    Ok(())
}

impl Full {
    fn fill(&self) -> anyhow::Result<()> {
        let filled = Command::new("dd")
            .args(["if=/dev/zero", "bs=64k", "status=none"])
            .stderr(std::process::Stdio::null())
            .arg(format!("of={}", self.filler.display()))
            .status()
            .context("cannot run dd")?;
        // It ends because there is no room any more.
        ensure!(!filled.success(), "the disk does not fill up");
        Ok(())
    }

    pub(super) async fn heal(self, cluster: &mut Cluster) -> anyhow::Result<()> {
        fs::remove_file(&self.filler)?;
        for fallen in cluster.fallen() {
            ensure!(
                fallen.node == self.node,
                "node {} ended although its disk has room: {}",
                fallen.node + 1,
                fallen.status
            );
        }
        // Back to where it was, so that nothing of the run is lost with the file system.
        cluster.kill(self.node).await?;
        let aside = self.mount.with_extension("aside");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(&self.mount)
            .arg(&aside)
            .status()?;
        ensure!(
            copied.success(),
            "the data of node {} cannot be copied back",
            self.node + 1
        );
        run("umount", &[], &self.mount)?;
        fs::remove_dir(&self.mount)?;
        fs::rename(&aside, &self.mount)?;
        cluster.start_node(self.node)
    }
}
