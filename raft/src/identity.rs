//! Who a member is, and how it says so to others.

use std::fmt;

use millrace_api::id::{Incarnation, NodeId};
use sha2::{Digest, Sha256};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// From the text that `Display` gives: 32 hexadecimal digits.
            pub fn parse(text: &str) -> Option<Self> {
                let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
                hex.then(|| u128::from_str_radix(text, 16).ok().map(Self))?
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }
    };
}

id! {
    /// The group that a member belongs to. Members of another are turned away before they can say anything.
    ClusterId
}

id! {
    /// A data directory, from its creation on. Random. A node id whose directory changed has lost what it voted and
    /// what it promised to keep, and is no member any more.
    DirectoryId
}

impl ClusterId {
    /// The same id for the same name everywhere.
    pub fn of_name(name: &str) -> Self {
        let hash = Sha256::digest(name.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        Self(u128::from_be_bytes(id))
    }
}

/// What a member says of itself in every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// `None` for a group of one that was never given a cluster.
    pub cluster: Option<ClusterId>,
    pub node: NodeId,
    /// `None` for a group of one whose directory was never given an id.
    pub directory: Option<DirectoryId>,
}

/// Who calls, as the call says, after it was found to be of this cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub node: NodeId,
    pub directory: DirectoryId,
    /// The call names the directory of this member as its destination.
    pub names_directory: bool,
}

/// A voter or learner, as the membership has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    pub address: String,
    pub voter: bool,
    /// `None` for a member that joined before directories had ids.
    pub directory: Option<DirectoryId>,
}

/// What a member answers to whoever wants to form a group with it, or to add it to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    pub identity: Identity,
    /// Its log is not empty: it belongs to a group, even if it has not heard of the others.
    pub initialized: bool,
    pub members: Vec<Member>,
    /// With whom it wants to form a group; empty if it does not.
    pub peers: Vec<PeerAddress>,
    /// What it knows of others that they must not have forgotten.
    pub known: Vec<Known>,
}

/// What a member knows of another one's past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub node: NodeId,
    /// Its life that was registered last.
    pub incarnation: Option<Incarnation>,
    /// Index of the last entry that it has said it keeps, to this member as the leader.
    pub reached: Option<u64>,
}

/// A line of a peer list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerAddress {
    pub node: NodeId,
    pub address: String,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.node, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_its_text_and_nothing_else_is() {
        let id = DirectoryId(7);
        assert_eq!(DirectoryId::parse(&id.to_string()), Some(id));
        for bad in [
            "",
            "7",
            "+0000000000000000000000000000007",
            "g0000000000000000000000000000007",
        ] {
            assert_eq!(DirectoryId::parse(bad), None, "{bad}");
        }
    }

    /// Kept: a release that hashed otherwise would not find its cluster again.
    #[test]
    fn a_cluster_name_keeps_its_id() {
        assert_eq!(ClusterId::of_name("millrace"), ClusterId::of_name("millrace"));
        assert_ne!(ClusterId::of_name("a"), ClusterId::of_name("b"));
        assert_eq!(
            ClusterId::of_name("").to_string(),
            "e3b0c44298fc1c149afbf4c8996fb924"
        );
    }
}
