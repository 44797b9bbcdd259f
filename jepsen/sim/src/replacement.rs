//! The store of an Express zone is replaced by an empty one, as an operator does it: every node is restarted with the
//! new URL, one after the other, and then the new store is accepted.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use millrace_raft::group::Meta;
use millrace_server::zones::replace::unsettled;

use crate::cluster::{SimNode, World};
use crate::store::Store;

/// Between two looks at how far it is, and between two attempts to have the store accepted.
const PAUSE: Duration = Duration::from_millis(500);
/// A node that does not serve is not waited for any longer before the next one is asked to stop.
const PATIENCE: Duration = Duration::from_secs(4);

/// One that is under way.
pub struct Replacement {
    /// Number of the zone, from 1 on.
    number: u32,
    former: Store,
    accepted: Rc<Cell<bool>>,
    /// Nothing is done before that.
    next: Duration,
    /// When a node was last asked to stop.
    asked: Option<Duration>,
    /// Nodes take turns in being asked to accept it.
    turn: usize,
    is_settled: bool,
}

impl Replacement {
    /// The zone's new store is there, in the place of the former.
    pub fn new(number: u32, former: Store, now: Duration) -> Self {
        Self {
            number,
            former,
            accepted: Rc::default(),
            next: now,
            asked: None,
            turn: 0,
            is_settled: false,
        }
    }

    /// Does what is due.
    pub fn step(&mut self, now: Duration, nodes: &[SimNode], world: &World) {
        if self.is_settled || now < self.next {
            return;
        }
        self.next = now + PAUSE;
        if self.accepted.get() {
            self.former.lose();
            self.look(nodes, world);
            return;
        }
        let urls = world.zones.urls();
        let outdated = nodes.iter().find(|node| !node.has_express(urls.as_deref()));
        match outdated {
            Some(node) => {
                let waits = self.asked.is_some_and(|asked| now < asked + PATIENCE);
                if !waits || nodes.iter().all(|node| node.meta().is_some()) {
                    self.asked = Some(now);
                    node.ask_to_stop();
                }
            }
            None => self.ask(nodes),
        }
    }

    /// The new store is in use, and nothing is missing any more that was in the former one alone.
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    fn ask(&mut self, nodes: &[SimNode]) {
        self.turn += 1;
        let asked = nodes.iter().filter(|node| node.meta().is_some());
        let asked: Vec<_> = asked.collect();
        if let Some(node) = asked.get(self.turn % asked.len().max(1)) {
            node.orders.replace_zone(self.number, self.accepted.clone());
        }
    }

    /// Whether the one who has applied most has nothing left in a former store.
    fn look(&mut self, nodes: &[SimNode], world: &World) {
        let newest = nodes.iter().filter_map(SimNode::meta);
        let newest = newest.max_by_key(Meta::applied_index);
        let left = newest.map(|meta| meta.state().at_once(|view| unsettled(&view)));
        match left {
            Some(Ok(left)) => self.is_settled = left.is_empty(),
            Some(Err(error)) => world.findings.add(format!("metadata: {error}")),
            None => {}
        }
        if self.is_settled {
            let line = format!(
                "zone {} is replaced, and nothing is left in its former store",
                self.number
            );
            world.trace.line(&line);
        }
    }
}

impl std::fmt::Display for Replacement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = self.number;
        match self.accepted.get() {
            true => write!(f, "something is left in the former store of zone {number}"),
            false => write!(f, "no other store was accepted for zone {number}"),
        }
    }
}
