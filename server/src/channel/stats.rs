//! Counters of one channel, written by its task and read by telemetry.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Debug, Default)]
pub struct ChannelStats {
    pub appends: AtomicU64,
    pub records: AtomicU64,
    pub metered_bytes: AtomicU64,
    pub chunks: AtomicU64,
    pub chunk_bytes: AtomicU64,
    pub chunk_retries: AtomicU64,
    pub flushes: AtomicU64,
    /// Chunks whose records are in segments.
    pub chunks_flushed: AtomicU64,
}

impl ChannelStats {
    pub fn append_received(&self, records: usize, metered_bytes: usize) {
        self.appends.fetch_add(1, Relaxed);
        self.records.fetch_add(records as u64, Relaxed);
        self.metered_bytes.fetch_add(metered_bytes as u64, Relaxed);
    }

    pub fn chunk_submitted(&self, bytes: u64) {
        self.chunks.fetch_add(1, Relaxed);
        self.chunk_bytes.fetch_add(bytes, Relaxed);
    }

    pub fn flushed(&self, chunks: usize) {
        self.flushes.fetch_add(1, Relaxed);
        self.chunks_flushed.fetch_add(chunks as u64, Relaxed);
    }

    pub fn chunk_retried(&self) {
        self.chunk_retries.fetch_add(1, Relaxed);
    }
}
