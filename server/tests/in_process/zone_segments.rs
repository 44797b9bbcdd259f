//! A cell without a standard store: records go from chunks to segments within the three zones, one of which fails.

use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use millrace_api::config::{Patch, StorageClass, StreamConfig, StreamReconfiguration};
use millrace_api::error::ErrorCode;
use millrace_api::name::StreamName;
use millrace_server::config::{NodeConfig, Settings};
use millrace_server::error::ServiceError;
use millrace_server::frontend::service::types::CreateStream;
use millrace_server::node::Node;
use millrace_wal::fault::Cut;
use millrace_wal::{ReadRange, ZoneStore};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::fixture::{Running, stream};
use crate::zones::{ZONES, Zones};

const PATIENCE: Duration = Duration::from_secs(60);

struct Cell {
    dir: TempDir,
    zones: Zones,
}

/// Flushes at once, keeps nothing in memory, and has nothing but the zones.
fn zones_alone(settings: &mut Settings) {
    settings.store = Some("none".into());
    settings.express = Some(ZONES.into());
    settings.append_timeout = Some(PATIENCE);
    settings.flush_interval = Some(Duration::from_millis(100));
    settings.reader_grace = Some(Duration::from_millis(200));
    settings.housekeeping_interval = Some(Duration::from_millis(200));
    settings.recent_bytes = Some(ByteSize::b(0));
}

impl Cell {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            zones: Zones::new(),
        }
    }

    async fn start(&self) -> Running {
        self.start_with(|_| {}).await
    }

    async fn start_with(&self, change: impl FnOnce(&mut Settings)) -> Running {
        let change = |settings: &mut Settings| {
            zones_alone(settings);
            change(settings);
        };
        let started = Running::start_in(self.dir.path(), self.zones.env(), change);
        timeout(PATIENCE, started).await.expect("a start in time")
    }

    /// Packs as soon as there are five segments, of which each batch is one.
    async fn start_packing(&self) -> Running {
        let started = Running::start_in(self.dir.path(), self.zones.env(), |settings| {
            zones_alone(settings);
            settings.flush_interval = Some(Duration::from_millis(20));
            settings.housekeeping_interval = Some(Duration::from_millis(100));
            settings.chain_rows = Some(4);
            settings.sweep_interval = Some(Duration::from_secs(1));
        });
        timeout(PATIENCE, started).await.expect("a start in time")
    }

    async fn segments(&self, number: usize) -> Vec<String> {
        self.zones.zone(number).keys("segments/").await
    }

    /// Of those, chain indexes.
    async fn indexes(&self, number: usize) -> Vec<String> {
        let mut keys = self.segments(number).await;
        keys.retain(|key| key.contains("/i"));
        keys
    }

    /// Waits until all that was appended is in segments, of which these zones have the same.
    async fn flushed(&self, zones: &[usize]) {
        until("everything is in segments", async || {
            let first = self.segments(zones[0]).await;
            let mut alike = !first.is_empty();
            for zone in zones {
                // A claim, and what a flush wrote anew, may stay.
                let left = self.zones.zone(*zone).chunks().await.len();
                alike &= self.segments(*zone).await == first && left <= 4;
            }
            alike
        })
        .await;
    }

    async fn why_not(&self, change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings {
            data_dir: Some(self.dir.path().to_owned()),
            http_addr: Some(([127, 0, 0, 1], 0).into()),
            ..Settings::default()
        };
        zones_alone(&mut settings);
        change(&mut settings);
        let config = NodeConfig::resolve(settings).expect("a configuration");
        match Node::start(config, self.zones.env()).await {
            Ok(_) => panic!("it starts"),
            Err(error) => error.to_string(),
        }
    }
}

