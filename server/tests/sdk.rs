//! The node as the official Rust client sees it, over HTTP/2: what its calls answer, which of its errors come out,
//! and that its sessions and its producer get every record through once and in order.
//!
//! Behaviours are held one by one, closer to the wire, by `api_http`; here it is the client's own reading of the
//! protocol that must fit.

#[path = "sdk/append.rs"]
mod append;
#[path = "sdk/basins.rs"]
mod basins;
#[path = "sdk/fixture.rs"]
mod fixture;
#[path = "api_http/node.rs"]
#[allow(
    dead_code,
    reason = "each test binary compiles this module and uses its own part"
)]
mod node;
#[path = "sdk/read.rs"]
mod read;
#[path = "sdk/read_session.rs"]
mod read_session;
#[path = "sdk/restart.rs"]
mod restart;
#[path = "sdk/sessions.rs"]
mod sessions;
#[path = "sdk/slow_store.rs"]
mod slow_store;
#[path = "sdk/streams.rs"]
mod streams;
