//! Where the harness touches the machine: connections to nodes under test.
//!
//! The harness runs against real time and real networks; what decides anything is seeded all the same.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longer answers are cut off.
const ANSWER_LEN_MAX: u64 = 4 << 20;

/// A connection to exactly this node.
#[allow(
    clippy::disallowed_methods,
    reason = "the harness is the edge of the system under test"
)]
pub async fn connect(node: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(node).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The same by name or number and port.
#[allow(
    clippy::disallowed_methods,
    reason = "the harness is the edge of the system under test"
)]
pub async fn connect_to(host: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(host).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A free port of this address.
#[allow(
    clippy::disallowed_methods,
    reason = "the harness is the edge of the system under test"
)]
pub async fn listen(ip: IpAddr) -> io::Result<TcpListener> {
    TcpListener::bind((ip, 0)).await
}

/// The body of `GET path`, if the answer is 200 and comes in time.
pub async fn get(node: SocketAddr, path: &str, within: Duration) -> io::Result<String> {
    let asked = async {
        let mut stream = connect(node).await?;
        let request = format!("GET {path} HTTP/1.0\r\nhost: {node}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_LEN_MAX).read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        match head.split(' ').nth(1) {
            Some("200") => Ok(body.to_owned()),
            status => Err(io::Error::other(format!("{path}: {status:?}"))),
        }
    };
    timeout(within, asked)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
