//! The client against a server that does what a test says, and against a real node.

#[path = "../support/mod.rs"]
mod support;

mod append;
mod bounds;
mod endpoints;
mod node;
mod read;
mod tls;
#[cfg(feature = "trace-context")]
mod trace;
