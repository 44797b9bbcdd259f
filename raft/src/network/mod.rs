//! The way to other members of the group.
//!
//! What members say is encoded here; how the bytes travel is up to a [`Transport`] that the caller gives. On the
//! other side [`crate::group::Meta::serve`] and [`crate::group::Meta::receive_snapshot`] take them in.

mod inbound;
mod outbound;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use millrace_api::id::NodeId;

pub use self::inbound::IncomingSnapshot;
pub(crate) use self::inbound::{receive_snapshot, serve_raft};
pub(crate) use self::outbound::Network;
use crate::error::StoreError;
use crate::identity::DirectoryId;

/// A member as the membership names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeId,
    pub address: String,
    /// The directory that it must have; `None` if that is not known.
    pub directory: Option<DirectoryId>,
}

/// What is asked of a member. The numbers are sent: one that was used once is never given to anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Call {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    TransferLeader = 4,
    /// Commands of another member, for the leader to propose.
    Propose = 5,
    /// A confirmation of leadership, and the index that a read has to wait for.
    ReadIndex = 6,
    /// A change of membership.
    Change = 7,
    /// Who the member is; answered before it belongs to a group.
    Identify = 8,
}

impl Call {
    /// `None` for a call of a later release.
    pub fn from_number(number: u8) -> Option<Self> {
        [
            Call::Append,
            Call::Vote,
            Call::PreVote,
            Call::TransferLeader,
            Call::Propose,
            Call::ReadIndex,
            Call::Change,
            Call::Identify,
        ]
        .into_iter()
        .find(|call| *call as u8 == number)
    }
}

/// Why nothing came back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Nothing was sent: wait before the next attempt.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The peer turned the request away and did nothing.
    #[error("refused: {0}")]
    Rejected(String),
    /// This attempt failed, and the peer may have acted on the request; the next may succeed.
    #[error("{0}")]
    Failed(String),
}

/// Encoded pieces of a snapshot, in order; each at most about 1 MiB.
pub type Pieces = BoxStream<'static, Result<Vec<u8>, StoreError>>;

/// Carries bytes to other members.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Brings a request to a peer's [`crate::group::Meta::serve`] and its answer back, within `timeout`. Dropping
    /// the future gives the answer up.
    async fn call(
        &self,
        peer: &Peer,
        call: Call,
        request: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, TransportError>;

    /// Brings a snapshot to a peer's [`crate::group::Meta::receive_snapshot`], on a connection where it does not
    /// delay calls, and the answer back. May take long, but not without progress: an attempt in which nothing moves
    /// for seconds fails. Dropping the future ends the transfer.
    async fn send_snapshot(
        &self,
        peer: &Peer,
        opening: Vec<u8>,
        pieces: Pieces,
    ) -> Result<Vec<u8>, TransportError>;
}

/// For a group of one: nobody is reachable, and nobody is asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNetwork;

#[async_trait]
impl Transport for NoNetwork {
    async fn call(
        &self,
        _peer: &Peer,
        _call: Call,
        _request: Vec<u8>,
        _timeout: Duration,
    ) -> Result<Vec<u8>, TransportError> {
        Err(TransportError::Unreachable("this node has no network".into()))
    }

    async fn send_snapshot(
        &self,
        _peer: &Peer,
        _opening: Vec<u8>,
        _pieces: Pieces,
    ) -> Result<Vec<u8>, TransportError> {
        Err(TransportError::Unreachable("this node has no network".into()))
    }
}
