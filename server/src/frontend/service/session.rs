//! Sessions of appends to one stream, across changes of its owner.
//!
//! Inputs of a session are numbered under a writer (see [`crate::channel::writers`]), so that what has no
//! acknowledgement when an owner goes away is sent to the next one again and applied once. Where that cannot be known
//! the session says so and ends. A node that is alone has no other owner: its own sessions go without numbers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_api::batch::AppendBatch;
use millrace_api::id::{StreamId, WriterId};
use millrace_api::name::{BasinName, StreamName};
use millrace_api::position::SeqNum;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::append::{Room, settled};
use super::owner::{OWNER_TIMEOUT, Search, is_unowned};
use super::resolve::{Intent, Resolved};
use super::types::AppendAck;
use super::{Frontend, refusal_error};
use crate::channel::handle::{ChannelHandle, Pending};
use crate::channel::message::{Refusal, SessionGate, Source};
use crate::channel::writers::WriterInput;
use crate::error::ServiceError;

/// A writer of which nothing is under way is renewed before it is used again after this long.
const WRITER_AGE_MAX: Duration = Duration::from_secs(10);

/// Who numbers the inputs of a session, from 1 and without gap. As long as the writer is known, an input that is
/// submitted again under its number is not applied again but answered as the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    pub id: WriterId,
    /// The creation of the stream that the writer was opened on.
    pub stream: StreamId,
    /// The stream's durable tail then.
    pub opened_at: SeqNum,
}

impl Frontend {
    /// Opens a session on an existing stream, or on one that the basin lets appends create.
    pub async fn append_session(
        self: &Arc<Self>,
        basin: &BasinName,
        stream: &StreamName,
    ) -> Result<AppendSession, ServiceError> {
        if !self.channels.has_others() {
            let resolved = self.resolve(basin, stream, Intent::Append).await?;
            return Ok(self.session(basin, stream, resolved, Numbering::None));
        }
        let (resolved, writer) = self.new_writer(basin, stream).await?;
        let own = Numbering::Own {
            writer,
            opened: Instant::now(),
        };
        Ok(self.session(basin, stream, resolved, own))
    }

    /// Opens a session whose inputs the caller numbers, so that it outlives breaks: see [`Writer`].
    pub async fn open_writer(
        self: &Arc<Self>,
        basin: &BasinName,
        stream: &StreamName,
    ) -> Result<(AppendSession, Writer), ServiceError> {
        let (resolved, writer) = self.new_writer(basin, stream).await?;
        Ok((self.session(basin, stream, resolved, Numbering::Callers), writer))
    }

    /// Goes on with a writer in a new session. Inputs that were not acknowledged are to be submitted again, in
    /// order and under their numbers.
    pub async fn resume_writer(
        self: &Arc<Self>,
        basin: &BasinName,
        stream: &StreamName,
        writer: Writer,
    ) -> Result<AppendSession, ServiceError> {
        let resolved = self.asking(basin, stream, Intent::Append).owner().await?;
        if resolved.stream != writer.stream {
            return Err(ServiceError::WriterUnknown);
        }
        Ok(self.session(basin, stream, resolved, Numbering::Callers))
    }

    async fn new_writer(
        &self,
        basin: &BasinName,
        stream: &StreamName,
    ) -> Result<(Resolved, Writer), ServiceError> {
        let (resolved, tail) = self.owner_and_tail(basin, stream, Intent::Append).await?;
        let writer = Writer {
            // 0 stands for none.
            id: WriterId((self.env.random_u128() as u64).max(1)),
            stream: resolved.stream,
            opened_at: tail.seq_num,
        };
        Ok((resolved, writer))
    }

    fn session(
        self: &Arc<Self>,
        basin: &BasinName,
        stream: &StreamName,
        resolved: Resolved,
        numbering: Numbering,
    ) -> AppendSession {
        AppendSession {
            shared: Arc::new(Shared {
                frontend: self.clone(),
                basin: basin.clone(),
                name: stream.clone(),
                stream: resolved.stream,
                room: self.room(),
                under_way: Mutex::new(UnderWay {
                    channel: resolved.channel,
                    gate: SessionGate::default(),
                    numbering,
                    next: 1,
                    acked_through: 0,
                    inputs: VecDeque::new(),
                    exposed: 0,
                }),
            }),
        }
    }
}

