use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures::future::join_all;
use futures::stream::TryStreamExt;
use millrace_api::id::{StreamletId, WriterId};
use millrace_wal::fault::{Cut, Fault, Rule};
use millrace_wal::{FrameFlags, FrameKind, FrameWriter, ReadRange, SegmentObjectBuilder, ZoneStore};
use tokio::time::timeout;

use super::*;
use crate::cache::test_store::{TestStore, object_id};
use crate::cache::{PAGE_BYTES, PageCacheOptions};

const OURS: StreamId = StreamId(7);
const OTHER: StreamId = StreamId(8);
/// More than a read takes that does not hang, on the paused clock.
const LONG: Duration = Duration::from_secs(3600);
const MIB: usize = 1 << 20;

/// A batch of two records with one timestamp for every six. Its bytes tell whose it is.
fn batch(stream: StreamId, first_seq: SeqNum, body_len: usize) -> Frame {
    let mut buffer = BytesMut::new();
    let mut writer = FrameWriter::begin(&mut buffer, body_len);
    let word = (stream.0 as u64) << 32 | first_seq;
    let words = word.to_le_bytes().repeat(body_len / 8);
    writer.body().extend_from_slice(&words);
    let rest = body_len - writer.body_len();
    writer.body().put_bytes(0, rest);
    writer.finish(FrameHeader {
        kind: FrameKind::Records,
        flags: FrameFlags::NONE,
        stream,
        streamlet: StreamletId(2),
        first_seq,
        record_count: 2,
        metered_bytes: body_len as u64,
        first_timestamp: first_seq / 6,
        last_timestamp: first_seq / 6,
        writer: WriterId(0),
        number: 0,
        body_len: 0,
        body_crc: 0,
    })
}

#[derive(Default)]
struct Source {
    segments: Mutex<BTreeMap<SeqNum, SegmentRef>>,
}

#[async_trait]
impl SegmentSource for Source {
    async fn segments(
        &self,
        stream: StreamId,
        from_seq: SeqNum,
        limit: usize,
    ) -> Result<Vec<SegmentRef>, ReadError> {
        assert_eq!(stream, OURS);
        let segments = self.segments.lock().unwrap();
        let from = segments.values().filter(|segment| segment.end_seq > from_seq);
        // Fewer than asked for, so that it is asked again.
        Ok(from.take(limit.min(3)).cloned().collect())
    }

    async fn seek(
        &self,
        stream: StreamId,
        from_seq: SeqNum,
        timestamp: Timestamp,
    ) -> Result<Option<SeqNum>, ReadError> {
        assert_eq!(stream, OURS);
        let segments = self.segments.lock().unwrap();
        let mut from = segments.values().filter(|segment| segment.end_seq > from_seq);
        let sought = from.find(|segment| segment.last_timestamp >= timestamp);
        Ok(sought.map(|segment| segment.first_seq.max(from_seq)))
    }
}

/// A stream's segments in a store that counts and fails on demand, and one reader of them.
struct Segments {
    store: Arc<TestStore>,
    cache: Arc<PageCache>,
    reader: Arc<SegmentReader>,
    source: Arc<Source>,
    /// All batches of the stream.
    batches: Vec<Frame>,
    objects: u64,
}

impl Segments {
    fn new(read_ahead_bytes: usize) -> Self {
        let store = TestStore::new();
        let cache = PageCache::new(store.clone(), &PageCacheOptions::default());
        Self {
            store,
            reader: Arc::new(SegmentReader::new(cache.clone(), read_ahead_bytes)),
            cache,
            source: Arc::default(),
            batches: Vec::new(),
            objects: 0,
        }
    }

    fn end(&self) -> SeqNum {
        self.batches.len() as SeqNum * 2
    }

    /// Writes an object with a run of another stream of `before` bytes, and the stream's next batches behind it.
    async fn write(&mut self, before: usize, body_lens: impl IntoIterator<Item = usize>) -> SegmentRef {
        let mut builder = SegmentObjectBuilder::new(object_id(self.objects));
        builder.push(&batch(OTHER, 0, before));
        for body_len in body_lens {
            let batch = batch(OURS, self.end(), body_len);
            builder.push(&batch);
            self.batches.push(batch);
        }
        self.objects += 1;
        self.put(builder, 1).await
    }

