//! An append session: inputs come in and acknowledgements go out at the same time, on one request.
//!
//! - Acknowledgements are in the order of their inputs, one each.
//! - The first failure ends the session, after all earlier acknowledgements, and nothing that came later is applied.
//! - When the client has ended its side, what is owed is delivered and the session ends.
//! - When the node is to stop, no further input is taken and that is the failure, after what is owed.

use std::pin::pin;
use std::task::Poll;

use bytes::BytesMut;
use futures::poll;

use super::lane::{Receiver, Sender, lane};
use super::output::{Broken, Output};
use crate::error::ServiceError;
use crate::frontend::service::types::AppendAck;
use crate::frontend::service::{AppendSession, Frontend, PendingAck, SESSION_WINDOW};

/// Acknowledgements are sent together while more of them are ready, up to this many bytes.
const ACK_CHUNK_BYTES: usize = 16 * 1024;

/// What a protocol says on an append session.
pub trait Protocol: Send {
    type Input: Send;
    /// What an acknowledgement repeats of its input.
    type Note: Send;
    /// Why the session ends without what the client asked for.
    type Failure: From<ServiceError> + Send;

    /// The next input; `None` when the client has ended its side. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Input>, Self::Failure>> + Send;

    /// Hands an input over.
    fn submit(
        &mut self,
        session: &AppendSession,
        input: Self::Input,
    ) -> impl Future<Output = Result<(Self::Note, PendingAck), ServiceError>> + Send;

    /// Appends an acknowledgement as it is on the wire.
    fn put_ack(note: Self::Note, ack: &AppendAck, out: &mut BytesMut);
}

/// What the input side tells the output side, in order.
enum Owed<P: Protocol> {
    Ack(P::Note, PendingAck),
    /// Nothing comes after it.
    Failed(P::Failure),
}

/// Runs the session until either side ends it. Answers the failure that ended it, which is still to be told; `None`
/// when all inputs have been acknowledged.
///
/// Borrows what lives as long as the session: a future that is given it has room for it twice, and sessions that wait
/// are many.
pub async fn run<P: Protocol>(
    frontend: &Frontend,
    session: &AppendSession,
    protocol: &mut P,
    output: &Output,
) -> Result<Option<P::Failure>, Broken> {
    let (owed, to_deliver) = lane(SESSION_WINDOW as usize);
    let mut deliver = pin!(deliver::<P>(to_deliver, output));
    tokio::select! {
        biased;
        delivered = deliver.as_mut() => delivered,
        () = take_inputs(frontend, session, protocol, owed) => deliver.await,
    }
}

/// Ends when nothing more is to be taken; dropping `owed` is then the output side's sign to end.
async fn take_inputs<P: Protocol>(
    frontend: &Frontend,
    session: &AppendSession,
    protocol: &mut P,
    owed: Sender<Owed<P>>,
) {
    let mut drained = pin!(frontend.drained());
    while let Ok(room) = owed.room().await {
        let submitted = match next_input(drained.as_mut(), protocol).await {
            Ok(None) => return,
            // In memory of its own for as long as it takes: sessions that wait for an input are many.
            Ok(Some(input)) => Box::pin(protocol.submit(session, input)),
            Err(failure) => return room.send(Owed::Failed(failure)),
        };
        match submitted.await {
            Ok((note, pending)) => room.send(Owed::Ack(note, pending)),
            Err(error) => return room.send(Owed::Failed(error.into())),
        }
    }
}

/// The next input, or the failure that ends the session, which is that the node stops at the latest.
async fn next_input<P: Protocol>(
    drained: impl Future<Output = ()>,
    protocol: &mut P,
) -> Result<Option<P::Input>, P::Failure> {
    tokio::select! {
        biased;
        () = drained => Err(ServiceError::draining().into()),
        input = protocol.next() => input,
    }
}

/// Writes what is owed, each as soon as it and all before it are known.
async fn deliver<P: Protocol>(
    mut owed: Receiver<Owed<P>>,
    output: &Output,
) -> Result<Option<P::Failure>, Broken> {
    let mut chunk = Chunk {
        bytes: BytesMut::new(),
        output,
    };
    let failure = loop {
        let next = match owed.try_recv() {
            Some(next) => Some(next),
            None => {
                chunk.send().await?;
                owed.recv().await
            }
        };
        let (note, pending) = match next {
            None => break None,
            Some(Owed::Failed(failure)) => break Some(failure),
            Some(Owed::Ack(note, pending)) => (note, pending),
        };
        match chunk.until_known(pending).await? {
            Ok(ack) => P::put_ack(note, &ack, &mut chunk.bytes),
            Err(error) => break Some(error.into()),
        }
        if chunk.bytes.len() >= ACK_CHUNK_BYTES {
            chunk.send().await?;
        }
    };
    chunk.send().await?;
    Ok(failure)
}

/// Acknowledgements that leave together.
struct Chunk<'a> {
    bytes: BytesMut,
    output: &'a Output,
}

impl Chunk<'_> {
    async fn send(&mut self) -> Result<(), Broken> {
        if !self.bytes.is_empty() {
            let room = self.output.room().await?;
            // With the room that is left in it: what waits for acknowledgements keeps none.
            room.send(std::mem::take(&mut self.bytes).freeze());
        }
        Ok(())
    }

    /// Waits for one acknowledgement; sends what has gathered before it really has to wait.
    async fn until_known(&mut self, pending: PendingAck) -> Result<Result<AppendAck, ServiceError>, Broken> {
        let mut outcome = Box::pin(pending.wait());
        if let Poll::Ready(outcome) = poll!(outcome.as_mut()) {
            return Ok(outcome);
        }
        self.send().await?;
        Ok(outcome.await)
    }
}
