//! The page caches of one zone as one.
//!
//! - Every [block](rendezvous) of pages is looked after by one node of the zone, on which all agree. The others ask it
//!   and keep what it gives them like everything else; it fetches what it lacks once for all.
//! - A node that has too much to do or does not answer is passed over. Where nobody answers, this node reads the store
//!   itself: nothing ever waits longer for a neighbour than a few seconds, nor for a silent one than a moment.
//! - The node that looks after a page asks the one that wrote the object first, if that one is in the zone and has not
//!   restarted since: it keeps what it wrote. Others are not sent what was written, for most of it is never read back.
//! - What a node is asked by another it answers from memory, from the writer's memory, or from the store, and never by
//!   asking on: nodes that disagree about who looks after a page cannot wait for each other.
//! - Pages are not judged on the way. A reader that finds one bad says so with the next request for it, by hash, so
//!   that whoever gave it drops the copy too; after a second bad copy it reads the store itself.

mod asked;
mod client;
mod members;
mod neighbours;
mod rendezvous;
pub(super) mod service;

#[cfg(test)]
mod tests;

/// The generated messages.
#[allow(clippy::all)]
mod pb {
    tonic::include_proto!("millrace.cache.v1");
}

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use millrace_api::id::NodeId;
use millrace_api::segment::SegmentObjectId;
use moka::future::Cache;

use super::flight::Flights;
use super::kept::{Kept, hash_of};
use super::source::{FromStore, Source};
use super::stats::{CacheStats, count};
use super::{PageError, PageKey};
use asked::Asked;
use client::Answer;
use members::{Member, Members, with_room};
pub use neighbours::{Neighbourhood, Neighbours};
use rendezvous::Block;

/// Nodes that one request for pages is sent to at most, one after the other.
const ASKED_MAX: usize = 2;
/// Pages of which bad copies were seen that are remembered; readers that find one ask for the page again at once.
const SUSPECTS_MAX: u64 = 1024;
/// After so many bad copies of a page the store is read without a detour.
const DISTRUSTED_AFTER: u32 = 2;

/// A page of which a bad copy was seen.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    hash: u64,
    copies: u32,
}

/// What this node has to do with the caches of its zone.
pub(super) struct Zone {
    asking: Arc<Asking>,
    kept: Kept,
    /// Fetches what the node that looks after it does not have.
    origin: Arc<Flights>,
    suspects: Cache<PageKey, Suspect>,
    stats: Arc<CacheStats>,
}

impl Zone {
    pub(super) fn new(
        neighbours: Arc<dyn Neighbours>,
        kept: Kept,
        store: FromStore,
        downloads_max: usize,
        stats: Arc<CacheStats>,
    ) -> Arc<Self> {
        let asking = Arc::new(Asking {
            neighbours,
            members: Members::default(),
            stats: stats.clone(),
        });
        let origin = FromMaker {
            asking: asking.clone(),
            store,
        };
        Arc::new(Self {
            asking,
            origin: Flights::new(kept.clone(), Arc::new(origin), downloads_max),
            kept,
            suspects: Cache::new(SUSPECTS_MAX),
            stats,
        })
    }

    /// A copy of the page is not what was written.
    pub(super) async fn suspect(&self, key: PageKey, seen: &Bytes) {
        let before = self.suspects.get(&key).await;
        let copies = before.map_or(0, |suspect| suspect.copies) + 1;
        let hash = hash_of(seen);
        self.suspects.insert(key, Suspect { hash, copies }).await;
    }

    /// Drops a page if its copy has this hash.
    async fn drop_copy(&self, key: PageKey, hash: u64) {
        if self.kept.forget(key, |kept| hash_of(kept) == hash).await {
            tracing::warn!(object = %key.object, page = key.page, "another node has found a kept page to be bad");
            count(&self.stats.forgotten, 1);
        }
    }

