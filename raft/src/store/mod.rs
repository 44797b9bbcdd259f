//! What a node keeps on disk: the log, the state, snapshots.
//!
//! * `log` holds vote and log in one database with one order of writes. A vote is synced before it counts; entries
//!   are synced by one thread for all that wait.
//! * `state` is a database of its own, so that a checkpoint carries the state alone and an install can swap it. It is
//!   written without sync: what a crash takes is applied again from the log, which is purged only up to a snapshot.
//! * `snapshot` is a checkpoint of the state, in a directory of files.

pub mod blocking;
pub(crate) mod dir;
mod flusher;
pub mod keys;
pub(crate) mod lives;
pub(crate) mod log;
pub(crate) mod machine;
pub(crate) mod rocks;
pub mod snapshot;
pub(crate) mod state;
