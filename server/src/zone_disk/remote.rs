//! The disk of another node.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use millrace_api::id::{NodeId, ZoneGen};
use millrace_raft::grpc::Channel;
use millrace_wal::zone::{DISK_OBJECT_BYTES_MAX, check_key, check_prefix};
use millrace_wal::{CreateOutcome, Payload, ReadRange, StoreError, ZoneStore};
use tokio::sync::Semaphore;

use super::call::{call, create_parts, next, only};
use super::pb::{self, get_request, get_response};
use super::{LIST_PAGE, OBJECT_BYTES_MAX};
use crate::frontend::grpc::framing::framed;
use crate::peer::directory::Peers;

const CREATE: &str = "http://millrace.zone/millrace.zone.v1.Zone/Create";
const GET: &str = "http://millrace.zone/millrace.zone.v1.Zone/Get";
const LIST: &str = "http://millrace.zone/millrace.zone.v1.Zone/List";
const DELETE: &str = "http://millrace.zone/millrace.zone.v1.Zone/Delete";

/// What one create may have on its way and not taken yet, at most: the window of a stream.
const STREAM_BYTES: u64 = 2 << 20;
/// The same of all creates together, below the window of a connection: if creates that wait for room at the other end
/// filled it, those that have room would get nothing through, and nobody would ever be done.
const CONNECTION_BYTES: u64 = 6 << 20;
/// Both are counted in units of so many bytes.
const UNIT: u64 = 1024;

/// A zone on the disk of another node, as that node serves it.
///
/// - What an answer of the other node promises is what its store promises.
/// - Requests are made once. No answer, another zone's disk, or a node that cannot be reached: `Retry`.
/// - There is no time limit but the caller's.
/// - Creates share a connection, uploads another, and everything else a third, so that no create waits behind a segment
///   or a long read. Creates of more than a few MiB together wait for each other, and so do uploads.
/// - Objects of more than [`OBJECT_BYTES_MAX`] bytes are refused.
pub struct RemoteDisk {
    peers: Peers,
    node: NodeId,
    zone_gen: ZoneGen,
    connections: Mutex<Option<Connections>>,
    creating: Semaphore,
    uploading: Semaphore,
}

/// To the node at one address.
struct Connections {
    address: String,
    creates: Channel,
    uploads: Channel,
    others: Channel,
}

/// What a call is for.
#[derive(Clone, Copy)]
enum Lane {
    Creates,
    Uploads,
    Others,
}

impl RemoteDisk {
    /// The disk of `node`, as long as it is the zone of this generation. Connects when it is used.
    #[allow(clippy::new_ret_no_self)] // Nobody needs to know more than that it is a store.
    pub fn new(peers: Peers, node: NodeId, zone_gen: ZoneGen) -> Arc<dyn ZoneStore> {
        Arc::new(Self {
            peers,
            node,
            zone_gen,
            connections: Mutex::default(),
            creating: Semaphore::new((CONNECTION_BYTES / UNIT) as usize),
            uploading: Semaphore::new((CONNECTION_BYTES / UNIT) as usize),
        })
    }

    fn zone_gen(&self) -> Bytes {
        self.zone_gen.to_bytes().to_vec().into()
    }

    /// The connection for a call, to where metadata say that the node is.
    fn channel(&self, lane: Lane) -> Result<Channel, StoreError> {
        let peer = self.peers.peer(self.node);
        let peer = peer.map_err(|status| StoreError::Retry(status.message().to_owned()))?;
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = |connections: &Connections| connections.address != peer.address;
        if connections.as_ref().is_none_or(stale) {
            *connections = Some(Connections {
                creates: self.peers.connection(&peer),
                uploads: self.peers.connection(&peer),
                others: self.peers.connection(&peer),
                address: peer.address,
            });
        }
        let connections = connections.as_ref().expect("made above");
        Ok(match lane {
            Lane::Creates => connections.creates.clone(),
            Lane::Uploads => connections.uploads.clone(),
            Lane::Others => connections.others.clone(),
        })
    }
}

