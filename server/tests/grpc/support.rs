//! A node that tests share, and generated clients of it.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millrace_api::grpc::append_session_request::Message as SessionRequest;
use millrace_api::grpc::append_session_response::Message as SessionReply;
use millrace_api::grpc::error_detail::Reason;
use millrace_api::grpc::*;
use millrace_api::proto;
use prost::Message;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};

use self::clients::account_service_client::AccountServiceClient;
use self::clients::basin_service_client::BasinServiceClient;
use self::clients::stream_service_client::StreamServiceClient;
pub use crate::node::TestNode;

#[allow(clippy::all)]
mod clients {
    include!(concat!(env!("OUT_DIR"), "/clients/millrace.v1.rs"));
}

/// Longer than anything here takes unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

static SHARED: LazyLock<TestNode> = LazyLock::new(|| TestNode::start(|_| {}));

pub fn shared_addr() -> SocketAddr {
    SHARED.addr
}

/// A name that no other test uses.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{prefix}-{:08}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Speaks to one basin of one node.
#[derive(Clone)]
pub struct Api {
    pub addr: SocketAddr,
    pub channel: Channel,
    pub basin: String,
    pub account: AccountServiceClient<Channel>,
    pub streams: BasinServiceClient<Channel>,
    pub records: StreamServiceClient<Channel>,
}

impl Api {
    /// To a basin of its own that exists.
    pub async fn new() -> Self {
        Self::on(shared_addr()).await
    }

    pub async fn on(addr: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
        Self::over(addr, endpoint.connect().await.expect("a connection")).await
    }

    pub async fn over(addr: SocketAddr, channel: Channel) -> Self {
        let mut api = Self {
            addr,
            basin: unique("basin"),
            account: AccountServiceClient::new(channel.clone()),
            streams: BasinServiceClient::new(channel.clone()),
            records: StreamServiceClient::new(channel.clone()),
            channel,
        };
        let create = CreateBasinRequest {
            basin: api.basin.clone(),
            ..Default::default()
        };
        api.account.create_basin(create).await.expect("a basin");
        api
    }

    /// A stream that exists.
    pub async fn stream(&mut self) -> String {
        let stream = unique("stream");
        let create = CreateStreamRequest {
            basin: self.basin.clone(),
            stream: stream.clone(),
            ..Default::default()
        };
        self.streams.create_stream(create).await.expect("a stream");
        stream
    }

    pub async fn append(
        &mut self,
        stream: &str,
        input: &proto::AppendInput,
    ) -> Result<proto::AppendAck, Status> {
        let request = AppendRequest {
            basin: self.basin.clone(),
            stream: stream.to_owned(),
            input: input.encode_to_vec().into(),
        };
        let reply = self.records.append(request).await?;
        Ok(reply.into_inner().ack.expect("an acknowledgement"))
    }

    pub async fn read(&mut self, request: ReadRequest) -> Result<proto::ReadBatch, Status> {
        let reply = self.records.read(request).await?;
        Ok(reply.into_inner().decode_batch().expect("a batch"))
    }

    pub async fn tail(&mut self, stream: &str) -> Result<proto::StreamPosition, Status> {
        let request = CheckTailRequest {
            basin: self.basin.clone(),
            stream: stream.to_owned(),
        };
        let reply = self.records.check_tail(request).await?;
        Ok(reply.into_inner().tail.expect("a tail"))
    }

    /// From the first record on, without limits.
    pub fn whole(&self, stream: &str) -> ReadRequest {
        ReadRequest {
            basin: self.basin.clone(),
            stream: stream.to_owned(),
            start: Some(read_request::Start::SeqNum(0)),
            ..Default::default()
        }
    }

    pub async fn read_session(&mut self, request: ReadRequest) -> Result<ReadStream, Status> {
        let reply = self.records.read_session(request).await?;
        Ok(ReadStream(reply.into_inner()))
    }

    /// A session of a new writer, or of one that was open before.
    pub async fn append_session(&mut self, stream: &str, writer: Option<Writer>) -> Result<Session, Status> {
        let open = SessionRequest::Open(OpenAppendSession {
            basin: self.basin.clone(),
            stream: stream.to_owned(),
            writer,
        });
        self.session_with(open).await
    }

