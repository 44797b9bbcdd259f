//! Whether this member's data directory is as new as what others know of it.
//!
//! A member that comes back with an old copy of its directory has forgotten votes that it gave and entries that it said
//! it keeps: with its help the others could lose what they had decided. So before it takes part again it asks the other
//! members what they know of it. Those that do not answer cannot object: a copy that is put back while nobody else is
//! up is believed, as it must be when a whole cluster is put back to one moment.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use millrace_api::id::NodeId;

use crate::codec::forward;
use crate::error::MetaError;
use crate::identity::{Identity, Introduction};
use crate::network::{Call, Peer, Transport};
use crate::store::lives::Lives;

/// How long the others may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What this member's own directory says.
pub struct Own<'a> {
    pub identity: Identity,
    /// Index of the last entry in its log; 0 without one.
    pub last_log_index: u64,
    pub lives: &'a Lives,
}

/// Asks all other members at once; those that its log names, which may be ahead of its state.
///
/// # Errors
///
/// [`MetaError::Unusable`] if one of them knows more of this member than its directory does.
pub async fn check(
    own: Own<'_>,
    members: impl Iterator<Item = (NodeId, String)>,
    transport: Arc<dyn Transport>,
) -> Result<(), MetaError> {
    let node = own.identity.node;
    let others = members.filter(|(id, _)| *id != node);
    let asked = others.map(|(node, address)| {
        let peer = Peer {
            node,
            address,
            directory: None,
        };
        let transport = &transport;
        async move {
            let answer = transport.call(&peer, Call::Identify, Vec::new(), ASK_TIMEOUT);
            forward::decode_introduction(&answer.await.ok()?).ok()
        }
    });
    for answer in join_all(asked).await.into_iter().flatten() {
        if let Some(why) = objection(&own, &answer) {
            return Err(MetaError::Unusable(
                format!(
                    "the data directory of node {node} is an old copy: {why}. What it has forgotten, the others rely on. \
                     Remove node {node} from the cluster, and let this machine join under a number of its own with an \
                     empty directory"
                )
                .into(),
            ));
        }
    }
    Ok(())
}

fn objection(own: &Own<'_>, other: &Introduction) -> Option<String> {
    if other.identity.cluster != own.identity.cluster {
        return None;
    }
    let (node, there) = (own.identity.node, other.identity.node);
    let known = other.known.iter().find(|known| known.node == node)?;
    match (known.reached, known.incarnation) {
        (Some(reached), _) if reached > own.last_log_index => Some(format!(
            "it has {} entries of the log, and has told node {there} that it has {reached}",
            own.last_log_index
        )),
        (_, Some(life)) if own.lives.misses(life) => Some(format!(
            "node {there} knows of a start of node {node} that it does not know"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use millrace_api::id::Incarnation;

    use super::*;
    use crate::identity::{ClusterId, DirectoryId, Known};

    #[test]
    fn a_directory_that_knows_less_of_itself_than_another_member_is_an_old_copy() {
        let dir = tempfile::tempdir().unwrap();
        let lives = Lives::open(dir.path().join("lives")).unwrap();
        lives.remember(Incarnation(1)).unwrap();
        lives.remember(Incarnation(2)).unwrap();
        let identity = |cluster, node| Identity {
            cluster: Some(ClusterId(cluster)),
            node: NodeId(node),
            directory: Some(DirectoryId(9)),
        };
        let own = Own {
            identity: identity(1, 1),
            last_log_index: 10,
            lives: &lives,
        };
        let says = |cluster, incarnation: Option<u128>, reached| {
            let other = Introduction {
                identity: identity(cluster, 2),
                initialized: true,
                members: Vec::new(),
                peers: Vec::new(),
                known: vec![Known {
                    node: NodeId(1),
                    incarnation: incarnation.map(Incarnation),
                    reached,
                }],
            };
            objection(&own, &other)
        };
        assert_eq!(says(1, Some(2), Some(10)), None);
        assert_eq!(says(1, Some(1), Some(3)), None, "others may be behind");
        assert_eq!(says(1, None, None), None);
        assert!(says(1, Some(2), Some(11)).is_some(), "entries are missing");
        assert!(says(1, Some(3), None).is_some(), "a life is missing");
        assert_eq!(says(2, Some(3), Some(11)), None, "another cluster's node 1");
    }
}
