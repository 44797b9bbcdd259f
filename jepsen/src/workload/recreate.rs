//! One name, created, used and deleted again and again: nothing of one life shows in the next.
//!
//! A request whose client has given up may come late, and find the next stream under its name: that is allowed, and
//! the history of each life begins with the open appends of the lives before. The same holds for a deletion of unknown
//! outcome, which nobody could tell from a wrong one: after it another name is used.

use std::time::Duration;

use millrace_client::{AppendSession, AppendSessionOptions, Batch, Error, Stream, StreamConfig};
use rand::Rng;
use tokio::time::{Instant, sleep, timeout};

use super::actor::{Actor, appended, read_to_tail, run_all, wait};
use super::{Prefix, Setting, Track};
use crate::history::{Append, Finish, Start, record_hash};

const CLIENTS: u64 = 3;
const LIFE: Duration = Duration::from_millis(1500);
/// How long a name may be taken after its deletion, faults included.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long a batch of a session is waited for. The session goes on with it until it is dropped.
const SESSION_PATIENCE: Duration = Duration::from_secs(3);

/// See the module.
pub async fn run(setting: Setting) -> Result<Vec<Track>, Error> {
    let mut rng = setting.rng(2000);
    let mut tracks: Vec<Track> = Vec::new();
    let mut names = 0;
    let mut lives = 0;
    let mut name = format!("{}recreate-{names}", setting.prefix);
    while !setting.is_over() || tracks.is_empty() {
        let nodes = setting.streams(&name)?;
        if !create(&nodes, &mut rng).await? {
            names += 1;
            name = format!("{}recreate-{names}", setting.prefix);
            continue;
        }
        let track = Track::new(name.clone());
        track.recorder.inherit(
            tracks
                .iter()
                .filter(|it| it.stream == name)
                .flat_map(|it| it.recorder.unknown()),
        );
        lives += 1;
        live(&setting, &track, lives).await?;
        tracks.push(track);
        if setting.is_over() {
            break;
        }
        let last = tracks.last_mut().expect("a track was pushed");
        let mut open = OpenSession::begin(last, &nodes[rng.random_range(0..nodes.len())], lives).await?;
        look_back(last, &nodes, &mut rng).await;
        last.deleted = true;
        match delete(&nodes, &mut rng).await {
            true => open.must_have_ended(last).await?,
            false => {
                names += 1;
                name = format!("{}recreate-{names}", setting.prefix);
            }
        }
    }
    Ok(tracks)
}

/// Clients use it for a while. Each life has numbers of its own, and so bodies like no other.
async fn live(setting: &Setting, track: &Track, life: u64) -> Result<(), Error> {
    let (ended, stop) = tokio::sync::watch::channel(false);
    let of_this_life = Setting {
        stop,
        seed: setting.seed.wrapping_add(life),
        ..setting.clone()
    };
    let clients = run_all(&of_this_life, track, CLIENTS, async |actor: &mut Actor| {
        actor.begin_life(life);
        actor.act().await;
    });
    let clock = async {
        wait(setting, LIFE).await;
        let _ = ended.send(true);
    };
    let (clients, ()) = tokio::join!(clients, clock);
    clients
}

/// True if the stream is there and is new.
async fn create(nodes: &[Stream], rng: &mut rand::rngs::SmallRng) -> Result<bool, Error> {
    let deadline = Instant::now() + PATIENCE;
    let token = format!("{:016x}", rng.random::<u64>());
    loop {
        let node = &nodes[rng.random_range(0..nodes.len())];
        match node.create_with_token(StreamConfig::default(), &token).await {
            Ok(_) => return Ok(true),
            Err(error) if error.code() == Some("resource_already_exists") => return Ok(false),
            Err(error) if Instant::now() >= deadline => return Err(error),
            // Its deletion is not over, or a fault is in the way.
            Err(_) => {}
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// A session that was there before its stream was deleted.
struct OpenSession {
    session: AppendSession,
    name: String,
    batches: u64,
}

impl OpenSession {
    /// Opens one and appends a batch, if it can.
    async fn begin(track: &Track, node: &Stream, life: u64) -> Result<Self, Error> {
        let mut open = Self {
            session: node.append_session(AppendSessionOptions::default())?,
            name: format!("{}/session/life-{life}", track.stream),
            batches: 0,
        };
        open.append(track).await?;
        Ok(open)
    }

    /// After the deletion was confirmed, the owner takes nothing more through what was open before.
    async fn must_have_ended(&mut self, track: &Track) -> Result<(), Error> {
        if let Finish::AppendSuccess { tail } = self.append(track).await? {
            let text =
                format!("a session appended up to {tail} after the deletion of its stream was confirmed");
            track.findings.add(text);
        }
        Ok(())
    }

    async fn append(&mut self, track: &Track) -> Result<Finish, Error> {
        self.batches += 1;
        let body = format!("{}/{}", self.name, self.batches);
        let mut client = track.recorder.client();
        let open = client.start(Start::Append(Append::of(vec![record_hash(body.as_bytes())])));
        let finish = match self.session.submit(Batch::new([body])?).await {
            Ok(ticket) => match timeout(SESSION_PATIENCE, ticket).await {
                Ok(answer) => appended(&answer),
                Err(_) => Finish::AppendIndefiniteFailure,
            },
            Err(error) => appended(&Err(error)),
        };
        client.finish(open, finish);
        Ok(finish)
    }
}

/// The last read before the stream goes.
async fn look_back(track: &Track, nodes: &[Stream], rng: &mut rand::rngs::SmallRng) {
    let mut prefix = Prefix::default();
    for _ in 0..10 {
        let node = &nodes[rng.random_range(0..nodes.len())];
        let mut client = track.recorder.client();
        let open = client.start(Start::Read);
        let finish = read_to_tail(node, &mut prefix).await.ok().flatten();
        client.finish(open, finish.unwrap_or(Finish::ReadFailure));
        track.known.learn(&prefix);
        if finish.is_some() {
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// False if nobody knows whether a deletion is still on its way.
async fn delete(nodes: &[Stream], rng: &mut rand::rngs::SmallRng) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let node = &nodes[rng.random_range(0..nodes.len())];
        match node.delete().await {
            Ok(()) => return true,
            Err(error) if error.may_have_happened() || Instant::now() >= deadline => return false,
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}
