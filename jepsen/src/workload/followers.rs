//! Plain, with readers that follow the tail.
//!
//! What a follower is given with the word that nothing is behind it was the whole stream at some moment since the
//! follower's session was opened; so it is a read that began there. Reads that are not needed are ended as failed.

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use millrace_client::{Error, ReadOptions};
use tokio::time::{Instant, timeout};

use super::actor::{Actor, run_all};
use super::{Prefix, Setting, Track};
use crate::history::{Finish, Start, record_hash};

const FOLLOWERS: u64 = 3;
const CLIENTS: u64 = 4;
/// What is looked at of one session; then another one is opened.
const SAMPLES: usize = 20;
const BETWEEN_SAMPLES: Duration = Duration::from_millis(60);
/// A session that gives nothing for so long is opened anew.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub async fn run(setting: Setting) -> Result<Vec<Track>, Error> {
    let track = setting.track("followers").await?;
    let followers = (0..FOLLOWERS).map(async |number| {
        let mut actor = Actor::new(&setting, &track, 100 + number)?;
        let mut prefix = Prefix::default();
        while !setting.is_over() {
            follow(&setting, &track, &mut actor, &mut prefix).await;
        }
        Ok::<_, Error>(())
    });
    let clients = run_all(&setting, &track, CLIENTS, async |actor| {
        actor.act().await;
    });
    let (followers, clients) = tokio::join!(join_all(followers), clients);
    followers.into_iter().collect::<Result<Vec<_>, _>>()?;
    clients?;
    Ok(vec![track])
}

/// One session, from where the last one ended.
async fn follow(setting: &Setting, track: &Track, actor: &mut Actor, prefix: &mut Prefix) {
    let mut reads: Vec<_> = (0..SAMPLES)
        .map(|_| {
            let mut client = track.recorder.client();
            let open = client.start(Start::Read);
            (client, open)
        })
        .collect();
    let options = ReadOptions::from_seq_num(prefix.len()).clamp();
    let mut session = actor.node().read_session(options);
    let mut sampled = Instant::now();
    while !setting.is_over() && !reads.is_empty() {
        let Ok(Some(Ok(batch))) = timeout(SILENCE_MAX, session.next()).await else {
            break;
        };
        let caught_up = batch.is_caught_up();
        for record in batch {
            if record.seq_num != prefix.len() {
                let (expected, found) = (prefix.len(), record.seq_num);
                track
                    .findings
                    .add(format!("a follower was to get record {expected} and got {found}"));
                return;
            }
            prefix.push(record_hash(&record.body));
        }
        if caught_up && sampled.elapsed() >= BETWEEN_SAMPLES {
            sampled = Instant::now();
            if let Some((mut client, open)) = reads.pop() {
                let finish = Finish::ReadSuccess {
                    tail: prefix.len(),
                    stream_hash: prefix.hash(),
                };
                client.finish(open, finish);
            }
        }
    }
    for (mut client, open) in reads {
        client.finish(open, Finish::ReadFailure);
    }
    track.known.learn(prefix);
}