/// A session of appends to one stream, applied in the order of submission.
///
/// After the first input that fails nothing submitted later is applied. Dropping the session does not undo what was
/// submitted.
pub struct AppendSession {
    shared: Arc<Shared>,
}

/// An append on its way. Dropping it does not undo the append.
pub struct PendingAck {
    shared: Arc<Shared>,
}

struct Shared {
    frontend: Arc<Frontend>,
    basin: BasinName,
    name: StreamName,
    stream: StreamId,
    room: Room,
    under_way: Mutex<UnderWay>,
}

/// Who numbers the inputs.
enum Numbering {
    /// Nobody: there is no other owner to send them to.
    None,
    /// The session itself.
    Own { writer: Writer, opened: Instant },
    /// Whoever submits them.
    Callers,
}

/// What was submitted and is not acknowledged.
struct UnderWay {
    channel: ChannelHandle,
    gate: SessionGate,
    numbering: Numbering,
    /// The number of the session's own next input.
    next: u64,
    acked_through: u64,
    inputs: VecDeque<Input>,
    /// How many of them, from the front, a former owner may have applied.
    exposed: usize,
}

struct Input {
    number: Option<WriterInput>,
    /// To be sent again; empty where inputs have no number.
    bytes: Bytes,
    /// Taken by whoever waits for it.
    reply: Option<Pending<AppendAck>>,
}

impl AppendSession {
    /// Waits for room, then hands the batch over. Acks are to be awaited one after the other, in the order of
    /// submission.
    ///
    /// Not cancel safe: a cancelled call may have handed its batch over.
    pub async fn submit(&self, batch: AppendBatch) -> Result<PendingAck, ServiceError> {
        let permit = self.shared.room.for_batch(&batch).await?;
        let mut under_way = self.shared.under_way.lock().await;
        let number = self.shared.number(&mut under_way).await?;
        Ok(self.hand_over(under_way, batch, number, permit).await)
    }

    /// The same for the writer's input `number`. Acks up to `acked_through` are not asked for again.
    ///
    /// # Errors
    ///
    /// Of the ack: [`ServiceError::WriterUnknown`] if the input may have been applied when it was sent before.
    pub async fn submit_numbered(
        &self,
        writer: &Writer,
        batch: AppendBatch,
        number: u64,
        acked_through: u64,
    ) -> Result<PendingAck, ServiceError> {
        let permit = self.shared.room.for_batch(&batch).await?;
        let number = WriterInput {
            writer: writer.id,
            opened_at: writer.opened_at,
            number,
            acked_through,
        };
        let under_way = self.shared.under_way.lock().await;
        Ok(self.hand_over(under_way, batch, Some(number), permit).await)
    }

    async fn hand_over(
        &self,
        mut under_way: MutexGuard<'_, UnderWay>,
        batch: AppendBatch,
        number: Option<WriterInput>,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) -> PendingAck {
        let bytes = match number {
            Some(_) => batch.input().clone(),
            None => Bytes::new(),
        };
        let source = under_way.source(number);
        let reply = under_way
            .channel
            .append(self.shared.stream, batch, source, permit);
        let reply = Some(reply.await);
        if under_way.inputs.capacity() == 0 {
            // Of most sessions there is one at a time.
            under_way.inputs.reserve_exact(1);
        }
        under_way.inputs.push_back(Input { number, bytes, reply });
        PendingAck {
            shared: self.shared.clone(),
        }
    }
}

impl PendingAck {
    /// Waits until the append is durable or has failed. While the stream has no owner it waits for one, and for
    /// storage at most for the node's append timeout.
    pub async fn wait(self) -> Result<AppendAck, ServiceError> {
        match self.shared.oldest().await? {
            Ok(ack) => Ok(ack),
            // In memory of its own: it is rare, and sessions that wait are many.
            Err(refused) => Box::pin(self.shared.search(refused)).await,
        }
    }
}

