//! How a group begins.
//!
//! Several fresh members with the same list found it together, once. The one with the lowest id does it, when every
//! other one has said that it is fresh too and has the same list; the others wait for it. What each has said holds:
//! a member stays fresh until the founder's entry reaches it, and an answer is tied to its directory, whose id goes
//! into the membership. So a member whose disk was replaced in between is no member, whatever it says.
//!
//! A founder that dies afterwards has the group in its log and goes on; one that dies before has done nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::ServerState;

use super::core::failed;
use super::options::Fresh;
use super::{Meta, MetaOptions};
use crate::error::MetaError;
use crate::identity::{Introduction, PeerAddress};
use crate::network::Peer;
use crate::state::record::MemberNode;

/// Between two questions to the others.
const PAUSE: Duration = Duration::from_millis(300);

/// A group of one leads at once; longer than this, something is wrong.
const LEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Members that a list may name.
const PEERS_MAX: usize = 64;

/// What the others' answers mean for this member.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// It founds the group, with these.
    Found(BTreeMap<u64, MemberNode>),
    /// It waits, for this reason.
    Wait(String),
    /// There is a group without it.
    Join,
}

/// Whether a peer list can be used by this node.
pub fn check(peers: &[PeerAddress], options: &MetaOptions) -> Result<(), MetaError> {
    let unusable = |why: String| {
        Err(MetaError::Unusable(
            format!("peer list {}: {why}", list(peers)).into(),
        ))
    };
    if options.cluster.is_none() || options.directory.is_none() {
        return unusable("a group of several needs a cluster id and ids for its directories".into());
    }
    if peers.len() > PEERS_MAX {
        return unusable(format!("more than {PEERS_MAX} members"));
    }
    for (n, peer) in peers.iter().enumerate() {
        if peers[..n].iter().any(|other| other.node == peer.node) {
            return unusable(format!("node {} is there twice", peer.node));
        }
        if peers[..n].iter().any(|other| other.address == peer.address) {
            return unusable(format!("address {} is there twice", peer.address));
        }
    }
    match peers.iter().any(|peer| peer.node == options.node) {
        true => Ok(()),
        false => unusable(format!("node {}, this one, is not there", options.node)),
    }
}

/// Makes a fresh member part of a group, or leaves it waiting to be added; makes a group of one lead.
pub async fn begin(meta: &Meta, fresh: &Fresh, address: &str) -> Result<(), MetaError> {
    let was_fresh = !has_group(meta).await?;
    if was_fresh {
        match fresh {
            Fresh::Join => {}
            Fresh::GroupOfOne => {
                let own = MemberNode {
                    address: address.to_owned(),
                    directory: meta.shared.identity.directory,
                };
                found(meta, BTreeMap::from([(meta.node().0, own)])).await?;
            }
            Fresh::Form { peers } => form(meta, peers).await?,
        }
    }
    lead_alone(meta, was_fresh).await
}

/// Asked of the core: the published metrics may be behind.
async fn has_group(meta: &Meta) -> Result<bool, MetaError> {
    let members = meta
        .shared
        .core
        .raft()
        .with_raft_state(|state| state.membership_state.effective().nodes().count());
    Ok(members.await.map_err(|fatal| failed("start", fatal))? > 0)
}

async fn found(meta: &Meta, members: BTreeMap<u64, MemberNode>) -> Result<(), MetaError> {
    let founded = meta.shared.core.raft().initialize(members).await;
    founded.map_err(|error| failed("initialize", error))
}

