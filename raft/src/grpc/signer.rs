//! Who sends a request, and to whom.

use super::channel::Lost;
use super::headers;
use crate::group::MemberSlot;
use crate::identity::ClusterId;
use crate::network::Peer;

/// Asked first on every connection; nothing is there.
const HELLO: &str = "http://millrace.node/";
/// The same, where an operator may look.
const OPERATOR_HELLO: &str = "http://millrace.node/millrace.admin.v1.Hello/";

/// Signs the requests of one channel.
#[derive(Clone)]
pub enum Signer {
    /// A member, to one that it knows by its id.
    Member { slot: MemberSlot, to: Peer },
    /// A person or a program that looks after the cluster, to whichever node is at the address.
    Operator { cluster: ClusterId, address: String },
}

impl Signer {
    pub fn address(&self) -> &str {
        match self {
            Signer::Member { to, .. } => &to.address,
            Signer::Operator { address, .. } => address,
        }
    }

    pub fn hello(&self) -> &'static str {
        match self {
            Signer::Member { .. } => HELLO,
            Signer::Operator { .. } => OPERATOR_HELLO,
        }
    }

    pub fn sign<B>(&self, request: &mut http::Request<B>) -> Result<(), Lost> {
        match self {
            Signer::Member { slot, to } => {
                let identity = slot.identity();
                let identity = identity.ok_or_else(|| Lost::not_sent("this node is starting"))?;
                headers::write(request.headers_mut(), &identity, to);
            }
            Signer::Operator { cluster, .. } => {
                headers::write_operator(request.headers_mut(), *cluster);
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Signer {
    /// The other side.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Signer::Member { to, .. } => write!(f, "node {} at {}", to.node, to.address),
            Signer::Operator { address, .. } => write!(f, "the node at {address}"),
        }
    }
}
