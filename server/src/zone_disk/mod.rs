//! The disks of nodes as zone stores for each other: three machines without any object store still make a quorum.
//!
//! - [`disk`] is this node's own.
//! - [`serve`] answers for this node's own disk, [`remote`] is the disk of another node.
//! - [`call`] is how a request goes out; objects travel in pieces and are not copied on the way where that can be
//!   helped.
//!
//! A node answers only for the generation of the zone that its disk is: a disk that was replaced refuses whatever was
//! meant for the former one.

mod call;
pub mod disk;
pub mod remote;
pub mod serve;

#[cfg(test)]
mod tests;

/// Bytes of the longest object that is taken from another node.
pub const OBJECT_BYTES_MAX: u64 = 64 << 20;
/// Bytes of the longest piece of an object.
const PIECE_LEN_MAX: usize = 1 << 20;
/// Keys in one answer.
const LIST_PAGE: usize = 1000;

/// The generated messages.
#[allow(clippy::all)]
pub(crate) mod pb {
    tonic::include_proto!("millrace.zone.v1");
}