    /// Puts all batches into one object, and it in the place of all others.
    async fn merge(&self) -> SegmentRef {
        let mut builder = SegmentObjectBuilder::new(object_id(1000));
        self.batches.iter().for_each(|batch| builder.push(batch));
        self.source.segments.lock().unwrap().clear();
        self.put(builder, 0).await
    }

    /// Uploads an object in which the given run is the stream's.
    async fn put(&self, builder: SegmentObjectBuilder, run: usize) -> SegmentRef {
        let object = builder.finish();
        let key = object.id.to_string();
        self.store.upload(&key, &object.payload).await.unwrap();
        let run = object.runs[run];
        let segment = SegmentRef {
            object: object.id,
            object_len: object.payload.len(),
            offset: run.offset,
            frames_len: run.frames_len,
            index_len: run.index_len,
            first_seq: run.first_seq,
            end_seq: run.end_seq,
            first_timestamp: run.first_timestamp,
            last_timestamp: run.last_timestamp,
        };
        let mut segments = self.source.segments.lock().unwrap();
        segments.insert(segment.first_seq, segment.clone());
        segment
    }

    fn range(&self, seek: Seek, floor: SeqNum, end: SeqNum) -> SegmentRange {
        SegmentRange {
            stream: OURS,
            seek,
            floor,
            end,
            source: self.source.clone(),
        }
    }

    fn frames(&self, seek: Seek) -> BoxStream<'static, Result<Vec<Frame>, ReadError>> {
        self.reader.clone().frames(self.range(seek, 0, self.end()))
    }

    async fn read(&self, range: SegmentRange) -> Result<Vec<Frame>, ReadError> {
        let all = timeout(LONG, self.reader.clone().frames(range).try_concat());
        all.await.expect("the read is stuck")
    }

    async fn read_all(&self) -> Result<Vec<Frame>, ReadError> {
        self.read(self.range(Seek::SeqNum(0), 0, self.end())).await
    }

    /// The frames are the stream's records from the first one's on, byte for byte.
    fn assert_right(&self, frames: &[Frame]) {
        let Some(first) = frames.first() else { return };
        let mut next = first.header.first_seq;
        for frame in frames {
            let (header, body) = (&frame.header, frame.body());
            assert_eq!((header.stream, header.first_seq), (OURS, next));
            let batches = &self.batches[next as usize / 2..header.end_seq() as usize / 2];
            let bodies: Vec<Bytes> = batches.iter().map(Frame::body).collect();
            assert!(body == bodies.concat(), "record {next}");
            next = header.end_seq();
        }
    }

    fn assert_all(&self, frames: &[Frame]) {
        self.assert_right(frames);
        let bounds =
            |frames: &[Frame]| Some((frames.first()?.header.first_seq, frames.last()?.header.end_seq()));
        assert_eq!(bounds(frames), Some((0, self.end())));
    }

    fn forgotten(&self) -> u64 {
        self.cache.stats().forgotten.load(Ordering::Relaxed)
    }

    /// Four objects: frames within pages, over their borders, and over more than a page; runs long and short.
    async fn various() -> Self {
        let mut segments = Self::new(16 * MIB);
        segments.write(100, std::iter::repeat_n(1000, 3)).await;
        segments.write(MIB - 300, std::iter::repeat_n(30_000, 200)).await;
        segments.write(5, [10, 5 * MIB / 2, 10, 70_000, 0, 3 * MIB]).await;
        segments.write(3 * MIB - 145, [100]).await;
        segments.write(MIB / 2, std::iter::repeat_n(700, 2000)).await;
        segments
    }
}

#[tokio::test(start_paused = true)]
async fn all_records_come_back_in_order() {
    let segments = Segments::various().await;
    segments.assert_all(&segments.read_all().await.unwrap());
    for object in 0..segments.objects {
        let pages = segments.store.page_requests(object_id(object));
        assert!(pages.values().all(|times| *times == 1), "{pages:?}");
    }
    let before = segments.store.requests();
    segments.assert_all(&segments.read_all().await.unwrap());
    assert_eq!(segments.store.requests(), before, "all pages are kept");
}

