//! Many streams, spread over many channels: what is true of one stream is true of each, also while channels change
//! hands one by one.

use futures::future::join_all;
use millrace_client::Error;
use rand::Rng;

use super::actor::Actor;
use super::{Setting, Track};

/// How many streams.
pub const STREAMS: usize = 12;
const CLIENTS: u64 = 6;

/// See the module.
pub async fn run(setting: Setting) -> Result<Vec<Track>, Error> {
    let tracks = setting.tracks("many", STREAMS).await?;
    let clients = (0..CLIENTS).map(async |number| {
        let actors = tracks.iter().map(|track| Actor::new(&setting, track, number));
        let mut actors = actors.collect::<Result<Vec<_>, _>>()?;
        let mut rng = setting.rng(1000 + number);
        while !setting.is_over() {
            let stream = rng.random_range(0..actors.len());
            actors[stream].act().await;
            setting.rest(&mut rng).await;
        }
        Ok::<_, Error>(())
    });
    join_all(clients)
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    Ok(tracks)
}
