//! An append session: numbered inputs come in and acknowledgements go out at the same time, on one call.
//!
//! - The first message opens the session, and is answered first, with the writer.
//! - Acknowledgements are in the order of their inputs, one each.
//! - The first failure ends the call: a status after all earlier acknowledgements, and nothing that came later is
//!   applied.
//! - When the client has ended its side, what is owed is delivered and the call ends with `OK`.
//! - When the node is to stop, no further input is taken and the status says so, after what is owed.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use millrace_api::error::ErrorCode;
use millrace_api::grpc::append_session_request::Message as Request;
use millrace_api::grpc::append_session_response::Message as Reply;
use millrace_api::grpc::{
    self, AppendSessionAck, AppendSessionInput, AppendSessionOpened, AppendSessionRequest,
    AppendSessionResponse, OpenAppendSession,
};
use millrace_api::id::{StreamId, WriterId};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::error::{status, unreadable};
use super::names;
use super::output::{Gone, Messages, Output};
use super::stream::{ack_message, decode};
use crate::error::ServiceError;
use crate::frontend::service::{AppendSession, Frontend, PendingAck, SESSION_WINDOW, Writer};

/// A call whose first message takes longer is given up.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Acknowledgements that may wait for the connection; what waits further back are the inputs.
const ACKS_WAITING_MAX: usize = 64;

type Inputs = Streaming<AppendSessionRequest>;

/// What the input side tells the output side, in order.
enum Owed {
    Ack {
        number: u64,
        pending: PendingAck,
    },
    /// Nothing comes after it.
    Failed(Status),
}

/// Waits for the first message and opens the session that it asks for.
pub(super) async fn open(
    frontend: Arc<Frontend>,
    mut inputs: Inputs,
) -> Result<Messages<AppendSessionResponse>, Status> {
    let open = first(&frontend, &mut inputs).await?;
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
    Ok(Messages::written_by(ACKS_WAITING_MAX, move |output| {
        run(frontend, session, writer, inputs, output)
    }))
}

async fn first(frontend: &Frontend, inputs: &mut Inputs) -> Result<OpenAppendSession, Status> {
    let first = tokio::select! {
        biased;
        () = frontend.drained() => return Err(status(&ServiceError::draining())),
        first = tokio::time::timeout(OPEN_TIMEOUT, inputs.message()) => first,
    };
    let first = first.map_err(|_| {
        let message = "no first message came in time";
        status(&ServiceError::new(ErrorCode::RequestTimeout, message))
    })?;
    match first.map_err(unreadable)?.and_then(|first| first.message) {
        Some(Request::Open(open)) => Ok(open),
        Some(Request::Input(_)) | None => Err(status(&ServiceError::invalid(
            "the first message of an append session opens it",
        ))),
    }
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

fn writer_message(writer: &Writer) -> grpc::Writer {
    grpc::Writer {
        id: writer.id.0,
        opened_at: writer.opened_at,
        stream_id: writer.stream.0.to_be_bytes().to_vec().into(),
    }
}

/// Runs the session until either side ends it.
async fn run(
    frontend: Arc<Frontend>,
    session: AppendSession,
    writer: Writer,
    inputs: Inputs,
    output: Output<AppendSessionResponse>,
) -> Result<(), Status> {
    let (owed, to_deliver) = mpsc::channel(SESSION_WINDOW as usize);
    let mut deliver = pin!(deliver(writer, to_deliver, output));
    let take_inputs = take_inputs(frontend, session, writer, inputs, owed);
    tokio::select! {
        biased;
        delivered = deliver.as_mut() => delivered,
        () = take_inputs => deliver.await,
    }
}

/// Ends when nothing more is to be taken; dropping `owed` is then the output side's sign to end.
async fn take_inputs(
    frontend: Arc<Frontend>,
    session: AppendSession,
    writer: Writer,
    mut inputs: Inputs,
    owed: mpsc::Sender<Owed>,
) {
    let mut drained = pin!(frontend.drained());
    loop {
        let input = tokio::select! {
            biased;
            () = drained.as_mut() => Err(status(&ServiceError::draining())),
            input = next(&mut inputs) => input,
        };
        let next = match input {
            Ok(None) => return,
            Ok(Some(input)) => match submit(&session, &writer, input).await {
                Ok(owed) => owed,
                Err(error) => Owed::Failed(status(&error)),
            },
            Err(status) => Owed::Failed(status),
        };
        let last = matches!(next, Owed::Failed(_));
        if owed.send(next).await.is_err() || last {
            return;
        }
    }
}

/// The next input; `None` when the client has ended its side. Cancel safe.
async fn next(inputs: &mut Inputs) -> Result<Option<AppendSessionInput>, Status> {
    match inputs.message().await.map_err(unreadable)? {
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
    session: &AppendSession,
    writer: &Writer,
    input: AppendSessionInput,
) -> Result<Owed, ServiceError> {
    let AppendSessionInput {
        number,
        acked_through,
        input,
    } = input;
    let batch = decode(input)?;
    let pending = session
        .submit_numbered(writer, batch, number, acked_through)
        .await?;
    Ok(Owed::Ack { number, pending })
}

/// Writes what is owed, each as soon as it and all before it are known.
async fn deliver(
    writer: Writer,
    mut owed: mpsc::Receiver<Owed>,
    output: Output<AppendSessionResponse>,
) -> Result<(), Status> {
    let opened = Reply::Opened(AppendSessionOpened {
        writer: Some(writer_message(&writer)),
        window: SESSION_WINDOW,
    });
    let mut sent = send(&output, opened).await;
    while let (Ok(()), Some(next)) = (&sent, owed.recv().await) {
        let (number, pending) = match next {
            Owed::Ack { number, pending } => (number, pending),
            Owed::Failed(status) => return Err(status),
        };
        let ack = pending.wait().await.map_err(|error| status(&error))?;
        let ack = Reply::Ack(AppendSessionAck {
            number,
            ack: Some(ack_message(&ack)),
        });
        sent = send(&output, ack).await;
    }
    // Where nobody reads any more there is nobody to be told.
    Ok(())
}

async fn send(output: &Output<AppendSessionResponse>, message: Reply) -> Result<(), Gone> {
    let message = Some(message);
    output.send(AppendSessionResponse { message }).await
}
