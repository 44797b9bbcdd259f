//! Nodes of one cell among each other: heartbeats to the leader, and requests for channels of another node.
//!
//! - [`link`] sends the requests of this node's frontends to another node, [`serve`] takes those of others in,
//!   [`codec`] is what both say; [`parts`] and [`messages`] are how it goes out and comes in;
//!   [`calls`] are how other services of nodes are asked that way, too.
//! - [`directory`] knows the way to every node.

pub(crate) mod calls;
mod codec;
pub mod directory;
pub mod link;
pub(crate) mod messages;
mod parts;
mod pieces;
pub mod serve;

/// The generated messages and services.
#[allow(clippy::all)]
pub mod pb {
    tonic::include_proto!("millrace.peer.v1");
}
