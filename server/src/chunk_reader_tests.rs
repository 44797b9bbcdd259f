use std::sync::Mutex;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use millrace_api::id::{ChannelId, ChunkSeq, Epoch, Nonce, WriterId, ZoneGen};
use millrace_wal::fault::{Cut, Fault, FaultStore, Faults, Op, Rule};
use millrace_wal::{
    ChunkBuilder, ChunkKind, ChunkMeta, CreateOutcome, FrameFlags, FrameKind, FrameWriter, MemoryStore,
    Payload, ReadRange, StoreError, WalOptions, Zone, ZoneStore,
};
use tokio::time::{Instant, timeout};

use super::*;

const CHANNEL: ChannelId = ChannelId(1);
const EPOCH: Epoch = Epoch(4);
const OURS: StreamId = StreamId(7);
const OTHER: StreamId = StreamId(8);
const STREAMLET: StreamletId = StreamletId(2);
/// More than a read takes that does not hang, on the paused clock.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Remembers what was asked of the store below.
#[derive(Debug)]
struct Counted<S> {
    inner: S,
    gets: Mutex<Vec<ReadRange>>,
}

#[async_trait]
impl<S: ZoneStore> ZoneStore for Counted<S> {
    async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        self.inner.create(key, payload).await
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        self.gets.lock().unwrap().push(range.clone());
        self.inner.get(key, range).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
}

/// A channel's chunks in a store that counts and fails on demand, and one reader of them.
struct Chunks {
    store: Arc<Counted<FaultStore<MemoryStore>>>,
    faults: Faults,
    reader: Arc<ChunkReader>,
    written: u64,
}

impl Chunks {
    fn new(read_ahead_bytes: usize) -> Self {
        let faults = Faults::new(1);
        let store = Arc::new(Counted {
            inner: FaultStore::new(Arc::new(MemoryStore::new()), faults.clone()),
            gets: Mutex::default(),
        });
        let zone = Zone::new(store.clone(), ZoneGen(1));
        let wal = Wal::new(vec![zone], 1, WalOptions::default()).unwrap();
        Self {
            store,
            faults,
            reader: Arc::new(ChunkReader::new(Wals::only(wal), 1 << 20, read_ahead_bytes)),
            written: 0,
        }
    }

    fn id(slot: u64) -> ChunkId {
        ChunkId::new(CHANNEL, EPOCH, ChunkSeq(slot))
    }

    /// Writes the frames as the next chunk.
    async fn write(&mut self, frames: impl IntoIterator<Item = Frame>) {
        let mut builder = ChunkBuilder::new();
        for frame in frames {
            builder.push(frame);
        }
        let id = Self::id(self.written);
        self.written += 1;
        let chunk = builder.finish(ChunkMeta {
            id,
            kind: ChunkKind::Chunk,
            nonce: Nonce(1),
        });
        let created = self.store.create(&id.key(), &chunk.payload).await.unwrap();
        assert_eq!(created, CreateOutcome::Created);
    }

    /// All records of [`OURS`] from the first chunk on.
    fn range(&self, end: SeqNum) -> ChunkRange {
        let mut log = ChunkLog::new(CHANNEL, [], EPOCH);
        log.advance(ChunkSeq(self.written));
        ChunkRange {
            stream: OURS,
            streamlet: STREAMLET,
            start: LogPosition {
                epoch: EPOCH,
                slot: ChunkSeq(0),
            },
            seek: Seek::SeqNum(0),
            floor: 0,
            end,
            log: Arc::new(log),
        }
    }

    fn frames(&self, end: SeqNum) -> BoxStream<'static, Result<Vec<Frame>, ReadError>> {
        self.reader.clone().frames(self.range(end))
    }

    /// Whose frames come, and the first sequence number of each.
    async fn read(&self, end: SeqNum) -> Result<Vec<(StreamId, SeqNum)>, ReadError> {
        let all = timeout(PATIENCE, self.frames(end).try_concat());
        let frames = all.await.expect("the read is stuck")?;
        Ok(frames
            .iter()
            .map(|frame| (frame.header.stream, frame.header.first_seq))
            .collect())
    }

    /// Requests so far: for footers, and for frames.
    fn requests(&self) -> (usize, usize) {
        let gets = self.store.gets.lock().unwrap();
        let footers = gets.iter().filter(|range| matches!(range, ReadRange::Suffix(_)));
        let footers = footers.count();
        (footers, gets.len() - footers)
    }
}

