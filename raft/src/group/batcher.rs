//! Commands that come while others are on their way travel together in the next write of the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use futures::StreamExt;
use openraft::errors::ClientWriteError;
use tokio::sync::{mpsc, oneshot};

use super::core::Raft;
use crate::command::Command;
use crate::error::MetaError;
use crate::types::Answer;

/// Commands of one batch.
const BATCH_MAX: usize = 256;

/// A command on its way into the log.
pub struct Proposed {
    pub command: Command,
    pub answer: oneshot::Sender<Result<Answer, MetaError>>,
    pub fate: Fate,
}

/// Whether a waiting command was taken up or given up: one of both, decided once.
#[derive(Clone, Default)]
pub struct Fate(Arc<AtomicU8>);

const WAITING: u8 = 0;
const TAKEN_UP: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Fate {
    /// `true`: nobody will propose the command any more.
    pub fn give_up(&self) -> bool {
        self.decide(GIVEN_UP)
    }

    fn take_up(&self) -> bool {
        self.decide(TAKEN_UP)
    }

    fn decide(&self, fate: u8) -> bool {
        self.0
            .compare_exchange(WAITING, fate, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// Ends when every sender is gone.
pub async fn run(raft: Raft, mut proposed: mpsc::Receiver<Proposed>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while proposed.recv_many(&mut batch, BATCH_MAX).await > 0 {
        batch.retain(|one: &Proposed| one.fate.take_up());
        if !batch.is_empty() {
            write(&raft, &mut batch).await;
        }
    }
}

/// Writes one batch and answers it, in order.
async fn write(raft: &Raft, batch: &mut Vec<Proposed>) {
    let (commands, waiting): (Vec<_>, Vec<_>) = batch.drain(..).map(|one| (one.command, one.answer)).unzip();
    let mut waiting = waiting.into_iter();
    let mut end = "the group stopped".to_owned();
    match raft.client_write_many(commands).await {
        Ok(mut answers) => {
            while let Some(answer) = answers.next().await {
                let Some(one) = waiting.next() else { break };
                let answer = match answer {
                    Ok(Ok(written)) => Ok(written.response),
                    Ok(Err(error)) => Err(not_written(&error)),
                    Err(fatal) => Err(MetaError::Closed(fatal.to_string().into())),
                };
                let _ = one.send(answer);
            }
        }
        Err(fatal) => end = fatal.to_string(),
    }
    for one in waiting {
        let _ = one.send(Err(MetaError::Closed(end.as_str().into())));
    }
}

fn not_written(error: &ClientWriteError<crate::types::TypeConfig>) -> MetaError {
    match error {
        // Rejected before it was appended.
        ClientWriteError::ForwardToLeader(forward) => MetaError::Retry(forward.to_string().into()),
        // It left this log, but may be in another's.
        other => MetaError::Unknown(other.to_string().into()),
    }
}