impl RemoteDisk {
    async fn send(&self, lane: Lane, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        check_key(key)?;
        if payload.len() > OBJECT_BYTES_MAX {
            return Err(StoreError::Invalid(format!(
                "an object of {} bytes: another node takes at most {OBJECT_BYTES_MAX}",
                payload.len()
            )));
        }
        let first = pb::CreateRequest {
            zone_gen: self.zone_gen(),
            key: key.into(),
            len: payload.len(),
            piece: Bytes::new(),
        };
        let units = payload.len().min(STREAM_BYTES).div_ceil(UNIT).max(1);
        let room = match lane {
            Lane::Uploads => &self.uploading,
            Lane::Creates | Lane::Others => &self.creating,
        };
        let permit = room.acquire_many(units as u32).await;
        let _permit = permit.map_err(|_| StoreError::Retry("this node is stopping".into()))?;
        let channel = self.channel(lane)?;
        let answers = call(channel, CREATE, create_parts(&first, payload)).await?;
        let answer: pb::CreateResponse = only(answers).await?;
        Ok(match answer.exists {
            true => CreateOutcome::Exists,
            false => CreateOutcome::Created,
        })
    }
}

#[async_trait]
impl ZoneStore for RemoteDisk {
    async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        self.send(Lane::Creates, key, payload).await
    }

    async fn upload(&self, key: &str, payload: &Payload) -> Result<(), StoreError> {
        // What exists on a node's disk stands there: it reports no conflicts.
        self.send(Lane::Uploads, key, payload).await.map(drop)
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        check_key(key)?;
        let request = pb::GetRequest {
            zone_gen: self.zone_gen(),
            key: key.into(),
            range: match range {
                ReadRange::Full => None,
                ReadRange::Range(range) => Some(get_request::Range::Bytes(pb::Bytes {
                    start: range.start,
                    end: range.end,
                })),
                ReadRange::Suffix(suffix) => Some(get_request::Range::Suffix(suffix)),
            },
        };
        let mut answers = call(self.channel(Lane::Others)?, GET, vec![framed(&request)]).await?;
        let first: pb::GetResponse = next(&mut answers).await?;
        let mut left = match first.answer {
            Some(get_response::Answer::Len(len)) => len,
            Some(get_response::Answer::Absent(_)) => return Ok(None),
            _ => return Err(malformed()),
        };
        if left > DISK_OBJECT_BYTES_MAX {
            return Err(malformed());
        }
        let mut pieces = Vec::new();
        while left > 0 {
            let Some(get_response::Answer::Piece(piece)) = next(&mut answers).await?.answer else {
                return Err(malformed());
            };
            left = left.checked_sub(piece.len() as u64).ok_or_else(malformed)?;
            pieces.push(piece);
        }
        Ok(Some(match pieces.len() {
            0 => Bytes::new(),
            1 => pieces.remove(0),
            _ => {
                let len = pieces.iter().map(Bytes::len).sum();
                let mut joined = BytesMut::with_capacity(len);
                pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
                joined.freeze()
            }
        }))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        check_prefix(prefix)?;
        let mut keys: Vec<String> = Vec::new();
        while keys.len() < limit {
            let request = pb::ListRequest {
                zone_gen: self.zone_gen(),
                prefix: prefix.into(),
                after: keys.last().cloned().or_else(|| after.map(str::to_owned)),
                limit: LIST_PAGE.min(limit - keys.len()) as u64,
            };
            let answers = call(self.channel(Lane::Others)?, LIST, vec![framed(&request)]).await?;
            let page: pb::ListResponse = only(answers).await?;
            // One that does not go forward would be asked for for ever.
            if page.keys.iter().any(|key| Some(key) <= keys.last()) {
                return Err(malformed());
            }
            let ended = !page.more || page.keys.is_empty();
            keys.extend(page.keys);
            if ended {
                break;
            }
        }
        keys.truncate(limit);
        Ok(keys)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        check_key(key)?;
        let request = pb::DeleteRequest {
            zone_gen: self.zone_gen(),
            key: key.into(),
        };
        let answers = call(self.channel(Lane::Others)?, DELETE, vec![framed(&request)]).await?;
        only::<pb::DeleteResponse>(answers).await.map(drop)
    }
}

impl fmt::Debug for RemoteDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteDisk(node {}, zone {:?})", self.node, self.zone_gen)
    }
}

fn malformed() -> StoreError {
    StoreError::Retry("the node's answer was not understood".into())
}
