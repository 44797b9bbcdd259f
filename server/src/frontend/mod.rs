//! What clients talk to. [`service`] speaks domain types; [`http`] and [`grpc`] only translate to and from it.

pub mod grpc;
pub mod http;
pub mod listener;
pub mod service;
