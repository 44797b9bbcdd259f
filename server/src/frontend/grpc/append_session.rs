//! An append session: numbered inputs come in and acknowledgements go out at the same time, on one call.
//!
//! The first message opens the session, and is answered first, with the writer. The first failure ends the call with
//! its status, after all earlier acknowledgements; a client that has ended its side gets `OK`.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bytes::BytesMut;
use millrace_api::error::ErrorCode;
use millrace_api::grpc::append_session_request::Message as Request;
use millrace_api::grpc::append_session_response::Message as Reply;
use millrace_api::grpc::{
    self, AppendSessionAck, AppendSessionInput, AppendSessionOpened, AppendSessionRequest,
    AppendSessionResponse, OpenAppendSession,
};
use millrace_api::id::{StreamId, WriterId};
use tonic::Status;

use super::error::status;
use super::framing::put_message;
use super::incoming::Incoming;
use super::stream::{ack_message, decode};
use super::{names, reply};
use crate::error::ServiceError;
use crate::frontend::service::types::AppendAck;
use crate::frontend::service::{AppendSession, Frontend, PendingAck, SESSION_WINDOW, Writer};
use crate::frontend::session::append::{self, Protocol};

/// A call whose first message takes longer is given up.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits for the first message, opens the session that it asks for, and answers with the acknowledgements.
pub(super) async fn reply(
    frontend: Arc<Frontend>,
    mut requests: Incoming<AppendSessionRequest>,
) -> Result<Response, Status> {
    let open = first(&frontend, &mut requests).await?;
    let (basin, stream) = (names::basin(&open.basin)?, names::stream(&open.stream)?);
    let opened = match open.writer {
        None => frontend.open_writer(&basin, &stream).await,
        Some(message) => {
            let writer = writer(&message)?;
            let resumed = frontend.resume_writer(&basin, &stream, writer).await;
            resumed.map(|session| (session, writer))
        }
    };
    let (session, writer) = opened.map_err(|error| status(&error))?;
    Ok(reply::stream(move |output| async move {
        let mut opened = BytesMut::new();
        put(self::opened(&writer), &mut opened);
        output.send(opened.freeze()).await?;
        let mut inputs = Inputs { requests, writer };
        let failed = append::run(&frontend, &session, &mut inputs, &output).await?;
        Ok(failed.map_or(Ok(()), Err))
    }))
}

async fn first(
    frontend: &Frontend,
    requests: &mut Incoming<AppendSessionRequest>,
) -> Result<OpenAppendSession, Status> {
    let first = tokio::select! {
        biased;
        () = frontend.drained() => return Err(status(&ServiceError::draining())),
        first = tokio::time::timeout(OPEN_TIMEOUT, requests.next()) => first,
    };
    let first = first.map_err(|_| {
        let message = "no first message came in time";
        status(&ServiceError::new(ErrorCode::RequestTimeout, message))
    })?;
    match first?.and_then(|first| first.message) {
        Some(Request::Open(open)) => Ok(open),
        Some(Request::Input(_)) | None => Err(status(&ServiceError::invalid(
            "the first message of an append session opens it",
        ))),
    }
}

struct Inputs {
    requests: Incoming<AppendSessionRequest>,
    writer: Writer,
}

impl Protocol for Inputs {
    type Input = AppendSessionInput;
    /// The input's number.
    type Note = u64;
    type Failure = Status;

    async fn next(&mut self) -> Result<Option<AppendSessionInput>, Status> {
        match self.requests.next().await? {
            None => Ok(None),
            Some(AppendSessionRequest {
                message: Some(Request::Input(input)),
            }) => Ok(Some(input)),
            Some(_) => Err(status(&ServiceError::invalid(
                "after its first message an append session takes inputs",
            ))),
        }
    }

    async fn submit(
        &mut self,
        session: &AppendSession,
        input: AppendSessionInput,
    ) -> Result<(u64, PendingAck), ServiceError> {
        let AppendSessionInput {
            number,
            acked_through,
            input,
        } = input;
        let batch = decode(input)?;
        let pending = session
            .submit_numbered(&self.writer, batch, number, acked_through)
            .await?;
        Ok((number, pending))
    }

    fn put_ack(number: u64, ack: &AppendAck, out: &mut BytesMut) {
        let ack = Some(ack_message(ack));
        put(Reply::Ack(AppendSessionAck { number, ack }), out);
    }
}

fn put(message: Reply, out: &mut BytesMut) {
    let message = Some(message);
    put_message(&AppendSessionResponse { message }, out);
}

fn opened(writer: &Writer) -> Reply {
    Reply::Opened(AppendSessionOpened {
        writer: Some(grpc::Writer {
            id: writer.id.0,
            opened_at: writer.opened_at,
            stream_id: writer.stream.0.to_be_bytes().to_vec().into(),
        }),
        window: SESSION_WINDOW,
    })
}

fn writer(message: &grpc::Writer) -> Result<Writer, Status> {
    let stream_id = <[u8; 16]>::try_from(&message.stream_id[..]);
    match stream_id {
        Ok(stream_id) if message.id != 0 => Ok(Writer {
            id: WriterId(message.id),
            stream: StreamId(u128::from_be_bytes(stream_id)),
            opened_at: message.opened_at,
        }),
        _ => Err(status(&ServiceError::invalid(
            "a writer is given as it was answered: its id is not 0, and its stream_id has 16 bytes",
        ))),
    }
}
