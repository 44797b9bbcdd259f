use crate::cache::PageCache;
use crate::channel::message::Seek;
use futures::stream::{self, BoxStream, StreamExt};
use millrace_api::id::StreamId;
use millrace_api::position::{SeqNum, Timestamp};
use millrace_api::segment::SegmentObjectId;
use millrace_wal::{Frame, ReadRange};
use std::sync::Arc;
pub struct SegmentReader {
    cache: Arc<PageCache>,
}
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("gone {0}")]
    Gone(SegmentObjectId),
    #[error("{0}")]
    Failed(String),
}
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);
#[async_trait::async_trait]
pub trait SegmentSource: Send + Sync {
    async fn segments(
        &self,
        stream: StreamId,
        from_seq: SeqNum,
        limit: usize,
    ) -> Result<Vec<SegmentRef>, SourceError>;
}
#[derive(Debug, Clone)]
pub struct SegmentRef {
    pub object: SegmentObjectId,
    pub object_len: u64,
    pub offset: u64,
    pub frames_len: u64,
    pub index_len: u32,
    pub first_seq: SeqNum,
    pub end_seq: SeqNum,
    pub first_timestamp: Timestamp,
    pub last_timestamp: Timestamp,
}
pub struct SegmentRange {
    pub stream: StreamId,
    pub seek: Seek,
    pub floor: SeqNum,
    pub end: SeqNum,
    pub source: Arc<dyn SegmentSource>,
}
impl SegmentReader {
    pub fn new(cache: Arc<PageCache>, _ahead: usize) -> Self {
        Self { cache }
    }
    pub fn frames(self: Arc<Self>, range: SegmentRange) -> BoxStream<'static, Result<Vec<Frame>, ReadError>> {
        let from = match range.seek {
            Seek::SeqNum(s) => s.max(range.floor),
            Seek::Timestamp(_) => range.floor,
        };
        stream::try_unfold((self, range, from), |(me, range, from)| async move {
            if from >= range.end {
                return Ok(None);
            }
            let segs = range
                .source
                .segments(range.stream, from, 1)
                .await
                .map_err(|e| ReadError::Failed(e.to_string()))?;
            let Some(seg) = segs.first().cloned() else {
                return Ok(None);
            };
            if seg.first_seq >= range.end {
                return Ok(None);
            }
            let bytes = me
                .cache
                .store
                .get(
                    &seg.object.to_string(),
                    ReadRange::Range(seg.offset..seg.offset + seg.frames_len),
                )
                .await
                .map_err(|e| ReadError::Failed(e.to_string()))?;
            let Some(mut bytes) = bytes else {
                return Err(ReadError::Gone(seg.object));
            };
            let mut frames = vec![];
            while !bytes.is_empty() {
                let f = Frame::decode(&bytes).map_err(|e| ReadError::Failed(e.to_string()))?;
                bytes = bytes.slice(f.bytes.len()..);
                let sought = match range.seek {
                    Seek::SeqNum(s) => f.header.end_seq() > s,
                    Seek::Timestamp(t) => f.header.last_timestamp >= t,
                };
                if sought && f.header.end_seq() > range.floor {
                    frames.push(f);
                }
            }
            Ok(Some((frames, (me, range, seg.end_seq))))
        })
        .boxed()
    }
}
