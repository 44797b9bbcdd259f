//! Request bodies: nothing, one piece, or pieces as they come.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// Batches that wait for the connection; more than one, so that it always has something to send.
const PIECES_MAX: usize = 2;

pub struct Upload(Source);

enum Source {
    Whole(Option<Bytes>),
    Pieces(mpsc::Receiver<Bytes>),
}

impl Upload {
    pub fn empty() -> Self {
        Self(Source::Whole(None))
    }

    pub fn whole(body: Bytes) -> Self {
        Self(Source::Whole(Some(body)))
    }

    /// Ends when the sender is dropped.
    pub fn channel() -> (mpsc::Sender<Bytes>, Self) {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        (sender, Self(Source::Pieces(pieces)))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut self.0 {
            Source::Whole(body) => Poll::Ready(body.take()),
            Source::Pieces(pieces) => pieces.poll_recv(cx),
        };
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Source::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Source::Pieces(_) => SizeHint::default(),
        }
    }
}
