//! The metadata of a cell, and the Raft group that owns it.
//!
//! [`command::Command`] says what may change, [`apply`] decides what it changes, [`query`] reads the result, and
//! [`group::Meta`] is the handle through which a node does all three. Everything that depends on time, on chance or
//! on the caller travels inside the command, so that every replica reaches the same state.
//!
//! * **Ownership.** A channel has one owner at a time, `(node, incarnation)`. Each assignment begins an epoch, one
//!   higher than the last. An epoch is activated after every earlier one is sealed, and nothing is sequenced before.
//! * **Sealing.** Epochs are sealed oldest first, by the current epoch alone, once. What the log says about the end
//!   of an epoch is the only truth about it.
//! * **Flushing.** A flush moves a channel's checkpoint and puts records into segments, in one entry: what is in
//!   segments and what a replay reads again never overlap, and nothing is in neither. Segments of a stream tile.
//! * **Deleting.** A segment goes when nobody may read it; an object when no segment names it, and then for good. The
//!   state says which bytes are to be deleted until somebody says that they were.
//! * **Names.** A name leads to one id at a time. It is free again only when the stream behind it was purged, and a
//!   stream is purged only when nobody can still answer for it.
//! * **Storage.** Votes and log entries are synced before they count. State and the index of the last applied entry
//!   are written together; state may lag the log after a crash and is then applied again.
//! * **Members.** Every member answers reads of its own state, and takes commands and linearizable reads: one that does
//!   not lead asks the one that does. A command is proposed again only when it is known that nobody took it up;
//!   otherwise its outcome is unknown, and said to be. A member is a node id together with the id of its data
//!   directory: one whose disk was replaced is turned away. One voter comes or goes at a time.
//! * **Beginning.** The members of a list found their group once, in whatever order they start; later ones are added.
//!   See [`grpc`] for how they reach each other, and [`group::Fresh`] for what a fresh directory means.
//!
//! RocksDB is used here and nowhere else.

pub mod apply;
mod codec;
pub mod command;
pub mod error;
pub mod group;
pub mod grpc;
pub mod identity;
pub mod network;
mod pb;
pub mod query;
pub mod refused;
pub mod state;
pub mod store;
mod types;

#[cfg(test)]
mod tests;
