//! Changes of the membership, as an operator asks a node for them.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use millrace_api::id::NodeId;
use millrace_raft::group::Meta;
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
    pub async fn carry_out(&self, meta: Meta, trace: &Trace) {
        loop {
            let change = self.0.waiting.borrow_mut().pop_front();
            let Some(change) = change else {
                self.0.news.notified().await;
                continue;
            };
            let answer = match &change {
                Change::Voters(voters) => timeout(PATIENCE, meta.change_voters(voters.clone())).await,
                Change::Leader(node) => timeout(PATIENCE, meta.transfer_leader(*node)).await,
            };
            let outcome = if matches!(answer, Ok(Ok(()))) {
                "done"
            } else {
                "not done"
            };
            trace.line(&format!("{change:?}: {outcome}"));
        }
    }

    fn add(&self, change: Change) {
        self.0.waiting.borrow_mut().push_back(change);
        self.0.news.notify_one();
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
