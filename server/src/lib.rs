//! The Millrace node: channels that write the WAL, and the frontend that speaks the S2 API.
//!
//! [`node::Node`] is the one place where a node is wired; the command line, tests and simulations all start there,
//! each with its own [`env::Env`].

pub mod bench;
pub mod channel;
pub mod channels;
pub mod chunk_reader;
pub mod config;
mod data_dir;
pub mod env;
pub mod error;
pub mod frontend;
pub mod init_file;
pub mod node;
pub mod store;
mod tasks;
pub mod telemetry;
pub mod tls;