async fn form(meta: &Meta, peers: &[PeerAddress]) -> Result<(), MetaError> {
    let own = meta.introduction();
    let mut said = String::new();
    loop {
        if has_group(meta).await? {
            tracing::info!(node = %meta.node(), "the group is formed");
            return Ok(());
        }
        let others = peers.iter().filter(|peer| peer.node != meta.node());
        let questions = others.map(|peer| async move {
            let to = Peer {
                node: peer.node,
                address: peer.address.clone(),
                directory: None,
            };
            (peer.clone(), meta.identify(&to).await)
        });
        let answers = futures::future::join_all(questions).await;
        match verdict(&own, &answers)? {
            Verdict::Found(members) => {
                tracing::info!(node = %meta.node(), members = %list(peers), "founding the group");
                return found(meta, members).await;
            }
            Verdict::Join => {
                tracing::info!(node = %meta.node(), "there is a group: waiting to be added to it");
                return Ok(());
            }
            Verdict::Wait(why) => {
                if why != said {
                    tracing::info!(node = %meta.node(), "{why}");
                    said = why;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What follows from what the others said, or why they could not be asked.
fn verdict(
    own: &Introduction,
    answers: &[(PeerAddress, Result<Introduction, String>)],
) -> Result<Verdict, MetaError> {
    let unusable = |why: String| Err(MetaError::Unusable(why.into()));
    let node = own.identity.node;
    let mut waiting = Vec::new();
    let mut group = None;
    for (peer, answer) in answers {
        let found = match answer {
            Ok(found) => found,
            Err(why) => {
                waiting.push(why.clone());
                continue;
            }
        };
        if found.identity.node != peer.node {
            let there = found.identity.node;
            return unusable(format!(
                "the node at {} is node {there}, the peer list says node {}",
                peer.address, peer.node
            ));
        }
        if found.identity.cluster != own.identity.cluster {
            return unusable(format!("node {peer} belongs to another cluster"));
        }
        if found.initialized {
            let me = found.members.iter().find(|member| member.node == node);
            match me {
                Some(me) if me.directory != own.identity.directory => {
                    return unusable(format!(
                        "node {node} is a member of the group already, and its data directory is fresh: its disk was \
                         lost or replaced. Remove node {node} from the group and let this one join under a new id"
                    ));
                }
                Some(_) => group = Some(true),
                None => group = group.or(Some(false)),
            }
            continue;
        }
        if found.peers.is_empty() {
            waiting.push(format!(
                "node {peer} waits to be added to a group, and does not form one"
            ));
        } else if sorted(&found.peers) != sorted(&own.peers) {
            return unusable(format!(
                "node {node} has the peer list {}, node {} has {}",
                list(&own.peers),
                peer.node,
                list(&found.peers)
            ));
        }
    }
    match group {
        Some(true) => return Ok(Verdict::Wait("waiting for the group's leader".into())),
        Some(false) => return Ok(Verdict::Join),
        None => {}
    }
    if !waiting.is_empty() {
        return Ok(Verdict::Wait(format!("waiting for {}", waiting.join("; "))));
    }
    let lowest = own.peers.iter().min_by_key(|peer| peer.node);
    if let Some(lowest) = lowest.filter(|lowest| lowest.node != node) {
        return Ok(Verdict::Wait(format!(
            "waiting for node {lowest} to found the group"
        )));
    }
    let introductions = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    let directories: BTreeMap<_, _> = introductions
        .chain([own])
        .map(|found| (found.identity.node, found.identity.directory))
        .collect();
    let members = own.peers.iter().map(|peer| {
        let member = MemberNode {
            address: peer.address.clone(),
            directory: directories.get(&peer.node).copied().flatten(),
        };
        (peer.node.0, member)
    });
    Ok(Verdict::Found(members.collect()))
}

/// Waits until a member that is alone leads.
async fn lead_alone(meta: &Meta, was_fresh: bool) -> Result<(), MetaError> {
    let (raft, node) = (meta.shared.core.raft(), meta.node().0);
    let alone = raft
        .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([node]))
        .await
        .map_err(|fatal| failed("start", fatal))?;
    if !alone {
        return Ok(());
    }
    if !was_fresh {
        let elect = raft.trigger().elect(false).await;
        elect.map_err(|fatal| failed("elect", fatal))?;
    }
    let leads = raft
        .wait(Some(LEAD_TIMEOUT))
        .state(ServerState::Leader, "a group of one leads")
        .await;
    leads.map_err(|error| failed("lead", error))?;
    // The entry that begins the term stands for everything before it: then this state is complete.
    let read = raft.ensure_linearizable(ReadPolicy::ReadIndex).await;
    read.map(drop).map_err(|error| failed("lead", error))
}

fn sorted(peers: &[PeerAddress]) -> Vec<&PeerAddress> {
    let mut sorted: Vec<_> = peers.iter().collect();
    sorted.sort();
    sorted
}

fn list(peers: &[PeerAddress]) -> String {
    let texts: Vec<String> = peers.iter().map(PeerAddress::to_string).collect();
    texts.join(",")
}

#[cfg(test)]
#[path = "formation_tests.rs"]
mod tests;