async fn append(node: &Running, name: &StreamName, bodies: &[&[u8]]) {
    let appended = timeout(PATIENCE, node.append(name, bodies)).await;
    appended.expect("an answer in time").expect("an acknowledgement");
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_zones_are_all_that_a_cell_needs() {
    let cell = Cell::new();
    let node = cell.start().await;
    let name = stream("s");
    node.create(&name).await.expect("of class express by itself");
    for _ in 0..10 {
        append(&node, &name, &[b"x", b"y"]).await;
    }
    cell.flushed(&[1, 2, 3]).await;
    assert_eq!(node.count(&name).await, 20);
    node.stop().await;
    let node = cell.start().await;
    assert_eq!(node.count(&name).await, 20, "from segments alone");
    append(&node, &name, &[b"z"]).await;
    assert_eq!(node.count(&name).await, 21);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_class_standard_are_refused_with_a_reason() {
    let cell = Cell::new();
    let node = cell.start().await;
    let config = StreamConfig {
        storage_class: Some(StorageClass::Standard),
        ..StreamConfig::default()
    };
    let request = CreateStream {
        config,
        ..CreateStream::default()
    };
    let refused = |result: Result<(), ServiceError>| match result {
        Err(ServiceError::Code { code, message, .. }) => {
            assert_eq!(code, ErrorCode::Invalid);
            assert!(message.contains("--store"), "{message}");
        }
        other => panic!("{other:?}"),
    };
    let created = node
        .frontend
        .create_stream(&node.basin, stream("a"), request)
        .await;
    refused(created.map(drop));
    let name = stream("b");
    node.create(&name).await.expect("a stream");
    let change = StreamReconfiguration {
        storage_class: Patch::Set(StorageClass::Standard),
        ..StreamReconfiguration::default()
    };
    let changed = node.frontend.reconfigure_stream(&node.basin, &name, change).await;
    refused(changed.map(drop));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_a_cell_has_a_store_is_decided_once() {
    let without = Cell::new();
    without.start().await.stop().await;
    let why = without.why_not(|settings| settings.store = None).await;
    assert!(why.contains("founded without a store"), "{why}");
    let with = Cell::new();
    let with_store = |settings: &mut Settings| {
        zones_alone(settings);
        settings.store = None;
    };
    let node = Running::start_in(with.dir.path(), with.zones.env(), with_store).await;
    node.stop().await;
    let why = with.why_not(|_| {}).await;
    assert!(why.contains("this cell has a store"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushes_and_reads_go_on_with_any_one_zone_dark_and_it_gets_its_copies_later() {
    for dark in 1..=3 {
        let cell = Cell::new();
        let node = cell.start().await;
        let name = stream("s");
        node.create(&name).await.expect("a stream");
        append(&node, &name, &[b"before"]).await;
        cell.flushed(&[1, 2, 3]).await;
        let cut = if dark == 2 { Cut::Silent } else { Cut::Refusing };
        cell.zones.zone(dark).faults.cut(cut);
        for _ in 0..3 {
            append(&node, &name, &[b"while it is dark"]).await;
        }
        let others: Vec<_> = (1..=3).filter(|zone| *zone != dark).collect();
        cell.flushed(&others).await;
        until("segments are stored without it", async || {
            cell.segments(dark).await.len() < cell.segments(others[0]).await.len()
        })
        .await;
        assert_eq!(node.count(&name).await, 4);
        node.stop().await;
        // With nothing in memory, and the zone still dark.
        let node = cell.start().await;
        assert_eq!(node.count(&name).await, 4, "zone {dark}");
        cell.zones.zone(dark).faults.heal();
        until("the zone has every segment", async || {
            cell.segments(dark).await == cell.segments(others[0]).await
        })
        .await;
        node.stop().await;
        // With the copies that it was given, beside one other zone.
        cell.zones.zone(others[0]).faults.cut(Cut::Refusing);
        let node = cell.start().await;
        assert_eq!(node.count(&name).await, 4, "zone {dark} and {}", others[1]);
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_is_replaced_at_a_start_gets_every_segment() {
    let cell = Cell::new();
    let node = cell.start().await;
    let name = stream("s");
    node.create(&name).await.expect("a stream");
    append(&node, &name, &[b"one", b"two"]).await;
    cell.flushed(&[1, 2, 3]).await;
    node.stop().await;
    cell.zones.zone(2).store.clear();
    let node = cell
        .start_with(|settings| settings.express_replace = Some(2))
        .await;
    append(&node, &name, &[b"three"]).await;
    cell.flushed(&[1, 2]).await;
    node.stop().await;
    cell.zones.zone(1).faults.cut(Cut::Refusing);
    let node = cell.start().await;
    assert_eq!(node.count(&name).await, 3, "with the copies that it was given");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_copy_of_a_segment_is_never_served_and_is_replaced() {
    let cell = Cell::new();
    let node = cell.start().await;
    let name = stream("s");
    node.create(&name).await.expect("a stream");
    append(&node, &name, &[b"what was written"]).await;
    cell.flushed(&[1, 2, 3]).await;
    node.stop().await;
    let key = cell.segments(1).await.remove(0);
    let near = &cell.zones.zone(1).store;
    let good = near.get(&key, ReadRange::Full).await.unwrap().unwrap();
    let mut bad = good.to_vec();
    let at = good
        .windows(7)
        .position(|part| part == b"written")
        .expect("the body");
    bad[at] ^= 0x20;
    near.overwrite(&key, Bytes::from(bad));
    until_found(&cell, &name, 1, async || {
        near.get(&key, ReadRange::Full).await.unwrap().as_ref() == Some(&good)
    })
    .await;
}

/// Reads all records with nodes that have nothing in memory, until copies that are bad were found and replaced. A reader
/// does not find one where another zone was faster.
async fn until_found(cell: &Cell, name: &StreamName, records: usize, mut good: impl AsyncFnMut() -> bool) {
    const LIVES: usize = 10;
    for _ in 0..LIVES {
        let node = cell.start().await;
        assert_eq!(node.count(name).await, records, "from another zone");
        let replaced = timeout(PATIENCE / 4, async {
            while !good().await {
                sleep(Duration::from_millis(20)).await;
            }
        });
        let replaced = replaced.await.is_ok();
        node.stop().await;
        if replaced {
            return;
        }
    }
    panic!("bad copies are replaced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_that_nobody_needs_go_in_every_zone() {
    let cell = Cell::new();
    let node = cell.start().await;
    let name = stream("s");
    node.create(&name).await.expect("a stream");
    append(&node, &name, &[b"x"]).await;
    cell.flushed(&[1, 2, 3]).await;
    node.frontend
        .delete_stream(&node.basin, &name)
        .await
        .expect("a deletion");
    for zone in 1..=3 {
        until("its segments are gone", async || {
            cell.segments(zone).await.is_empty()
        })
        .await;
    }
    node.stop().await;
}

/// Appends batches of one record, each in a flush of its own or nearly so, until so many more indexes are in a zone.
async fn pack(cell: &Cell, node: &Running, name: &StreamName, zone: usize, indexes: usize) -> usize {
    let (wanted, mut batches) = (cell.indexes(zone).await.len() + indexes, 0);
    until("segments are packed", async || {
        append(node, name, &[b"packed"]).await;
        batches += 1;
        sleep(Duration::from_millis(30)).await;
        cell.indexes(zone).await.len() >= wanted
    })
    .await;
    batches
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_and_what_only_they_name_are_copied_to_a_zone_that_lacks_them() {
    let cell = Cell::new();
    let node = cell.start_packing().await;
    let name = stream("s");
    node.create(&name).await.expect("a stream");
    let mut records = pack(&cell, &node, &name, 1, 1).await;
    cell.zones.zone(2).faults.cut(Cut::Refusing);
    records += pack(&cell, &node, &name, 1, 2).await;
    assert_eq!(node.count(&name).await, records);
    assert!(cell.indexes(2).await.len() < cell.indexes(1).await.len());
    cell.zones.zone(2).faults.heal();
    cell.flushed(&[1, 2, 3]).await;
    node.stop().await;

    // A zone that lost what it had, beside one in which every index is bad: what they name is needed all the same.
    let (near, other) = (&cell.zones.zone(1).store, &cell.zones.zone(2).store);
    for key in cell.indexes(1).await {
        let good = near.get(&key, ReadRange::Full).await.unwrap().unwrap();
        let mut bad = good.to_vec();
        bad[good.len() / 2] ^= 1;
        near.overwrite(&key, Bytes::from(bad));
    }
    for key in cell.segments(2).await {
        other.delete(&key).await.unwrap();
    }
    let node = cell.start_packing().await;
    cell.flushed(&[1, 2, 3]).await;
    node.stop().await;
    until_found(&cell, &name, records, async || {
        let mut alike = true;
        for key in cell.indexes(1).await {
            let copy = near.get(&key, ReadRange::Full).await.unwrap();
            alike &= copy == other.get(&key, ReadRange::Full).await.unwrap();
        }
        alike
    })
    .await;
    // From the copies alone, beside one other zone.
    cell.zones.zone(1).faults.cut(Cut::Refusing);
    let node = cell.start_packing().await;
    assert_eq!(node.count(&name).await, records);
    node.frontend
        .delete_stream(&node.basin, &name)
        .await
        .expect("a deletion");
    cell.zones.zone(1).faults.heal();
    for zone in 1..=3 {
        until("its segments are gone", async || {
            cell.segments(zone).await.is_empty()
        })
        .await;
    }
    node.stop().await;
}
