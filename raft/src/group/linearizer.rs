//! One confirmation of leadership for all reads that wait. Those that come during a round wait for the next: a
//! confirmation counts only for reads that came before it began.

use openraft::ReadPolicy;
use openraft::errors::RaftError;
use tokio::sync::mpsc;

use super::Reader;
use super::core::Raft;
use crate::error::MetaError;

const ROUND_MAX: usize = 65_536;

/// Ends when every sender is gone.
pub async fn run(raft: Raft, mut reading: mpsc::Receiver<Reader>) {
    let mut round: Vec<Reader> = Vec::new();
    while reading.recv_many(&mut round, ROUND_MAX).await > 0 {
        let index = confirm(&raft).await;
        for reader in round.drain(..) {
            let _ = reader.send(index.clone());
        }
    }
}

async fn confirm(raft: &Raft) -> Result<u64, MetaError> {
    match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => Ok(linearizer.read_log_id().index()),
        Err(RaftError::APIError(error)) => Err(MetaError::Retry(error.to_string().into())),
        Err(RaftError::Fatal(fatal)) => Err(MetaError::Closed(fatal.to_string().into())),
    }
}