#[tokio::test(start_paused = true)]
async fn a_read_begins_with_the_frame_that_holds_the_record() {
    let segments = Segments::various().await;
    for seq_num in (0..segments.end()).step_by(37) {
        let mut frames = segments.frames(Seek::SeqNum(seq_num));
        let first = frames.next().await.unwrap().unwrap();
        segments.assert_right(&first);
        let header = &first[0].header;
        assert!(
            (header.first_seq..header.end_seq()).contains(&seq_num),
            "{seq_num}"
        );
    }
    assert!(
        segments
            .frames(Seek::SeqNum(segments.end()))
            .next()
            .await
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn a_read_by_timestamp_begins_with_the_first_record_that_has_it() {
    let segments = Segments::various().await;
    let last = segments.batches.last().unwrap().header.last_timestamp;
    for timestamp in (0..=last).step_by(7) {
        let wanted = |batch: &&Frame| batch.header.last_timestamp >= timestamp;
        let sought = segments.batches.iter().find(wanted).unwrap().header.first_seq;
        let mut frames = segments.frames(Seek::Timestamp(timestamp));
        let first = frames.next().await.unwrap().unwrap();
        let header = &first[0].header;
        assert!(
            (header.first_seq..header.end_seq()).contains(&sought),
            "{timestamp}"
        );
    }
    assert!(segments.frames(Seek::Timestamp(last + 1)).next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn records_below_the_floor_and_from_the_end_on_do_not_come() {
    let segments = Segments::various().await;
    for (floor, end) in [(100, 200), (0, 1), (301, 302), (5, segments.end() - 3)] {
        for seek in [Seek::SeqNum(0), Seek::Timestamp(0)] {
            let frames = segments.read(segments.range(seek, floor, end)).await.unwrap();
            segments.assert_right(&frames);
            let (first, last) = (&frames[0].header, &frames[frames.len() - 1].header);
            assert!((first.first_seq..first.end_seq()).contains(&floor));
            assert!((last.first_seq..last.end_seq()).contains(&(end - 1)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_run_is_begun_by_its_index() {
    let mut segments = Segments::new(16 * MIB);
    let segment = segments.write(100, std::iter::repeat_n(60_000, 500)).await;
    let mut frames = segments.frames(Seek::SeqNum(600));
    frames.next().await.unwrap().unwrap();
    drop(frames);
    let asked = segments.store.page_requests(segment.object);
    let index = segment.index_offset() / PAGE_BYTES;
    assert!(asked.contains_key(&index), "{asked:?}");
    assert!(asked.len() <= 4, "the index and the frame: {asked:?}");
    assert!(!asked.contains_key(&0));
}

#[tokio::test(start_paused = true)]
async fn a_read_of_few_records_does_not_fetch_far_ahead() {
    let mut segments = Segments::new(16 * MIB);
    segments.write(100, std::iter::repeat_n(60_000, 500)).await;
    let mut frames = segments.frames(Seek::SeqNum(0));
    frames.next().await.unwrap().unwrap();
    assert_eq!(segments.store.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn frames_within_a_page_share_its_memory() {
    let mut segments = Segments::new(16 * MIB);
    let segment = segments.write(100, std::iter::repeat_n(60_000, 50)).await;
    let frames = segments.read_all().await.unwrap();
    let pages = segments.cache.pages(segment.object, segment.object_len, 0..3);
    let pages = pages.await.unwrap();
    let shared = |frame: &&Frame| {
        let inside = |page: &Bytes| page.as_ptr_range().contains(&frame.bytes.as_ptr());
        pages.iter().any(inside)
    };
    let copied = frames.len() - frames.iter().filter(shared).count();
    assert_eq!(copied, 2, "those over the two borders of pages");
}

/// Whatever bit of an object is wrong, what is served is right.
#[tokio::test(start_paused = true)]
async fn a_flipped_bit_is_found_and_never_served() {
    let mut segments = Segments::new(16 * MIB);
    let segment = segments.write(10, [30, 70_000, 30]).await;
    let key = segment.object.to_string();
    let whole = segments.store.memory.get(&key, ReadRange::Full);
    let whole = whole.await.unwrap().unwrap();
    let run = segment.offset as usize..segment.index_offset() as usize;
    let inside_the_large_body = run.start + 400..run.end - 200;
    for at in (0..whole.len()).filter(|at| !inside_the_large_body.contains(at) || at % 5003 == 0) {
        segments.store.flip(segment.object, at).await;
        // Another node, with nothing in its cache.
        let cache = PageCache::new(segments.store.clone(), &PageCacheOptions::default());
        segments.reader = Arc::new(SegmentReader::new(cache, MIB));
        let outcome = segments.read_all().await;
        if run.contains(&at) {
            let error = outcome.unwrap_err();
            assert!(
                matches!(&error, ReadError::Corrupt { object, offset, .. }
                    if *object == segment.object && *offset <= at as u64),
                "{at}: {error:?}"
            );
        } else {
            segments.assert_all(&outcome.unwrap());
        }
        segments.store.memory.overwrite(&key, whole.clone());
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_page_is_fetched_twice_more_and_then_reported() {
    let mut segments = Segments::new(16 * MIB);
    segments.write(100, [1000]).await;
    let segment = segments.write(MIB - 250, [1000]).await;
    segments.store.flip(segment.object, MIB + 500).await;
    let mut frames = segments.frames(Seek::SeqNum(0));
    segments.assert_right(&frames.next().await.unwrap().unwrap());
    let error = loop {
        match frames.next().await.expect("the bad frame is not passed over") {
            Ok(frames) => segments.assert_right(&frames),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, ReadError::Corrupt { offset, .. } if offset == segment.offset),
        "{error:?}"
    );
    assert!(frames.next().await.is_none(), "nothing follows an error");
    let pages = segments.store.page_requests(segment.object);
    assert_eq!(pages, [(0, 3), (1, 3)].into(), "both pages that hold the frame");
}

/// The copy in memory is bad, the one in the store is good.
#[tokio::test(start_paused = true)]
async fn readers_of_a_bad_page_fetch_it_again_once_and_all_go_on() {
    let mut segments = Segments::new(16 * MIB);
    let segment = segments.write(100, std::iter::repeat_n(60_000, 100)).await;
    let key = segment.object.to_string();
    let whole = segments
        .store
        .memory
        .get(&key, ReadRange::Full)
        .await
        .unwrap()
        .unwrap();
    for at in [MIB + 300_000, MIB + 500_000, 2 * MIB + 300_000] {
        segments.store.flip(segment.object, at).await;
    }
    segments
        .cache
        .pages(segment.object, segment.object_len, 0..5)
        .await
        .unwrap();
    segments.store.memory.overwrite(&key, whole);
    let readers = (0..100).map(|_| segments.read_all());
    for frames in join_all(readers).await {
        segments.assert_all(&frames.unwrap());
    }
    let pages = segments.store.page_requests(segment.object);
    assert_eq!(pages, [(0, 1), (1, 2), (2, 2), (3, 1), (4, 1), (5, 1)].into());
}

#[tokio::test(start_paused = true)]
async fn damage_on_the_way_is_repaired_by_reading_again() {
    let segments = Segments::various().await;
    let damage = Rule::new(Fault::Damage).chance(0.3).times(8);
    segments.store.faults.add(damage);
    segments.assert_all(&segments.read_all().await.unwrap());
    assert!(
        segments.forgotten() > 0,
        "some of the damage was in frames of the stream"
    );
}

#[tokio::test(start_paused = true)]
async fn a_bad_index_is_fetched_again_and_then_reported() {
    let mut segments = Segments::new(16 * MIB);
    let segment = segments.write(100, std::iter::repeat_n(60_000, 50)).await;
    let index = segment.index_offset();
    segments.store.flip(segment.object, index as usize + 30).await;
    let error = segments
        .frames(Seek::SeqNum(80))
        .next()
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(error, ReadError::Corrupt { offset, .. } if offset == index),
        "{error:?}"
    );
    let pages = segments.store.page_requests(segment.object);
    assert_eq!(pages[&(index / PAGE_BYTES)], 3);
    segments.store.flip(segment.object, index as usize + 30).await;
    let first = segments.frames(Seek::SeqNum(80)).next().await.unwrap().unwrap();
    segments.assert_right(&first);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_ends_the_read_behind_what_comes_before_it() {
    let mut segments = Segments::new(16 * MIB);
    segments.write(100, [1000, 1000]).await;
    let gone = segments.write(100, [1000]).await.object;
    segments.write(100, [1000]).await;
    segments.store.delete(&gone.to_string()).await.unwrap();
    let mut frames = segments.frames(Seek::SeqNum(0));
    let first = frames.next().await.unwrap().unwrap();
    assert_eq!(first.last().unwrap().header.end_seq(), 4);
    let error = frames.next().await.unwrap().unwrap_err();
    assert!(
        matches!(error, ReadError::Gone(object) if object == gone),
        "{error:?}"
    );
    assert!(frames.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_hole_between_segments_is_never_passed_over() {
    let mut segments = Segments::new(16 * MIB);
    for _ in 0..3 {
        segments.write(100, [1000]).await;
    }
    segments.source.segments.lock().unwrap().remove(&2);
    let error = segments.read_all().await.unwrap_err();
    assert!(matches!(error, ReadError::Missing(2)), "{error:?}");
    segments.source.segments.lock().unwrap().clear();
    let error = segments.read_all().await.unwrap_err();
    assert!(matches!(error, ReadError::Missing(0)), "{error:?}");
}

/// Segments become one while a reader is between them: a long run, which is begun by its index, and a short one.
#[tokio::test(start_paused = true)]
async fn segments_that_are_merged_meanwhile_leave_no_record_out_and_repeat_no_frame() {
    for (len, indexed) in [(200_000, true), (40_000, false)] {
        let mut segments = Segments::new(0);
        for count in [2, 1, 1, 1, 1] {
            segments.write(100, vec![len; count]).await;
        }
        let mut frames = segments.frames(Seek::SeqNum(0));
        let mut all = frames.next().await.unwrap().unwrap();
        // The reader knows the first three. All of them, and what follows, are now in one object.
        let merged = segments.merge().await;
        while let Some(more) = frames.next().await {
            all.extend(more.unwrap());
        }
        segments.assert_all(&all);
        let pages = segments.store.page_requests(merged.object);
        assert!(!pages.is_empty(), "it was read");
        assert_eq!(indexed, merged.frames_len > 256 << 10);
    }
}

#[tokio::test(start_paused = true)]
async fn what_metadata_cannot_mean_is_an_error() {
    let mut segments = Segments::new(16 * MIB);
    let good = segments.write(100, std::iter::repeat_n(30_000, 20)).await;
    let wrong = [
        SegmentRef {
            offset: u64::MAX,
            ..good.clone()
        },
        SegmentRef {
            frames_len: u64::MAX,
            ..good.clone()
        },
        SegmentRef {
            frames_len: 0,
            ..good.clone()
        },
        SegmentRef {
            frames_len: good.frames_len - 50,
            ..good.clone()
        },
        SegmentRef {
            frames_len: good.frames_len + 20,
            ..good.clone()
        },
        SegmentRef {
            offset: good.offset + 1,
            ..good.clone()
        },
        SegmentRef {
            offset: 40,
            ..good.clone()
        },
        SegmentRef {
            frames_len: good.frames_len + 20,
            end_seq: good.end_seq + 2,
            ..good.clone()
        },
        SegmentRef {
            end_seq: good.end_seq + 2,
            ..good.clone()
        },
        SegmentRef {
            object_len: u64::MAX,
            ..good.clone()
        },
        SegmentRef {
            object_len: good.object_len + 2 * PAGE_BYTES,
            ..good.clone()
        },
    ];
    for wrong in wrong {
        segments.source.segments.lock().unwrap().insert(0, wrong.clone());
        for seek in [Seek::SeqNum(0), Seek::SeqNum(20)] {
            let frames = segments.read(segments.range(seek, 0, good.end_seq + 2)).await;
            assert!(
                matches!(frames, Err(ReadError::Corrupt { .. })),
                "{wrong:?}: {frames:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_is_an_error_in_bounded_time() {
    let mut segments = Segments::new(16 * MIB);
    segments.write(100, [1000]).await;
    for cut in [Cut::Refusing, Cut::Silent] {
        segments.store.faults.cut(cut);
        let began = tokio::time::Instant::now();
        let error = segments.read_all().await.unwrap_err();
        assert!(
            matches!(&error, ReadError::Store(error) if error.retryable()),
            "{error:?}"
        );
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
    segments.store.faults.heal();
    segments.assert_all(&segments.read_all().await.unwrap());
}

/// Two pages that are due and up to 32 ahead, two in each request; over the borders of objects too.
#[tokio::test(start_paused = true)]
async fn a_reader_that_has_to_wait_keeps_more_and_more_requests_going() {
    for long in [true, false] {
        let mut segments = Segments::new(64 * MIB);
        if long {
            segments.write(100, std::iter::repeat_n(60_000, 2000)).await;
        } else {
            for _ in 0..80 {
                segments.write(100, [MIB + MIB / 2]).await;
            }
        }
        let fifty = Duration::from_millis(50);
        let delay = Fault::Delay {
            least: fifty,
            most: fifty,
        };
        segments.store.faults.add(Rule::new(delay));
        segments.assert_all(&segments.read_all().await.unwrap());
        assert_eq!(segments.store.most_at_once(), 17);
    }
}

#[tokio::test(start_paused = true)]
async fn without_room_on_the_node_a_reader_fetches_only_what_is_due() {
    let mut segments = Segments::new(0);
    segments.write(100, std::iter::repeat_n(60_000, 200)).await;
    segments.assert_all(&segments.read_all().await.unwrap());
    assert_eq!(segments.store.most_at_once(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_readers_fetched_ahead_is_given_back() {
    let room = 5 * MIB;
    let mut segments = Segments::new(room);
    segments.write(100, std::iter::repeat_n(60_000, 400)).await;
    let millisecond = Duration::from_millis(1);
    let (least, most) = (millisecond, millisecond);
    segments.store.faults.add(Rule::new(Fault::Delay { least, most }));
    let ahead = segments.reader.ahead.clone();
    let mut dropped = segments.frames(Seek::SeqNum(0));
    for _ in 0..3 {
        dropped.next().await.unwrap().unwrap();
    }
    assert!(ahead.available_permits() < room, "it reads ahead");
    // Another reader goes on while the first one stands still.
    segments.assert_all(&segments.read_all().await.unwrap());
    drop(dropped);
    assert_eq!(ahead.available_permits(), room);
}

/// Whatever the point at which the first reader is left alone.
#[tokio::test(start_paused = true)]
async fn a_stalled_reader_does_not_hold_up_another() {
    let mut segments = Segments::new(0);
    for _ in 0..4 {
        segments.write(100, [MIB, 200_000, MIB]).await;
    }
    for polls in 0..60 {
        // Another node, with nothing in its cache.
        let cache = PageCache::new(segments.store.clone(), &PageCacheOptions::default());
        segments.reader = Arc::new(SegmentReader::new(cache, 3 * MIB));
        let mut stalled = segments.frames(Seek::SeqNum(0));
        let mut came = Vec::new();
        for _ in 0..polls {
            match futures::poll!(stalled.next()) {
                std::task::Poll::Ready(Some(frames)) => came.extend(frames.unwrap()),
                std::task::Poll::Ready(None) => break,
                std::task::Poll::Pending => tokio::task::yield_now().await,
            }
        }
        segments.assert_all(&segments.read_all().await.unwrap());
        let rest = timeout(LONG, stalled.try_concat()).await;
        came.extend(rest.expect("the first one can go on").unwrap());
        segments.assert_all(&came);
    }
}
