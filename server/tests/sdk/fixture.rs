//! A node that these tests share, and short ways to say what they append and read.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use s2_sdk::error::{AppendError, ReadError, RequestError, ServerError};
use s2_sdk::types::{
    AppendAck, AppendInput, AppendRecord, AppendRecordBatch, BasinConfig, BasinName, CreateBasinInput,
    CreateStreamInput, ReadFrom, ReadInput, ReadLimits, ReadStart, ReadStop, RetryConfig, S2Config,
    S2Endpoints, SequencedRecord, StreamName,
};
use s2_sdk::{S2, S2Basin, S2Stream};

use crate::node::TestNode;

/// Longer than anything here takes unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

static SHARED: LazyLock<TestNode> = LazyLock::new(|| TestNode::shared(|_| {}));

/// A client of the shared node.
pub fn client() -> S2 {
    client_of(SHARED.addr)
}

/// Tries everything once, so that an error is the node's answer and not what became of a retry.
pub fn client_of(addr: SocketAddr) -> S2 {
    S2::new(config(addr)).expect("a client")
}

pub fn config_of_shared() -> S2Config {
    config(SHARED.addr)
}

pub fn config(addr: SocketAddr) -> S2Config {
    S2Config::new("ignored")
        .with_endpoints(S2Endpoints::for_endpoint(&format!("http://{addr}")).expect("an endpoint"))
        .with_request_timeout(PATIENCE)
        .with_retry(RetryConfig::new().with_max_attempts(NonZeroU32::MIN))
}

fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A name that no other test uses.
pub fn basin_name() -> BasinName {
    format!("basin-{:08}", number()).parse().expect("a name")
}

/// A name that no other test uses.
pub fn stream_name() -> StreamName {
    format!("stream/{:08}", number()).parse().expect("a name")
}

/// A basin of the test's own.
pub async fn basin(config: BasinConfig) -> S2Basin {
    basin_on(&client(), config).await
}

pub async fn basin_on(s2: &S2, config: BasinConfig) -> S2Basin {
    let name = basin_name();
    let input = CreateBasinInput::new(name.clone()).with_config(config);
    s2.create_basin(input).await.expect("a basin");
    s2.basin(name)
}

/// An empty stream of the test's own.
pub async fn stream() -> S2Stream {
    stream_in(&basin(BasinConfig::new()).await).await
}

pub async fn stream_in(basin: &S2Basin) -> S2Stream {
    let name = stream_name();
    let created = basin.create_stream(CreateStreamInput::new(name.clone())).await;
    assert_eq!(created.expect("a stream").name, name);
    basin.stream(name)
}

pub fn record(body: impl Into<String>) -> AppendRecord {
    AppendRecord::new(body.into()).expect("small enough")
}

pub fn batch<R: Into<AppendRecord>>(records: impl IntoIterator<Item = R>) -> AppendInput {
    AppendInput::new(AppendRecordBatch::try_from_iter(records.into_iter().map(Into::into)).expect("a batch"))
}

/// One record per body.
pub fn input(bodies: &[&str]) -> AppendInput {
    batch(bodies.iter().map(|body| record(*body)))
}

pub async fn append(stream: &S2Stream, bodies: &[&str]) -> AppendAck {
    stream.append(input(bodies)).await.expect("an acknowledgement")
}

pub fn from(start: ReadFrom) -> ReadInput {
    ReadInput::new().with_start(ReadStart::new().with_from(start))
}

pub fn from_seq(seq_num: u64) -> ReadInput {
    from(ReadFrom::SeqNum(seq_num))
}

pub fn count(count: usize) -> ReadStop {
    ReadStop::new().with_limits(ReadLimits::new().with_count(count))
}

pub fn bodies(records: &[SequencedRecord]) -> Vec<String> {
    let text = |record: &SequencedRecord| String::from_utf8_lossy(&record.body).into_owned();
    records.iter().map(text).collect()
}

pub async fn read(stream: &S2Stream, input: ReadInput) -> Vec<String> {
    bodies(&stream.read(input).await.expect("a batch").records)
}

/// Fails the test when the work hangs.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("done in time")
}

/// Errors of every kind that carry what the node said.
pub trait Refused {
    fn server(&self) -> Option<&ServerError>;

    /// Status and code of the node's refusal.
    #[track_caller]
    fn refusal(&self) -> (u16, &str)
    where
        Self: std::fmt::Debug,
    {
        let error = self
            .server()
            .unwrap_or_else(|| panic!("not a refusal of the node: {self:?}"));
        assert!(error.known_code().is_some(), "{error:?}");
        (error.status.as_u16(), &error.code)
    }
}

impl Refused for RequestError {
    fn server(&self) -> Option<&ServerError> {
        self.server_error()
    }
}

impl Refused for ReadError {
    fn server(&self) -> Option<&ServerError> {
        self.request_error().and_then(RequestError::server_error)
    }
}

impl Refused for AppendError {
    fn server(&self) -> Option<&ServerError> {
        self.request_error().and_then(RequestError::server_error)
    }
}
