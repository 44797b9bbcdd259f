//! What operators ask of a cluster, and the command that asks it.
//!
//! - [`service`] answers on every node's cluster address, from the time at which the node knows who it is; [`view`]
//!   decides what it says of nodes.
//! - [`client`] finds a node that answers and the one that leads; [`verdict`] says what that means.
//! - [`command`] is `millrace cluster`.
//!
//! Who may call: whoever names the cluster and, with TLS, has a certificate of its authority.

pub mod args;
pub(crate) mod client;
pub mod command;
pub(crate) mod progress;
mod render;
pub mod service;
pub(crate) mod table;
mod verdict;
mod view;

/// The generated messages and services.
#[allow(clippy::all)]
pub mod pb {
    tonic::include_proto!("millrace.admin.v1");
}
