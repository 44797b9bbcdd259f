//! A node that tests share, and a client that is close to the wire.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use millrace_api::proto;
use millrace_api::s2s::{Compression, Frame, FrameDecoder, Reconnect, encode_message};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub use crate::node::TestNode;

/// Longer than anything here takes unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The domain under which the shared node serves basins.
pub const DOMAIN: &str = "b.example.test";

static SHARED: LazyLock<TestNode> =
    LazyLock::new(|| TestNode::shared(|settings| settings.basin_domain = Some(DOMAIN.into())));

pub fn shared_addr() -> SocketAddr {
    SHARED.addr
}

/// A name that no other test uses.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{prefix}-{:08}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One path segment.
pub fn segment(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        Self {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await.expect("a whole answer"),
        }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status.as_u16(),
            status,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        self
    }

    /// An error body with nothing but a known code, which has this status, and a message.
    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str) -> Self {
        let this = self.expect(status);
        let body = this.json();
        let members = body.as_object().expect("an object");
        assert_eq!(members.len(), 2, "{body}");
        assert_eq!(body["code"], code, "{body}");
        assert!(
            body["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty())
        );
        assert_eq!(this.header("content-type"), Some("application/json"));
        this
    }
}

/// Speaks to one basin of one node.
#[derive(Clone)]
pub struct Api {
    pub client: reqwest::Client,
    pub base: String,
    pub basin: String,
}

impl Api {
    /// HTTP/1.1, to a basin of its own that exists.
    pub async fn new() -> Self {
        Self::with_config(json!({})).await
    }

    pub async fn with_config(config: Value) -> Self {
        let api = Self::without_basin();
        api.post("/basins", json!({"basin": api.basin, "config": config}))
            .await
            .expect(201);
        api
    }

    /// To a node of the test's own.
    pub async fn on(node: &TestNode) -> Self {
        let api = Self::at(node.addr);
        api.post("/basins", json!({"basin": api.basin})).await.expect(201);
        api
    }

    pub fn without_basin() -> Self {
        Self::at(shared_addr())
    }

    pub fn at(addr: SocketAddr) -> Self {
        let client = reqwest::Client::builder().http1_only().build().expect("a client");
        Self {
            client,
            base: format!("http://{addr}/v1"),
            basin: unique("basin"),
        }
    }

    /// The same over HTTP/2 without TLS.
    pub fn h2(&self) -> Self {
        let client = reqwest::Client::builder()
            .http2_prior_knowledge()
            .build()
            .expect("a client");
        Self {
            client,
            ..self.clone()
        }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.client.request(method, url).header("s2-basin", &self.basin)
    }