impl Shared {
    /// What becomes of the oldest input.
    async fn oldest(&self) -> Result<Result<AppendAck, Refusal>, ServiceError> {
        let reply = {
            let mut under_way = self.under_way.lock().await;
            under_way.inputs.front_mut().and_then(|input| input.reply.take())
        };
        let reply = reply.ok_or_else(|| refusal_error(Refusal::Unknown))?;
        let settled = settled(reply, self.room.timeout()).await?;
        if settled.is_ok() {
            self.under_way.lock().await.acknowledged();
        }
        Ok(settled)
    }

    /// Looks for the stream's owner until the oldest input is taken there or must not be sent again.
    async fn search(&self, mut refused: Refusal) -> Result<AppendAck, ServiceError> {
        let mut search = Search::new(OWNER_TIMEOUT);
        loop {
            {
                let mut under_way = self.under_way.lock().await;
                if !under_way.may_go_on(&refused) {
                    return Err(under_way.honest(refusal_error(refused)));
                }
                let found = match search.again(&self.frontend, refused).await {
                    Ok(()) => self.go_on(&mut under_way, &mut search).await,
                    Err(error) => Err(error),
                };
                found.map_err(|error| under_way.honest(error))?;
            }
            match self.oldest().await? {
                Ok(ack) => return Ok(ack),
                Err(again) => refused = again,
            }
        }
    }

    /// The number of the session's next input, if it numbers them.
    async fn number(&self, under_way: &mut UnderWay) -> Result<Option<WriterInput>, ServiceError> {
        let Numbering::Own { opened, .. } = &under_way.numbering else {
            return Ok(None);
        };
        if under_way.inputs.is_empty() && opened.elapsed() > WRITER_AGE_MAX {
            // In memory of its own, since it is rare.
            Box::pin(self.renew(under_way)).await?;
        }
        let Numbering::Own { writer, .. } = &under_way.numbering else {
            return Ok(None);
        };
        let number = WriterInput {
            writer: writer.id,
            opened_at: writer.opened_at,
            number: under_way.next,
            acked_through: under_way.acked_through,
        };
        under_way.next += 1;
        Ok(Some(number))
    }

    /// Another writer for a session of which nothing is under way.
    async fn renew(&self, under_way: &mut UnderWay) -> Result<(), ServiceError> {
        let (resolved, writer) = self.frontend.new_writer(&self.basin, &self.name).await?;
        if resolved.stream != self.stream {
            return Err(refusal_error(Refusal::NotFound));
        }
        under_way.channel = resolved.channel;
        under_way.numbering = Numbering::Own {
            writer,
            opened: Instant::now(),
        };
        (under_way.next, under_way.acked_through) = (1, 0);
        Ok(())
    }

    /// Finds who serves the stream now and sends everything again that has no acknowledgement.
    async fn go_on(&self, under_way: &mut UnderWay, search: &mut Search) -> Result<(), ServiceError> {
        let resolved = loop {
            match self
                .frontend
                .resolve(&self.basin, &self.name, Intent::Append)
                .await
            {
                Ok(resolved) => break resolved,
                Err(error) if is_unowned(&error) => search.again(&self.frontend, Refusal::Unknown).await?,
                // Nobody knows what became of the inputs of a stream that is gone or cannot be looked up.
                Err(_) => return Err(refusal_error(Refusal::Unknown)),
            }
        };
        if resolved.stream != self.stream {
            return Err(ServiceError::WriterUnknown);
        }
        under_way.channel = resolved.channel;
        for index in 0..under_way.inputs.len() {
            let input = &under_way.inputs[index];
            let batch = AppendBatch::decode(input.bytes.clone()).expect("it was decoded before");
            let source = under_way.source(input.number);
            let permit = self.room.for_batch(&batch).await?;
            let reply = under_way.channel.append(self.stream, batch, source, permit).await;
            under_way.inputs[index].reply = Some(reply);
        }
        Ok(())
    }
}

