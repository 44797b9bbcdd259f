//! Clients that race for the next sequence number: of each number at most one may win, and who loses hears where the
//! stream ends.

use millrace_client::Error;
use rand::Rng;

use super::actor::{Conditions, run_all};
use super::plain::CLIENTS;
use super::{Setting, Track};

/// See the module.
pub async fn run(setting: Setting) -> Result<Vec<Track>, Error> {
    let track = setting.track("matched").await?;
    run_all(&setting, &track, CLIENTS, async |actor| {
        match actor.rng.random_range(0..10) {
            0..6 => {
                let seq_num = actor.tail;
                let conditions = Conditions {
                    match_seq_num: Some(seq_num),
                    ..Conditions::default()
                };
                actor.append(conditions).await;
            }
            6..8 => {
                actor.read().await;
            }
            8 => {
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
