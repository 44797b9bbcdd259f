//! Writing the uncertain end of an epoch again, as the start of the current one.

use std::sync::Arc;

use millrace_api::bug::{Bug, planted};
use millrace_api::id::Epoch;
use tokio::sync::mpsc::UnboundedReceiver;

use super::RecoveryError;
use super::run::Recovery;
use super::walk::Slot;
use crate::format::{ChunkBuilder, ChunkId, ChunkKind, Footer};
use crate::quorum::{EpochWriter, WriteEvent};

impl<V: FnMut(ChunkId, &Arc<Footer>) + Send> Recovery<'_, V> {
    /// Writes `slots`, which begin at slot `from` of `epoch`, as the first slots of the current epoch: the same frames,
    /// byte for byte and in order. When it returns `Ok`, all of them are durable.
    pub(super) async fn adopt(
        &mut self,
        epoch: Epoch,
        from: u64,
        slots: Vec<Slot>,
    ) -> Result<Vec<Arc<Footer>>, RecoveryError> {
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        if self.next_slot().0 != 0 {
            return Err(RecoveryError::Invalid("two epochs to adopt from".into()));
        }
        let (channel, current) = (self.history.channel, self.history.current);
        let (mut writer, mut events) = self.wal.writer(channel, current, self.nonce, self.next_slot());
        let mut adopted = Vec::with_capacity(slots.len());
        for (slot, found) in (from..).zip(slots) {
            let source = self.id(epoch, slot);
            let chunk = match found.whole {
                Some(chunk) => chunk,
                None => self.wait_for_chunk(source).await,
            };
            let mut builder = ChunkBuilder::new();
            for frame in chunk.frames {
                builder.push(frame);
            }
            wait_until(&writer, &mut events, |writer| writer.free_slots() > 0).await?;
            let written = writer.submit_as(builder, ChunkKind::Adopted { source });
            adopted.push(Arc::clone(&written.index));
        }
        let count = adopted.len() as u64;
        if !planted(Bug::EndBeforeAdopted) {
            wait_until(&writer, &mut events, |writer| writer.durable_end().0 >= count).await?;
        }
        self.wal
            .metrics()
            .adopted_total
            .fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        self.adopted_into(count);
        tracing::info!(%channel, %epoch, from, count, by = %current, "adopted chunks");
        Ok(adopted)
    }
}

/// Waits for a state of the writer that only its own events bring about.
async fn wait_until(
    writer: &EpochWriter,
    events: &mut UnboundedReceiver<WriteEvent>,
    reached: impl Fn(&EpochWriter) -> bool,
) -> Result<(), RecoveryError> {
    while !reached(writer) {
        match events.recv().await {
            Some(WriteEvent::Fenced { by, .. }) => return Err(by.into()),
            Some(WriteEvent::Durable { .. }) => {}
            Some(WriteEvent::Retrying { slot, error, since }) => {
                tracing::debug!(%slot, %error, ?since, "adopted chunk is not durable yet");
            }
            None => return Err(RecoveryError::Fenced("the writer was closed".into())),
        }
    }
    Ok(())
}
