//! `millrace cluster …`, asked of the cluster under test by the program under test.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::cluster::Cluster;

/// The status of a command that the program does not know.
const NOT_KNOWN: i32 = 2;

/// What the program said.
#[derive(Debug)]
pub enum Said {
    /// It did what was asked.
    Done(Value),
    /// It has no such command.
    NotKnown,
}

/// Runs a command; any node that is asked will do.
///
/// # Errors
/// It failed, for the reason that it gave, or took too long.
pub async fn ask(cluster: &Cluster, command: &[&str], within: Duration) -> anyhow::Result<Said> {
    let shown = command.join(" ");
    let nodes = (0..cluster.len()).flat_map(|node| ["--node".to_owned(), cluster.cluster_address(node)]);
    let running = Command::new(&cluster.plan().program)
        .arg("cluster")
        .args(command)
        .args(nodes)
        .args(["--cluster-plain", "--json"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output: Output = timeout(within, running)
        .await
        .with_context(|| format!("cluster {shown} took longer than {within:?}"))?
        .with_context(|| format!("cannot run cluster {shown}"))?;
    if output.status.code() == Some(NOT_KNOWN) {
        return Ok(Said::NotKnown);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        bail!(
            "cluster {shown}: {} {}",
            text(&output.stdout),
            text(&output.stderr)
        );
    }
    Ok(Said::Done(
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
    ))
}

/// Who leads, as the cluster says; `None` if it does not say.
pub async fn leader(cluster: &Cluster) -> Option<usize> {
    let said = ask(cluster, &["status"], Duration::from_secs(3)).await.ok()?;
    let Said::Done(status) = said else { return None };
    let leader = usize::try_from(status.get("leader")?.as_u64()?).ok()?;
    leader.checked_sub(1).filter(|node| *node < cluster.len())
}

/// The cluster says of itself that it is as it should be: every member answers, every channel is served. Nothing is
/// said of a program that cannot tell.
///
/// # Errors
/// It says that it is not, and why.
pub async fn healthy(cluster: &Cluster) -> anyhow::Result<()> {
    match ask(cluster, &["status"], Duration::from_secs(10)).await? {
        Said::NotKnown => Ok(()),
        Said::Done(status) if status.get("healthy") == Some(&Value::Bool(true)) => Ok(()),
        Said::Done(status) => bail!("the cluster is not healthy: {status}"),
    }
}

/// All replicas of the metadata are the same. Nothing is said of a program that cannot compare them.
///
/// # Errors
/// They are not, or not all could be compared.
pub async fn replicas_agree(cluster: &Cluster) -> anyhow::Result<()> {
    match ask(cluster, &["check"], Duration::from_secs(10)).await? {
        Said::NotKnown => Ok(()),
        Said::Done(said) => {
            let list = |name: &str| said.get(name).and_then(Value::as_array).map_or(0, Vec::len);
            match (list("agree"), list("not_compared")) {
                (agree, 0) if agree >= cluster.len() => Ok(()),
                _ => bail!("replicas could not be compared: {said}"),
            }
        }
    }
}
