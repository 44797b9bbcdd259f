//! A part of an object that is of use only as a whole, and tells by itself whether it is what was written.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millrace_api::segment::SegmentObjectId;
use millrace_wal::FormatError;

use super::plan::part_of;
use super::{RELOADS_MAX, ReadError};
use crate::cache::{PAGE_BYTES, PageCache};

/// What `decode` makes of the bytes at `range` of an object, which has so many. They are fetched again when they fail
/// its check.
pub(super) async fn read<T>(
    cache: &Arc<PageCache>,
    (object, object_len): (SegmentObjectId, u64),
    range: Range<u64>,
    decode: impl Fn(&[u8]) -> Result<T, FormatError>,
) -> Result<T, ReadError> {
    // An object has far fewer than 2^32 pages.
    let pages = (range.start / PAGE_BYTES) as u32..range.end.div_ceil(PAGE_BYTES) as u32;
    let mut reloads = 0;
    loop {
        let found = cache.pages(object, object_len, pages.clone()).await?;
        let error = match decode(&joined(&found, pages.start, &range)) {
            Ok(decoded) => return Ok(decoded),
            Err(error) => error,
        };
        tracing::warn!(%object, offset = range.start, %error, "an index fails its check");
        for (page, seen) in pages.clone().zip(&found) {
            cache.forget(object, page, seen).await;
        }
        if reloads == RELOADS_MAX {
            return Err(ReadError::Corrupt {
                object,
                offset: range.start,
                why: error.to_string(),
            });
        }
        reloads += 1;
    }
}

/// The bytes at `range` of an object, of which `pages` are adjacent pages, the first of them number `first`.
fn joined(pages: &[Bytes], first: u32, range: &Range<u64>) -> Bytes {
    let mut bytes = BytesMut::new();
    for (number, page) in (u64::from(first)..).zip(pages) {
        bytes.extend_from_slice(&part_of(page, number, range));
    }
    bytes.freeze()
}
