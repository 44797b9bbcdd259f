//! A server in memory that speaks the gRPC API of one stream, keeps writers as the real one promises, and does
//! otherwise where a test says so.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::Stream;
use futures::stream;
use millrace_api::grpc::append_session_request::Message as Ask;
use millrace_api::grpc::append_session_response::Message as Answer;
use millrace_api::grpc::error_detail::Reason;
use millrace_api::grpc::*;
use millrace_api::proto;
use prost::Message;
use tokio::sync::mpsc;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status, Streaming};

#[allow(clippy::all)]
mod stubs {
    include!(concat!(env!("OUT_DIR"), "/server/millrace.v1.rs"));
}
use stubs::stream_service_server::{StreamService, StreamServiceServer};

/// What becomes of the inputs of append sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Appends {
    #[default]
    Serve,
    /// Takes everything, applies and acknowledges nothing.
    NeverAck,
    /// Reads nothing after the opening.
    Deaf,
    /// Acknowledges what was never sent, without end.
    FloodAcks,
    /// Applies so many inputs, and breaks the call without their acks; serves from then on.
    BreakAfter(u64),
    /// Refuses the next input and promises that nothing happened; serves from then on.
    RefuseOnce,
}

/// What becomes of read sessions.
#[derive(Debug, Clone, Default)]
pub enum Reads {
    #[default]
    Serve,
    /// Sends this message without end, as fast as it is taken.
    Flood(ReadResponse),
    /// Breaks the call after so many records of what it was to send; serves from then on.
    BreakAfter(usize),
    Silent,
}

#[derive(Default)]
pub struct State {
    /// Bodies, by sequence number.
    pub log: Vec<Bytes>,
    pub appends: Appends,
    pub reads: Reads,
    /// Sent as `millrace-owner`.
    pub owner: Option<String>,
    /// Each call fails with this.
    pub refuse_all: Option<Status>,
    pub window: u32,
    /// By writer: the positions of its inputs, in order of their numbers.
    writers: HashMap<u64, Vec<(u64, usize)>>,
    writers_opened: u64,
    pub resumes: u64,
    /// Of the last check of the tail.
    pub traceparent: Option<String>,
}

pub struct Fake {
    pub state: Mutex<State>,
    pub calls: AtomicU64,
    /// Messages that read sessions handed to their connection.
    pub read_messages: AtomicU64,
    url: String,
}

pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Fake {
    pub async fn start() -> Arc<Self> {
        Self::start_on(Server::builder(), "http://127.0.0.1")
    }

    pub async fn start_with_tls(certificate_pem: &str, key_pem: &str) -> Arc<Self> {
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate_pem, key_pem));
        Self::start_on(Server::builder().tls_config(tls).unwrap(), "https://localhost")
    }

    fn start_on(mut server: Server, host: &str) -> Arc<Self> {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())
            .unwrap()
            .with_nodelay(Some(true));
        let url = format!("{host}:{}", incoming.local_addr().unwrap().port());
        let state = State {
            window: 64,
            ..State::default()
        };
        let fake = Arc::new(Self {
            state: Mutex::new(state),
            calls: AtomicU64::new(0),
            read_messages: AtomicU64::new(0),
            url,
        });
        let service = StreamServiceServer::new(Handler(fake.clone()));
        tokio::spawn(server.add_service(service).serve_with_incoming(incoming));
        fake
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    pub fn forget_writers(&self) {
        self.state().writers.clear();
    }

    pub fn writers_opened(&self) -> u64 {
        self.state().writers_opened
    }

    fn called<T>(&self, message: T) -> Result<Response<T>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let state = self.state();
        if let Some(status) = &state.refuse_all {
            return Err(status.clone());
        }
        let mut response = Response::new(message);
        if let Some(owner) = &state.owner {
            let owner = owner.parse().unwrap();
            response.metadata_mut().insert("millrace-owner", owner);
        }
        Ok(response)
    }
}

pub fn refusal(code: Code, detail: &ErrorDetail) -> Status {
    let details = encode_status_details(code as i32, "refused", detail);
    Status::with_details(code, "refused", details)
}

