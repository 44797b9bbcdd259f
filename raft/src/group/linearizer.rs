//! One confirmation of leadership for all reads that wait. Those that come during a round wait for the next: a
//! confirmation counts only for reads that came before it began.
//!
//! A member that does not lead asks the leader for one, on the same terms: the leader's round begins after it was
//! asked. A round that fails is tried again, for a read changes nothing.

use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::router::{Leader, Router};
use super::undone::Undone;
use crate::codec::forward;
use crate::error::MetaError;
use crate::network::Call;

const ROUND_MAX: usize = 65_536;

/// Somebody who waits for a read index.
pub struct Reader {
    pub answer: oneshot::Sender<Result<u64, Undone>>,
    /// Only if this member leads, and at the first attempt.
    pub here: bool,
}

/// Ends when every sender is gone. `timeout` bounds one question to the leader.
pub async fn run(router: Router, timeout: Duration, mut reading: mpsc::Receiver<Reader>) {
    let mut round: Vec<Reader> = Vec::new();
    while reading.recv_many(&mut round, ROUND_MAX).await > 0 {
        loop {
            let read = confirm(&router, timeout, &mut round).await;
            let last = match &read {
                Ok(_) | Err(Undone::Error(MetaError::Closed(_))) => true,
                Err(_) => false,
            };
            for reader in round.extract_if(.., |reader| last || reader.here) {
                let _ = reader.answer.send(read.clone());
            }
            round.retain(|reader| !reader.answer.is_closed());
            if round.is_empty() {
                break;
            }
            router.news().await;
            while round.len() < ROUND_MAX
                && let Ok(reader) = reading.try_recv()
            {
                round.push(reader);
            }
        }
    }
}

async fn confirm(router: &Router, timeout: Duration, round: &mut Vec<Reader>) -> Result<u64, Undone> {
    let leader = match router.leader() {
        Leader::Here => return confirm_here(router).await,
        Leader::Nobody => return Err(Undone::NotLeading(None)),
        Leader::Stopped(why) => return Err(Undone::closed(why)),
        Leader::At(leader) => leader,
    };
    for reader in round.extract_if(.., |reader| reader.here) {
        let _ = reader.answer.send(Err(Undone::NotLeading(Some(leader.node.0))));
    }
    if round.is_empty() {
        return Err(Undone::NotLeading(Some(leader.node.0)));
    }
    let request = forward::encode_read_index(timeout);
    let answer = router.ask(&leader, Call::ReadIndex, request, timeout).await;
    let bytes = answer.map_err(Undone::retry)?;
    forward::decode_index(&bytes)
        .map_err(Undone::retry)?
        .map_err(Undone::told_by_leader)
}

async fn confirm_here(router: &Router) -> Result<u64, Undone> {
    match router.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => Ok(linearizer.read_log_id().index()),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
            Err(Undone::NotLeading(forward.leader_id))
        }
        Err(RaftError::APIError(error)) => Err(Undone::retry(error)),
        Err(RaftError::Fatal(fatal)) => Err(Undone::closed(fatal)),
    }
}
