//! Sessions as bodies of HTTP, whatever the protocol: what S2S, server-sent events and gRPC have in common. How a
//! message is framed and how a failure is told is theirs.

pub mod append;
pub mod chunks;
mod lane;
pub mod output;
pub mod read;