    pub async fn get(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::DELETE, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        Reply::of(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Reply {
        Reply::of(self.request(Method::PUT, path).json(&body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Reply {
        Reply::of(self.request(Method::PATCH, path).json(&body)).await
    }

    /// A stream that exists; answers the path of its records.
    pub async fn stream(&self) -> String {
        let name = unique("stream");
        self.post("/streams", json!({"stream": name})).await.expect(201);
        format!("/streams/{name}/records")
    }

    /// Appends one record per body; answers the acknowledgement.
    pub async fn append(&self, records: &str, bodies: &[&str]) -> Value {
        let list: Vec<_> = bodies.iter().map(|body| json!({"body": body})).collect();
        self.post(records, json!({"records": list}))
            .await
            .expect(200)
            .json()
    }

    /// Bodies of what a unary read gives.
    pub async fn bodies(&self, path: &str) -> Vec<String> {
        let batch = self.get(path).await.expect(200).json();
        let records = batch["records"].as_array().expect("records").clone();
        records
            .iter()
            .map(|record| record["body"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    pub async fn append_session(&self, records: &str) -> Session {
        self.try_append_session(records, None).await.expect("a session")
    }

    /// The session, or the plain answer that refused it.
    pub async fn try_append_session(&self, records: &str, accept: Option<&str>) -> Result<Session, Reply> {
        let (sender, inputs) = mpsc::channel(64);
        let body = futures::stream::unfold(inputs, |mut inputs: mpsc::Receiver<Bytes>| async {
            inputs
                .recv()
                .await
                .map(|chunk| (Ok::<_, std::io::Error>(chunk), inputs))
        });
        let mut request = self
            .request(Method::POST, records)
            .header("content-type", "s2s/proto")
            .body(reqwest::Body::wrap_stream(body));
        if let Some(accept) = accept {
            request = request.header("accept-encoding", accept);
        }
        Session::open(request, Some(sender)).await
    }

    /// `path` with a query.
    pub async fn read_session(&self, path: &str) -> Result<Session, Reply> {
        let request = self
            .request(Method::GET, path)
            .header("content-type", "s2s/proto");
        Session::open(request, None).await
    }
}

/// One S2S session, frame by frame.
pub struct Session {
    pub headers: HeaderMap,
    inputs: Option<mpsc::Sender<Bytes>>,
    chunks: BoxStream<'static, reqwest::Result<Bytes>>,
    decoder: FrameDecoder,
    received: Bytes,
}

impl Session {
    async fn open(request: RequestBuilder, inputs: Option<mpsc::Sender<Bytes>>) -> Result<Self, Reply> {
        let answer = tokio::time::timeout(PATIENCE, request.send())
            .await
            .expect("an answer in time");
        let response = answer.expect("an answer");
        if response.status() != StatusCode::OK {
            return Err(Reply {
                status: response.status(),
                headers: response.headers().clone(),
                body: response.bytes().await.expect("a whole answer"),
            });
        }
        Ok(Self {
            headers: response.headers().clone(),
            inputs,
            chunks: response.bytes_stream().boxed(),
            decoder: FrameDecoder::new(),
            received: Bytes::new(),
        })
    }

    pub async fn send(&self, bytes: impl Into<Bytes>) {
        let inputs = self.inputs.as_ref().expect("the sending side is open");
        // Where the server has ended the session, what it said before is still to be read.
        let _ = inputs.send(bytes.into()).await;
    }

    pub async fn submit(&self, input: &proto::AppendInput) {
        self.send(frame(input, Compression::None)).await;
    }

    /// Ends the client's side.
    pub fn finish(&mut self) {
        self.inputs = None;
    }

    /// `None` at the end of the body.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.received).expect("frames") {
                return Some(frame);
            }
            let chunk = tokio::time::timeout(PATIENCE, self.chunks.next())
                .await
                .expect("a frame in time");
            match chunk {
                None => {
                    self.decoder.finish().expect("whole frames");
                    return None;
                }
                Some(chunk) => self.received = chunk.expect("a body that is not broken off"),
            }
        }
    }

    #[track_caller]
    fn message(frame: Option<Frame>) -> Bytes {
        match frame {
            Some(Frame::Message(message)) => message,
            other => panic!("not a message: {other:?}"),
        }
    }

    pub async fn ack(&mut self) -> proto::AppendAck {
        proto::AppendAck::decode(Self::message(self.next().await)).expect("an acknowledgement")
    }

    pub async fn batch(&mut self) -> proto::ReadBatch {
        proto::ReadBatch::decode(Self::message(self.next().await)).expect("a batch")
    }

    /// The next batch that has records.
    pub async fn records(&mut self) -> Vec<proto::SequencedRecord> {
        loop {
            let batch = self.batch().await;
            if !batch.records.is_empty() {
                return batch.records;
            }
        }
    }

    /// Status and body of the terminal frame, which must come next and be the last.
    pub async fn terminal(&mut self) -> (u16, Value) {
        let Some(Frame::Terminal { status, body }) = self.next().await else {
            panic!("not a terminal frame");
        };
        assert_eq!(self.next().await, None);
        (status, serde_json::from_slice(&body).expect("JSON"))
    }
}

pub fn frame(input: &proto::AppendInput, compression: Compression) -> Bytes {
    let message = Bytes::from(input.encode_to_vec());
    let parts = encode_message(&[message], compression, Reconnect::NotAdvised).expect("fits");
    parts.concat().into()
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
    records
        .iter()
        .map(|record| String::from_utf8_lossy(&record.body).into_owned())
        .collect()
}
