//! `millrace cluster`: asks nodes and prints what they say.

mod check;
mod drain;
mod look;
mod members;
mod zones;

use std::future::Future;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tonic::{Code, Response, Status};

use super::args::{ClusterArgs, ClusterCommand, ZonesCommand};
use super::client::{Client, Seen};
use super::pb::admin_client::AdminClient;
use super::progress::Progress;
use crate::env::Env;

/// For what is answered at once.
const TIMEOUT: Duration = Duration::from_secs(15);
/// For what waits until others have done something.
const WAITING_TIMEOUT: Duration = Duration::from_secs(600);
/// Between two looks at how far something is.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs the command. `false` when it did what was asked, and what it found is not as it should be.
///
/// # Errors
///
/// If it did not do what was asked; the text is for the operator.
pub async fn run(args: ClusterArgs, env: Env) -> anyhow::Result<bool> {
    let waits = matches!(
        args.command,
        ClusterCommand::Add { .. }
            | ClusterCommand::Remove { .. }
            | ClusterCommand::Drain { .. }
            | ClusterCommand::Zones { command: Some(_) }
    );
    let timeout = args
        .reach
        .timeout
        .unwrap_or(if waits { WAITING_TIMEOUT } else { TIMEOUT });
    let client = Client::new(args.reach.resolve()?, env, timeout)?;
    let mut session = Session {
        client,
        json: args.reach.json,
        progress: Progress::new(),
    };
    match args.command {
        ClusterCommand::Status => session.status().await,
        ClusterCommand::Nodes { all } => session.nodes(all).await,
        ClusterCommand::Channels => session.channels().await,
        ClusterCommand::Streams { basin, prefix, limit } => session.streams(&basin, &prefix, limit).await,
        ClusterCommand::Add {
            node,
            address,
            promote,
        } => session.add(node, &address, promote).await,
        ClusterCommand::Promote { node } => session.promote(node).await,
        ClusterCommand::Remove { node } => session.remove(node).await,
        ClusterCommand::Drain { node } => session.drain(node).await,
        ClusterCommand::Resume { node } => session.resume(node).await,
        ClusterCommand::TransferLeader { node } => session.transfer_leader(node).await,
        ClusterCommand::Zones { command: None } => session.zones().await,
        ClusterCommand::Zones {
            command: Some(ZonesCommand::Replace { zone }),
        } => session.replace_zone(zone).await,
        ClusterCommand::Check => session.check().await,
    }
}

struct Session {
    client: Client,
    json: bool,
    progress: Progress,
}

impl Session {
    /// Prints one of the two.
    fn print(&mut self, json: &impl Serialize, text: &str) -> anyhow::Result<()> {
        let text = match self.json {
            true => serde_json::to_string_pretty(json)? + "\n",
            false => text.to_owned(),
        };
        match std::io::stdout().lock().write_all(text.as_bytes()) {
            // Whoever reads has read enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            done => done.context("cannot write"),
        }
    }

    /// What the leader says. Waits for one until the command's deadline.
    async fn led(&mut self) -> anyhow::Result<Seen> {
        loop {
            let seen = self.client.look().await;
            match seen {
                Ok(seen) if seen.has_leader() => return Ok(seen),
                Ok(seen) => {
                    let verdict = super::verdict::verdict(&seen);
                    self.wait(&verdict.to_string()).await?;
                }
                // Who answered a moment ago may be back soon.
                Err(_) if self.client.has_seen() => self.wait("no node answers any more").await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// A moment, while something is not as it is to be. An error when the time is up.
    async fn wait(&mut self, what: &str) -> anyhow::Result<()> {
        if Instant::now() + PAUSE >= self.client.deadline {
            bail!("gave up waiting: {what}");
        }
        self.progress.say(what);
        sleep(PAUSE).await;
        Ok(())
    }

    /// Asks the leader for what may be asked for again, until it is done, is refused, or the time is up.
    async fn insist<T, F>(
        &mut self,
        what: &str,
        call: impl Fn(AdminClient<millrace_raft::grpc::Channel>) -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        loop {
            let seen = self.led().await?;
            match self.client.ask(seen.address(), &call).await {
                Ok(answer) => return Ok(answer),
                Err(status) if again(&status) => {
                    let why = self.client.why(&status);
                    self.wait(&format!("{what}: {why}")).await?;
                }
                Err(status) => bail!("{what}: {}", self.client.why(&status)),
            }
        }
    }

    /// The node's cluster address, and that it is a member.
    fn member(&self, seen: &Seen, node: u64) -> anyhow::Result<String> {
        match seen.node(node) {
            Some(known) if known.member => Ok(known.cluster_address.clone()),
            _ => bail!("node {node} is no member of the cluster: `millrace cluster nodes` lists them"),
        }
    }
}

/// Whether the same may succeed a moment later. What is asked for here may be asked for again whatever became of it.
fn again(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
    )
}