    pub async fn session_with(&mut self, first: SessionRequest) -> Result<Session, Status> {
        let (inputs, requests) = mpsc::channel(2048);
        inputs
            .send(AppendSessionRequest { message: Some(first) })
            .await
            .unwrap();
        let requests = futures::stream::unfold(requests, |mut requests: mpsc::Receiver<_>| async {
            requests.recv().await.map(|request| (request, requests))
        });
        let reply: Response<Streaming<AppendSessionResponse>> = self.records.append_session(requests).await?;
        let mut replies = reply.into_inner();
        match replies.message().await?.expect("an answer").message {
            Some(SessionReply::Opened(opened)) => Ok(Session {
                writer: opened.writer.expect("a writer"),
                window: opened.window,
                inputs: Some(inputs),
                replies,
            }),
            other => panic!("not opened: {other:?}"),
        }
    }
}

/// One append session, message by message.
pub struct Session {
    pub writer: Writer,
    pub window: u32,
    inputs: Option<mpsc::Sender<AppendSessionRequest>>,
    replies: Streaming<AppendSessionResponse>,
}

impl Session {
    pub async fn send(&self, message: SessionRequest) {
        let inputs = self.inputs.as_ref().expect("the sending side is open");
        let message = Some(message);
        // Where the server has ended the call, what it said before is still to be read.
        let _ = inputs.send(AppendSessionRequest { message }).await;
    }

    pub async fn submit(&self, number: u64, input: &proto::AppendInput) {
        self.submit_bytes(number, input.encode_to_vec()).await;
    }

    pub async fn submit_bytes(&self, number: u64, input: impl Into<Bytes>) {
        self.send(SessionRequest::Input(AppendSessionInput {
            number,
            acked_through: 0,
            input: input.into(),
        }))
        .await;
    }

    /// Ends the client's side.
    pub fn finish(&mut self) {
        self.inputs = None;
    }

    pub async fn next(&mut self) -> Result<Option<SessionReply>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.replies.message()).await;
        let next = next.expect("an answer in time")?;
        Ok(next.map(|reply| reply.message.expect("a message")))
    }

    pub async fn ack(&mut self) -> (u64, proto::AppendAck) {
        match self.next().await {
            Ok(Some(SessionReply::Ack(ack))) => (ack.number, ack.ack.expect("an acknowledgement")),
            other => panic!("not an acknowledgement: {other:?}"),
        }
    }

    /// Takes acknowledgements until the call fails; answers how many there were, and the failure.
    pub async fn failure(&mut self) -> (usize, Status) {
        let mut acks = 0;
        loop {
            match self.next().await {
                Ok(Some(SessionReply::Ack(_))) => acks += 1,
                Ok(other) => panic!("no failure but {other:?}"),
                Err(status) => return (acks, status),
            }
        }
    }
}

/// One read session, batch by batch.
pub struct ReadStream(Streaming<ReadResponse>);

impl ReadStream {
    pub async fn next(&mut self) -> Result<Option<proto::ReadBatch>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.0.message()).await;
        let next = next.expect("a batch in time")?;
        Ok(next.map(|response| response.decode_batch().expect("a batch")))
    }

    /// The next batch that has records.
    pub async fn records(&mut self) -> Vec<proto::SequencedRecord> {
        loop {
            let batch = self.next().await.expect("no failure").expect("no end");
            if !batch.records.is_empty() {
                return batch.records;
            }
        }
    }
}

/// The detail of a failed call, which has this status.
#[track_caller]
pub fn detail(status: &Status, code: Code) -> ErrorDetail {
    assert_eq!(status.code(), code, "{status:?}");
    decode_status_details(status.details()).unwrap_or_else(|| panic!("no detail: {status:?}"))
}

/// That the call failed with a code of S2's.
#[track_caller]
pub fn expect_code<T: std::fmt::Debug>(result: Result<T, Status>, grpc: Code, code: &str) {
    let detail = detail(&result.expect_err("a failure"), grpc);
    assert_eq!((detail.code.as_str(), detail.reason), (code, None));
}

#[track_caller]
pub fn expect_reason<T: std::fmt::Debug>(result: Result<T, Status>, grpc: Code, reason: Reason) {
    let detail = detail(&result.expect_err("a failure"), grpc);
    assert_eq!(detail.reason, Some(reason));
}

/// A batch of one record per body.
pub fn input(bodies: &[&str]) -> proto::AppendInput {
    let record = |body: &&str| proto::AppendRecord {
        body: Bytes::copy_from_slice(body.as_bytes()),
        ..Default::default()
    };
    proto::AppendInput {
        records: bodies.iter().map(record).collect(),
        ..Default::default()
    }
}

/// Bodies as text.
pub fn texts(records: &[proto::SequencedRecord]) -> Vec<String> {
    let text = |record: &proto::SequencedRecord| String::from_utf8_lossy(&record.body).into_owned();
    records.iter().map(text).collect()
}
