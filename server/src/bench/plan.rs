//! What is to be run, checked: everything after this relies on it.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use millrace_api::config::StorageClass;
use serde::Serialize;

use super::batch::BatchShape;
use super::driver::Endpoint;
use super::verify::Content;

/// What is done to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Writers only: one append session per stream
    Append,
    /// Writers, and readers that follow each stream while it is written
    Tail,
    /// Streams that are there already, or are written first, are read from their first record
    CatchUp,
    /// Writers, followers, and readers that read what is there from the first record again and again
    Mixed,
}

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Tail => "tail",
            Self::CatchUp => "catch-up",
            Self::Mixed => "mixed",
        }
    }
}

/// How an endpoint is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// S2S sessions over HTTP/2, which every S2 endpoint has
    S2s,
    /// Millrace's gRPC API, through its client library
    Grpc,
}

/// How fast writers send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as acknowledgements come back: each session keeps its batches in flight.
    Saturate,
    /// Batches per second over all streams, due whether or not the endpoint keeps up.
    Rate(f64),
}

/// Which streams are driven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// `None` makes a basin of the bench's own.
    pub basin: Option<String>,
    /// Streams are called by this and their number.
    pub stream_prefix: String,
    /// Whether the streams are there already, and only read.
    pub existing: bool,
    /// Whether what was made stays.
    pub keep: bool,
}

/// One endpoint under test.
#[derive(Debug, Clone)]
pub struct Target {
    /// `A`, or `B` for the one it is held against.
    pub label: &'static str,
    pub protocol: Protocol,
    pub endpoint: Endpoint,
    pub server_pid: Option<u32>,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub workload: Workload,
    /// One, or two that take turns. None is the null sink.
    pub targets: Vec<Target>,
    pub rounds: usize,
    pub names: Names,
    pub streams: usize,
    /// Followers per stream; in a catch-up load, readers per stream.
    pub readers: usize,
    /// Of a mixed load, per stream.
    pub catch_up_readers: usize,
    pub shape: BatchShape,
    /// Batches per append session that wait for their acknowledgement.
    pub in_flight: usize,
    pub pace: Pace,
    /// For writers, and again for readers.
    pub connections: usize,
    pub storage_class: StorageClass,
    pub warm_up: Duration,
    pub duration: Duration,
    /// Metered bytes that a catch-up load writes first, over all streams.
    pub preload_bytes: u64,
    /// Pause between that and reading.
    pub settle: Duration,
    pub interval: Duration,
    /// Nothing may stand still for longer.
    pub patience: Duration,
    pub content: Content,
    pub seed: u64,
    /// MiB/s that the bench reached against the null sink with this load.
    pub ceiling_mib_s: Option<f64>,
    pub output: Output,
}

/// Where results go besides the table.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// `-` is standard output.
    pub json: Option<PathBuf>,
    pub plot: Option<PathBuf>,
}

impl Output {
    /// Whether standard output belongs to the JSON, so that the table goes to standard error.
    pub fn json_on_stdout(&self) -> bool {
        self.json.as_deref().is_some_and(|path| path.as_os_str() == "-")
    }
}

impl Plan {
    /// Records per stream that a catch-up load writes first; whole batches, at least one.
    pub fn preload_batches(&self) -> u64 {
        let per_stream = self.preload_bytes.div_ceil(self.streams as u64);
        per_stream.div_ceil(self.shape.bytes() as u64).max(1)
    }

    /// Records per second that are aimed at, if there is an aim.
    pub fn target_records_per_second(&self) -> Option<f64> {
        match self.pace {
            Pace::Rate(batches) => Some(batches * self.shape.records as f64),
            Pace::Saturate => None,
        }
    }
}