fn frame(stream: StreamId, first_seq: SeqNum, body_len: usize) -> Frame {
    let mut buffer = BytesMut::new();
    let mut writer = FrameWriter::begin(&mut buffer, body_len);
    writer.body().put_bytes(b'x', body_len);
    writer.finish(FrameHeader {
        kind: FrameKind::Records,
        flags: FrameFlags::NONE,
        stream,
        streamlet: STREAMLET,
        first_seq,
        record_count: 1,
        metered_bytes: body_len as u64,
        first_timestamp: first_seq,
        last_timestamp: first_seq,
        writer: WriterId(0),
        number: 0,
        body_len: 0,
        body_crc: 0,
    })
}

fn ours(seq_nums: std::ops::Range<SeqNum>) -> Vec<(StreamId, SeqNum)> {
    seq_nums.map(|seq_num| (OURS, seq_num)).collect()
}

#[tokio::test(start_paused = true)]
async fn chunks_behind_the_last_record_are_not_looked_at() {
    let mut chunks = Chunks::new(1 << 20);
    chunks.write([frame(OURS, 0, 10)]).await;
    for seq_num in 0..200 {
        chunks.write([frame(OTHER, seq_num, 10)]).await;
    }
    assert_eq!(chunks.read(1).await.unwrap(), ours(0..1));
    assert_eq!(chunks.requests(), (1, 1), "one footer, one frame");
    chunks.read(1).await.unwrap();
    assert_eq!(chunks.requests(), (1, 2), "the footer is kept");
}

#[tokio::test(start_paused = true)]
async fn interleaved_streams_are_fetched_over_the_gaps_and_only_the_wanted_one_comes() {
    let mut chunks = Chunks::new(1 << 20);
    let interleaved = (0..40).flat_map(|n| [frame(OTHER, n, 100), frame(OURS, n, 100)]);
    chunks.write(interleaved).await;
    assert_eq!(chunks.read(40).await.unwrap(), ours(0..40));
    assert_eq!(chunks.requests(), (1, 1), "forty frames, one request");
}

#[tokio::test(start_paused = true)]
async fn wide_gaps_are_not_fetched_and_pieces_stay_small() {
    let mut chunks = Chunks::new(1 << 20);
    let gap = GAP_BYTES as usize + 1;
    chunks
        .write([frame(OURS, 0, 100), frame(OTHER, 0, gap), frame(OURS, 1, 100)])
        .await;
    let quarter = PIECE_BYTES as usize / 4;
    chunks.write((2..10).map(|n| frame(OURS, n, quarter))).await;
    assert_eq!(chunks.read(10).await.unwrap(), ours(0..10));
    let gets = chunks.store.gets.lock().unwrap();
    let fetched = gets.iter().filter_map(|range| match range {
        ReadRange::Range(range) => Some(range.end - range.start),
        _ => None,
    });
    let fetched: Vec<u64> = fetched.collect();
    assert_eq!(
        fetched.len(),
        5,
        "two around the gap, and three frames at a time: {fetched:?}"
    );
    assert!(fetched.iter().all(|bytes| *bytes <= PIECE_BYTES), "{fetched:?}");
}

