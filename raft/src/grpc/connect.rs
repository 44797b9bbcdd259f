//! Where connections come from.

use std::io;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Makes connections.
#[async_trait]
pub trait Connect: Send + Sync + 'static {
    /// Connects to an address as the membership has it. Given up by dropping the future; need not limit its time. A
    /// connection over TCP should not delay small writes.
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Io>>;
}
