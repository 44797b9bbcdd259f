//! The calls that the bench makes, answered.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use millrace_api::batch::AppendBatch;
use millrace_api::proto;
use millrace_api::read::ReadQuery;
use millrace_api::s2s::{Compression, Frame, FrameDecoder, Reconnect, encode_message, encode_terminal};
use prost::Message;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::generated::ReadTemplate;
use super::streams::{Stream, Streams};

/// Pieces of an answer that wait for the connection.
const OUTPUT_PIECES_MAX: usize = 4;

struct Sink {
    streams: Streams,
    template: ReadTemplate,
}

pub fn router(streams: Streams, template: ReadTemplate) -> Router {
    let made = || async { (StatusCode::CREATED, Json(json!({}))) };
    let accepted = || async { StatusCode::ACCEPTED };
    let missing = || async { StatusCode::NOT_FOUND };
    Router::new()
        .route("/v1/basins", post(made))
        .route("/v1/basins/{basin}", get(missing).delete(accepted))
        .route("/v1/streams", post(made))
        .route("/v1/streams/{stream}", axum::routing::delete(delete_stream))
        .route("/v1/streams/{stream}/records/tail", get(tail))
        .route("/v1/streams/{stream}/records", get(read).post(append))
        .with_state(Arc::new(Sink { streams, template }))
}

type App = State<Arc<Sink>>;

async fn delete_stream(State(sink): App, Path(name): Path<String>) -> StatusCode {
    sink.streams.remove(&name);
    StatusCode::ACCEPTED
}

async fn tail(State(sink): App, Path(name): Path<String>) -> Json<Value> {
    let next = sink.streams.get(&name).next().await;
    Json(json!({ "tail": { "seq_num": next, "timestamp": 0 } }))
}

/// An answer that is sent while it is made.
fn streamed() -> (mpsc::Sender<Bytes>, Response) {
    let (sender, pieces) = mpsc::channel(OUTPUT_PIECES_MAX);
    let pieces = futures::stream::unfold(pieces, |mut pieces: mpsc::Receiver<Bytes>| async {
        let piece = pieces.recv().await?;
        Some((Ok::<_, Infallible>(piece), pieces))
    });
    (sender, Body::from_stream(pieces).into_response())
}

async fn append(State(sink): App, Path(name): Path<String>, body: Body) -> Response {
    let (output, response) = streamed();
    let stream = sink.streams.get(&name);
    tokio::spawn(async move {
        if let Err(reason) = acknowledge(&stream, body, &output).await {
            let terminal = encode_terminal(400, reason.as_bytes()).expect("a reason is short");
            drop(output.send(terminal).await);
        }
    });
    response
}

/// `Err` if what came were no appends. Ends early when nobody reads the answer.
async fn acknowledge(stream: &Stream, mut body: Body, output: &mpsc::Sender<Bytes>) -> Result<(), String> {
    let mut decoder = FrameDecoder::new();
    while let Some(piece) = body.frame().await {
        let Ok(Ok(mut received)) = piece.map(http_body::Frame::into_data) else {
            return Ok(());
        };
        let mut acks = BytesMut::new();
        while let Some(frame) = decoder.decode(&mut received).map_err(|error| error.to_string())? {
            let Frame::Message(message) = frame else {
                return Err("a terminal frame from a client".to_owned());
            };
            let batch = AppendBatch::decode(message).map_err(|error| error.to_string())?;
            let range = stream.append(&batch).await;
            put_ack(&range, &mut acks);
        }
        if !acks.is_empty() && output.send(acks.freeze()).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn put_ack(range: &std::ops::Range<u64>, out: &mut BytesMut) {
    let position = |seq_num| {
        Some(proto::StreamPosition {
            seq_num,
            timestamp: 0,
        })
    };
    let ack = proto::AppendAck {
        start: position(range.start),
        end: position(range.end),
        tail: position(range.end),
    };
    let message = Bytes::from(ack.encode_to_vec());
    let frame = encode_message(&[message], Compression::None, Reconnect::NotAdvised);
    for part in frame.expect("three positions fit in a frame") {
        out.extend_from_slice(&part);
    }
}

/// With a limit what is made up, without one what is appended from now on.
async fn read(State(sink): App, Path(name): Path<String>, Query(query): Query<ReadQuery>) -> Response {
    let (output, response) = streamed();
    let stream = sink.streams.get(&name);
    match query.count {
        None => {
            let mut frames = stream.follow().await;
            tokio::spawn(async move {
                while let Some(frame) = frames.recv().await {
                    if output.send(frame).await.is_err() {
                        return;
                    }
                }
            });
        }
        Some(count) => {
            tokio::spawn(async move { make_up(&sink.template, count as u64, &output).await });
        }
    }
    response
}

async fn make_up(template: &ReadTemplate, count: u64, output: &mpsc::Sender<Bytes>) {
    let mut next = 0;
    while next < count {
        let (frame, records) = template.make(next, count - next);
        if output.send(frame).await.is_err() {
            return;
        }
        next += records;
    }
}
