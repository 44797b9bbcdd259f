//! What the tests of the client have in common: a server that misbehaves on demand, a proxy that does, and a real node.

#![allow(
    dead_code,
    reason = "each test binary compiles this module and uses its own part"
)]

pub mod fake;
pub mod node;
pub mod proxy;
