//! What an operator asks a node for.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use millrace_api::id::NodeId;
use millrace_raft::group::Meta;
use millrace_server::zones::express::ExpressZones;
use millrace_server::zones::replace::ReplaceError;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::cluster::SimNode;
use crate::schedule::Whom;
use crate::trace::Trace;

/// A change that takes longer is given up; it may still happen.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum Change {
    Voters(BTreeSet<NodeId>),
    Leader(NodeId),
    /// Another store for an Express zone; told when it is accepted.
    Zone(u32, Rc<Cell<bool>>),
}

/// What a node is asked for. Clones share it.
#[derive(Clone, Default)]
pub struct Orders(Rc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: RefCell<VecDeque<Change>>,
    news: Notify,
}

impl Orders {
    /// Does what is asked, as long as the process lives: nothing of it is left when this is dropped.
    pub async fn carry_out(&self, meta: Meta, express: Option<ExpressZones>, trace: &Trace) {
        loop {
            let change = self.0.waiting.borrow_mut().pop_front();
            let Some(change) = change else {
                self.0.news.notified().await;
                continue;
            };
            let doing = async {
                match &change {
                    Change::Voters(voters) => meta.change_voters(voters.clone()).await.is_ok(),
                    Change::Leader(node) => meta.transfer_leader(*node).await.is_ok(),
                    Change::Zone(number, accepted) => match replace(express.as_ref(), *number).await {
                        Ok(()) => {
                            accepted.set(true);
                            true
                        }
                        Err(why) => {
                            trace.line(&format!("not replaced: {why}"));
                            false
                        }
                    },
                }
            };
            let is_done = timeout(PATIENCE, doing).await.unwrap_or(false);
            let outcome = if is_done { "done" } else { "not done" };
            trace.line(&format!("{change:?}: {outcome}"));
        }
    }

    /// Has the node accept the store that it has for the zone, and tells when it did.
    pub fn replace_zone(&self, number: u32, accepted: Rc<Cell<bool>>) {
        if self.0.waiting.borrow().is_empty() {
            self.add(Change::Zone(number, accepted));
        }
    }

    fn add(&self, change: Change) {
        self.0.waiting.borrow_mut().push_back(change);
        self.0.news.notify_one();
    }
}

async fn replace(express: Option<&ExpressZones>, number: u32) -> Result<(), String> {
    let express = express.ok_or("there is no Express")?;
    match express.replace(number).await {
        // An attempt that was given up has succeeded after all.
        Ok(_) | Err(ReplaceError::InUse(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Takes the vote of a node away, or has it lead.
pub fn change_membership(node: u64, draw: u64, nodes: &[SimNode]) {
    let change = match draw % 2 {
        0 => Change::Leader(NodeId(node)),
        _ => Change::Voters(numbers(nodes).filter(|other| *other != NodeId(node)).collect()),
    };
    ask(change, nodes);
}

/// Every node has a vote.
pub fn restore_membership(nodes: &[SimNode]) {
    ask(Change::Voters(numbers(nodes).collect()), nodes);
}

fn ask(change: Change, nodes: &[SimNode]) {
    let leader = Whom::Leader.number(nodes);
    if let Some(node) = nodes.iter().find(|node| node.number == leader) {
        node.orders.add(change);
    }
}

fn numbers(nodes: &[SimNode]) -> impl Iterator<Item = NodeId> {
    nodes.iter().map(|node| NodeId(node.number))
}
