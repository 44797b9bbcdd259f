//! The vocabulary that every part of Millrace shares: names, limits, configuration, records, positions, error
//! codes, and the shapes of the S2 v1 API on the wire.
//!
//! A leaf: no I/O, no clock, no randomness. Whatever needs one of these takes it as an argument.

pub mod assembler;
pub mod batch;
pub mod bug;
pub mod command;
pub mod config;
pub mod error;
pub mod grpc;
pub mod id;
pub mod json;
pub mod limits;
pub mod name;
pub mod position;
pub mod proto;
pub mod read;
pub mod record;
pub mod s2s;
pub mod scan;
pub mod segment;
pub mod sse;

#[cfg(test)]
mod test_data;
mod wire;
