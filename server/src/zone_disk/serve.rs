//! This node's own disk, for the others.
//!
//! `millrace.zone.v1.Zone` is served without generated code, so that an object's bytes go from the connection to the
//! disk, and back, where they lie. Who calls was checked before: every call comes from a node of this cell.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use bytes::{Bytes, BytesMut};
use millrace_api::id::ZoneGen;
use millrace_wal::{CreateOutcome, Payload, ReadRange, StoreError, ZoneStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::call::piece_parts;
use super::disk::ZoneDisk;
use super::pb::{self, get_request, get_response};
use super::{LIST_PAGE, OBJECT_BYTES_MAX, PIECE_LEN_MAX};
use crate::frontend::grpc::framing::put_message;
use crate::frontend::grpc::incoming::Incoming;
use crate::frontend::grpc::reply::{self, Refusal};
use crate::frontend::session::output::Broken;
use crate::peer::messages::Messages;

/// Bytes of objects on their way to or from other nodes, each direction by itself; more wait.
const ROOM_BYTES: usize = 128 << 20;
/// Room is counted in units of so many bytes.
const ROOM_UNIT: u64 = 1024;
/// Bytes of a request that carries no object.
const REQUEST_LEN_MAX: usize = 4096;
/// A node that neither sends nor takes anything for so long within an object is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves this node's disk, if it has one, under the generation that it was given. Clones share it.
#[derive(Clone)]
pub struct ZoneService {
    disk: Arc<ArcSwapOption<Served>>,
    incoming: Arc<Semaphore>,
    outgoing: Arc<Semaphore>,
}

struct Served {
    store: ZoneDisk,
    zone_gen: ZoneGen,
}

impl Default for ZoneService {
    /// Without a disk: whoever asks is told to ask again.
    fn default() -> Self {
        let room = || Arc::new(Semaphore::new(ROOM_BYTES / ROOM_UNIT as usize));
        Self {
            disk: Arc::default(),
            incoming: room(),
            outgoing: room(),
        }
    }
}

impl ZoneService {
    /// Answers for `store`, which is the zone of this generation, until `stop`. The store is let go of then, when what
    /// is under way has ended.
    pub fn serve_disk(&self, store: ZoneDisk, zone_gen: ZoneGen, stop: CancellationToken) {
        self.disk.store(Some(Arc::new(Served { store, zone_gen })));
        let disk = self.disk.clone();
        tokio::spawn(async move {
            stop.cancelled().await;
            disk.store(None);
        });
    }

    /// Every call that there is.
    pub fn router(self) -> Router {
        Router::new()
            .route("/millrace.zone.v1.Zone/Create", any(create))
            .route("/millrace.zone.v1.Zone/Get", any(get))
            .route("/millrace.zone.v1.Zone/List", any(list))
            .route("/millrace.zone.v1.Zone/Delete", any(delete))
            .with_state(self)
    }

    /// The disk, if it is the one that is meant. It stays that one as long as it is held: what is done with it is done
    /// to the zone that was asked for.
    fn disk(&self, zone_gen: &[u8]) -> Result<Arc<Served>, Status> {
        let disk = self.disk.load_full();
        let disk = disk.ok_or_else(|| Status::unavailable("this node serves no disk at the moment"))?;
        match disk.zone_gen.to_bytes() == zone_gen {
            true => Ok(disk),
            false => Err(Status::failed_precondition(
                "the disk of this node is another zone than the one that is meant",
            )),
        }
    }
}

async fn room(of: &Arc<Semaphore>, bytes: u64) -> Result<OwnedSemaphorePermit, Status> {
    let units = bytes.div_ceil(ROOM_UNIT).clamp(1, ROOM_BYTES as u64 / ROOM_UNIT) as u32;
    let permit = of.clone().acquire_many_owned(units).await;
    permit.map_err(|_| Status::unavailable("this node is stopping"))
}

async fn create(State(service): State<ZoneService>, request: Request) -> Result<Response, Refusal> {
    let mut messages = Messages::<_, pb::CreateRequest>::new(request.into_body());
    let mut message = next(&mut messages).await?;
    let disk = service.disk(&message.zone_gen)?;
    let (key, len) = (std::mem::take(&mut message.key), message.len);
    if len > OBJECT_BYTES_MAX {
        let why = format!("an object of {len} bytes: at most {OBJECT_BYTES_MAX} are taken");
        return Err(Status::invalid_argument(why).into());
    }
    let _permit = room(&service.incoming, len).await?;
    let (mut pieces, mut left) = (Vec::new(), len);
    loop {
        let piece_len = message.piece.len();
        let fits = left
            .checked_sub(piece_len as u64)
            .filter(|_| piece_len <= PIECE_LEN_MAX);
        left = fits.ok_or_else(|| Status::invalid_argument("pieces that are not as was said"))?;
        pieces.push(message.piece);
        if left == 0 {
            break;
        }
        message = next(&mut messages).await?;
        if message.piece.is_empty() {
            return Err(Status::invalid_argument("a piece without bytes").into());
        }
    }
    let created = disk.store.create(&key, &Payload::new(pieces)).await;
    let exists = created.map_err(status)? == CreateOutcome::Exists;
    Ok(reply::message(&pb::CreateResponse { exists }))
}

/// The next message of a create, which has to come.
async fn next(
    messages: &mut Messages<axum::body::Body, pb::CreateRequest>,
) -> Result<pb::CreateRequest, Status> {
    let message = timeout(STALL_TIMEOUT, messages.next()).await;
    match message.map_err(|_| Status::unavailable("nothing comes any more"))? {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(Status::invalid_argument("the object ends before its length")),
        Err(malformed) => Err(Status::invalid_argument(malformed.to_string())),
    }
}

async fn get(State(service): State<ZoneService>, request: Request) -> Result<Response, Refusal> {
    let request: pb::GetRequest = Incoming::new(request, REQUEST_LEN_MAX)?.only().await?;
    let disk = service.disk(&request.zone_gen)?;
    let range = match request.range {
        None => ReadRange::Full,
        Some(get_request::Range::Bytes(range)) => ReadRange::Range(range.start..range.end),
        Some(get_request::Range::Suffix(suffix)) => ReadRange::Suffix(suffix),
    };
    let Some(len) = disk.store.object_len(&request.key).map_err(status)? else {
        let answer = Some(get_response::Answer::Absent(true));
        return Ok(reply::message(&pb::GetResponse { answer }));
    };
    let meant = range.within(len);
    let permit = room(&service.outgoing, meant.end - meant.start).await?;
    let bytes = disk.store.get(&request.key, range).await.map_err(status)?;
    drop(disk);
    let Some(bytes) = bytes else {
        let answer = Some(get_response::Answer::Absent(true));
        return Ok(reply::message(&pb::GetResponse { answer }));
    };
    Ok(reply::stream(move |output| async move {
        let _permit = permit;
        let send = async |part: Bytes| -> Result<(), Broken> {
            timeout(STALL_TIMEOUT, output.send(part))
                .await
                .map_err(|_| Broken)?
        };
        let mut first = BytesMut::new();
        let answer = Some(get_response::Answer::Len(bytes.len() as u64));
        put_message(&pb::GetResponse { answer }, &mut first);
        send(first.freeze()).await?;
        for part in piece_parts(bytes).flatten() {
            send(part).await?;
        }
        Ok(Ok(()))
    }))
}

async fn list(State(service): State<ZoneService>, request: Request) -> Result<Response, Refusal> {
    let request: pb::ListRequest = Incoming::new(request, REQUEST_LEN_MAX)?.only().await?;
    let disk = service.disk(&request.zone_gen)?;
    let limit = usize::try_from(request.limit)
        .unwrap_or(usize::MAX)
        .min(LIST_PAGE);
    let keys = disk
        .store
        .list(&request.prefix, request.after.as_deref(), limit)
        .await;
    let keys = keys.map_err(status)?;
    let more = keys.len() == limit;
    Ok(reply::message(&pb::ListResponse { keys, more }))
}

async fn delete(State(service): State<ZoneService>, request: Request) -> Result<Response, Refusal> {
    let request: pb::DeleteRequest = Incoming::new(request, REQUEST_LEN_MAX)?.only().await?;
    let disk = service.disk(&request.zone_gen)?;
    disk.store.delete(&request.key).await.map_err(status)?;
    Ok(reply::message(&pb::DeleteResponse {}))
}

fn status(error: StoreError) -> Status {
    match error {
        StoreError::Retry(why) => Status::unavailable(why),
        StoreError::Invalid(why) => Status::invalid_argument(why),
        StoreError::Denied(why) => Status::permission_denied(why),
        StoreError::Corrupt(why) => Status::data_loss(why),
    }
}