pub fn read_response(records: impl IntoIterator<Item = (u64, Bytes)>, tail: Option<u64>) -> ReadResponse {
    let records = records.into_iter().map(|(seq_num, body)| proto::SequencedRecord {
        seq_num,
        timestamp: 1,
        headers: vec![],
        body,
    });
    let batch = proto::ReadBatch {
        records: records.collect(),
        tail: tail.map(position),
    };
    ReadResponse::new(vec![batch.encode_to_vec().into()], None)
}

fn position(seq_num: u64) -> proto::StreamPosition {
    proto::StreamPosition {
        seq_num,
        timestamp: 1,
    }
}

fn ack(start: u64, records: usize, tail: usize) -> proto::AppendAck {
    proto::AppendAck {
        start: Some(position(start)),
        end: Some(position(start + records as u64)),
        tail: Some(position(tail as u64)),
    }
}

fn unknown_writer() -> Status {
    let detail = ErrorDetail {
        code: "other".into(),
        retryable: false,
        may_have_happened: true,
        retry_after_ms: None,
        reason: Some(Reason::WriterUnknown(true)),
    };
    refusal(Code::Aborted, &detail)
}

impl State {
    fn apply(&mut self, input: Bytes) -> Result<(u64, usize), Status> {
        let input = proto::AppendInput::decode(input).unwrap();
        let start = self.log.len() as u64;
        if input.match_seq_num.is_some_and(|wanted| wanted != start) {
            let detail = ErrorDetail {
                reason: Some(Reason::SeqNumMismatch(start)),
                ..Default::default()
            };
            return Err(refusal(Code::FailedPrecondition, &detail));
        }
        let records = input.records.len();
        self.log
            .extend(input.records.into_iter().map(|record| record.body));
        Ok((start, records))
    }

    fn numbered(&mut self, writer: u64, input: AppendSessionInput) -> Result<AppendSessionAck, Status> {
        let number = input.number;
        let taken = self.writers.get(&writer).ok_or_else(unknown_writer)?;
        let at = match taken.get(number as usize - 1) {
            Some(at) => *at,
            None if number as usize == taken.len() + 1 => {
                let at = self.apply(input.input)?;
                self.writers.get_mut(&writer).unwrap().push(at);
                at
            }
            None => return Err(Status::invalid_argument("a gap")),
        };
        Ok(AppendSessionAck {
            number,
            ack: Some(ack(at.0, at.1, self.log.len())),
        })
    }
}

struct Handler(Arc<Fake>);

fn answer(message: Answer) -> AppendSessionResponse {
    AppendSessionResponse {
        message: Some(message),
    }
}

fn answers<T: Send + 'static>(mut queue: mpsc::Receiver<Result<T, Status>>) -> Answers<T> {
    Box::pin(stream::poll_fn(move |cx| queue.poll_recv(cx)))
}

/// Answers inputs until the call ends. `None`: as the client ended it.
async fn session(
    fake: &Fake,
    writer: u64,
    inputs: &mut Streaming<AppendSessionRequest>,
    out: &mpsc::Sender<Result<AppendSessionResponse, Status>>,
) -> Option<Status> {
    loop {
        let mode = fake.state().appends;
        match mode {
            Appends::Deaf => std::future::pending().await,
            Appends::FloodAcks => {
                let flood = AppendSessionAck {
                    number: 1_000_000,
                    ack: Some(ack(0, 1, 1)),
                };
                out.send(Ok(answer(Answer::Ack(flood)))).await.ok()?;
                continue;
            }
            _ => {}
        }
        let Some(Ask::Input(input)) = inputs.message().await.ok()??.message else {
            return Some(Status::invalid_argument("not an input"));
        };
        match mode {
            Appends::NeverAck => continue,
            Appends::RefuseOnce => {
                fake.state().appends = Appends::Serve;
                let detail = ErrorDetail {
                    code: "hot_server".into(),
                    retryable: true,
                    ..Default::default()
                };
                return Some(refusal(Code::Unavailable, &detail));
            }
            _ => {}
        }
        let applied = fake.state().numbered(writer, input);
        let mode = fake.state().appends;
        match (applied, mode) {
            (Err(status), _) => return Some(status),
            (Ok(_), Appends::BreakAfter(left)) => {
                let broken = left <= 1;
                fake.state().appends = match broken {
                    true => Appends::Serve,
                    false => Appends::BreakAfter(left - 1),
                };
                if broken {
                    return Some(Status::unavailable("broken"));
                }
            }
            (Ok(ack), _) => out.send(Ok(answer(Answer::Ack(ack)))).await.ok()?,
        }
    }
}

