//! What every call says about its sender.

use http::{HeaderMap, HeaderName, HeaderValue};
use millrace_api::id::NodeId;

use crate::identity::{Caller, ClusterId, DirectoryId, Identity};
use crate::network::Peer;

const CLUSTER: HeaderName = HeaderName::from_static("millrace-cluster");
const NODE: HeaderName = HeaderName::from_static("millrace-node");
const DIRECTORY: HeaderName = HeaderName::from_static("millrace-directory");
const TO_NODE: HeaderName = HeaderName::from_static("millrace-to-node");
const TO_DIRECTORY: HeaderName = HeaderName::from_static("millrace-to-directory");

/// Its sender is no node: a person or a program that looks after the cluster.
const OPERATOR: HeaderName = HeaderName::from_static("millrace-operator");

/// What an operator may call: services of this package.
const OPERATOR_PATHS: &str = "/millrace.admin.v1.";

/// Why a call is turned away, for its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turned {
    /// It comes from elsewhere.
    Stranger(String),
    /// It was meant for another.
    NotMe(String),
}

/// Says who sends, and for whom it is meant.
pub fn write(headers: &mut HeaderMap, from: &Identity, to: &Peer) {
    if let Some(cluster) = from.cluster {
        set(headers, CLUSTER, cluster);
    }
    set(headers, NODE, from.node);
    if let Some(directory) = from.directory {
        set(headers, DIRECTORY, directory);
    }
    set(headers, TO_NODE, to.node);
    if let Some(directory) = to.directory {
        set(headers, TO_DIRECTORY, directory);
    }
}

/// Says that an operator of the cluster sends.
pub fn write_operator(headers: &mut HeaderMap, cluster: ClusterId) {
    set(headers, CLUSTER, cluster);
    set(headers, OPERATOR, 1);
}

/// Whether an operator's call may go on; `None` for a call that no operator sent. One that says so is believed no more
/// than an operator is, whatever else it says.
pub fn read_operator(headers: &HeaderMap, path: &str, own: &Identity) -> Option<Result<(), Turned>> {
    headers.get(OPERATOR)?;
    let theirs = headers.get(CLUSTER).and_then(|value| value.to_str().ok());
    let theirs = theirs.and_then(ClusterId::parse);
    Some(match (theirs, own.cluster) {
        (None, _) => Err(Turned::Stranger(format!(
            "the call has no valid header {CLUSTER}"
        ))),
        (_, None) => Err(Turned::Stranger("this node belongs to no cluster".into())),
        (Some(theirs), Some(cluster)) if theirs != cluster => Err(Turned::Stranger(format!(
            "the operator means cluster {theirs}, this is cluster {cluster}"
        ))),
        _ if !path.starts_with(OPERATOR_PATHS) => {
            Err(Turned::Stranger(format!("operators may not call {path}")))
        }
        _ => Ok(()),
    })
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: impl ToString) {
    let value = HeaderValue::from_str(&value.to_string()).expect("digits are a header's value");
    headers.insert(name, value);
}

