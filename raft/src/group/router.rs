//! Who leads, and the way there.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use millrace_api::id::NodeId;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;

use super::core::Raft;
use crate::network::{Call, Peer, Transport, TransportError};
use crate::state::record::MemberNode;

/// After this long without news the same is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// A leader that was replaced while it owes an answer may still give it.
const GRACE: Duration = Duration::from_millis(500);

/// This member's view of who leads; perhaps stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<NodeId>,
    /// It is this member. Others may know better: [`super::Meta::confirm_leadership`] asks them.
    pub leads: bool,
}

/// Members by their ids, as the newest membership that this node has seen says.
pub type Book = Arc<RwLock<BTreeMap<u64, MemberNode>>>;

pub enum Leader {
    Here,
    At(Peer),
    Nobody,
    /// This member has stopped, and asks nobody any more.
    Stopped(String),
}

#[derive(Clone)]
pub struct Router {
    pub raft: Raft,
    pub transport: Arc<dyn Transport>,
    book: Book,
    seen: watch::Receiver<Leadership>,
}

impl Router {
    /// The second part is to be run for as long as the member lives: it keeps what the first part tells.
    pub fn new(
        raft: Raft,
        transport: Arc<dyn Transport>,
        book: Book,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, seen) = watch::channel(Leadership::default());
        let router = Self {
            raft: raft.clone(),
            transport,
            book: book.clone(),
            seen,
        };
        (router, follow(raft, book, sender))
    }

    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.seen.clone()
    }

    pub fn leader(&self) -> Leader {
        if let Err(fatal) = &self.raft.metrics().borrow_watched().running_state {
            return Leader::Stopped(fatal.to_string());
        }
        let seen = *self.seen.borrow();
        match seen.leader {
            Some(_) if seen.leads => Leader::Here,
            // Its vote says so, and its role does not yet, or not any more.
            Some(node) if node.0 == *self.raft.node_id() => Leader::Nobody,
            Some(node) => self.peer(node).map_or(Leader::Nobody, Leader::At),
            None => Leader::Nobody,
        }
    }

    pub fn peer(&self, node: NodeId) -> Option<Peer> {
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
        book.get(&node.0).map(|member| peer(node, member))
    }

    /// Every member but this one.
    pub fn others(&self) -> Vec<Peer> {
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
        let own = *self.raft.node_id();
        book.iter()
            .filter(|(node, _)| **node != own)
            .map(|(node, member)| peer(NodeId(*node), member))
            .collect()
    }

    /// Returns when somebody else leads than before, or after a moment.
    pub async fn news(&self) {
        let mut seen = self.seen.clone();
        seen.mark_unchanged();
        let _ = tokio::time::timeout(PAUSE, seen.changed()).await;
    }

    /// Asks the leader. Does not wait longer for one that has been replaced meanwhile.
    pub async fn ask(
        &self,
        peer: &Peer,
        call: Call,
        request: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, TransportError> {
        let mut seen = self.seen.clone();
        let term = seen.borrow().term;
        let replaced = async {
            let other =
                |now: &Leadership| now.term != term && now.leader.is_some_and(|node| node != peer.node);
            if seen.wait_for(other).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            answer = self.transport.call(peer, call, request, timeout) => answer,
            () = replaced => Err(TransportError::Failed("the leader was replaced".into())),
        }
    }
}

pub fn peer(node: NodeId, member: &MemberNode) -> Peer {
    Peer {
        node,
        address: member.address.clone(),
        directory: member.directory,
    }
}

async fn follow(raft: Raft, book: Book, sender: watch::Sender<Leadership>) {
    let mut metrics = raft.metrics();
    drop(raft);
    let mut membership_at = None;
    loop {
        // Cloned at once: the borrow holds a lock.
        let now = metrics.borrow_watched().clone();
        let stored = &now.membership_config;
        if membership_at != Some(*stored.log_id()) {
            membership_at = Some(*stored.log_id());
            let nodes = stored.membership().nodes().map(|(id, node)| (*id, node.clone()));
            *book.write().unwrap_or_else(PoisonError::into_inner) = nodes.collect();
        }
        let seen = Leadership {
            term: now.current_term,
            leader: now.current_leader.map(NodeId),
            leads: now.state == ServerState::Leader && now.current_leader == Some(now.id),
        };
        sender.send_if_modified(|before| std::mem::replace(before, seen) != seen);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
