//! Commands that come while others are on their way travel together in the next write of the log.

use futures::StreamExt;
use tokio::sync::mpsc;

use super::Proposed;
use super::core::Raft;
use crate::error::MetaError;

/// Commands of one batch.
const BATCH_MAX: usize = 256;

/// Ends when every sender is gone.
pub async fn run(raft: Raft, mut proposed: mpsc::Receiver<Proposed>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while proposed.recv_many(&mut batch, BATCH_MAX).await > 0 {
        // Whoever has given up is left out: nothing of his was applied, and he was told that it is unknown.
        batch.retain(|one| !one.answer.is_closed());
        if batch.is_empty() {
            continue;
        }
        if !raft.is_leader() {
            for one in batch.drain(..) {
                let _ = one
                    .answer
                    .send(Err(MetaError::Retry("this node does not lead".into())));
            }
            continue;
        }
        write(&raft, &mut batch).await;
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
                    // Whether it was still appended before leadership went is not said.
                    Ok(Err(error)) => Err(MetaError::Unknown(error.to_string().into())),
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
