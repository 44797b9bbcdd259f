//! What the sink knows of a stream: its length, and who follows it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use millrace_api::batch::AppendBatch;
use tokio::sync::{mpsc, watch};

use super::generated::put_head;
use crate::bench::batch::FRAME_HEAD_LEN;

/// Batches that a follower may be behind before the appender waits for it.
const BEHIND_MAX: usize = 16;

/// All streams; whatever is asked for exists.
pub struct Streams {
    held: u64,
    followers: usize,
    by_name: Mutex<HashMap<String, Arc<Stream>>>,
}

pub struct Stream {
    inner: tokio::sync::Mutex<Inner>,
    followers: watch::Sender<usize>,
    followers_awaited: usize,
}

struct Inner {
    next: u64,
    followers: Vec<mpsc::Sender<Bytes>>,
}

impl Streams {
    /// Each holds `held` records and takes appends when it has this many followers.
    pub fn new(held: u64, followers: usize) -> Self {
        Self {
            held,
            followers,
            by_name: Mutex::default(),
        }
    }

    pub fn get(&self, name: &str) -> Arc<Stream> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = by_name.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(Stream {
                inner: tokio::sync::Mutex::new(Inner {
                    next: self.held,
                    followers: Vec::new(),
                }),
                followers: watch::Sender::new(0),
                followers_awaited: self.followers,
            })
        });
        stream.clone()
    }

    pub fn remove(&self, name: &str) {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.remove(name);
    }
}

impl Stream {
    pub async fn next(&self) -> u64 {
        self.inner.lock().await.next
    }

    /// Its records from now on, as frames.
    pub async fn follow(&self) -> mpsc::Receiver<Bytes> {
        let (sender, frames) = mpsc::channel(BEHIND_MAX);
        self.inner.lock().await.followers.push(sender);
        self.followers.send_modify(|count| *count += 1);
        frames
    }

    /// Gives the batch its place, and hands it to those who follow. Waits for followers that are awaited or behind.
    pub async fn append(&self, batch: &AppendBatch) -> std::ops::Range<u64> {
        let mut followers = self.followers.subscribe();
        let awaited = followers.wait_for(|count| *count >= self.followers_awaited);
        awaited.await.expect("the stream holds the sender");
        let mut inner = self.inner.lock().await;
        let start = inner.next;
        inner.next += batch.len() as u64;
        if !inner.followers.is_empty() {
            let frame = sequenced(batch, start);
            for follower in &inner.followers {
                // One that left has what it wanted.
                drop(follower.send(frame.clone()).await);
            }
        }
        start..inner.next
    }
}

fn sequenced(batch: &AppendBatch, start: u64) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_HEAD_LEN + batch.encoded_len_max());
    frame.resize(FRAME_HEAD_LEN, 0);
    for index in 0..batch.len() {
        batch.encode_record(index, start + index as u64, 0, &mut frame);
    }
    put_head(&mut frame);
    frame.freeze()
}
