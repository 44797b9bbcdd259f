//! What clients talk to. [`service`] speaks domain types; [`http`] only translates to and from it.

pub mod http;
pub mod listener;
pub mod service;
