//! Messages of a link as they go out: what is large stays where it lies.
//!
//! They are framed and encoded as gRPC has it. The library that does it elsewhere copies every message into a buffer of
//! its own, on its way out and on its way in, which for a batch that is passed on costs more than all else.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use prost::Message;
use tokio::sync::mpsc;

use super::pb::{self, link_reply, link_request};
use crate::frontend::grpc::framing::{HEAD_LEN, field_len, framed, put_field_head, put_head};
use crate::frontend::session::chunks::join_small;

/// Field numbers of `peer.proto`.
const REQUEST_APPEND: u32 = 4;
const APPEND_INPUT: u32 = 1;
const REPLY_FRAMES: u32 = 3;
const FRAMES_FRAMES: u32 = 2;

/// The body of framed messages that somebody hands over as their parts; it ends when whoever does is gone.
pub struct Outbox {
    messages: mpsc::Receiver<Vec<Bytes>>,
    /// Of the message that is being sent.
    parts: std::vec::IntoIter<Bytes>,
}

impl Outbox {
    pub fn new(messages: mpsc::Receiver<Vec<Bytes>>) -> Self {
        Self {
            messages,
            parts: Vec::new().into_iter(),
        }
    }
}

impl http_body::Body for Outbox {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(part) = self.parts.find(|part| !part.is_empty()) {
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            match ready!(self.messages.poll_recv(context)) {
                Some(parts) => self.parts = parts.into_iter(),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// The framed request; what an append carries is a piece of its own.
pub fn request_parts(mut request: pb::LinkRequest) -> Vec<Bytes> {
    let Some(link_request::Request::Append(append)) = &mut request.request else {
        return vec![framed(&request)];
    };
    let input = std::mem::take(&mut append.input);
    let append = pb::Append {
        input: Bytes::new(),
        writer: append.writer.take(),
    };
    request.request = None;
    let append_len = append.encoded_len() + field_len(APPEND_INPUT, input.len());
    let len = request.encoded_len() + field_len(REQUEST_APPEND, append_len);
    let mut head = BytesMut::with_capacity(HEAD_LEN + len - input.len());
    put_head(len, &mut head);
    put(&request, &mut head);
    put_field_head(REQUEST_APPEND, append_len, &mut head);
    put(&append, &mut head);
    put_field_head(APPEND_INPUT, input.len(), &mut head);
    vec![head.freeze(), input]
}

/// The framed reply; frames stay where they lie if they are large.
pub fn reply_parts(mut reply: pb::LinkReply) -> Vec<Bytes> {
    let Some(link_reply::Reply::Frames(answer)) = &mut reply.reply else {
        return vec![framed(&reply)];
    };
    let frames = std::mem::take(&mut answer.frames);
    let answer = pb::Frames {
        view: answer.view.take(),
        frames: Vec::new(),
    };
    reply.reply = None;
    let frames_len: usize = frames
        .iter()
        .map(|frame| field_len(FRAMES_FRAMES, frame.len()))
        .sum();
    let answer_len = answer.encoded_len() + frames_len;
    let len = reply.encoded_len() + field_len(REPLY_FRAMES, answer_len);
    let mut head = BytesMut::new();
    put_head(len, &mut head);
    put(&reply, &mut head);
    put_field_head(REPLY_FRAMES, answer_len, &mut head);
    put(&answer, &mut head);
    let mut parts = Vec::with_capacity(2 * frames.len() + 1);
    for frame in frames {
        put_field_head(FRAMES_FRAMES, frame.len(), &mut head);
        parts.push(head.split().freeze());
        parts.push(frame);
    }
    parts.push(head.freeze());
    join_small(parts)
}

fn put(message: &impl Message, out: &mut BytesMut) {
    message.encode(out).expect("a growing buffer takes all");
}
