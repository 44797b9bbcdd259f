//! The metadata model and its Raft group.
