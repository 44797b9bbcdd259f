//! Prints how long creates take; run it with `--release --run-ignored only --no-capture` on the disk that is meant.

use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::zone::LocalStore;

const OBJECT_LEN: usize = 64 << 10;
const CREATES: usize = 4000;

/// Creates per second, and how long they take: half of them at most, and all but one of a hundred.
async fn measure(store: Arc<dyn ZoneStore>, concurrent: usize) -> (f64, Duration, Duration) {
    let body = body(1, OBJECT_LEN);
    let begun = Instant::now();
    let workers = (0..concurrent).map(|worker| {
        let (store, body) = (store.clone(), body.clone());
        tokio::spawn(async move {
            let mut took = Vec::new();
            for n in 0..CREATES / concurrent {
                let begun = Instant::now();
                let key = format!("{concurrent}/{worker}/{n:06}");
                let created = store.create(&key, &body).await;
                took.push(begun.elapsed());
                assert_eq!(created, Ok(CreateOutcome::Created));
            }
            took
        })
    });
    let mut took = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        took.extend(worker.await.expect("no panic"));
    }
    let per_second = took.len() as f64 / begun.elapsed().as_secs_f64();
    took.sort();
    (per_second, took[took.len() / 2], took[took.len() * 99 / 100])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints measurements"]
async fn how_long_creates_take() {
    for concurrent in [1, 16, 64] {
        let root = tempfile::tempdir().expect("a directory");
        let disk = DiskStore::open(root.path().join("disk"), DiskOptions::default()).expect("a store");
        let local = LocalStore::open(root.path().join("local"), Blocking::Pool).expect("a store");
        let stores: [(&str, Arc<dyn ZoneStore>); 2] = [("disk", Arc::new(disk)), ("local", Arc::new(local))];
        for (name, store) in stores {
            let (per_second, half, most) = measure(store, concurrent).await;
            println!("{name:>5}, {concurrent:>2} at a time: {per_second:>6.0}/s, p50 {half:?}, p99 {most:?}");
        }
    }
}
