//! Messages of a link as they come in: what they carry stays where the connection put it.

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use prost::Message;

use super::codec::Malformed;
use super::directory::MESSAGE_MAX;
use super::pieces::Pieces;
use crate::frontend::grpc::framing::{HEAD_LEN, checked_len};

/// Pieces of a message that is not complete. Whoever means well cuts where a window or a frame ends, which are far
/// larger than this many cuts of the longest message.
const PIECES_MAX: usize = 1024;

/// Messages as the other side sent them.
pub struct Messages<B, M> {
    body: B,
    received: Pieces,
    messages: PhantomData<fn() -> M>,
}

impl<B, M> Messages<B, M>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    M: Message + Default,
{
    pub fn new(body: B) -> Self {
        Self {
            body,
            received: Pieces::default(),
            messages: PhantomData,
        }
    }

    /// The next message; `None` when the other side has ended behind a whole one. Cancel safe.
    ///
    /// # Errors
    ///
    /// What came is no message, or there is nobody to send the rest of it. Nothing can be read after an error.
    pub async fn next(&mut self) -> Result<Option<M>, Malformed> {
        loop {
            if let Some(message) = self.decode()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                None if self.received.has_remaining() => return Err(Malformed("it ends within a message")),
                None => return Ok(None),
                // Trailers have a status, which says no more than that it is over.
                Some(Ok(frame)) => self.received.push(frame.into_data().unwrap_or_default()),
                Some(Err(_)) => return Err(Malformed("it was broken off")),
            }
        }
    }

    fn decode(&mut self) -> Result<Option<M>, Malformed> {
        let Some(head) = self.received.peek() else {
            return Ok(None);
        };
        let len =
            checked_len(&head, MESSAGE_MAX).map_err(|_| Malformed("a message too long, or compressed"))?;
        if self.received.remaining() < HEAD_LEN + len {
            return match self.received.count() > PIECES_MAX {
                true => Err(Malformed("a message in too many pieces")),
                false => Ok(None),
            };
        }
        self.received.advance(HEAD_LEN);
        let decoded = M::decode((&mut self.received).take(len));
        decoded.map(Some).map_err(|_| Malformed("no such message"))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use proptest::prelude::*;

    use super::super::parts::{reply_parts, request_parts};
    use super::super::pb::{self, link_reply::Reply, link_request};
    use super::*;

    fn incoming<M: Message + Default>(pieces: Vec<Bytes>) -> Messages<Body, M> {
        let pieces = pieces.into_iter().map(Ok::<_, Infallible>);
        Messages::new(Body::from_stream(futures::stream::iter(pieces)))
    }

    async fn all<M: Message + Default>(mut incoming: Messages<Body, M>) -> Result<Vec<M>, Malformed> {
        let mut messages = Vec::new();
        while let Some(message) = incoming.next().await? {
            messages.push(message);
        }
        Ok(messages)
    }

    fn append(input: Bytes, numbered: bool) -> pb::LinkRequest {
        let writer = pb::WriterInput {
            writer: 7,
            opened_at: 8,
            number: 9,
            acked_through: 0,
        };
        pb::LinkRequest {
            id: 300,
            channel: 4,
            stream: vec![5; 16].into(),
            known_at: 6,
            request: Some(link_request::Request::Append(pb::Append {
                input,
                writer: numbered.then_some(writer),
            })),
        }
    }

    fn frames(lens: &[usize]) -> pb::LinkReply {
        let tail = Some(pb::Position {
            seq_num: 1,
            timestamp: 2,
        });
        pb::LinkReply {
            id: 300,
            reply: Some(Reply::Frames(pb::Frames {
                view: Some(pb::View { tail, trim: 3 }),
                frames: lens.iter().map(|len| vec![7; *len].into()).collect(),
            })),
        }
    }

    #[tokio::test]
    async fn what_an_append_carries_is_the_same_memory_out_and_in() {
        let input = Bytes::from(vec![7; 70_000]);
        let parts = request_parts(append(input.clone(), true));
        let received = all::<pb::LinkRequest>(incoming(parts)).await.unwrap();
        let Some(link_request::Request::Append(append)) = &received[0].request else {
            panic!("{received:?}");
        };
        assert_eq!(
            (append.input.len(), append.input.as_ptr()),
            (input.len(), input.as_ptr())
        );
    }

    #[tokio::test]
    async fn frames_that_are_large_are_the_same_memory_out_and_in() {
        let message = frames(&[10, 40_000, 0]);
        let Some(Reply::Frames(sent)) = &message.reply else {
            unreachable!()
        };
        let large = sent.frames[1].as_ptr();
        let received = all::<pb::LinkReply>(incoming(reply_parts(message.clone())))
            .await
            .unwrap();
        assert_eq!(received, [message]);
        let Some(Reply::Frames(received)) = &received[0].reply else {
            unreachable!()
        };
        assert_eq!(received.frames[1].as_ptr(), large);
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_link() {
        let whole = request_parts(append(Bytes::from_static(b"x"), false)).concat();
        for len in 1..whole.len() {
            let cut = incoming::<pb::LinkRequest>(vec![Bytes::copy_from_slice(&whole[..len])]);
            assert_eq!(all(cut).await, Err(Malformed("it ends within a message")));
        }
        for bytes in [&[0, 0, 0, 0, 1, 0xff][..], &[1, 0, 0, 0, 0], &[0, 0, 0x80, 0, 1]] {
            let bytes = Bytes::copy_from_slice(bytes);
            assert!(all(incoming::<pb::LinkRequest>(vec![bytes])).await.is_err());
        }
        assert_eq!(all(incoming::<pb::LinkRequest>(Vec::new())).await, Ok(Vec::new()));
    }

    #[tokio::test]
    async fn a_message_is_not_kept_in_more_pieces_than_bounded() {
        let whole = request_parts(append(vec![7; 2 * PIECES_MAX].into(), false)).concat();
        let bytes = whole
            .iter()
            .map(|byte| Bytes::copy_from_slice(&[*byte]))
            .collect();
        let refused = all(incoming::<pb::LinkRequest>(bytes)).await;
        assert_eq!(refused, Err(Malformed("a message in too many pieces")));
        let pairs = whole.chunks(3).map(Bytes::copy_from_slice).collect();
        assert_eq!(all(incoming::<pb::LinkRequest>(pairs)).await.unwrap().len(), 1);
    }

    fn cut(whole: &Bytes, cuts: &[prop::sample::Index]) -> Vec<Bytes> {
        let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
        at.extend([0, whole.len()]);
        at.sort_unstable();
        at.windows(2).map(|pair| whole.slice(pair[0]..pair[1])).collect()
    }

    proptest! {
        #[test]
        fn requests_are_what_was_sent_and_what_the_library_reads(
            inputs in prop::collection::vec((1..900usize, any::<bool>()), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let other = pb::LinkRequest {
                request: Some(link_request::Request::CheckTail(pb::CheckTail {})),
                ..append(Bytes::new(), false)
            };
            let mut sent = vec![other];
            sent.extend(inputs.iter().map(|(len, numbered)| append(vec![7; *len].into(), *numbered)));
            let framed: Vec<_> = sent.iter().map(|message| request_parts(message.clone()).concat()).collect();
            for (message, framed) in sent.iter().zip(&framed) {
                prop_assert_eq!(framed.len(), HEAD_LEN + message.encoded_len());
                prop_assert_eq!(&pb::LinkRequest::decode(&framed[HEAD_LEN..]).unwrap(), message);
            }
            let received = all::<pb::LinkRequest>(incoming(cut(&framed.concat().into(), &cuts)));
            prop_assert_eq!(futures::executor::block_on(received).unwrap(), sent);
        }

        #[test]
        fn replies_are_what_was_sent_and_what_the_library_reads(
            lens in prop::collection::vec(prop::collection::vec(0..40_000usize, 0..4), 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let other = pb::LinkReply {
                id: 1,
                reply: Some(Reply::Refreshed(pb::Refreshed {})),
            };
            let mut sent = vec![other];
            sent.extend(lens.iter().map(|lens| frames(lens)));
            let framed: Vec<_> = sent.iter().map(|message| reply_parts(message.clone()).concat()).collect();
            for (message, framed) in sent.iter().zip(&framed) {
                prop_assert_eq!(framed.len(), HEAD_LEN + message.encoded_len());
                prop_assert_eq!(&pb::LinkReply::decode(&framed[HEAD_LEN..]).unwrap(), message);
            }
            let received = all::<pb::LinkReply>(incoming(cut(&framed.concat().into(), &cuts)));
            prop_assert_eq!(futures::executor::block_on(received).unwrap(), sent);
        }
    }
}
