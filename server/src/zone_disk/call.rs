//! Calls to the disk of another node, as they go out.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use millrace_raft::grpc::Channel;
use millrace_wal::{Payload, StoreError};
use prost::Message;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::{Code, Status};

use super::{PIECE_LEN_MAX, pb};
use crate::frontend::grpc::framing::{HEAD_LEN, field_len, put_field_head, put_head};
use crate::frontend::session::chunks::join_small;
use crate::peer::calls;
use crate::peer::messages::Messages;

/// Field number of `zone.proto`.
const CREATE_PIECE: u32 = 4;

/// What comes back.
pub type Answers<M> = Messages<Body, M>;

/// Sends a request that is all there, and waits until the answer begins.
pub async fn call<M: Message + Default>(
    mut channel: Channel,
    method: &'static str,
    parts: Vec<Bytes>,
) -> Result<Answers<M>, StoreError> {
    let request = calls::request(method, Body::new(Framed::new(parts)));
    let response = channel.call(request).await;
    let response = response.map_err(|lost| StoreError::Retry(lost.to_string()))?;
    calls::answers(response).map_err(store_error)
}

/// The answer of a call that has one.
pub async fn only<M: Message + Default>(mut answers: Answers<M>) -> Result<M, StoreError> {
    let answer = next(&mut answers).await?;
    // To the end, so that the stream is closed and not broken off. What comes there says nothing.
    let _ = answers.next().await;
    Ok(answer)
}

/// The next answer, which has to come.
pub async fn next<M: Message + Default>(answers: &mut Answers<M>) -> Result<M, StoreError> {
    match answers.next().await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(StoreError::Retry("the node broke its answer off".into())),
        Err(malformed) => Err(StoreError::Retry(malformed.to_string())),
    }
}

/// What a refusal means for whoever asked.
fn store_error(status: Status) -> StoreError {
    let why = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument => StoreError::Invalid(why),
        Code::PermissionDenied | Code::Unauthenticated => StoreError::Denied(why),
        Code::DataLoss => StoreError::Corrupt(why),
        // Another zone, or a node that starts or stops: no answer from the zone that is meant.
        _ => StoreError::Retry(why),
    }
}

/// A create as framed messages, each piece a message: what is large stays where it lies, and arrives in one part.
pub fn create_parts(first: &pb::CreateRequest, payload: &Payload) -> Vec<Bytes> {
    let pieces = join_small(payload.parts().to_vec());
    let mut pieces = pieces
        .into_iter()
        .flat_map(in_pieces)
        .filter(|piece| !piece.is_empty());
    let mut parts = Vec::new();
    put_create(first, pieces.next().unwrap_or_default(), &mut parts);
    for piece in pieces {
        put_create(&pb::CreateRequest::default(), piece, &mut parts);
    }
    parts
}

fn put_create(message: &pb::CreateRequest, piece: Bytes, parts: &mut Vec<Bytes>) {
    let head_len = message.encoded_len();
    let piece_len = match piece.len() {
        0 => 0,
        len => field_len(CREATE_PIECE, len),
    };
    let mut head = BytesMut::with_capacity(HEAD_LEN + head_len + piece_len - piece.len());
    put_head(head_len + piece_len, &mut head);
    message.encode(&mut head).expect("a growing buffer takes all");
    if !piece.is_empty() {
        put_field_head(CREATE_PIECE, piece.len(), &mut head);
    }
    parts.push(head.freeze());
    parts.push(piece);
}

/// Bytes as framed answers.
pub fn piece_parts(bytes: Bytes) -> impl Iterator<Item = [Bytes; 2]> {
    in_pieces(bytes).filter(|piece| !piece.is_empty()).map(|piece| {
        let len = field_len(GET_PIECE, piece.len());
        let mut head = BytesMut::with_capacity(HEAD_LEN + len - piece.len());
        put_head(len, &mut head);
        put_field_head(GET_PIECE, piece.len(), &mut head);
        [head.freeze(), piece]
    })
}

/// Field number of `zone.proto`.
const GET_PIECE: u32 = 3;

fn in_pieces(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let len = bytes.len().min(PIECE_LEN_MAX);
        (len > 0).then(|| bytes.split_to(len))
    })
}

/// A body that is all there.
struct Framed {
    parts: std::vec::IntoIter<Bytes>,
    left: u64,
}

impl Framed {
    fn new(parts: Vec<Bytes>) -> Self {
        let left = parts.iter().map(|part| part.len() as u64).sum();
        Self {
            parts: parts.into_iter(),
            left,
        }
    }
}

impl http_body::Body for Framed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.parts.find(|part| !part.is_empty());
        if let Some(part) = &part {
            self.left -= part.len() as u64;
        }
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(parts: &[Bytes]) -> Vec<pb::CreateRequest> {
        let mut bytes = Bytes::from(parts.concat());
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let head = bytes.split_to(HEAD_LEN);
            let len = u32::from_be_bytes(head[1..].try_into().unwrap());
            messages.push(pb::CreateRequest::decode(bytes.split_to(len as usize)).unwrap());
        }
        messages
    }

    #[test]
    fn a_create_is_what_the_library_reads_and_what_is_large_is_not_copied() {
        let first = pb::CreateRequest {
            zone_gen: Bytes::from_static(&[7; 16]),
            key: "wal/a".into(),
            len: 9,
            piece: Bytes::new(),
        };
        for lens in [
            vec![],
            vec![0],
            vec![5],
            vec![70_000],
            vec![10, 20, 70_000, 5, 0, 3 << 20],
        ] {
            let parts: Vec<_> = lens
                .iter()
                .map(|len| Bytes::from(vec![*len as u8; *len]))
                .collect();
            let payload = Payload::new(parts.clone());
            let sent = create_parts(&first, &payload);
            for large in parts.iter().filter(|part| part.len() >= 64 << 10) {
                assert!(sent.iter().any(|part| part.as_ptr() == large.as_ptr()));
            }
            let messages = decode(&sent);
            let pieces: Vec<_> = messages.iter().map(|message| message.piece.clone()).collect();
            assert_eq!(pieces.concat(), payload.to_bytes());
            assert!(pieces.iter().all(|piece| piece.len() <= PIECE_LEN_MAX));
            let piece = Bytes::new();
            assert_eq!(
                pb::CreateRequest {
                    piece,
                    ..messages[0].clone()
                },
                first
            );
            for later in &messages[1..] {
                assert_eq!((later.key.as_str(), later.len), ("", 0));
            }
        }
    }
}