#[tonic::async_trait]
impl StreamService for Handler {
    type AppendSessionStream = Answers<AppendSessionResponse>;
    type ReadSessionStream = Answers<ReadResponse>;

    async fn append(&self, request: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        let mut response = self.0.called(AppendResponse::default())?;
        let mut state = self.0.state();
        let (start, records) = state.apply(request.into_inner().input)?;
        if state.appends == Appends::BreakAfter(1) {
            state.appends = Appends::Serve;
            return Err(Status::unavailable("broken"));
        }
        response.get_mut().ack = Some(ack(start, records, state.log.len()));
        Ok(response)
    }

    async fn append_session(
        &self,
        request: Request<Streaming<AppendSessionRequest>>,
    ) -> Result<Response<Self::AppendSessionStream>, Status> {
        let (out, queue) = mpsc::channel(4);
        let response = self.0.called(answers(queue))?;
        let fake = self.0.clone();
        let mut inputs = request.into_inner();
        let Some(Ask::Open(open)) = inputs.message().await?.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("not opened"));
        };
        let opened = {
            let mut state = fake.state();
            let writer = match open.writer {
                Some(writer) => {
                    state.resumes += 1;
                    if !state.writers.contains_key(&writer.id) {
                        return Err(unknown_writer());
                    }
                    writer
                }
                None => {
                    state.writers_opened += 1;
                    let id = state.writers_opened;
                    state.writers.insert(id, Vec::new());
                    Writer {
                        id,
                        opened_at: state.log.len() as u64,
                        stream_id: Bytes::from_static(&[7; 16]),
                    }
                }
            };
            AppendSessionOpened {
                writer: Some(writer),
                window: state.window,
            }
        };
        tokio::spawn(async move {
            let writer = opened.writer.as_ref().unwrap().id;
            let _ = out.send(Ok(answer(Answer::Opened(opened)))).await;
            if let Some(status) = session(&fake, writer, &mut inputs, &out).await {
                let _ = out.send(Err(status)).await;
            }
        });
        Ok(response)
    }

    async fn read(&self, _: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        self.0.called(ReadResponse::default())
    }

    async fn read_session(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadSessionStream>, Status> {
        let (out, queue) = mpsc::channel(1);
        let response = self.0.called(answers(queue))?;
        let fake = self.0.clone();
        let request = request.into_inner();
        tokio::spawn(async move {
            let mode = fake.state().reads.clone();
            let mut left = match &mode {
                Reads::BreakAfter(records) => *records,
                _ => usize::MAX,
            };
            if let Reads::Flood(message) = mode {
                while out.send(Ok(message.clone())).await.is_ok() {
                    fake.read_messages.fetch_add(1, Ordering::SeqCst);
                }
                return;
            }
            if matches!(mode, Reads::Silent) {
                out.closed().await;
                return;
            }
            let Some(read_request::Start::SeqNum(start)) = request.start else {
                let _ = out
                    .send(Err(Status::invalid_argument("only from a sequence number")))
                    .await;
                return;
            };
            let end = request.count.map_or(u64::MAX, |count| start + count);
            let mut next = start;
            while next < end {
                if left == 0 {
                    fake.state().reads = Reads::Serve;
                    let _ = out.send(Err(Status::unavailable("broken"))).await;
                    return;
                }
                left -= 1;
                let (record, tail) = {
                    let state = fake.state();
                    (state.log.get(next as usize).cloned(), state.log.len() as u64)
                };
                let Some(body) = record else {
                    let _ = out.send(Ok(read_response([], Some(tail)))).await;
                    out.closed().await;
                    return;
                };
                if out.send(Ok(read_response([(next, body)], None))).await.is_err() {
                    return;
                }
                next += 1;
            }
        });
        Ok(response)
    }

    async fn check_tail(
        &self,
        request: Request<CheckTailRequest>,
    ) -> Result<Response<CheckTailResponse>, Status> {
        let traceparent = request.metadata().get("traceparent");
        self.0.state().traceparent = traceparent.map(|value| value.to_str().unwrap().to_owned());
        let tail = self.0.state().log.len() as u64;
        self.0.called(CheckTailResponse {
            tail: Some(position(tail)),
        })
    }
}
