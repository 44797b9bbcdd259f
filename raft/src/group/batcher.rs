//! Commands that come while others are on their way travel together: in the next write of the log where this member
//! leads, in the next call to the leader where it does not.
//!
//! A command that nobody took up is tried again, with whoever leads then, until its caller gives up. One that may
//! have been taken up is not: its outcome is unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use futures::StreamExt;
use openraft::errors::ClientWriteError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::core::Raft;
use super::router::{Leader, Router};
use super::undone::{Decided, Undone};
use crate::codec::forward;
use crate::command::{COMMAND_BYTES_MAX, Command};
use crate::network::{Call, Peer, TransportError};
use crate::types::TypeConfig;

/// Commands of one batch.
const BATCH_MAX: usize = 256;

/// A command on its way into the log.
pub struct Proposed {
    pub command: Command,
    /// Of the encoded command; at most [`COMMAND_BYTES_MAX`].
    pub bytes: usize,
    pub answer: oneshot::Sender<Result<Decided, Undone>>,
    pub fate: Fate,
    pub deadline: Instant,
    /// Another member sent it here because it took this one for the leader: it is not sent on.
    pub forwarded: bool,
}

impl Proposed {
    fn answer(self, answer: Result<Decided, Undone>) {
        // Whoever asked may have gone.
        let _ = self.answer.send(answer);
    }
}

/// Whether a waiting command was taken up or given up: one of both at a time.
#[derive(Clone, Default)]
pub struct Fate(Arc<AtomicU8>);

