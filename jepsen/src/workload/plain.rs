//! Five clients on one stream: appends without conditions, reads, tail checks.

use millrace_client::Error;

use super::actor::run_all;
use super::{Setting, Track};

/// How many clients.
pub const CLIENTS: u64 = 5;

/// See the module.
pub async fn run(setting: Setting) -> Result<Vec<Track>, Error> {
    let track = setting.track("plain").await?;
    run_all(&setting, &track, CLIENTS, async |actor| {
        actor.act().await;
    })
    .await?;
    Ok(vec![track])
}
