//! Plain, with trims: what was trimmed may go, and nothing else.
//!
//! Nobody trims what some client has not read yet, so that every client knows the stream from its first record on and
//! can say its hash. Now and then one asks for the first record that is left.

use std::sync::atomic::{AtomicU64, Ordering};

use millrace_client::{Error, Record};
use rand::Rng;

use super::actor::{Actor, Conditions, run_all};
use super::plain::CLIENTS;
use super::{Setting, Track};

/// See the module.
pub async fn run(setting: Setting) -> Result<Vec<Track>, Error> {
    let track = setting.track("trims").await?;
    let read: Vec<AtomicU64> = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
    let turn = AtomicU64::new(0);
    let first = AtomicU64::new(0);
    run_all(&setting, &track, CLIENTS, async |actor| {
        if actor.rng.random_ratio(1, 5) {
            look(actor, &track, &first).await;
            return;
        }
        if actor.number() == 0 && turn.fetch_add(1, Ordering::Relaxed) % 4 == 3 {
            let read_by_all = read.iter().map(|it| it.load(Ordering::SeqCst)).min();
            let behind_last = track.first() + 1;
            let up_to = read_by_all.unwrap_or_default();
            if up_to > behind_last {
                let seq_num = actor.rng.random_range(behind_last..=up_to);
                // From now on it may happen.
                track.trim.fetch_max(seq_num, Ordering::SeqCst);
                let body = seq_num.to_be_bytes();
                let trim = Record::new(body.to_vec()).header("", "trim");
                actor
                    .append_records(vec![trim], &[body], Conditions::default())
                    .await;
                return;
            }
        }
        actor.reads_on = true;
        actor.act().await;
        read[actor.number() as usize].store(actor.read_so_far(), Ordering::SeqCst);
    })
    .await?;
    Ok(vec![track])
}

/// What is gone stays gone, and nothing is that nobody asked to trim. `first` is the highest first record that was seen.
async fn look(actor: &mut Actor, track: &Track, first: &AtomicU64) {
    let before = first.load(Ordering::SeqCst);
    let Some(seen) = actor.first().await else { return };
    if seen < before {
        track.findings.add(format!(
            "the first record was {before}, and whoever asked after that got {seen}"
        ));
    }
    if seen > track.first() {
        track.findings.add(format!(
            "the first record is {seen}, and nobody has trimmed behind {}",
            track.first()
        ));
    }
    first.fetch_max(seen, Ordering::SeqCst);
}
