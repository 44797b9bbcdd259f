//! Where the harness touches the machine: connections to nodes under test.
//!
//! The harness runs against real time and real networks; what decides anything is seeded all the same.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

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
    let (head, body) = ask(node, path, within).await?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body),
        status => Err(io::Error::other(format!("{path}: {status:?}"))),
    }
}

/// Milliseconds that the wall clock of whoever answers is ahead of this machine's; negative if it is behind. Answers
/// tell it in whole seconds, rounded down, and what they take on their way counts as ahead. A clock that was set back is told to stand still until it has caught up.
pub async fn ahead_ms(node: SocketAddr, within: Duration) -> io::Result<i64> {
    let asked_at = now();
    let (head, _) = ask(node, "/health", within).await?;
    let told = date(&head).ok_or_else(|| io::Error::other("the answer does not tell when it was given"))?;
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    Ok(match told.duration_since(asked_at) {
        Ok(ahead) => ms(ahead),
        Err(behind) => -ms(behind.duration()),
    })
}

fn date(head: &str) -> Option<SystemTime> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut dates = fields.filter(|(name, _)| name.eq_ignore_ascii_case("date"));
    httpdate::parse_http_date(dates.next()?.1.trim()).ok()
}

#[allow(
    clippy::disallowed_methods,
    reason = "the harness is the edge of the system under test"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// What is before and behind the empty line of the answer to `GET path`.
async fn ask(node: SocketAddr, path: &str, within: Duration) -> io::Result<(String, String)> {
    let asked = async {
        let mut stream = connect(node).await?;
        let request = format!("GET {path} HTTP/1.0\r\nhost: {node}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_LEN_MAX).read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        Ok((head.to_owned(), body.to_owned()))
    };
    timeout(within, asked)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_found_whatever_its_case() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nDATE: Sun, 06 Nov 1994 08:49:37 GMT";
        let told = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(date(head), Some(told));
        assert_eq!(
            date("HTTP/1.1 200 OK\r\nupdate: Sun, 06 Nov 1994 08:49:37 GMT"),
            None
        );
        assert_eq!(date("HTTP/1.1 200 OK\r\ndate: yesterday"), None);
    }
}
