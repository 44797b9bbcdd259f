//! Streams of class Express, on three zones of which one at a time is dark, blank or another one.

use std::time::Duration;

use millrace_api::config::{Patch, StorageClass, StreamReconfiguration};
use millrace_api::error::ErrorCode;
use millrace_api::name::StreamName;
use millrace_server::config::Settings;
use millrace_server::error::ServiceError;
use millrace_wal::fault::{Cut, Fault, Op, Rule};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::fixture::{Running, stream};
use crate::zones::{ZONES, Zones};

/// Longer than anything here takes unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

struct Cell {
    dir: TempDir,
    zones: Zones,
}

fn express(settings: &mut Settings) {
    settings.express = Some(ZONES.into());
    settings.append_timeout = Some(PATIENCE);
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
            express(settings);
            change(settings);
        };
        let started = Running::start_in(self.dir.path(), self.zones.env(), change);
        timeout(PATIENCE, started).await.expect("a start in time")
    }
}

async fn append(node: &Running, name: &StreamName, bodies: &[&[u8]]) {
    let appended = timeout(PATIENCE, node.append(name, bodies)).await;
    appended.expect("an answer in time").expect("an acknowledgement");
}

/// Waits until it is so.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_written_to_the_zones_of_its_class() {
    let cell = Cell::new();
    let node = cell.start().await;
    let before = cell.zones.zone(1).chunks().await.len();
    let (standard, express) = (stream("standard"), stream("express"));
    node.create_as(&standard, StorageClass::Standard).await;
    append(&node, &standard, &[b"s"]).await;
    assert_eq!(cell.zones.zone(1).chunks().await.len(), before);
    node.create_as(&express, StorageClass::Express).await;
    append(&node, &express, &[b"e"]).await;
    for number in 1..=3 {
        let zone = cell.zones.zone(number);
        until("every zone gets the chunk", async || {
            zone.chunks().await.len() > before
        })
        .await;
    }
    node.stop().await;
    let node = cell.start().await;
    assert_eq!((node.count(&standard).await, node.count(&express).await), (1, 1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_and_restarts_go_on_with_any_one_zone_dark() {
    let cell = Cell::new();
    let name = stream("s");
    let node = cell.start().await;
    node.create_as(&name, StorageClass::Express).await;
    append(&node, &name, &[b"x"]).await;
    node.stop().await;
    let mut count = 1;
    for dark in 1..=3 {
        let cut = if dark == 2 { Cut::Refusing } else { Cut::Silent };
        let node = cell.start().await;
        cell.zones.zone(dark).faults.cut(cut);
        append(&node, &name, &[b"while it is dark"]).await;
        node.stop().await;
        let node = cell.start().await;
        append(&node, &name, &[b"started without it"]).await;
        count += 2;
        assert_eq!(node.count(&name).await, count, "zone {dark}");
        cell.zones.zone(dark).faults.heal();
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_wait_for_a_second_zone_and_go_on_when_it_returns() {
    let cell = Cell::new();
    let node = cell.start().await;
    let (name, other) = (stream("s"), stream("standard"));
    node.create_as(&name, StorageClass::Express).await;
    node.create_as(&other, StorageClass::Standard).await;
    append(&node, &name, &[b"x"]).await;
    cell.zones.zone(1).faults.cut(Cut::Refusing);
    cell.zones.zone(3).faults.cut(Cut::Refusing);
    let mut waiting = Box::pin(node.append(&name, &[b"waits"]));
    let early = timeout(Duration::from_millis(500), &mut waiting).await;
    assert!(early.is_err(), "one zone is not enough: {early:?}");
    append(&node, &other, &[b"is not concerned"]).await;
    cell.zones.zone(3).faults.heal();
    let ack = timeout(PATIENCE, waiting).await.expect("it goes on").unwrap();
    assert_eq!(ack.start.seq_num, 1);
    assert_eq!(node.count(&name).await, 2);
    cell.zones.zone(1).faults.heal();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_dark_zones_hold_up_is_refused_as_unknown_and_never_lost_once_acknowledged() {
    let cell = Cell::new();
    let short = |settings: &mut Settings| settings.append_timeout = Some(Duration::from_millis(500));
    let node = cell.start_with(short).await;
    let name = stream("s");
    node.create_as(&name, StorageClass::Express).await;
    append(&node, &name, &[b"x"]).await;
    cell.zones.zone(2).faults.cut(Cut::Silent);
    cell.zones.zone(3).faults.cut(Cut::Silent);
    let refused = timeout(PATIENCE, node.append(&name, &[b"may have happened"])).await;
    let refused = refused.expect("an answer in time").unwrap_err();
    let sure = matches!(&refused, ServiceError::Code { code, .. } if *code == ErrorCode::HotServer);
    assert!(!sure, "it may yet be written: {refused:?}");
    cell.zones.zone(2).faults.heal();
    let mut tried = 2;
    until("appends go on", async || {
        tried += 1;
        node.append(&name, &[b"after"]).await.is_ok()
    })
    .await;
    let count = node.count(&name).await;
    assert!((2..=tried).contains(&count), "{count} of {tried}");
    cell.zones.zone(3).faults.heal();
    node.stop().await;
    let node = cell.start().await;
    assert_eq!(node.count(&name).await, count);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_comes_back_blank_is_not_written_to_and_nothing_is_lost() {
    for blank in 1..=3 {
        let cell = Cell::new();
        let name = stream("s");
        let slow = cell.zones.zone(blank % 3 + 1);
        let node = cell.start().await;
        node.create_as(&name, StorageClass::Express).await;
        append(&node, &name, &[b"one"]).await;
        node.stop().await;
        cell.zones.zone(blank).store.clear();
        let delay = Fault::Delay {
            least: Duration::from_millis(100),
            most: Duration::from_millis(300),
        };
        slow.faults.add(Rule::new(delay));
        let node = cell.start().await;
        assert_eq!(node.count(&name).await, 1, "zone {blank} is blank");
        append(&node, &name, &[b"two"]).await;
        assert_eq!(cell.zones.zone(blank).store.object_count(), 0, "it is not used");
        node.stop().await;
        let node = cell.start().await;
        assert_eq!(node.count(&name).await, 2);
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_is_lost_is_replaced_by_a_start_that_says_so() {
    for lost in 1..=3 {
        let cell = Cell::new();
        let name = stream("s");
        let node = cell.start().await;
        node.create_as(&name, StorageClass::Express).await;
        append(&node, &name, &[b"one"]).await;
        node.stop().await;
        let replace = |settings: &mut Settings| settings.express_replace = Some(lost as u32);
        cell.zones.zone(lost).store.clear();
        let node = cell.start_with(replace).await;
        append(&node, &name, &[b"two"]).await;
        node.stop().await;
        // Said once too often, it does no harm.
        let node = cell.start_with(replace).await;
        assert_eq!(node.count(&name).await, 2);
        append(&node, &name, &[b"three"]).await;
        node.stop().await;
        cell.zones.zone(lost % 3 + 1).faults.cut(Cut::Refusing);
        let node = cell.start().await;
        assert_eq!(node.count(&name).await, 3, "zone {lost} is as good as any other");
        append(&node, &name, &[b"four"]).await;
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn express_begins_when_every_zone_was_reached_once() {
    let cell = Cell::new();
    cell.zones.zone(2).faults.cut(Cut::Refusing);
    let node = cell.start().await;
    let name = stream("s");
    node.create_as(&name, StorageClass::Express).await;
    append(&node, &name, &[b"as a Standard one"]).await;
    assert_eq!(cell.zones.zone(1).chunks().await.len(), 0);
    cell.zones.zone(2).faults.heal();
    let zone = cell.zones.zone(2);
    until("there are Express channels", async || {
        !zone.chunks().await.is_empty()
    })
    .await;
    let late = stream("late");
    node.create_as(&late, StorageClass::Express).await;
    let before = cell.zones.zone(1).chunks().await.len();
    append(&node, &late, &[b"x"]).await;
    let zone = cell.zones.zone(1);
    until("it is on the zones", async || zone.chunks().await.len() > before).await;
    assert_eq!((node.count(&name).await, node.count(&late).await), (1, 1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_class_takes_effect_when_the_stream_has_rested() {
    let cell = Cell::new();
    let node = cell
        .start_with(|settings| {
            settings.idle_timeout = Some(Duration::from_millis(10));
            settings.flush_interval = Some(Duration::from_millis(10));
        })
        .await;
    let name = stream("s");
    node.create_as(&name, StorageClass::Standard).await;
    append(&node, &name, &[b"1"]).await;
    let change = StreamReconfiguration {
        storage_class: Patch::Set(StorageClass::Express),
        ..StreamReconfiguration::default()
    };
    let changed = node.frontend.reconfigure_stream(&node.basin, &name, change);
    changed.await.expect("a class");
    // Chunks come and go with flushes: every create is counted.
    let faults = &cell.zones.zone(1).faults;
    let creates = || {
        let count = Rule::new(Fault::None)
            .op(Op::Create)
            .key(|key| key.starts_with("wal/"));
        faults.stall(count, false)
    };
    let gate = creates();
    gate.open();
    let mut appended = 1;
    until("it moves to the zones", async || {
        let before = gate.arrived();
        append(&node, &name, &[b"x"]).await;
        appended += 1;
        let moved = gate.arrived() > before;
        sleep(Duration::from_secs(1)).await;
        moved
    })
    .await;
    assert_eq!(node.count(&name).await, appended);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_is_given_what_it_missed_when_it_returns() {
    let cell = Cell::new();
    // What is flushed needs no copies any more.
    let unflushed = |settings: &mut Settings| settings.flush_interval = Some(10 * PATIENCE);
    let node = cell.start_with(unflushed).await;
    let name = stream("s");
    node.create_as(&name, StorageClass::Express).await;
    append(&node, &name, &[b"x"]).await;
    let (whole, dark) = (cell.zones.zone(1), cell.zones.zone(3));
    dark.faults.cut(Cut::Refusing);
    for _ in 0..20 {
        append(&node, &name, &[b"while it is dark"]).await;
    }
    assert!(dark.chunks().await.len() + 10 < whole.chunks().await.len());
    dark.faults.heal();
    // The other may have been late with the first ones, too.
    until("the zone has every chunk", async || {
        dark.chunks().await == whole.chunks().await
    })
    .await;
    node.stop().await;
    // With the copies of it alone, beside one that was there all the time.
    cell.zones.zone(1).faults.cut(Cut::Refusing);
    let node = cell.start().await;
    assert_eq!(node.count(&name).await, 21);
    node.stop().await;
}