const WAITING: u8 = 0;
const TAKEN_UP: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Fate {
    /// `true`: nobody will propose the command any more.
    pub fn give_up(&self) -> bool {
        self.decide(WAITING, GIVEN_UP)
    }

    fn take_up(&self) -> bool {
        self.decide(WAITING, TAKEN_UP)
    }

    /// Nothing came of it: it waits again.
    fn put_back(&self) {
        self.decide(TAKEN_UP, WAITING);
    }

    fn decide(&self, from: u8, to: u8) -> bool {
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// Ends when every sender is gone.
pub async fn run(router: Router, mut proposed: mpsc::Receiver<Proposed>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while proposed.recv_many(&mut batch, BATCH_MAX).await > 0 {
        loop {
            batch = attempt(&router, batch).await;
            if batch.is_empty() {
                break;
            }
            router.news().await;
            while batch.len() < BATCH_MAX
                && let Ok(one) = proposed.try_recv()
            {
                batch.push(one);
            }
        }
    }
}

/// Tries a batch once; answers what is decided and returns what may be tried again.
async fn attempt(router: &Router, mut batch: Vec<Proposed>) -> Vec<Proposed> {
    batch.retain(|one| !one.answer.is_closed() && one.fate.take_up());
    if batch.is_empty() {
        return batch;
    }
    match router.leader() {
        Leader::Here => write(&router.raft, batch).await,
        Leader::At(leader) => {
            let (forwarded, own): (Vec<_>, Vec<_>) = batch.into_iter().partition(|one| one.forwarded);
            for one in forwarded {
                one.answer(Err(Undone::NotLeading(Some(leader.node.0))));
            }
            match own.is_empty() {
                true => own,
                false => send(router, &leader, own).await,
            }
        }
        Leader::Nobody => again(batch, None),
        Leader::Stopped(why) => {
            for one in batch {
                one.answer(Err(Undone::closed(&why)));
            }
            Vec::new()
        }
    }
}

/// What nobody took up waits again; what other members sent goes back to them.
fn again(batch: Vec<Proposed>, leader: Option<u64>) -> Vec<Proposed> {
    let mut left = Vec::new();
    for one in batch {
        match one.forwarded {
            true => one.answer(Err(Undone::NotLeading(leader))),
            false => {
                one.fate.put_back();
                left.push(one);
            }
        }
    }
    left
}

/// Cuts a batch so that no part has more bytes than the largest command may have.
fn parts(batch: Vec<Proposed>) -> Vec<Vec<Proposed>> {
    let mut parts: Vec<Vec<Proposed>> = Vec::new();
    let mut bytes = usize::MAX;
    for one in batch {
        bytes = bytes.saturating_add(one.bytes);
        match parts.last_mut() {
            Some(part) if bytes <= COMMAND_BYTES_MAX => part.push(one),
            _ => {
                bytes = one.bytes;
                parts.push(vec![one]);
            }
        }
    }
    parts
}

/// Writes one batch into the log, its parts one after the other.
async fn write(raft: &Raft, batch: Vec<Proposed>) -> Vec<Proposed> {
    let mut left = Vec::new();
    for part in parts(batch) {
        left.extend(write_part(raft, part).await);
    }
    left
}

async fn write_part(raft: &Raft, batch: Vec<Proposed>) -> Vec<Proposed> {
    let commands: Vec<_> = batch.iter().map(|one| one.command.clone()).collect();
    let mut waiting = batch.into_iter();
    let mut left = Vec::new();
    let mut end = "the group stopped".to_owned();
    match raft.client_write_many(commands).await {
        Ok(mut answers) => {
            while let Some(answer) = answers.next().await {
                let Some(one) = waiting.next() else { break };
                match answer {
                    Ok(Ok(written)) => one.answer(match written.response {
                        Some(answer) => Ok(Decided {
                            answer,
                            index: written.log_id.index,
                        }),
                        None => Err(Undone::unknown("the entry carried no command")),
                    }),
                    Ok(Err(error)) => match not_written(&error) {
                        Undone::NotLeading(leader) => left.extend(again(vec![one], leader)),
                        undone => one.answer(Err(undone)),
                    },
                    Err(fatal) => one.answer(Err(Undone::closed(fatal))),
                }
            }
        }
        Err(fatal) => end = fatal.to_string(),
    }
    for one in waiting {
        one.answer(Err(Undone::closed(&end)));
    }
    left
}

fn not_written(error: &ClientWriteError<TypeConfig>) -> Undone {
    match error {
        // Rejected before it was appended.
        ClientWriteError::ForwardToLeader(forward) => Undone::NotLeading(forward.leader_id),
        // It left this log, but may be in another's.
        other => Undone::unknown(other),
    }
}

/// Sends one batch to the leader, its parts side by side.
async fn send(router: &Router, leader: &Peer, batch: Vec<Proposed>) -> Vec<Proposed> {
    let sent = parts(batch)
        .into_iter()
        .map(|part| send_part(router, leader, part));
    futures::future::join_all(sent)
        .await
        .into_iter()
        .flatten()
        .collect()
}

async fn send_part(router: &Router, leader: &Peer, batch: Vec<Proposed>) -> Vec<Proposed> {
    let last = batch.iter().map(|one| one.deadline).max();
    let budget = last.map_or(std::time::Duration::ZERO, |last| {
        last.saturating_duration_since(Instant::now())
    });
    let request = forward::encode_propose(batch.iter().map(|one| &one.command), budget);
    let answers = match router.ask(leader, Call::Propose, request, budget).await {
        Ok(bytes) => forward::decode_answers(&bytes).map_err(|error| error.to_string()),
        // It did not get there, or was turned away.
        Err(TransportError::Unreachable(_) | TransportError::Rejected(_)) => return again(batch, None),
        Err(TransportError::Failed(why)) => Err(why),
    };
    let answers = answers.and_then(|answers| match answers.len() == batch.len() {
        true => Ok(answers),
        false => Err(format!("{} answers to {} commands", answers.len(), batch.len())),
    });
    match answers {
        Ok(answers) => {
            let mut left = Vec::new();
            for (one, answer) in batch.into_iter().zip(answers) {
                match answer.map_err(Undone::told_by_leader) {
                    Err(Undone::NotLeading(leader)) => left.extend(again(vec![one], leader)),
                    answer => one.answer(answer),
                }
            }
            left
        }
        Err(why) => {
            let why = format!("from node {}: {why}", leader.node);
            for one in batch {
                one.answer(Err(Undone::unknown(&why)));
            }
            Vec::new()
        }
    }
}
