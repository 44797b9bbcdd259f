//! Everything of a node that lies between it and its store, wired together.

pub mod caretaker;
pub mod cell;
pub mod checked;
pub mod command;
#[cfg(test)]
pub mod fixture;
pub mod inspect;
pub mod sweep;
pub mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millrace_api::id::NodeId;
use millrace_raft::group::Meta;
use millrace_wal::{Wal, WalError, WalOptions, Zone, ZoneStore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::zone::Neighbourhood;
use crate::cache::{PageCache, PageCacheOptions};
use crate::chain::Chains;
use crate::channels::Channels;
use crate::chunk_reader::ChunkReader;
use crate::config::{ExpressConfig, ExpressZone, NodeConfig};
use crate::env::Env;
use crate::flusher::Flusher;
use crate::merger::{Merger, choose};
use crate::peer::directory::Peers;
use crate::reaper::{Reaper, Reaping};
use crate::segment_reader::SegmentReader;
use crate::storage::cell::Cell;
use crate::tasks::deletion::Deletion;
use crate::tasks::housekeeping::Housekeeping;
use crate::tasks::merge::Merges;
use crate::tasks::objects::DeadObjects;
use crate::tasks::pack::Packing;
use crate::tasks::sweep::Sweeps;
use crate::wals::{RecordedGens, Wals};
use crate::zone_disk::serve::ZoneService;
use crate::zones::express::ExpressZones;
use crate::zones::mirror::{self, MirroredStore};
use crate::zones::repair::Repair;
use crate::zones::segments::SegmentRepair;
use crate::zones::source::{OthersDisk, OwnDisk, Source, UrlSource};

/// A segment object in a store is closed when it has so many bytes.
const OBJECT_BYTES: u64 = 64 << 20;

/// The store is not listed more often, whatever is asked for.
const SWEEP_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// A read of an Express zone that takes longer is sent to another one, too.
const EXPRESS_HEDGE_AFTER: Duration = Duration::from_millis(50);

pub struct Storage {
    pub wals: Wals,
    pub express: Option<ExpressZones>,
    pub flusher: Flusher,
    pub reaper: Reaper,
    pub chunks: Arc<ChunkReader>,
    pub segments: Arc<SegmentReader>,
    pub cache: Arc<PageCache>,
    store: Arc<dyn ZoneStore>,
    object_bytes: u64,
    /// The store, where it is the Express zones.
    mirror: Option<Arc<MirroredStore>>,
    reaping: Reaping,
}

/// Where segments are written to.
#[derive(Clone)]
pub struct SegmentTarget {
    pub store: Arc<dyn ZoneStore>,
    /// An object is closed when it has so many bytes.
    pub object_bytes: u64,
}

impl Storage {
    /// Over the standard store, if there is one, and the Express zones, if there are any: one of the two. `disks` and
    /// `neighbours`: of a node among others.
    pub fn new(
        standard: Option<Zone>,
        disks: Option<Disks>,
        neighbours: Option<Neighbourhood>,
        config: &NodeConfig,
        meta: &Meta,
        env: &Env,
    ) -> Result<Self, WalError> {
        let standard_store = standard.as_ref().map(|zone| zone.store.clone());
        let options = WalOptions {
            inflight_chunks: config.inflight_chunks,
            seed: env.random_u128() as u64,
            ..WalOptions::default()
        };
        let standard = standard.map(|zone| Wal::new(vec![zone], 1, options.clone()));
        let wals = Wals::new(meta.clone(), standard.transpose()?);
        let (store, mirror): (Arc<dyn ZoneStore>, _) = match standard_store {
            Some(store) => (store, None),
            None => {
                let mirror = MirroredStore::new(wals.clone());
                (mirror.clone(), Some(mirror))
            }
        };
        let express = config.express.as_ref().map(|express| {
            let options = WalOptions {
                near: express.near,
                epoch_gens: Some(Arc::new(RecordedGens(meta.clone()))),
                hedge_after: EXPRESS_HEDGE_AFTER,
                ..options
            };
            ExpressZones::new(sources(express, disks, env), meta, env, wals.clone(), options)
        });
        let cache = {
            let options = PageCacheOptions {
                capacity_bytes: config.cache_bytes as u64,
                ..PageCacheOptions::default()
            };
            match neighbours {
                Some(neighbours) => PageCache::in_zone(store.clone(), &options, Arc::new(neighbours)),
                None => PageCache::new(store.clone(), &options),
            }
        };
        let object_bytes = match mirror {
            Some(_) => mirror::OBJECT_BYTES,
            None => OBJECT_BYTES,
        };
        let to = SegmentTarget {
            store: store.clone(),
            object_bytes,
        };
        let flusher = Flusher::new(env.clone(), meta.clone(), wals.clone(), to, cache.clone());
        let (reaper, reaping) = Reaper::new(wals.clone(), config.reader_grace);
        let (footers, pieces) = (config.footer_cache_bytes, config.chunk_cache_bytes);
        let ahead = config.read_ahead_bytes;
        Ok(Self {
            chunks: Arc::new(ChunkReader::new(wals.clone(), footers, pieces, ahead)),
            segments: Arc::new(SegmentReader::new(cache.clone(), ahead)),
            wals,
            express,
            flusher,
            reaper,
            cache,
            store,
            object_bytes,
            mirror,
            reaping,
        })
    }

    /// Everything that the node stores, for those who look after it.
    pub fn cell(&self, meta: &Meta) -> Cell {
        Cell {
            meta: meta.clone(),
            segments: self.store.clone(),
            wals: self.wals.clone(),
        }
    }

    /// Starts what deletes, until `stop`.
    pub fn tend(
        self,
        node: NodeId,
        channels: Channels,
        config: &NodeConfig,
        (meta, env): (&Meta, &Env),
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        let chains = Chains {
            env: env.clone(),
            meta: meta.clone(),
            store: self.store.clone(),
            cache: self.cache.clone(),
        };
        let deletion = Deletion {
            node,
            env: env.clone(),
            meta: meta.clone(),
            chains: chains.clone(),
            channels: channels.clone(),
            grace: config.deletion_grace,
        };
        let dead_objects = DeadObjects {
            node,
            env: env.clone(),
            meta: meta.clone(),
            store: self.store.clone(),
            grace: config.reader_grace,
        };
        let housekeeping = Housekeeping {
            node,
            env: env.clone(),
            meta: meta.clone(),
            chains: chains.clone(),
            interval: config.housekeeping_interval,
        };
        let sweeps = Sweeps {
            node,
            cell: self.cell(meta),
            interval: config
                .sweep_interval
                .max(config.reader_grace)
                .max(SWEEP_INTERVAL_MIN),
        };
        let interval = config.housekeeping_interval;
        let packing = Packing::new(node, channels.clone(), chains, config.chain_rows, interval);
        tasks.spawn(packing.run(stop.clone()));
        let merger = Merger {
            env: env.clone(),
            meta: meta.clone(),
            to: SegmentTarget {
                store: self.store.clone(),
                object_bytes: self.object_bytes,
            },
            cache: self.cache,
            small_bytes: choose::small_bytes(config.flush_bytes as u64),
        };
        tasks.spawn(Merges::new(channels.clone(), merger, interval).run(stop.clone()));
        if let Some((zones, mirror)) = self.express.clone().zip(self.mirror) {
            let repair = SegmentRepair {
                node,
                cell: sweeps.cell.clone(),
                channels: channels.clone(),
                zones,
                mirror,
                full_interval: sweeps.interval,
            };
            tasks.spawn(repair.run(stop.clone()));
        }
        if let Some(zones) = self.express {
            let repair = Repair {
                meta: meta.clone(),
                wals: self.wals,
                channels: channels.clone(),
                zones,
                full_interval: sweeps.interval,
            };
            tasks.spawn(repair.run(stop.clone()));
        }
        tasks.spawn(self.reaping.run(stop.clone()));
        tasks.spawn(deletion.run(stop.clone()));
        tasks.spawn(dead_objects.run(stop.clone()));
        tasks.spawn(housekeeping.run(stop.clone()));
        tasks.spawn(sweeps.run(stop.clone()));
    }
}

/// The way to the disks of the cluster's nodes, this one's among them.
pub struct Disks {
    pub node: NodeId,
    /// Where this node's is, and who lets the others at it.
    pub directory: PathBuf,
    pub service: ZoneService,
    pub peers: Peers,
    pub stop: CancellationToken,
}

/// Without `disks` there are none among the zones: see [`ExpressConfig`].
pub(crate) fn sources(config: &ExpressConfig, disks: Option<Disks>, env: &Env) -> Vec<Arc<dyn Source>> {
    let source = |zone: &ExpressZone| -> Arc<dyn Source> {
        match (zone, &disks) {
            (ExpressZone::Url(url), _) => Arc::new(UrlSource::new(url.clone(), env.stores.clone())),
            (ExpressZone::Disk(node), Some(disks)) if *node == disks.node => {
                let (directory, service) = (disks.directory.clone(), disks.service.clone());
                Arc::new(OwnDisk::new(*node, directory, service, disks.stop.clone()))
            }
            (ExpressZone::Disk(node), Some(disks)) => Arc::new(OthersDisk::new(disks.peers.clone(), *node)),
            (ExpressZone::Disk(node), None) => {
                unreachable!("the configuration refuses disk://{node} outside a cluster")
            }
        }
    };
    config.zones.iter().map(source).collect()
}
