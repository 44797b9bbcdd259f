//! The HTTP API as a client sees it, one test per behaviour, against a node in this process on a store in memory.
//!
//! The numbers in the tests' names are those of the list of behaviours to hold. Where a behaviour is the work of a
//! part below, that part's own tests hold it in detail and these see that it reaches the client.

mod append;
mod append_session;
mod basins;
mod concurrency;
mod faulty_store;
mod idle;
mod lifecycle;
mod node;
mod read;
mod read_session;
mod sse;
mod storage;
mod streams;
mod support;
mod transport;
