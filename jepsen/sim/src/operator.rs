//! Somebody who changes the membership of the metadata group.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use millrace_api::id::NodeId;
use millrace_raft::group::Meta;
use tokio::sync::mpsc;
use tokio::time::timeout;
use turmoil::Sim;

use crate::cluster::SimNode;
use crate::trace::Trace;

/// Their host on the network.
const HOST: &str = "operator";
/// A change that takes longer is given up; it may still happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Changes that wait.
const QUEUE: usize = 100;

#[derive(Debug)]
enum Change {
    Voters(BTreeSet<NodeId>),
    Leader(NodeId),
}

type Asked = (Change, Vec<Meta>);

/// Clones are one operator.
#[derive(Clone)]
pub struct Operator(mpsc::Sender<Asked>);

impl Operator {
    /// Puts the operator on the network.
    pub fn new(sim: &mut Sim<'_>, trace: Trace) -> Self {
        let (ask, asked) = mpsc::channel(QUEUE);
        let asked = Rc::new(RefCell::new(Some(asked)));
        sim.host(HOST, move || {
            let (asked, trace) = (asked.borrow_mut().take(), trace.clone());
            async move {
                if let Some(asked) = asked {
                    work(asked, trace).await;
                }
                Ok(())
            }
        });
        Self(ask)
    }

    /// Takes the vote of a node away, or has it lead.
    pub fn change(&self, node: u64, draw: u64, nodes: &[SimNode]) {
        let change = match draw % 2 {
            0 => Change::Leader(NodeId(node)),
            _ => Change::Voters(numbers(nodes).filter(|other| *other != NodeId(node)).collect()),
        };
        self.ask(change, nodes);
    }

    /// Every node has a vote.
    pub fn restore(&self, nodes: &[SimNode]) {
        self.ask(Change::Voters(numbers(nodes).collect()), nodes);
    }

    fn ask(&self, change: Change, nodes: &[SimNode]) {
        let metas = nodes.iter().filter_map(SimNode::meta).collect();
        // One who has too much to do leaves it.
        let _ = self.0.try_send((change, metas));
    }
}

fn numbers(nodes: &[SimNode]) -> impl Iterator<Item = NodeId> {
    nodes.iter().map(|node| NodeId(node.number))
}

/// Asks one node after the other until one has done it.
async fn work(mut asked: mpsc::Receiver<Asked>, trace: Trace) {
    while let Some((change, metas)) = asked.recv().await {
        let mut done = false;
        for meta in metas {
            let answer = match &change {
                Change::Voters(voters) => timeout(PATIENCE, meta.change_voters(voters.clone())).await,
                Change::Leader(node) => timeout(PATIENCE, meta.transfer_leader(*node)).await,
            };
            done = matches!(answer, Ok(Ok(())));
            if done {
                break;
            }
        }
        let outcome = if done { "done" } else { "not done" };
        trace.line(&format!("{change:?}: {outcome}"));
    }
}
