//! Chunks, zone stores, quorum, seal and recovery: where an append becomes durable, and how the next owner of a
//! channel finds out what was.
//!
//! - [`format`]: the bytes of a chunk. Checked in full before anything is believed.
//! - [`zone`]: a create-only key space and its backends; [`conformance`] holds each of them to the same promises.
//! - [`quorum`]: [`Wal`] over several zones. A chunk is *durable* when `quorum` zones answered `Created`, and
//!   *acknowledgeable* when every slot before it in the epoch is durable too ([`AckPrefix`]).
//! - [`recovery`]: [`recover`] replays a channel from its checkpoint and ends the epochs before the current one.
//!   A slot at which `Z - quorum + 1` zones hold a seal can never become durable: that is what ends an epoch.
//! - [`segment`]: the objects that records move to from chunks, in runs of one stream each.
//! - [`fault`]: a store that fails on demand.
//!
//! Left out: who owns a channel, what frames mean, and when an outcome may be shown. Time is tokio's clock, and
//! randomness comes from the seed in [`WalOptions`].

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod fault;
pub mod format;
pub mod marker;
pub mod quorum;
pub mod recovery;
pub mod segment;
pub mod zone;

pub use format::{
    Chunk, ChunkBuilder, ChunkHeader, ChunkId, ChunkKind, ChunkMeta, DecodedChunk, FRAME_HEADER_LEN, Footer,
    FooterEntry, FormatError, Frame, FrameFlags, FrameHeader, FrameKind, FrameWriter,
};
pub use marker::{Marker, create_marker, read_marker};
pub use quorum::{
    AckPrefix, EpochGens, EpochProgress, EpochWriter, FencedBy, LatencySnapshot, ReadError, Repaired,
    SealOutcome, Unlisted, Wal, WalError, WalMetrics, WalOptions, WriteEvent, Zone,
};
pub use recovery::{
    ChannelHistory, Judge, JudgeError, Recovered, RecoveryError, SealedEpoch, UnsealedEpoch, recover,
};
pub use segment::{
    Run, RunIndex, RunIndexEntry, SegmentFooter, SegmentObject, SegmentObjectBuilder, SegmentSuffix,
    verify_object,
};
pub use zone::{
    Blocking, CreateOutcome, DiskOptions, DiskStore, LocalStore, MemoryStore, ObjectStoreZone, Payload,
    ReadRange, StoreEnvOptions, StoreError, ZoneStore, open_url, preflight,
};
