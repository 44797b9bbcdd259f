//! The generated protobuf messages.

#![allow(clippy::all)]
include!(concat!(env!("OUT_DIR"), "/millrace.raft.v1.rs"));

/// What members carry to each other.
pub mod node {
    #![allow(clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/millrace.node.v1.rs"));
}
