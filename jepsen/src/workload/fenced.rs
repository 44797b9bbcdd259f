//! Writers that each have a token, and fence the others off with it from time to time: no append may get through under
//! a token that is not in force any more, whoever owns the stream by then.

use std::sync::atomic::{AtomicU64, Ordering};

use millrace_client::Error;
use rand::Rng;

use super::actor::{Conditions, run_all};
use super::plain::CLIENTS;
use super::{Setting, Track};

/// See the module.
pub async fn run(setting: Setting) -> Result<Vec<Track>, Error> {
    let track = setting.track("fenced").await?;
    // Tokens that somebody may think to be in force: each is set once, so that it also is a record like no other.
    let tokens = AtomicU64::new(0);
    let token = |number: u64| format!("token-{number}");
    run_all(&setting, &track, CLIENTS, async |actor| {
        let newest = tokens.load(Ordering::Relaxed);
        match actor.rng.random_range(0..20) {
            0 => {
                let next = tokens.fetch_add(1, Ordering::Relaxed) + 1;
                // Half of them take the stream from whoever has it, half only from the last one.
                let gently = newest > 0 && actor.rng.random();
                let conditions = Conditions {
                    sets: Some(token(next)),
                    token: gently.then(|| token(newest)),
                    ..Conditions::default()
                };
                actor.append(conditions).await;
            }
            1..12 if newest > 0 => {
                // Mostly the newest, sometimes one that was fenced off.
                let behind = actor.rng.random_range(0..8u64).saturating_sub(5);
                let conditions = Conditions {
                    token: Some(token(newest.saturating_sub(behind).max(1))),
                    ..Conditions::default()
                };
                actor.append(conditions).await;
            }
            12..17 => {
                actor.read().await;
            }
            17..19 => {
                actor.check_tail().await;
            }
            _ => {
                actor.append(Conditions::default()).await;
            }
        }
    })
    .await?;
    Ok(vec![track])
}
