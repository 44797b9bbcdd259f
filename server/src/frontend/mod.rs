//! What clients talk to. [`service`] speaks domain types; [`http`] and [`grpc`] only translate to and from it,
//! with what their sessions have in common in `session`.

pub mod grpc;
pub mod http;
pub mod listener;
pub mod service;
pub(crate) mod session;
