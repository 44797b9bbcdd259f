//! Gives pages to other nodes of the zone.
//!
//! `millrace.cache.v1.Cache` is served without generated code, like the service of [`crate::peer`]: pages go out as
//! they lie in memory.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Zone;
use super::asked::Asked;
use super::pb::{self, missing::Why, pages_reply::Reply};
use crate::cache::stats::count;
use crate::cache::{PageError, PageKey};
use crate::frontend::grpc::framing::{HEAD_LEN, field_len, framed, put_field_head, put_head};
use crate::frontend::grpc::incoming::Incoming;
use crate::frontend::grpc::reply::{self, Refusal};
use crate::frontend::session::output::{Broken, Output};

/// Requests that are being answered; beyond, they are turned away. Each holds up to 4 MiB.
const ANSWERING_MAX: usize = 32;
const REQUEST_LEN_MAX: usize = 4 * 1024;
/// Bytes of one message.
const PIECE_BYTES: usize = 256 * 1024;
/// Field number of `cache.proto`.
const REPLY_PIECE: u32 = 3;

/// Connections outlive `stop`; nothing of the node is kept alive by them.
pub(in crate::cache) fn router(zone: Arc<Zone>, stop: CancellationToken) -> Router {
    let zone = Arc::new(ArcSwapOption::from(Some(zone)));
    let closing = zone.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        closing.store(None);
    });
    let service = Service {
        zone,
        answering: Arc::new(Semaphore::new(ANSWERING_MAX)),
    };
    Router::new()
        .route("/millrace.cache.v1.Cache/Pages", any(pages))
        .with_state(service)
}

#[derive(Clone)]
struct Service {
    zone: Arc<ArcSwapOption<Zone>>,
    answering: Arc<Semaphore>,
}

async fn pages(State(service): State<Service>, request: Request) -> Result<Response, Refusal> {
    let asked: pb::PagesRequest = Incoming::new(request, REQUEST_LEN_MAX)?.only().await?;
    let asked = Asked::from_message(asked).map_err(|why| Status::invalid_argument(why.to_string()))?;
    let zone = service.zone.load_full();
    let zone = zone.ok_or_else(|| Status::unavailable("this node is stopping"))?;
    let here = zone.asking.here();
    let working = here.begin();
    let under_way = u32::try_from(here.under_way()).unwrap_or(u32::MAX);
    let Ok(permit) = service.answering.clone().try_acquire_owned() else {
        count(&zone.stats.zone_refused, 1);
        return Ok(reply::message(&message(Reply::Busy(pb::Busy { under_way }))));
    };
    Ok(reply::stream(move |output| async move {
        let _answering = (permit, working);
        send(&output, Reply::Accepted(pb::Accepted { under_way })).await?;
        answer(zone, asked, output).await?;
        Ok(Ok(()))
    }))
}

async fn answer(zone: Arc<Zone>, asked: Asked, output: Output) -> Result<(), Broken> {
    let found = find(&zone, &asked).await;
    let stats = zone.stats.clone();
    // What sends for long does not keep the node.
    drop(zone);
    let pages = match found {
        Ok(Some(pages)) => pages,
        Ok(None) => return send(&output, missing(Why::NotKept(true))).await,
        Err(error) => return send(&output, missing(why(error))).await,
    };
    for mut page in pages {
        count(&stats.zone_served, 1);
        count(&stats.zone_served_bytes, page.len() as u64);
        while !page.is_empty() {
            let piece = page.split_to(page.len().min(PIECE_BYTES));
            output.send(piece_head(piece.len())).await?;
            output.send(piece).await?;
        }
    }
    Ok(())
}

/// The pages; `None` if only kept ones are wanted and not all of them are.
async fn find(zone: &Zone, asked: &Asked) -> Result<Option<Vec<Bytes>>, PageError> {
    let Asked {
        object,
        object_len,
        pages,
        kept_only,
        bad,
    } = asked;
    for (page, hash) in bad {
        let key = PageKey {
            object: *object,
            page: *page,
        };
        zone.drop_copy(key, *hash).await;
    }
    let mut found = Vec::with_capacity(pages.len());
    for page in pages.clone() {
        found.push(zone.kept.get(*object, *object_len, page).await);
    }
    if *kept_only {
        return Ok(found.into_iter().collect());
    }
    let missing = |page: &u32| found[(page - pages.start) as usize].is_none();
    let missing: Vec<u32> = pages.clone().filter(missing).collect();
    let mut arrived = zone
        .origin
        .pages(*object, *object_len, &missing)
        .await?
        .into_iter();
    let all = found.into_iter().map(|found| found.or_else(|| arrived.next()));
    Ok(all.collect())
}

fn why(error: PageError) -> Why {
    match error {
        PageError::Gone(_) => Why::Gone(true),
        PageError::Short { end, .. } => Why::Short(end),
        PageError::Store(error) => Why::Failed(error.to_string()),
    }
}

fn missing(why: Why) -> Reply {
    Reply::Missing(pb::Missing { why: Some(why) })
}

fn message(reply: Reply) -> pb::PagesReply {
    pb::PagesReply { reply: Some(reply) }
}

async fn send(output: &Output, reply: Reply) -> Result<(), Broken> {
    output.send(framed(&message(reply))).await
}

/// All of a message with a piece but the piece.
fn piece_head(piece_len: usize) -> Bytes {
    let len = field_len(REPLY_PIECE, piece_len);
    let mut head = BytesMut::with_capacity(HEAD_LEN + len - piece_len);
    put_head(len, &mut head);
    put_field_head(REPLY_PIECE, piece_len, &mut head);
    head.freeze()
}
