//! The way of an operator's command to the nodes of a cluster.

use std::sync::Arc;

use super::channel::{Channel, Shared};
use super::connect::Connect;
use super::signer::Signer;
use super::tls::Tls;
use crate::group::GroupRuntime;
use crate::identity::ClusterId;

/// Gives channels to nodes by their cluster addresses, for what an operator may ask them: the services whose names
/// begin with `millrace.admin.v1.`, and nothing else. Clones share what they have in common.
#[derive(Clone)]
pub struct OperatorTransport {
    shared: Arc<Shared>,
    cluster: ClusterId,
}

impl OperatorTransport {
    /// `runtime` drives the connections. With `tls`, the certificate must be signed by the cluster's authority, as
    /// those of nodes are.
    pub fn new(connect: impl Connect, tls: Option<Tls>, cluster: ClusterId, runtime: GroupRuntime) -> Self {
        let shared = Shared {
            connect: Box::new(connect),
            tls,
            runtime,
        };
        Self {
            shared: Arc::new(shared),
            cluster,
        }
    }

    /// A connection to the node at an address, whichever it is.
    pub fn channel(&self, address: &str) -> Channel {
        let signer = Signer::Operator {
            cluster: self.cluster,
            address: address.to_owned(),
        };
        Channel::new(self.shared.clone(), signer)
    }
}
