//! What clients do in a run: a workload while things go wrong, proof that the cluster serves again once nothing does,
//! and the last reads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use millrace_client::{Basin, BasinConfig, Batch, Client, Error, ReadOptions, StreamConfig};
use millrace_jepsen::check::records::FinalRead;
use millrace_jepsen::live::judge::last_reads;
use millrace_jepsen::workload::{self, Pulse, Setting, Track, Workload};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{HTTP_PORT, World, host};
use crate::invariant::timestamps;
use crate::network::Wires;

/// All streams of a run are in it.
const BASIN: &str = "sim-basin";
/// From the start of the nodes until they serve.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// From the end of the last fault until every node serves again.
const HEALS_WITHIN: Duration = Duration::from_secs(40);
/// Clients go on for so long after that.
const CALM: Duration = Duration::from_secs(1);
/// From the stop until the last client has ended its last operation.
const CLIENTS_END_WITHIN: Duration = Duration::from_secs(120);

/// What the store never answered is asked again within this: until then an append whose client has given up may land
/// between two of the last reads.
const SETTLES_WITHIN: Duration = Duration::from_secs(6);

/// How far a run is; each is told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The nodes come up.
    Starting,
    /// Clients work, and faults may come.
    Working,
    /// No fault is there any more.
    Healed,
}

/// What came of it.
#[derive(Default)]
pub struct Seen {
    /// Each stream, with what was read of it at the end through each node.
    pub tracks: Vec<(Track, Vec<FinalRead>)>,
    /// From the end of the last fault until every node served.
    pub healed_after: Duration,
}

/// What clients need.
pub struct Clients {
    pub world: World,
    pub nodes: u64,
    pub workload: Workload,
    pub seed: u64,
    /// Mean pause of a client between two operations.
    pub pause: Duration,
    /// A request that takes longer has an unknown outcome.
    pub patience: Duration,
    pub phase: watch::Sender<Phase>,
    /// Whether there are channels for streams of the class that is wanted.
    pub ready: Rc<Cell<bool>>,
    pub seen: Rc<RefCell<Seen>>,
}

impl Clients {
    /// From the first request to the last. What is wrong is among the findings.
    pub async fn run(self) {
        if let Err(error) = self.work().await {
            self.world.findings.add(format!("{error:#}"));
        }
    }

    async fn work(&self) -> anyhow::Result<()> {
        let basins = (1..=self.nodes)
            .map(|node| self.basin(node))
            .collect::<Result<Vec<_>, _>>()?;
        self.form(&basins).await?;
        self.phase.send_replace(Phase::Working);
        let (stop, stopped) = watch::channel(false);
        let pulse = Pulse::default();
        let setting = Setting {
            basins: basins.clone(),
            prefix: String::new(),
            seed: self.seed,
            pause: self.pause,
            stop: stopped.clone(),
            pulse,
        };
        let heal = async {
            let healed = self.heal(&basins).await;
            sleep(CALM).await;
            stop.send_replace(true);
            healed
        };
        let working = async {
            let mut stopping = stopped;
            let over = async {
                // An error is as good: whoever tells is gone.
                let _ = stopping.wait_for(|stop| *stop).await;
                sleep(CLIENTS_END_WITHIN).await;
            };
            tokio::select! {
                biased;
                tracks = self.workload.run(setting) => tracks.context("the workload could not go on"),
                () = over => bail!("clients did not end"),
            }
        };
        let (healed, tracks) = tokio::join!(heal, working);
        if let Err(error) = healed {
            self.world.findings.add(format!("{error:#}"));
        }
        sleep(SETTLES_WITHIN).await;
        for track in tracks? {
            let mut reads = Vec::new();
            if !track.deleted {
                reads = last_reads(&track, &basins, HEALS_WITHIN).await;
                timestamps::check(&basins[0].stream(&track.stream)?, track.first()).await?;
            }
            self.seen.borrow_mut().tracks.push((track, reads));
        }
        Ok(())
    }

    /// Waits until there is a cluster.
    async fn form(&self, basins: &[Basin]) -> anyhow::Result<()> {
        let formed = async {
            for turn in 0.. {
                if basins[turn % basins.len()]
                    .ensure(BasinConfig::default())
                    .await
                    .is_ok()
                    && self.ready.get()
                {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(STARTS_WITHIN, formed)
            .await
            .with_context(|| format!("there was no cluster within {STARTS_WITHIN:?}"))
    }

    /// Waits until faults are over, and then until each node serves.
    async fn heal(&self, basins: &[Basin]) -> anyhow::Result<()> {
        let mut phase = self.phase.subscribe();
        phase.wait_for(|phase| *phase == Phase::Healed).await?;
        let healed = Instant::now();
        for (node, basin) in basins.iter().enumerate() {
            let node = node as u64 + 1;
            while let Err(error) = probe(basin, node).await {
                ensure!(
                    healed.elapsed() < HEALS_WITHIN,
                    "node {node} did not serve {HEALS_WITHIN:?} after the last fault: {error}"
                );
                sleep(Duration::from_millis(50)).await;
            }
        }
        let after = healed.elapsed();
        self.world
            .trace
            .line(&format!("every node serves again, after {after:?}"));
        self.seen.borrow_mut().healed_after = after;
        Ok(())
    }

    /// Through one node, whatever answers say of who might know better.
    fn basin(&self, node: u64) -> Result<Basin, Error> {
        let wires = self.world.wires.clone();
        let address = format!("{}:{HTTP_PORT}", host(node));
        let builder = Client::builder()
            .endpoints([format!("http://{address}")])
            .connector(move |_| connect(wires.clone(), address.clone()));
        let client = workload::client(builder, self.patience, self.seed.wrapping_add(node))?;
        client.basin(BASIN)
    }
}

async fn connect(wires: Wires, address: String) -> std::io::Result<crate::network::Wire> {
    wires.connect(&address).await
}

/// An append through the node, and a read of it.
async fn probe(basin: &Basin, node: u64) -> Result<(), Error> {
    let stream = basin.stream("probe")?;
    stream.ensure(StreamConfig::default()).await?;
    let ack = stream.append(Batch::new([format!("node {node}")])?).await?;
    let from = ReadOptions::from_seq_num(ack.start.seq_num).count(1);
    match stream.read(from).await?.len() {
        1 => Ok(()),
        _ => Err(Error::Corrupt(
            "a record is not there that was acknowledged".into(),
        )),
    }
}
