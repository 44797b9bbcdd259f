//! Nodes of one zone share the pages of segments that they fetch.

use std::time::Duration;

use bytesize::ByteSize;
use millrace_server::config::Settings;
use tokio::time::{sleep, timeout};

use crate::cell::{Cell, PATIENCE, stream};

/// Nothing is read from an owner's memory.
fn one_zone(settings: Settings) -> Settings {
    Settings {
        zone: Some("one".to_owned()),
        recent_bytes: Some(ByteSize(0)),
        ..settings
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_shared_by_nodes_of_a_zone_and_reads_outlive_any_of_them() {
    let mut cell = Cell::start_with(one_zone).await;
    let name = stream("shared");
    cell.create(0, &name).await;
    let mut written = Vec::new();
    let sharing = async {
        while cell.counted("millrace_cache_zone_hits_total").await < 3 {
            let body = format!("{}: {}", written.len(), "x".repeat(1000));
            cell.append(written.len() % 3, &name, &body).await.unwrap();
            written.push(body);
            // Long enough for a flush.
            sleep(Duration::from_millis(200)).await;
            for node in 0..3 {
                assert_eq!(cell.bodies(node, &name).await, written, "through node {node}");
            }
        }
    };
    timeout(PATIENCE, sharing).await.expect("pages are shared");
    let hits = cell.counted("millrace_cache_zone_hits_total").await;
    let served = cell.counted("millrace_cache_zone_served_total").await;
    assert!(served >= hits, "{hits} came and {served} were given");
    cell.stop(2).await;
    for node in 0..2 {
        assert_eq!(cell.bodies(node, &name).await, written, "through node {node}");
    }
    cell.stop_all().await;
}
