//! The gRPC API as a client sees it, against a node in this process on a store in memory. The clients are generated
//! from the .proto files and know nothing else.

mod account;
mod basin;
mod both_protocols;
mod drain;
mod errors;
#[path = "../api_http/node.rs"]
#[allow(dead_code, reason = "shared with the tests of HTTP, which use more of it")]
mod node;
mod port;
mod read;
mod session;
mod stream;
mod support;