/// Who calls, if it is of this cluster and means this member.
pub fn read(headers: &HeaderMap, own: &Identity) -> Result<Caller, Turned> {
    let stranger = |why: String| Turned::Stranger(why);
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let missing = |name: HeaderName| Turned::Stranger(format!("the call has no valid header {name}"));
    let Some(cluster) = own.cluster else {
        return Err(stranger("this node belongs to no cluster".into()));
    };
    let theirs = text(&CLUSTER).and_then(ClusterId::parse);
    let theirs = theirs.ok_or_else(|| missing(CLUSTER))?;
    let node = text(&NODE).and_then(|text| text.parse().ok()).map(NodeId);
    let node = node.ok_or_else(|| missing(NODE))?;
    if theirs != cluster {
        return Err(stranger(format!(
            "node {node} belongs to cluster {theirs}, this is cluster {cluster}"
        )));
    }
    let directory = text(&DIRECTORY).and_then(DirectoryId::parse);
    let directory = directory.ok_or_else(|| missing(DIRECTORY))?;
    if let Some(to) = text(&TO_NODE)
        && to != own.node.to_string()
    {
        return Err(Turned::NotMe(format!("this is node {}, not node {to}", own.node)));
    }
    let to_directory = text(&TO_DIRECTORY);
    if let Some(to) = to_directory
        && own.directory.map(|own| own.to_string()).as_deref() != Some(to)
    {
        return Err(Turned::NotMe(format!(
            "node {} has another data directory than the one that is meant",
            own.node
        )));
    }
    Ok(Caller {
        node,
        directory,
        names_directory: to_directory.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: u128, node: u64, directory: u128) -> Identity {
        Identity {
            cluster: Some(ClusterId(cluster)),
            node: NodeId(node),
            directory: Some(DirectoryId(directory)),
        }
    }

    fn call(from: &Identity, to: u64, directory: Option<u128>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let to = Peer {
            node: NodeId(to),
            address: String::new(),
            directory: directory.map(DirectoryId),
        };
        write(&mut headers, from, &to);
        headers
    }

    #[test]
    fn a_call_says_who_sent_it() {
        let (one, two) = (identity(1, 1, 11), identity(1, 2, 22));
        for directory in [None, Some(22)] {
            let caller = read(&call(&one, 2, directory), &two).unwrap();
            assert_eq!((caller.node, caller.directory), (NodeId(1), DirectoryId(11)));
            assert_eq!(caller.names_directory, directory.is_some());
        }
    }

    #[test]
    fn strangers_and_calls_for_others_are_turned_away() {
        let two = identity(1, 2, 22);
        let foreign = read(&call(&identity(9, 1, 11), 2, None), &two);
        assert!(matches!(foreign, Err(Turned::Stranger(why)) if why.contains("cluster")));
        assert!(matches!(read(&HeaderMap::new(), &two), Err(Turned::Stranger(_))));
        let one = identity(1, 1, 11);
        assert!(matches!(read(&call(&one, 3, None), &two), Err(Turned::NotMe(_))));
        assert!(matches!(
            read(&call(&one, 2, Some(23)), &two),
            Err(Turned::NotMe(_))
        ));
        let nameless = Identity { cluster: None, ..two };
        assert!(matches!(
            read(&call(&one, 2, None), &nameless),
            Err(Turned::Stranger(_))
        ));
    }

    #[test]
    fn an_operator_gets_to_the_services_for_operators_of_its_cluster_and_no_further() {
        let own = identity(1, 2, 22);
        let operator = |cluster: u128| {
            let mut headers = HeaderMap::new();
            write_operator(&mut headers, ClusterId(cluster));
            headers
        };
        let admin = "/millrace.admin.v1.Admin/Describe";
        assert_eq!(read_operator(&operator(1), admin, &own), Some(Ok(())));
        for path in [
            "/millrace.node.v1.Group/Call",
            "/millrace.peer.v1.Peer/Heartbeat",
            "/",
            "/millrace.admin.v1",
            "//millrace.admin.v1.Admin/Describe",
        ] {
            let turned = read_operator(&operator(1), path, &own);
            assert!(matches!(turned, Some(Err(Turned::Stranger(_)))), "{path}");
        }
        let foreign = read_operator(&operator(9), admin, &own);
        assert!(matches!(foreign, Some(Err(Turned::Stranger(why))) if why.contains("cluster")));
        let nameless = Identity { cluster: None, ..own };
        assert!(matches!(
            read_operator(&operator(1), admin, &nameless),
            Some(Err(_))
        ));
    }

    #[test]
    fn a_node_that_says_it_is_an_operator_is_no_more_than_one() {
        let (one, two) = (identity(1, 1, 11), identity(1, 2, 22));
        let mut headers = call(&one, 2, Some(22));
        assert_eq!(
            read_operator(&headers, "/millrace.node.v1.Group/Call", &two),
            None
        );
        write_operator(&mut headers, ClusterId(1));
        let turned = read_operator(&headers, "/millrace.node.v1.Group/Call", &two);
        assert!(matches!(turned, Some(Err(_))));
    }
}
