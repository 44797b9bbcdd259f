//! The operator's side: finds a node that answers, and through it the one that leads.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use millrace_raft::group::{Blocking, GroupRuntime};
use millrace_raft::grpc::{Channel, OperatorTransport};
use millrace_raft::identity::ClusterId;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Response, Status};

use super::args::Reach;
use super::pb::{self, admin_client::AdminClient};
use crate::cluster::{Connector, read_tls};
use crate::env::Env;

/// A node that takes longer to say how the cluster is counts as one that does not answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(4);

/// Encoded bytes of an answer: a page of streams with the longest names is below.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

pub struct Client {
    transport: OperatorTransport,
    channels: Mutex<BTreeMap<String, Channel>>,
    reach: Reach,
    /// Addresses of members that nodes have named: asked, too, when those that were named first are gone.
    learned: Mutex<BTreeSet<String>>,
    /// The command ends then.
    pub deadline: Instant,
}

/// What the nodes said that were asked.
pub struct Seen {
    /// By their addresses.
    pub answers: BTreeMap<String, pb::DescribeResponse>,
    /// Why others said nothing.
    pub silent: BTreeMap<String, String>,
    /// The address of the leader, or else of a node that knows most. One of those who answered.
    best: String,
}

impl Seen {
    /// `None` if nobody answered.
    pub fn new(
        answers: BTreeMap<String, pb::DescribeResponse>,
        silent: BTreeMap<String, String>,
    ) -> Option<Self> {
        let rank = |answer: &pb::DescribeResponse| {
            (
                answer.leads,
                answer.leader.is_some(),
                answer.term,
                answer.applied_index,
            )
        };
        let best = answers.iter().max_by_key(|(_, answer)| rank(answer));
        let best = best.map(|(address, _)| address.clone())?;
        Some(Self {
            answers,
            silent,
            best,
        })
    }

    pub fn best(&self) -> &pb::DescribeResponse {
        &self.answers[&self.best]
    }

    pub fn address(&self) -> &str {
        &self.best
    }

    /// The leader has answered.
    pub fn has_leader(&self) -> bool {
        self.best().leads
    }

    pub fn node(&self, node: u64) -> Option<&pb::Node> {
        self.best().nodes.iter().find(|known| known.node == node)
    }
}

impl Client {
    pub fn new(reach: Reach, env: Env, timeout: Duration) -> anyhow::Result<Self> {
        let tls = reach.tls.as_ref().map(read_tls).transpose()?;
        let runtime = GroupRuntime::start(Blocking::Inline)?;
        let cluster = ClusterId::of_name(&reach.cluster);
        Ok(Self {
            transport: OperatorTransport::new(Connector(env), tls, cluster, runtime),
            channels: Mutex::default(),
            reach,
            learned: Mutex::default(),
            deadline: Instant::now() + timeout,
        })
    }

    fn channel(&self, address: &str) -> Channel {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || self.transport.channel(address);
        channels.entry(address.to_owned()).or_insert_with(made).clone()
    }

    pub fn admin(&self, address: &str) -> AdminClient<Channel> {
        let origin = http::Uri::from_static("http://millrace.admin");
        AdminClient::with_origin(self.channel(address), origin).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Asks one node, until the command's deadline.
    pub async fn ask<T, F>(
        &self,
        address: &str,
        call: impl FnOnce(AdminClient<Channel>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        match timeout_at(self.deadline, call(self.admin(address))).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    /// How one node sees the cluster.
    pub async fn describe(&self, address: &str) -> Result<pb::DescribeResponse, Status> {
        let mut admin = self.admin(address);
        let deadline = self.deadline.min(Instant::now() + LOOK_TIMEOUT);
        match timeout_at(deadline, admin.describe(pb::DescribeRequest {})).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    /// The first of the nodes that were named that serves.
    ///
    /// # Errors
    ///
    /// If none does; the text says what may be the matter with each.
    pub async fn first(&self) -> anyhow::Result<String> {
        let mut silent = BTreeMap::new();
        for address in &self.reach.nodes {
            match self.describe(address).await {
                Ok(answer) if answer.serving => return Ok(address.clone()),
                Ok(_) => silent.insert(address.clone(), "it is starting or stopping".to_owned()),
                Err(status) => silent.insert(address.clone(), self.why(&status)),
            };
        }
        anyhow::bail!(no_answer(&silent))
    }

    /// Whether a node has answered since the command began.
    pub fn has_seen(&self) -> bool {
        !self.learned().is_empty()
    }

    fn learned(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks every node that is named or that another one knows, until the leader has answered.
    ///
    /// # Errors
    ///
    /// If none answers; the text says what may be the matter with each.
    pub async fn look(&self) -> anyhow::Result<Seen> {
        let mut asked: Vec<String> = Vec::new();
        let mut asking = FuturesUnordered::<BoxFuture<'_, _>>::new();
        let mut answers = BTreeMap::new();
        let mut silent = BTreeMap::new();
        let mut next = self.reach.nodes.clone();
        next.extend(self.learned().iter().cloned());
        loop {
            for address in next.drain(..) {
                if !asked.contains(&address) {
                    asked.push(address.clone());
                    asking.push(Box::pin(async move {
                        let answer = self.describe(&address).await;
                        (address, answer)
                    }));
                }
            }
            match asking.next().await {
                Some((address, Ok(answer))) => {
                    let members = answer.nodes.iter().filter(|node| node.member);
                    next.extend(members.map(|node| node.cluster_address.clone()));
                    self.learned().extend(next.iter().cloned());
                    let leads = answer.leads;
                    answers.insert(address, answer);
                    if leads {
                        break;
                    }
                }
                Some((address, Err(status))) => {
                    silent.insert(address, self.why(&status));
                }
                None => break,
            }
        }
        let said = silent.clone();
        Seen::new(answers, silent).with_context(|| no_answer(&said))
    }

    /// Why a node gave no answer, and what can be done about it.
    pub fn why(&self, status: &Status) -> String {
        let said = said(status);
        let hint = match status.code() {
            Code::PermissionDenied if said.contains("cluster") => {
                format!(" (--cluster is {:?})", self.reach.cluster)
            }
            Code::Unimplemented => " (is this the cluster address of a node, and not that of its HTTP API?)".into(),
            _ if said.contains("TLS:") => {
                " (does the node talk in clear, --cluster-plain, or is the certificate not one of its cluster?)".into()
            }
            _ if said.contains("no answer:") && self.reach.tls.is_none() => {
                " (does the node want TLS? --cluster-tls-ca, --cluster-tls-cert, --cluster-tls-key)".into()
            }
            _ if said.contains("no answer:") => " (did the node refuse the certificate?)".into(),
            _ => String::new(),
        };
        said + &hint
    }
}

/// The status's message, or that of what lies beneath.
fn said(status: &Status) -> String {
    match (std::error::Error::source(status), status.message()) {
        (Some(source), _) => source.to_string(),
        (None, "") => format!("{:?}", status.code()),
        (None, message) => message.to_owned(),
    }
}

fn no_answer(silent: &BTreeMap<String, String>) -> String {
    let each: Vec<String> = silent
        .iter()
        .map(|(address, why)| format!("\n  {address}: {why}"))
        .collect();
    format!(
        "no node answers.{}\nName the cluster address of one that runs with --node (for `millrace dev --nodes N`, the \
         HTTP port + 1000). A node that is alone, without --cluster-addr, has none.",
        each.concat()
    )
}