impl UnderWay {
    fn source(&self, number: Option<WriterInput>) -> Source {
        match number {
            Some(number) => Source::Writer(self.gate.clone(), number),
            None => Source::Session(self.gate.clone()),
        }
    }

    fn acknowledged(&mut self) {
        let input = self.inputs.pop_front();
        if self.inputs.is_empty() {
            // Sessions that send one input at a time are many.
            self.inputs = VecDeque::new();
        }
        self.exposed = self.exposed.saturating_sub(1);
        if let Some(number) = input.and_then(|input| input.number) {
            self.acked_through = number.number;
        }
    }

    /// Whether what is under way can be sent again after that; prepares it.
    fn may_go_on(&mut self, refused: &Refusal) -> bool {
        let numbered = self.inputs.front().is_some_and(|input| input.number.is_some());
        let moved = refused.is_elsewhere() || *refused == Refusal::Unknown;
        if *refused == Refusal::Unknown {
            // Of what was refused for sure nothing behind it was applied either: its number is missing.
            self.exposed = self.inputs.len();
        }
        if numbered && moved {
            // What the former owner refused because of an earlier refusal is sent again too.
            self.gate = SessionGate::default();
        }
        numbered && moved
    }

    /// The failure of the first input, which must not promise that nothing was applied when a former owner may have
    /// applied it. An owner that judged the input knows better: it has the former one's frames.
    fn honest(&self, error: ServiceError) -> ServiceError {
        let unjudged = matches!(&error, ServiceError::Code { code, .. } if code.retryable());
        match self.exposed > 0 && unjudged {
            true => refusal_error(Refusal::Unknown),
            false => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_api::error::ErrorCode;
    use millrace_api::id::ChannelId;

    use super::*;

    /// Inputs 1 to `count` of a writer, sent to somebody who does not answer.
    fn sent(count: u64) -> UnderWay {
        let number = |number| WriterInput {
            writer: WriterId(7),
            opened_at: 0,
            number,
            acked_through: 0,
        };
        let input = |at| Input {
            number: Some(number(at)),
            bytes: Bytes::new(),
            reply: None,
        };
        UnderWay {
            channel: ChannelHandle::new(ChannelId(1)).0,
            gate: SessionGate::default(),
            numbering: Numbering::Callers,
            next: 1,
            acked_through: 0,
            inputs: (1..=count).map(input).collect(),
            exposed: 0,
        }
    }

    fn code(error: &ServiceError) -> ErrorCode {
        match error {
            ServiceError::Code { code, .. } => *code,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn what_a_former_owner_may_have_applied_is_never_said_not_to_have_happened() {
        let mut under_way = sent(2);
        assert!(under_way.may_go_on(&Refusal::Unknown));
        for _ in 0..2 {
            // The next owner refuses without having looked.
            assert!(under_way.may_go_on(&Refusal::Stopped));
            let told = under_way.honest(refusal_error(Refusal::Stopped));
            assert!(code(&told).may_have_happened(), "{told}");
            under_way.acknowledged();
        }
        under_way.inputs = sent(1).inputs;
        let told = under_way.honest(refusal_error(Refusal::Stopped));
        assert_eq!(code(&told), ErrorCode::HotServer, "sent to one owner alone");
    }

    #[test]
    fn an_owner_that_judged_an_input_is_believed() {
        let mut under_way = sent(1);
        assert!(under_way.may_go_on(&Refusal::Unknown));
        let refused = Refusal::SeqNumMismatch { next: 3 };
        assert!(!under_way.may_go_on(&refused));
        let told = under_way.honest(refusal_error(refused));
        assert_eq!(told, ServiceError::SeqNumMismatch { next: 3 });
    }

    #[test]
    fn nothing_is_exposed_by_a_refusal() {
        let mut under_way = sent(3);
        assert!(under_way.may_go_on(&Refusal::NotHere { applied: 0 }));
        let told = under_way.honest(refusal_error(Refusal::Stopped));
        assert!(!code(&told).may_have_happened());
    }
}
