//! What is done to a cluster: one file for each kind of fault.
//!
//! A fault is put in and taken away again. Each attempt is reported for what it was: *installed*, *skipped* because
//! this machine or this cluster cannot have it, or *unknown* when nobody can say whether it took hold.

pub mod clock;
pub mod disk;
pub mod kill;
pub mod membership;
pub mod overload;
pub mod partition;
pub mod pause;
pub mod restart;
pub mod store;
pub mod storm;
pub mod zone;

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::live::cluster::Cluster;
use crate::live::network::Cut;
use crate::live::proxy::Manners;
use crate::live::target::Target;

/// The kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Nemesis {
    /// Nothing happens.
    None,
    /// kill -9 of the leader of the metadata group.
    KillLeader,
    /// kill -9 of the owner of the channel in use.
    KillOwner,
    /// kill -9 of leader and owner at once.
    KillBoth,
    /// kill -9 of as many as may be away.
    KillMinority,
    /// kill -9 of all.
    KillAll,
    /// kill -9 of all but the owner: nobody is left to decide anything about metadata.
    KillOthers,
    /// SIGSTOP of the leader for longer than its lease, then SIGCONT.
    PauseLeader,
    /// The same with the owner.
    PauseOwner,
    /// The same with both at once.
    PauseBoth,
    /// The same with any node.
    PauseAny,
    /// The leader is cut off from its peers, and not from clients and store.
    CutLeader,
    /// The same with the owner.
    CutOwner,
    /// The same with any node.
    CutAny,
    /// Nothing comes in from peers at the leader.
    CutLeaderIn,
    /// Nothing goes out to peers from the leader.
    CutLeaderOut,
    /// Nothing comes in from peers at the owner.
    CutOwnerIn,
    /// Nothing goes out to peers from the owner.
    CutOwnerOut,
    /// No node hears any other.
    CutAll,
    /// All of these at random, on top of each other.
    Storm,
    /// Every node is stopped and started, one after the other.
    RestartRolling,
    /// Many clients ask for more than there is.
    Overload,
    /// The disk of a node's metadata is full.
    DiskFull,
    /// The wall clocks of nodes step by seconds, and drift.
    Clock,
    /// The store takes its time.
    StoreSlow,
    /// The store does not get half of the requests.
    StoreFailing,
    /// The store does what is asked, and a third of its answers get lost.
    StoreLosing,
    /// The owner does not reach the store.
    StoreDarkOwner,
    /// Nobody reaches the store.
    StoreDark,
    /// Nobody reaches one of the Express zones.
    ZoneDark,
    /// Nobody reaches two of them: nothing is acknowledged meanwhile.
    ZonesDark,
    /// One of them takes its time.
    ZoneSlow,
    /// One of them does not get half of the requests.
    ZoneFailing,
    /// One of them does what is asked, and a third of its answers get lost.
    ZoneLosing,
    /// The disk of a node is lost as a zone, and replaced by an empty one.
    ZoneLost,
    /// A node is added, votes, and is taken out again.
    Membership,
    /// Another voter is asked to lead.
    TransferLeader,
    /// The owner gives its channels away, and is given some again.
    DrainOwner,
}

/// What became of an attempt.
#[derive(Debug)]
pub enum Outcome {
    /// It is in.
    Installed(Fault),
    /// It cannot be had.
    Skipped(String),
    /// It may be in, in part or whole; it is taken away all the same.
    Unknown(Fault, String),
}

/// A fault that is in.
#[derive(Debug)]
pub struct Fault {
    /// Whom it hit, for people.
    pub target: String,
    undo: Undo,
}

#[derive(Debug)]
enum Undo {
    Nothing,
    Start(Vec<usize>),
    Resume(Vec<usize>),
    Network,
    Store,
    Zones,
    Clocks,
    LostZone(usize),
    Everything,
    Guest(u64),
    Drain(usize),
    Overload(overload::Overload),
    Disk(disk::Full),
}

impl Nemesis {
    /// Those that a mixed run takes turns with.
    pub const MIXED: [Self; 23] = [
        Self::KillLeader,
        Self::KillOwner,
        Self::KillBoth,
        Self::KillMinority,
        Self::PauseLeader,
        Self::PauseOwner,
        Self::PauseBoth,
        Self::PauseAny,
        Self::CutLeader,
        Self::CutOwner,
        Self::CutAny,
        Self::CutLeaderIn,
        Self::CutLeaderOut,
        Self::CutOwnerIn,
        Self::CutOwnerOut,
        Self::KillAll,
        Self::KillOthers,
        Self::Storm,
        Self::Storm,
        Self::RestartRolling,
        Self::Membership,
        Self::TransferLeader,
        Self::DrainOwner,
    ];

