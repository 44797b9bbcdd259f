//! The bounds of the S2 v1 API. Sizes are bytes unless the name says otherwise; every bound is inclusive.

use std::time::Duration;

pub const BASIN_NAME_LEN_MIN: usize = 8;
pub const BASIN_NAME_LEN_MAX: usize = 48;
pub const STREAM_NAME_LEN_MAX: usize = 512;
pub const FENCING_TOKEN_LEN_MAX: usize = 36;
pub const REQUEST_TOKEN_LEN_MAX: usize = 36;

/// Records in one append batch, one unary read reply, or one batch of a read session.
pub const BATCH_RECORDS_MAX: usize = 1000;
/// Metered bytes of one append batch, one unary read reply, or one batch of a read session; also of one record.
pub const BATCH_METERED_BYTES_MAX: usize = 1024 * 1024;
/// Headers of one record that the format can count.
pub const RECORD_HEADERS_MAX: usize = 0xFF_FFFF;

/// Items of a list page. Absent, zero and larger limits all mean this.
pub const LIST_PAGE_MAX: usize = 1000;

/// Encoded S2S frame: flag byte and body.
pub const S2S_FRAME_LEN_MAX: usize = 2 * 1024 * 1024;
/// Body of an S2S frame after decompression.
pub const S2S_BODY_DECOMPRESSED_MAX: usize = 2 * 1024 * 1024 - 1;
/// Bodies smaller than this are never compressed by the sender.
pub const S2S_COMPRESS_MIN: usize = 1024;

/// Body of a unary HTTP request, after decompression.
pub const HTTP_BODY_MAX: usize = 2 * 1024 * 1024;

/// Message of the gRPC API that carries an append: an input as large as HTTP takes it, and names around it. Replies
/// with records are smaller.
pub const GRPC_APPEND_LEN_MAX: usize = HTTP_BODY_MAX + 4 * 1024;

/// `wait` of a unary read is clamped to this.
pub const UNARY_WAIT_MAX: Duration = Duration::from_secs(60);
/// A read session in follow mode is never silent for longer than this.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(15);
/// Heartbeats of a read session are at least this far apart.
pub const HEARTBEAT_MIN: Duration = Duration::from_secs(5);

/// Retention of a stream for which nobody chose another: seven days.
pub const RETENTION_AGE_DEFAULT_SECS: u64 = 604_800;
