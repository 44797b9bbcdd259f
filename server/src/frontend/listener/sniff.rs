//! Tells HTTP versions apart by a connection's first bytes, and puts the bytes back.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What an HTTP/2 client sends before anything else (RFC 9113, 3.4). No HTTP/1.1 request begins like it.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A connection that says nothing, or stops inside the preface, is given up after this.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) enum Sniffed<T> {
    Http1(Rewound<T>),
    Http2(Rewound<T>),
    /// The peer left without a word.
    Closed,
}

/// Reads until the bytes cannot be the preface any more, or are all of it.
pub(super) async fn sniff<T: AsyncRead + Unpin>(mut io: T) -> io::Result<Sniffed<T>> {
    let mut head = [0; PREFACE.len()];
    let read = tokio::time::timeout(FIRST_BYTES_TIMEOUT, read_while_preface(&mut io, &mut head));
    let len = read
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if len == 0 {
        return Ok(Sniffed::Closed);
    }
    let rewound = Rewound {
        head,
        start: 0,
        end: len,
        io,
    };
    match head == *PREFACE {
        true => Ok(Sniffed::Http2(rewound)),
        false => Ok(Sniffed::Http1(rewound)),
    }
}

async fn read_while_preface<T: AsyncRead + Unpin>(
    io: &mut T,
    head: &mut [u8; PREFACE.len()],
) -> io::Result<usize> {
    let mut len = 0;
    while len < head.len() {
        let read = io.read(&mut head[len..]).await?;
        len += read;
        if read == 0 || head[..len] != PREFACE[..len] {
            break;
        }
    }
    Ok(len)
}

/// A connection some of whose bytes have been read already and come first.
pub(super) struct Rewound<T> {
    head: [u8; PREFACE.len()],
    start: usize,
    end: usize,
    io: T,
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.start < self.end {
            let len = buf.remaining().min(self.end - self.start);
            buf.put_slice(&self.head[self.start..self.start + len]);
            self.start += len;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Sends each piece by itself and says what was recognised, with all bytes as they come out again.
    async fn sniff_pieces(pieces: &[&[u8]]) -> (&'static str, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(64);
        let send = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let receive = async {
            let (kind, mut io) = match sniff(server).await.unwrap() {
                Sniffed::Http1(io) => ("h1", io),
                Sniffed::Http2(io) => ("h2", io),
                Sniffed::Closed => return ("closed", Vec::new()),
            };
            let mut bytes = Vec::new();
            io.read_to_end(&mut bytes).await.unwrap();
            (kind, bytes)
        };
        tokio::join!(send, receive).1
    }

    #[tokio::test]
    async fn the_preface_is_known_however_it_is_split() {
        let mut sent = PREFACE.to_vec();
        sent.extend_from_slice(b"settings");
        for at in 0..sent.len() {
            let (kind, bytes) = sniff_pieces(&[&sent[..at], &sent[at..]]).await;
            assert_eq!(kind, "h2", "split at {at}");
            assert_eq!(bytes, sent);
        }
    }

    #[tokio::test]
    async fn anything_else_is_http_1_and_loses_no_byte() {
        for sent in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"P",
            b"POST",
            b"PRI * HTTP/1.1",
            b"\0",
        ] {
            let (kind, bytes) = sniff_pieces(&[sent]).await;
            assert_eq!(kind, "h1");
            assert_eq!(bytes, sent);
        }
        assert_eq!(sniff_pieces(&[]).await.0, "closed");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_given_up() {
        let (_client, server) = tokio::io::duplex(64);
        assert_eq!(sniff(server).await.err().unwrap().kind(), io::ErrorKind::TimedOut);
    }
}
