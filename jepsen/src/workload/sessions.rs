//! Append sessions with many batches on their way, beside clients that read.
//!
//! A session sends again by itself what was not acknowledged when a connection breaks or a node dies, under the same
//! number, so that each batch is one operation whatever happens to it: it is there once, or its ticket says that
//! nobody knows. Batches of one session are in the order in which they were submitted.

use std::collections::VecDeque;
use std::time::Duration;

use futures::future::join_all;
use millrace_client::{AppendSessionOptions, Batch, Error, Ticket};
use rand::Rng;
use tokio::time::sleep;

use super::actor::{Actor, appended, run_all};
use super::{Setting, Track};
use crate::history::{Append, Finish, Start, record_hash};
use crate::recorder::{Client, Open};

const SESSIONS: u64 = 3;
const READERS: u64 = 2;
/// Batches that one session has on their way, at most.
const INFLIGHT_MAX: usize = 16;
/// A session is ended and a new one begun after so many batches, at most.
const BATCHES_MAX: u64 = 400;

struct Sent {
    client: Client,
    open: Open,
    ticket: Ticket,
}

/// See the module.
pub async fn run(setting: Setting) -> Result<Vec<Track>, Error> {
    let track = setting.track("sessions").await?;
    let writers = (0..SESSIONS).map(async |number| {
        let mut actor = Actor::new(&setting, &track, 100 + number)?;
        while !setting.is_over() {
            session(&setting, &track, &mut actor).await?;
            sleep(Duration::from_millis(50)).await;
        }
        Ok::<_, Error>(())
    });
    let readers = run_all(&setting, &track, READERS, async |actor| {
        match actor.rng.random_ratio(2, 3) {
            true => actor.read().await,
            false => actor.check_tail().await,
        };
    });
    let (writers, readers) = tokio::join!(join_all(writers), readers);
    writers.into_iter().collect::<Result<Vec<_>, _>>()?;
    readers?;
    Ok(vec![track])
}

/// One session, until it fails or has done enough.
async fn session(setting: &Setting, track: &Track, actor: &mut Actor) -> Result<(), Error> {
    let options = AppendSessionOptions {
        batches_inflight_max: INFLIGHT_MAX,
        ..AppendSessionOptions::default()
    };
    let session = actor.node().append_session(options)?;
    let mut sent = VecDeque::new();
    let mut acked = 0;
    let batches = actor.rng.random_range(1..=BATCHES_MAX);
    for _ in 0..batches {
        if setting.is_over() {
            break;
        }
        let bodies = actor.bodies();
        let append = Append::of(bodies.iter().map(|body| record_hash(body.as_bytes())).collect());
        let Ok(permit) = session.reserve(Batch::new(bodies)?).await else {
            break;
        };
        // Sequential clients have one operation at a time: each batch on its way has one.
        let mut client = track.recorder.client();
        let open = client.start(Start::Append(append));
        match permit.submit() {
            Ok(ticket) => sent.push_back(Sent { client, open, ticket }),
            Err(error) => {
                client.finish(open, appended(&Err(error)));
                break;
            }
        }
        while sent.len() >= INFLIGHT_MAX || (!sent.is_empty() && actor.rng.random_ratio(1, 4)) {
            settle(setting, track, &mut sent, &mut acked).await;
        }
        let mut rng = actor.rng.clone();
        setting.rest(&mut rng).await;
        actor.rng = rng;
    }
    while !sent.is_empty() {
        settle(setting, track, &mut sent, &mut acked).await;
    }
    Ok(())
}

async fn settle(setting: &Setting, track: &Track, sent: &mut VecDeque<Sent>, acked: &mut u64) {
    let Some(Sent {
        mut client,
        open,
        ticket,
    }) = sent.pop_front()
    else {
        return;
    };
    let answer = ticket.await;
    let finish = appended(&answer);
    client.finish(open, finish);
    if let (Ok(ack), Finish::AppendSuccess { tail }) = (answer, finish) {
        setting.pulse.beat();
        if ack.start.seq_num < *acked {
            let start = ack.start.seq_num;
            track.findings.add(format!(
                "a session's batch is at {start}, and the one submitted before it ends at {acked}"
            ));
        }
        *acked = tail;
    }
}
