//! A channel: one WAL writer that sequences the appends of many streams.
//!
//! [`state`] decides, [`task`] does, [`handle`] is what others may call, [`recovery`] rebuilds the state from the
//! WAL when this node becomes the owner.

pub mod flush;
pub mod flushing;
pub mod handle;
pub mod index;
pub mod log;
pub mod message;
mod pipeline;
mod recent;
pub mod recovery;
mod sequence;
pub mod state;
pub mod stats;
pub mod streamlet;
pub mod task;
pub mod writer_table;
pub mod writers;