    /// As on the command line.
    pub fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self)
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Puts the fault in.
    pub async fn install(self, cluster: &mut Cluster, rng: &mut SmallRng) -> Outcome {
        match self {
            Self::None => Outcome::Installed(Fault {
                target: "nobody".into(),
                undo: Undo::Nothing,
            }),
            Self::KillLeader => kill::install(cluster, Target::Leader, rng).await,
            Self::KillOwner => kill::install(cluster, Target::Owner, rng).await,
            Self::KillBoth => kill::install(cluster, Target::Both, rng).await,
            Self::KillMinority => kill::install(cluster, Target::Minority, rng).await,
            Self::KillAll => kill::install(cluster, Target::All, rng).await,
            Self::KillOthers => kill::install(cluster, Target::AllButOwner, rng).await,
            Self::PauseLeader => pause::install(cluster, Target::Leader, rng).await,
            Self::PauseOwner => pause::install(cluster, Target::Owner, rng).await,
            Self::PauseBoth => pause::install(cluster, Target::Both, rng).await,
            Self::PauseAny => pause::install(cluster, Target::Any, rng).await,
            Self::CutLeader => partition::install(cluster, Target::Leader, Cut::Whole, rng).await,
            Self::CutOwner => partition::install(cluster, Target::Owner, Cut::Whole, rng).await,
            Self::CutAny => partition::install(cluster, Target::Any, Cut::Whole, rng).await,
            Self::CutLeaderIn => partition::install(cluster, Target::Leader, Cut::In, rng).await,
            Self::CutLeaderOut => partition::install(cluster, Target::Leader, Cut::Out, rng).await,
            Self::CutOwnerIn => partition::install(cluster, Target::Owner, Cut::In, rng).await,
            Self::CutOwnerOut => partition::install(cluster, Target::Owner, Cut::Out, rng).await,
            Self::CutAll => partition::install(cluster, Target::All, Cut::Whole, rng).await,
            Self::Storm => storm::install(cluster, rng).await,
            Self::RestartRolling => restart::install(cluster).await,
            Self::Overload => overload::install(cluster).await,
            Self::DiskFull => disk::install(cluster, rng).await,
            Self::Clock => clock::install(cluster, rng).await,
            Self::StoreSlow => store::install(cluster, Target::All, store::SLOW, rng).await,
            Self::StoreFailing => store::install(cluster, Target::All, store::FAILING, rng).await,
            Self::StoreLosing => store::install(cluster, Target::All, store::LOSING, rng).await,
            Self::StoreDarkOwner => store::install(cluster, Target::Owner, store::DARK, rng).await,
            Self::StoreDark => store::install(cluster, Target::All, store::DARK, rng).await,
            Self::ZoneDark => zone::install(cluster, 1, store::DARK, rng),
            Self::ZonesDark => zone::install(cluster, 2, store::DARK, rng),
            Self::ZoneSlow => zone::install(cluster, 1, store::SLOW, rng),
            Self::ZoneFailing => zone::install(cluster, 1, store::FAILING, rng),
            Self::ZoneLosing => zone::install(cluster, 1, store::LOSING, rng),
            Self::ZoneLost => zone::lose(cluster, rng).await,
            Self::Membership => membership::add(cluster).await,
            Self::TransferLeader => membership::transfer(cluster).await,
            Self::DrainOwner => membership::drain(cluster, rng).await,
        }
    }

    /// How long it is left in: longer than it takes others to do without whom it hit, where that is the point. What was
    /// killed is sometimes back before anybody has noticed.
    pub fn lasts(self, lease: Duration, rng: &mut SmallRng) -> Duration {
        let noticed = lease * 2 + Duration::from_secs(3);
        match self {
            Self::None => Duration::from_secs(3),
            Self::Storm | Self::RestartRolling | Self::Clock | Self::TransferLeader => Duration::ZERO,
            Self::KillLeader | Self::KillOwner | Self::KillBoth | Self::KillMinority | Self::KillAll
                if rng.random() =>
            {
                Duration::from_millis(200)
            }
            // An owner gives up after ten seconds.
            Self::StoreDarkOwner => Duration::from_secs(14),
            _ => noticed,
        }
    }
}

impl Fault {
    /// Takes it away; the nodes may still need some time.
    ///
    /// # Errors
    /// What is in the way: then the cluster is not what it was, and cannot be used any further.
    pub async fn heal(self, cluster: &mut Cluster) -> anyhow::Result<()> {
        match self.undo {
            Undo::Nothing => Ok(()),
            Undo::Start(nodes) => nodes.into_iter().try_for_each(|node| cluster.start_node(node)),
            Undo::Resume(nodes) => nodes.into_iter().try_for_each(|node| cluster.resume(node)),
            Undo::Network => cluster.network.heal(),
            Undo::Store => {
                let all: Vec<_> = (0..cluster.len()).collect();
                cluster.store.set(&all, Manners::default())
            }
            Undo::Zones => zone::heal(cluster),
            Undo::Clocks => clock::heal(cluster),
            Undo::LostZone(node) => zone::replace(cluster, node).await,
            Undo::Everything => storm::heal(cluster).await,
            Undo::Guest(node) => membership::remove(cluster, node).await,
            Undo::Drain(node) => membership::resume(cluster, node).await,
            Undo::Overload(overload) => {
                overload.end().await;
                Ok(())
            }
            Undo::Disk(full) => full.heal(cluster).await,
        }
    }
}

/// Nodes for people.
fn named(nodes: &[usize]) -> String {
    let names: Vec<_> = nodes.iter().map(|node| format!("node {}", node + 1)).collect();
    names.join(", ")
}