/// Whatever the point at which the first reader is left alone.
#[tokio::test(start_paused = true)]
async fn a_stalled_reader_does_not_hold_up_another() {
    for polls in 0..60 {
        let mut chunks = Chunks::new(1500);
        for n in 0..8 {
            chunks.write([frame(OURS, n, 1000), frame(OTHER, n, 10)]).await;
        }
        let mut stalled = chunks.frames(8);
        let mut came = 0;
        for _ in 0..polls {
            match futures::poll!(stalled.next()) {
                std::task::Poll::Ready(Some(frames)) => came += frames.unwrap().len() as u64,
                std::task::Poll::Ready(None) => break,
                std::task::Poll::Pending => tokio::task::yield_now().await,
            }
        }
        let second = chunks.read(8).await;
        assert_eq!(second.unwrap(), ours(0..8), "after {polls} polls");
        let rest = timeout(PATIENCE, stalled.try_concat()).await;
        let rest = rest.expect("the first one can go on").unwrap();
        assert_eq!(came + rest.len() as u64, 8, "after {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn what_readers_fetched_ahead_is_given_back() {
    let mut chunks = Chunks::new(4000);
    for n in 0..8 {
        chunks.write([frame(OURS, n, 1000)]).await;
    }
    // While a piece is on its way, those behind it are looked for.
    let (least, most) = (Duration::from_millis(10), Duration::from_millis(20));
    chunks
        .faults
        .add(Rule::new(Fault::Delay { least, most }).op(Op::Get));
    chunks.read(8).await.unwrap();
    for _ in 0..3 {
        let mut dropped = chunks.frames(8);
        dropped.next().await.unwrap().unwrap();
        assert!(chunks.reader.ahead.available_permits() < 4000, "it reads ahead");
        drop(dropped);
        assert_eq!(chunks.reader.ahead.available_permits(), 4000);
        assert_eq!(chunks.read(8).await.unwrap(), ours(0..8));
        assert_eq!(chunks.reader.ahead.available_permits(), 4000);
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_once_is_made_again() {
    // The footer's read, then that of the frames.
    for before in [0, 1] {
        let mut chunks = Chunks::new(1 << 20);
        chunks.write([frame(OURS, 0, 10)]).await;
        let once = Rule::new(Fault::FailBefore).op(Op::Get).skip(before).times(1);
        chunks.faults.add(once);
        assert_eq!(chunks.read(1).await.unwrap(), ours(0..1));
        let (footers, frames) = chunks.requests();
        assert_eq!(footers + frames, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_is_an_error_in_bounded_time() {
    let mut chunks = Chunks::new(1 << 20);
    chunks.write([frame(OURS, 0, 10)]).await;
    for cut in [Cut::Refusing, Cut::Silent] {
        chunks.faults.cut(cut);
        let began = Instant::now();
        let error = chunks.read(1).await.unwrap_err();
        assert!(
            matches!(&error, ReadError::Wal(error) if error.retryable()),
            "{error:?}"
        );
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }
    chunks.faults.heal();
    assert_eq!(chunks.read(1).await.unwrap(), ours(0..1));
}

#[tokio::test(start_paused = true)]
async fn a_missing_chunk_is_an_error_and_nothing_follows() {
    let mut chunks = Chunks::new(1 << 20);
    for n in 0..3 {
        chunks.write([frame(OURS, n, 10)]).await;
    }
    chunks.store.delete(&Chunks::id(1).key()).await.unwrap();
    let error = chunks.read(3).await.unwrap_err();
    assert!(
        matches!(error, ReadError::Missing(id) if id == Chunks::id(1)),
        "{error:?}"
    );
    let mut session = chunks.frames(3);
    let mut came = 0;
    let error = loop {
        match session.next().await.expect("the hole is not passed over") {
            Ok(frames) => came += frames.len(),
            Err(error) => break error,
        }
    };
    assert!(
        came <= 1 && matches!(error, ReadError::Missing(_)),
        "{came} frames, {error:?}"
    );
    assert!(session.next().await.is_none(), "nothing follows an error");
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_goes_away_behind_its_footer_is_an_error() {
    let mut chunks = Chunks::new(1 << 20);
    chunks.write([frame(OURS, 0, 10)]).await;
    chunks.read(1).await.unwrap();
    chunks.store.delete(&Chunks::id(0).key()).await.unwrap();
    let error = chunks.read(1).await.unwrap_err();
    assert!(
        matches!(&error, ReadError::Wal(millrace_wal::ReadError::Gone(id)) if *id == Chunks::id(0)),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_frames_come_while_footers_ahead_are_slow() {
    let mut chunks = Chunks::new(1 << 20);
    for n in 0..4 {
        chunks.write([frame(OURS, n, 10)]).await;
    }
    let slow = Chunks::id(1).key();
    let _gate = chunks.faults.stall(
        Rule::new(Fault::None).op(Op::Get).key(move |key| key == slow),
        false,
    );
    let mut session = chunks.frames(4);
    let first = timeout(Duration::from_secs(1), session.next()).await;
    let first = first.expect("chunk 0 answers at once").unwrap().unwrap();
    assert_eq!(first[0].header.first_seq, 0);
}

#[tokio::test(start_paused = true)]
async fn frames_in_front_of_a_missing_chunk_are_delivered() {
    let mut chunks = Chunks::new(1 << 20);
    for n in 0..3 {
        chunks.write([frame(OURS, n, 10)]).await;
    }
    chunks.store.delete(&Chunks::id(1).key()).await.unwrap();
    let first = chunks.frames(3).next().await.unwrap();
    assert_eq!(first.expect("chunk 0 is there")[0].header.first_seq, 0);
}
