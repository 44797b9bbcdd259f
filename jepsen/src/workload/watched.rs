//! A few streams, each with clients that only append and clients that only look, some of both at every node.
//!
//! Whoever appends through an owner that can write no more waits until it gives up. Whoever only looks goes on
//! meanwhile, and sees what that owner says of a stream that somebody else writes by now.

use futures::future::join_all;
use millrace_client::Error;
use rand::Rng;

use super::actor::{Conditions, run_all};
use super::{Setting, Track};

/// How many streams.
const STREAMS: usize = 4;
/// Of each stream. Their numbers come first, so that there is one at every node of three.
const WRITERS: u64 = 3;
const WATCHERS: u64 = 3;

/// See the module.
pub async fn run(setting: Setting) -> Result<Vec<Track>, Error> {
    let tracks = setting.tracks("watched", STREAMS).await?;
    let clients = tracks.iter().map(|track| {
        run_all(&setting, track, WRITERS + WATCHERS, async |actor| {
            match actor.number() < WRITERS {
                true => actor.append(Conditions::default()).await,
                false if actor.rng.random_ratio(1, 4) => actor.read().await,
                false => actor.check_tail().await,
            };
        })
    });
    join_all(clients)
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    Ok(tracks)
}
