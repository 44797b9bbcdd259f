//! The messages of the S2 v1 data plane as generated from `proto/s2/v1/s2.proto`.
//!
//! Byte fields are slices of the buffer that they were decoded from and keep it alive.

#![allow(clippy::all)]

include!(concat!(env!("OUT_DIR"), "/s2.v1.rs"));
