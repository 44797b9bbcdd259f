//! The Millrace node: channels that write the WAL, and the frontend that speaks the S2 API.
//!
//! [`node::Node`] is the one place where a node is wired; the command line, tests and simulations all start there,
//! each with its own [`env::Env`].

pub mod admin;
pub mod bench;
mod cache;
mod chain;
pub mod channel;
pub mod channels;
pub mod chunk_reader;
pub mod cluster;
pub mod config;
pub mod control;
mod data_dir;
mod deadline;
pub mod env;
pub mod error;
mod flusher;
pub mod frontend;
mod heart;
pub mod init_file;
mod lease;
mod merger;
pub mod node;
mod ownership;
mod peer;
mod reaper;
mod segment_reader;
pub mod storage;
mod tasks;
pub mod telemetry;
pub mod tls;
pub mod wals;
pub mod zone_disk;
pub mod zones;
