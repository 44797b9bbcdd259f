//! The generated protobuf messages.

#![allow(clippy::all)]
include!(concat!(env!("OUT_DIR"), "/millrace.raft.v1.rs"));
