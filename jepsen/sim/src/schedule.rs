//! Faults that somebody has written down, instead of drawn ones: `pause:owner:1-9,crash:2:10-11.5`.
//!
//! Each is a kind, whom it is about, and the time in seconds since clients began. Whom: the number of a node, the
//! `leader` of the metadata group, the `owner` of the first stream that is in use, or a `follower`, who is an owner and
//! does not lead, if there is one; all as of the moment when the fault begins. With `A+B` it is about what the two send
//! each other alone. What is about a zone and no node has the zone's number there, and what is about a node and a zone
//! may have the zone behind the `+`.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use clap::ValueEnum;
use millrace_api::id::ChannelId;
use millrace_raft::error::StoreError;
use millrace_raft::query::{ChannelRecord, View};

use crate::cluster::SimNode;
use crate::faults::Kind;

/// Basins, and streams of each, that are looked at.
const LOOKED_AT_MAX: usize = 100;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Planned {
    pub kind: Kind,
    pub whom: Whom,
    /// Whom else.
    pub with: Option<Whom>,
    /// Since clients began.
    pub from: Duration,
    pub until: Duration,
}

/// Whom a fault is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    Node(u64),
    Owner,
    /// An owner that does not lead.
    Follower,
    Leader,
}

/// All of them, in the order in which they begin.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Schedule(pub Vec<Planned>);

impl Whom {
    /// The node's number now; the first one's if nobody knows.
    pub fn number(self, nodes: &[SimNode]) -> u64 {
        let number = match self {
            Self::Node(number) => Some(number),
            Self::Leader => leader(nodes),
            Self::Owner => owner(nodes, None),
            Self::Follower => owner(nodes, leader(nodes)),
        };
        number.unwrap_or(1)
    }
}

/// As the node says that has applied most: of the first stream that is in use, or else of any channel. With `but`
/// somebody else, if somebody else owns a channel that is in use.
fn owner(nodes: &[SimNode], but: Option<u64>) -> Option<u64> {
    let metas = nodes.iter().filter_map(SimNode::meta);
    let newest = metas.max_by_key(|meta| meta.applied_index())?;
    newest.state().at_once(|view| {
        let channels = view.channels().ok()?;
        let owner = |channel: &ChannelRecord| channel.owner.map(|owner| owner.node.0);
        let in_use = in_use(&view).unwrap_or_default();
        let of = |id: &ChannelId| {
            channels
                .iter()
                .find(|channel| channel.channel == *id)
                .and_then(owner)
        };
        let owners: Vec<u64> = in_use.iter().filter_map(of).collect();
        let other = owners.iter().find(|owner| Some(**owner) != but);
        let found = other.or(owners.first()).copied();
        found.or_else(|| channels.iter().find_map(owner))
    })
}

/// Channels of open streams.
fn in_use(view: &View<'_>) -> Result<Vec<ChannelId>, StoreError> {
    let mut channels = Vec::new();
    for basin in view.list_basins("", "", LOOKED_AT_MAX)?.items {
        for entry in view.list_streams(basin.id, "", "", LOOKED_AT_MAX)?.items {
            let stream = view.stream_by_id(entry.id)?;
            channels.extend(stream.and_then(|stream| stream.open).map(|open| open.channel));
        }
    }
    Ok(channels)
}

/// Of those who think that they lead, the one of the highest term.
fn leader(nodes: &[SimNode]) -> Option<u64> {
    let metrics = nodes.iter().filter_map(SimNode::meta).map(|meta| meta.metrics());
    metrics.max_by_key(|metrics| metrics.term)?.leader
}

impl FromStr for Schedule {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut planned = text.split(',').map(one).collect::<anyhow::Result<Vec<_>>>()?;
        planned.sort_by_key(|planned| planned.from);
        Ok(Self(planned))
    }
}

fn one(text: &str) -> anyhow::Result<Planned> {
    let context = || format!("{text:?} is not KIND:WHOM:FROM-UNTIL");
    let mut parts = text.split(':');
    let (Some(kind), Some(whom), Some(time), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(anyhow!(context()));
    };
    let (whom, with) = match whom.split_once('+') {
        Some((whom, with)) => (whom, Some(with)),
        None => (whom, None),
    };
    let (from, until) = time.split_once('-').with_context(context)?;
    let seconds = |text: &str| {
        let seconds: f64 = text.parse().with_context(context)?;
        Duration::try_from_secs_f64(seconds).with_context(context)
    };
    let (from, until) = (seconds(from)?, seconds(until)?);
    ensure!(from <= until, "{}", context());
    Ok(Planned {
        kind: Kind::from_str(kind, true).map_err(|why| anyhow!("{}: {why}", context()))?,
        whom: named(whom).with_context(context)?,
        with: with.map(named).transpose().with_context(context)?,
        from,
        until,
    })
}

fn named(text: &str) -> anyhow::Result<Whom> {
    Ok(match text {
        "owner" => Whom::Owner,
        "follower" => Whom::Follower,
        "leader" => Whom::Leader,
        number => Whom::Node(number.parse()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_read_in_order_of_time() {
        let schedule: Schedule = "crash:2:10-11.5,pause:owner:1-9".parse().unwrap();
        let [pause, crash] = schedule.0[..] else {
            panic!("two faults")
        };
        assert_eq!((pause.kind, pause.whom), (Kind::Pause, Whom::Owner));
        assert_eq!((crash.kind, crash.whom), (Kind::Crash, Whom::Node(2)));
        assert_eq!(crash.until, Duration::from_millis(11_500));
    }

    #[test]
    fn a_fault_may_be_between_two() {
        let schedule: Schedule = "hold:owner+leader:1-9".parse().unwrap();
        assert_eq!(
            (schedule.0[0].whom, schedule.0[0].with),
            (Whom::Owner, Some(Whom::Leader))
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in [
            "",
            "pause",
            "pause:owner",
            "pause:owner:9-1",
            "pause:x:1-9",
            "quake:1:1-9",
            "pause:1:1-9:2",
            "hold:1+:1-9",
        ] {
            assert!(text.parse::<Schedule>().is_err(), "{text:?}");
        }
    }
}
