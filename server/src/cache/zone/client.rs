//! Asks one node of the zone for pages.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use millrace_api::id::NodeId;
use millrace_api::segment::SegmentObjectId;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;

use super::Neighbours;
use super::asked::Asked;
use super::members::Member;
use super::pb::{self, missing::Why, pages_reply::Reply};
use crate::cache::{PageError, page_range};
use crate::frontend::grpc::framing::framed;
use crate::peer::calls;
use crate::peer::messages::Messages;

const PAGES: &str = "http://millrace.cache/millrace.cache.v1.Cache/Pages";
/// A node that says nothing for this long is not waited for: the store is asked instead. It says at once that it has
/// begun, however long that takes then.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
/// All pages are to be there after this long. What a node has to get from a store takes a while; less than a reader
/// waits for.
const PAGES_TIMEOUT: Duration = Duration::from_secs(3);

/// What a node says to a request for pages.
#[derive(Debug)]
pub(super) enum Answer {
    Pages(Arc<[Bytes]>),
    /// It keeps none of them, or not all.
    NotKept,
    /// It has too much to do.
    Busy,
    /// There are none.
    None(PageError),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("{0}")]
    Lost(Status),
    #[error("it does not answer within {0:?}")]
    Late(Duration),
    #[error("its answer is not understood: {0}")]
    Malformed(&'static str),
    /// It has asked the store in vain.
    #[error("it could not read the store: {0}")]
    Failed(String),
}

type Replies = Messages<Body, pb::PagesReply>;

/// The node's answer. The member's load is noted as soon as it is known.
pub(super) async fn ask(
    neighbours: &dyn Neighbours,
    (node, member): (NodeId, &Member),
    asked: &Asked,
) -> Result<Answer, Unanswered> {
    let begun = timeout(FIRST_ANSWER_TIMEOUT, async {
        let mut replies = open(neighbours, node, asked).await.map_err(Unanswered::Lost)?;
        let first = next(&mut replies).await?;
        Ok((first, replies))
    });
    let (first, replies) = begun
        .await
        .map_err(|_| Unanswered::Late(FIRST_ANSWER_TIMEOUT))??;
    match first {
        Reply::Accepted(accepted) => member.report(u64::from(accepted.under_way)),
        Reply::Busy(busy) => {
            member.report(u64::from(busy.under_way));
            return Ok(Answer::Busy);
        }
        _ => return Err(Unanswered::Malformed("it does not say that it was accepted")),
    }
    let pages = collect(replies, asked.object, asked.object_len, asked.pages.clone());
    timeout(PAGES_TIMEOUT, pages)
        .await
        .map_err(|_| Unanswered::Late(PAGES_TIMEOUT))?
}

async fn open(neighbours: &dyn Neighbours, node: NodeId, asked: &Asked) -> Result<Replies, Status> {
    let message = framed(&asked.to_message());
    let request = calls::request(PAGES, Body::new(Full::new(message)));
    calls::answers(neighbours.call(node, request).await?)
}

async fn next(replies: &mut Replies) -> Result<Reply, Unanswered> {
    let message = replies
        .next()
        .await
        .map_err(|malformed| Unanswered::Malformed(malformed.0))?
        .ok_or(Unanswered::Malformed("it ends too early"))?;
    message
        .reply
        .ok_or(Unanswered::Malformed("a reply of a later release"))
}

async fn collect(
    mut replies: Replies,
    object: SegmentObjectId,
    object_len: u64,
    pages: Range<u32>,
) -> Result<Answer, Unanswered> {
    let mut collected = Vec::with_capacity(pages.len());
    let mut piece = Bytes::new();
    for page in pages {
        let range = page_range(page, object_len);
        let page_len = (range.end - range.start) as usize;
        // In memory of its own, however it was cut.
        let mut page = BytesMut::with_capacity(page_len);
        while page.len() < page_len {
            if piece.is_empty() {
                match next(&mut replies).await? {
                    Reply::Piece(more) => piece = more,
                    Reply::Missing(missing) => return why(missing, object),
                    _ => return Err(Unanswered::Malformed("it is accepted twice")),
                }
            }
            let part = piece.split_to(piece.len().min(page_len - page.len()));
            page.extend_from_slice(&part);
        }
        collected.push(page.freeze());
    }
    match piece.is_empty() {
        true => Ok(Answer::Pages(collected.into())),
        false => Err(Unanswered::Malformed("more than was asked for")),
    }
}

fn why(missing: pb::Missing, object: SegmentObjectId) -> Result<Answer, Unanswered> {
    match missing.why {
        Some(Why::NotKept(_)) => Ok(Answer::NotKept),
        Some(Why::Gone(_)) => Ok(Answer::None(PageError::Gone(object))),
        Some(Why::Short(end)) => Ok(Answer::None(PageError::Short { object, end })),
        Some(Why::Failed(why)) => Err(Unanswered::Failed(why)),
        None => Err(Unanswered::Malformed("a reason of a later release")),
    }
}
