//! Members of the group talk gRPC.
//!
//! * **Who.** Every call names its cluster, its sender and the sender's data directory. Members of other clusters are
//!   turned away before anything is looked at, and logged once. With [`Tls`], both sides show a certificate that the
//!   cluster's authority signed.
//! * **Operators.** A call of an operator names the cluster and says that it is one. It gets no further than to the
//!   services whose names begin with `millrace.admin.v1.`; with TLS it needs a certificate as nodes do.
//! * **Where.** Connections come from a [`Connect`] and from a stream of accepted ones that the caller gives. [`serve`]
//!   is to be spawned on the member's [`crate::group::GroupRuntime`], so that the load of requests cannot starve
//!   heartbeats; it serves whatever else nodes offer each other, too.
//! * **How.** Calls to a peer share one connection; each snapshot has one of its own, and fails when it stands still.
//!   A connection that cannot be had is tried again after a pause that grows. Whether a request was sent is known:
//!   it decides whether a command may be proposed again.

mod channel;
mod connect;
mod guard;
mod headers;
mod operator;
mod server;
mod signer;
mod tls;
mod transport;

pub use self::channel::{Channel, Lost};
pub use self::connect::{Connect, Io};
pub use self::operator::OperatorTransport;
pub use self::server::{serve, service};
pub use self::tls::{Tls, TlsError};
pub use self::transport::GrpcTransport;

/// Encoded bytes of one message, either way: twice the largest command. A batch of entries is one such command or
/// smaller, like a batch of proposals; a piece of a snapshot is far below.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
