//! What one protocol appends, the other reads, byte by byte.

use std::sync::LazyLock;

use bytes::Bytes;
use millrace_api::batch::AppendBatch;
use millrace_api::proto;
use millrace_api::s2s::{Compression, Frame, FrameDecoder, Reconnect, encode_message};
use proptest::prelude::*;
use prost::Message;

use crate::support::Api;

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
});

fn bytes(len_max: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..len_max).prop_map(Bytes::from)
}

fn record() -> impl Strategy<Value = proto::AppendRecord> {
    let name = prop::collection::vec(any::<u8>(), 1..20).prop_map(Bytes::from);
    let header = (name, bytes(20)).prop_map(|(name, value)| proto::Header { name, value });
    let timestamp = prop::option::of(0..2_000_000_000_000u64);
    let headers = prop::collection::vec(header, 0..3);
    (timestamp, headers, bytes(3000)).prop_map(|(timestamp, headers, body)| proto::AppendRecord {
        timestamp,
        headers,
        body,
    })
}

fn inputs() -> impl Strategy<Value = Vec<proto::AppendInput>> {
    let input = prop::collection::vec(record(), 1..20).prop_map(|records| proto::AppendInput {
        records,
        ..Default::default()
    });
    prop::collection::vec(input, 1..6)
}

/// Who appends.
#[derive(Debug, Clone, Copy)]
enum Append {
    Grpc,
    GrpcSession,
    Http,
    S2s,
}

struct Both {
    api: Api,
    http: reqwest::Client,
    stream: String,
}

impl Both {
    async fn new() -> Self {
        let mut api = Api::new().await;
        let stream = api.stream().await;
        let http = reqwest::Client::builder()
            .http2_prior_knowledge()
            .build()
            .unwrap();
        Self { api, http, stream }
    }

    fn request(&self, method: reqwest::Method, query: &str) -> reqwest::RequestBuilder {
        let (addr, stream) = (self.api.addr, &self.stream);
        let url = format!("http://{addr}/v1/streams/{stream}/records{query}");
        self.http.request(method, url).header("s2-basin", &self.api.basin)
    }

    async fn append(&mut self, by: Append, inputs: &[proto::AppendInput]) {
        match by {
            Append::Grpc => {
                for input in inputs {
                    self.api.append(&self.stream, input).await.unwrap();
                }
            }
            Append::GrpcSession => {
                let mut session = self.api.append_session(&self.stream, None).await.unwrap();
                for (number, input) in (1..).zip(inputs) {
                    session.submit(number, input).await;
                }
                for _ in inputs {
                    session.ack().await;
                }
            }
            Append::Http => {
                for input in inputs {
                    let request = self
                        .request(reqwest::Method::POST, "")
                        .header("content-type", "application/protobuf")
                        .body(input.encode_to_vec());
                    assert_eq!(request.send().await.unwrap().status(), 200);
                }
            }
            Append::S2s => {
                let mut body = Vec::new();
                for input in inputs {
                    let message = Bytes::from(input.encode_to_vec());
                    let frame = encode_message(&[message], Compression::None, Reconnect::NotAdvised);
                    body.extend(frame.unwrap().concat());
                }
                let request = self
                    .request(reqwest::Method::POST, "")
                    .header("content-type", "s2s/proto")
                    .body(body);
                let reply = request.send().await.unwrap();
                assert_eq!(reply.status(), 200);
                reply.bytes().await.unwrap();
            }
        }
    }

    /// The encoded records, as each kind of read gives them; in order gRPC, gRPC session, HTTP, S2S.
    async fn read(&mut self) -> [Bytes; 4] {
        let mut whole = self.api.whole(&self.stream);
        whole.count = Some(1000);
        let unary = self.api.records.read(whole.clone()).await.unwrap();
        let unary = without_tail(unary.into_inner().into_batch_bytes());
        let mut session = self.api.records.read_session(whole).await.unwrap().into_inner();
        let mut in_session = Vec::new();
        while let Some(response) = session.message().await.unwrap() {
            in_session.extend(without_tail(response.into_batch_bytes()));
        }
        let http = self
            .request(reqwest::Method::GET, "?seq_num=0&count=1000")
            .header("accept", "application/protobuf");
        let http = http.send().await.unwrap().bytes().await.unwrap();
        let s2s = self
            .request(reqwest::Method::GET, "?seq_num=0&count=1000")
            .header("content-type", "s2s/proto");
        let mut s2s = s2s.send().await.unwrap().bytes().await.unwrap();
        let mut decoder = FrameDecoder::new();
        let mut in_frames = Vec::new();
        while let Some(Frame::Message(message)) = decoder.decode(&mut s2s).unwrap() {
            in_frames.extend(without_tail(message));
        }
        [unary, in_session.into(), without_tail(http), in_frames.into()]
    }
}

/// The `records` fields, which stand first.
fn without_tail(batch: Bytes) -> Bytes {
    let decoded = proto::ReadBatch::decode(batch.clone()).unwrap();
    let tail = proto::ReadBatch {
        records: Vec::new(),
        ..decoded
    };
    let records = batch.len() - tail.encoded_len();
    assert_eq!(batch[records..], tail.encode_to_vec());
    batch.slice(..records)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_one_protocol_appends_all_read_alike(
        inputs in inputs(),
        by in prop::sample::select(vec![Append::Grpc, Append::GrpcSession, Append::Http, Append::S2s]),
    ) {
        let (reads, tail) = RUNTIME.block_on(async {
            let mut both = Both::new().await;
            both.append(by, &inputs).await;
            (both.read().await, both.api.tail(&both.stream).await.unwrap())
        });
        let appended: Vec<_> = inputs.iter().flat_map(|input| &input.records).collect();
        prop_assert_eq!(tail.seq_num, appended.len() as u64);
        for read in &reads {
            prop_assert_eq!(read, &reads[0]);
        }
        let read = proto::ReadBatch::decode(reads[0].clone()).unwrap().records;
        prop_assert_eq!(read.len(), appended.len());
        for (seq_num, (read, appended)) in (0..).zip(read.iter().zip(appended)) {
            prop_assert_eq!(read.seq_num, seq_num);
            prop_assert_eq!((&read.headers, &read.body), (&appended.headers, &appended.body));
        }
        // The bytes are those that a batch encodes for itself.
        let mut encoded = Vec::new();
        let mut position = read.iter();
        for input in inputs {
            let batch = AppendBatch::from_proto(input).unwrap();
            for index in 0..batch.len() {
                let at = position.next().unwrap();
                batch.encode_record(index, at.seq_num, at.timestamp, &mut encoded);
            }
        }
        prop_assert_eq!(&reads[0], &encoded);
    }
}
