//! Writers that each have a token, and fence the others off with it from time to time: no append may get through under
//! a token that is not in force any more, whoever owns the stream by then. And whoever is refused hears of a token that
//! was in force while it asked: histories know nothing of refusals.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use millrace_client::Error;
use rand::Rng;

use super::actor::{Actor, Conditions, run_all};
use super::plain::CLIENTS;
use super::{Setting, Track};
use crate::history::Finish;

/// See the module.
pub async fn run(setting: Setting) -> Result<Vec<Track>, Error> {
    let track = setting.track("fenced").await?;
    // Tokens that somebody may think to be in force: each is set once, so that it also is a record like no other.
    let tokens = AtomicU64::new(0);
    let token = |number: u64| format!("token-{number}");
    let fences = Fences::default();
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
                let before = fences.newest();
                let finish = actor.append(conditions).await;
                fences.set(&token(next), finish);
                fences.judge(actor, &track, before);
            }
            1..12 if newest > 0 => {
                // Mostly the newest, sometimes one that was fenced off.
                let behind = actor.rng.random_range(0..8u64).saturating_sub(5);
                let conditions = Conditions {
                    token: Some(token(newest.saturating_sub(behind).max(1))),
                    ..Conditions::default()
                };
                let before = fences.newest();
                actor.append(conditions).await;
                fences.judge(actor, &track, before);
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

/// Fences that were acknowledged, by token: behind which record they stand.
#[derive(Default)]
struct Fences(Mutex<HashMap<String, u64>>);

impl Fences {
    /// Where the newest fence stands that is known; 0 if none is.
    fn newest(&self) -> u64 {
        self.lock().values().copied().max().unwrap_or(0)
    }

    fn set(&self, token: &str, finish: Finish) {
        if let Finish::AppendSuccess { tail } = finish {
            self.lock().insert(token.to_owned(), tail);
        }
    }

    /// `before`: the newest fence that stood before the actor asked. Whatever it was refused for is not older.
    fn judge(&self, actor: &Actor, track: &Track, before: u64) {
        let Some(in_force) = &actor.in_force else { return };
        let stands = match in_force.is_empty() {
            true => Some(0),
            // One of unknown outcome stands anywhere.
            false => self.lock().get(in_force).copied(),
        };
        if stands.is_some_and(|stands| stands < before) {
            track.findings.add(format!(
                "an append was refused for the token {in_force:?}, and before it was sent a later one was in force"
            ));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