    /// The pages from the first of the nodes that answers; `None` if it is this one, or none.
    async fn ask_others(&self, asked: &Asked) -> Option<Result<Arc<[Bytes]>, PageError>> {
        let living = self.asking.neighbours.living();
        let here = self.asking.neighbours.here();
        let order = rendezvous::order(&living, Block::of(asked.object, asked.pages.start));
        let members = self.asking.members.known(&order);
        let (mut left, mut passed_over) = (ASKED_MAX, false);
        for ((node, member), has_room) in order.iter().zip(&members).zip(with_room(&members)) {
            if has_room && *node == here {
                break;
            }
            if has_room && left > 0 {
                left -= 1;
                match self.asking.ask((*node, member), asked).await {
                    Some(Answer::Pages(pages)) => return Some(Ok(pages)),
                    Some(Answer::None(why)) => return Some(Err(why)),
                    Some(Answer::Busy | Answer::NotKept) | None => {}
                }
            }
            passed_over = true;
            count(&self.stats.zone_passed_over, 1);
        }
        if passed_over {
            count(&self.stats.zone_misses, asked.pages.len() as u64);
        }
        None
    }
}

#[async_trait]
impl Source for Zone {
    async fn fetch(
        &self,
        object: SegmentObjectId,
        object_len: u64,
        pages: Range<u32>,
    ) -> Result<Arc<[Bytes]>, PageError> {
        let (mut bad, mut copies) = (Vec::new(), 0);
        for page in pages.clone() {
            if let Some(suspect) = self.suspects.get(&PageKey { object, page }).await {
                bad.push((page, suspect.hash));
                copies = suspect.copies.max(copies);
            }
        }
        if copies < DISTRUSTED_AFTER {
            let asked = Asked {
                object,
                object_len,
                pages: pages.clone(),
                kept_only: false,
                bad,
            };
            if let Some(answer) = self.ask_others(&asked).await {
                return answer;
            }
        }
        let _under_way = self.asking.here().begin();
        let pages: Vec<u32> = pages.collect();
        Ok(self.origin.pages(object, object_len, &pages).await?.into())
    }

    fn border_behind(&self, object: SegmentObjectId, page: u32) -> u32 {
        Block::of(object, page).end()
    }
}

/// Pages of the node that wrote the object, and otherwise of the store.
struct FromMaker {
    asking: Arc<Asking>,
    store: FromStore,
}

#[async_trait]
impl Source for FromMaker {
    async fn fetch(
        &self,
        object: SegmentObjectId,
        object_len: u64,
        pages: Range<u32>,
    ) -> Result<Arc<[Bytes]>, PageError> {
        if let Some(maker) = self.asking.neighbours.maker(object) {
            let asked = Asked {
                object,
                object_len,
                pages: pages.clone(),
                kept_only: true,
                bad: Vec::new(),
            };
            let member = self.asking.members.of(maker);
            if let Some(Answer::Pages(pages)) = self.asking.ask((maker, &member), &asked).await {
                return Ok(pages);
            }
        }
        self.store.fetch(object, object_len, pages).await
    }
}

/// The way to other nodes, with what is known of them.
struct Asking {
    neighbours: Arc<dyn Neighbours>,
    members: Members,
    stats: Arc<CacheStats>,
}

impl Asking {
    fn here(&self) -> Arc<Member> {
        self.members.of(self.neighbours.here())
    }

    /// The node's answer; `None` if there is none, or the node is spared because it has not answered lately.
    async fn ask(&self, (node, member): (NodeId, &Arc<Member>), asked: &Asked) -> Option<Answer> {
        let pass = member.breaker.admit()?;
        let _under_way = member.begin();
        match client::ask(&*self.neighbours, (node, member), asked).await {
            Ok(answer) => {
                pass.answered();
                if let Answer::Pages(pages) = &answer {
                    count(&self.stats.zone_hits, pages.len() as u64);
                    let bytes = pages.iter().map(|page| page.len() as u64).sum();
                    count(&self.stats.zone_hit_bytes, bytes);
                }
                Some(answer)
            }
            Err(error) => {
                tracing::debug!(%node, %error, "a node of the zone gives no page");
                if pass.failed() {
                    tracing::warn!(%node, %error, "a node of the zone gives no pages; it is only probed for now");
                }
                None
            }
        }
    }
}
