//! Rounds: clients work, a fault comes and goes, the cluster is proved to be whole, and what the clients saw is judged.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use millrace_client::{Basin, BasinConfig, Batch, Client, Error, StorageClass, StreamConfig};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::admin;
use super::cluster::{Cluster, Plan};
use super::judge::{Judgement, judge, last_reads};
use super::network::Network;
use super::report::{FaultReport, Report, RoundReport};
use super::zones;
use super::{BASIN, client_of};
use crate::history::{Finish, Phase};
use crate::nemesis::{Nemesis, Outcome};
use crate::workload::{Pulse, Setting, Track, Workload};

const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// From the end of a fault until every node serves again.
const HEALS_WITHIN: Duration = Duration::from_secs(60);
/// Clients work undisturbed for so long before a fault and after it.
const CALM: Duration = Duration::from_millis(1500);
/// From the stop until the last client has ended its last operation.
const CLIENTS_END_WITHIN: Duration = Duration::from_secs(120);

/// What to run.
#[derive(Debug, Clone)]
pub struct Run {
    /// The cluster.
    pub plan: Plan,
    /// Workloads take turns.
    pub workloads: Vec<Workload>,
    /// Faults take turns, in an order drawn anew each time all had theirs.
    pub nemeses: Vec<Nemesis>,
    /// When it is enough.
    pub until: Until,
    /// After so many rounds the next one begins on an empty cluster.
    pub rounds_per_cluster: u64,
    /// Decides everything that is not timing.
    pub seed: u64,
    /// Mean pause of a client between two operations.
    pub pause: Duration,
    /// Use loopback although namespaces could be had.
    pub loopback: bool,
    /// Keep histories of rounds in which nothing was wrong.
    pub keep: bool,
}

/// When it is enough.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so many rounds.
    Rounds(u64),
    /// After the round in which this time is over.
    Time(Duration),
}

impl Run {
    /// Runs all rounds. `told` hears of each when it is over.
    ///
    /// # Errors
    /// What kept the harness from going on. That is no verdict on the cluster, and never a good one.
    pub async fn run(&self, mut told: impl FnMut(&RoundReport)) -> anyhow::Result<Report> {
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let mut report = Report::new(self.seed);
        let began = Instant::now();
        let mut turns = Vec::new();
        let mut cluster: Option<(Cluster, u64)> = None;
        for round in 0.. {
            let over = match self.until {
                Until::Rounds(rounds) => round >= rounds,
                Until::Time(time) => began.elapsed() >= time,
            };
            if over {
                break;
            }
            if turns.is_empty() {
                turns = self.nemeses.clone();
                turns.shuffle(&mut rng);
            }
            let nemesis = turns.pop().context("there is no nemesis to run")?;
            let workload = self.workloads[round as usize % self.workloads.len()];
            let (mut running, rounds) = match cluster.take() {
                Some((running, rounds)) if rounds < self.rounds_per_cluster => (running, rounds),
                ended => {
                    drop(ended);
                    (self.cluster(round).await?, 0)
                }
            };
            let done = self
                .round(round, &mut running, workload, nemesis, rng.random())
                .await;
            let done =
                done.with_context(|| format!("round {round}, {} with {workload:?}", nemesis.name()))?;
            told(&done);
            // What is wrong once may be wrong for good: the next round begins anew, and this cluster's files stay.
            cluster = match done.findings.is_empty() {
                true => Some((running, rounds + 1)),
                false => {
                    drop(running);
                    None
                }
            };
            report.add(done);
        }
        report.took = began.elapsed();
        Ok(report)
    }

    async fn cluster(&self, round: u64) -> anyhow::Result<Cluster> {
        let network = match self.loopback {
            true => Network::loopback("it was asked for"),
            // One more than there are nodes: members come and go.
            false => Network::new(self.plan.nodes + 1),
        };
        let plan = Plan {
            dir: self.plan.dir.join(format!("cluster-{round:03}")),
            ..self.plan.clone()
        };
        let cluster = Cluster::start(plan, network, STARTS_WITHIN).await?;
        let basin = basin_of(&cluster, 0, self.seed)?;
        let deadline = Instant::now() + STARTS_WITHIN;
        let config = BasinConfig {
            default_stream_config: StreamConfig {
                storage_class: self.plan.zones.map(|_| StorageClass::Express),
                ..StreamConfig::default()
            },
            ..BasinConfig::default()
        };
        while let Err(error) = basin.ensure(config).await {
            if Instant::now() >= deadline {
                bail!("the basin cannot be made: {error}");
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(cluster)
    }

    async fn round(
        &self,
        round: u64,
        cluster: &mut Cluster,
        workload: Workload,
        nemesis: Nemesis,
        seed: u64,
    ) -> anyhow::Result<RoundReport> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let pulse = Pulse::default();
        let (stop, stopped) = watch::channel(false);
        let mut stopping = stopped.clone();
        let basins = (0..cluster.len()).map(|node| basin_of(cluster, node, seed));
        let basins = basins.collect::<anyhow::Result<Vec<_>>>()?;
        let setting = Setting {
            basins: basins.clone(),
            prefix: format!("r{round}-"),
            seed,
            pause: self.pause,
            stop: stopped,
            pulse: pulse.clone(),
        };
        let disturbance = async {
            sleep(CALM).await;
            let disturbed = self.fault(cluster, nemesis, &pulse, &mut rng).await;
            let healed = whole(cluster, seed).await;
            sleep(CALM).await;
            stop.send_replace(true);
            disturbed.map(|(fault, findings)| (fault, findings, healed))
        };
        let clients = async {
            let over = async {
                // An error is as good: whoever tells is gone.
                let _ = stopping.wait_for(|stop| *stop).await;
                sleep(CLIENTS_END_WITHIN).await;
            };
            tokio::select! {
                tracks = workload.run(setting) => Some(tracks),
                () = over => None,
            }
        };
        let (disturbed, tracks) = tokio::join!(disturbance, clients);
        let (fault, mut findings, healed) = disturbed?;
        if let Err(error) = healed {
            findings.push(format!(
                "not whole {HEALS_WITHIN:?} after the fault was over: {error:#}"
            ));
        }
        let tracks = match tracks.context("clients did not end")? {
            Ok(tracks) => tracks,
            Err(error) => {
                findings.push(format!("the workload could not go on: {error}"));
                Vec::new()
            }
        };
        findings.extend(ended_by_themselves(cluster));
        let judged = self.judged(round, cluster, &tracks, &basins).await?;
        findings.extend(
            judged
                .iter()
                .flat_map(|it| it.findings.iter().map(|text| format!("{}: {text}", it.stream))),
        );
        Ok(RoundReport {
            round,
            workload: format!("{workload:?}").to_lowercase(),
            fault,
            operations: judged.iter().map(|it| it.operations).sum(),
            outcomes: outcomes(&tracks),
            findings,
        })
    }

    /// Puts the fault in, waits, and takes it away.
    async fn fault(
        &self,
        cluster: &mut Cluster,
        nemesis: Nemesis,
        pulse: &Pulse,
        rng: &mut SmallRng,
    ) -> anyhow::Result<(FaultReport, Vec<String>)> {
        let lease = self.plan.election_timeout * 2;
        let name = nemesis.name();
        pulse.longest_silence();
        let (fault, state, detail) = match nemesis.install(cluster, rng).await {
            Outcome::Installed(fault) => (Some(fault), "installed", String::new()),
            Outcome::Skipped(reason) => (None, "skipped", reason),
            Outcome::Unknown(fault, reason) => (Some(fault), "unknown", reason),
        };
        let mut findings = Vec::new();
        let target = fault.as_ref().map_or(String::new(), |fault| fault.target.clone());
        if let Some(fault) = fault {
            sleep(nemesis.lasts(lease, rng)).await;
            if nemesis != Nemesis::DiskFull {
                findings.extend(ended_by_themselves(cluster));
            }
            fault
                .heal(cluster)
                .await
                .with_context(|| format!("{name} on {target} cannot be taken away"))?;
        }
        pulse.beats_again(HEALS_WITHIN).await;
        let silence = pulse.longest_silence();
        Ok((
            FaultReport {
                name,
                state,
                target,
                detail,
                silence,
            },
            findings,
        ))
    }

    async fn judged(
        &self,
        round: u64,
        cluster: &Cluster,
        tracks: &[Track],
        basins: &[Basin],
    ) -> anyhow::Result<Vec<Judgement>> {
        let dir = cluster.plan().dir.join(format!("round-{round:03}"));
        std::fs::create_dir_all(&dir)?;
        let mut judged = Vec::new();
        for (number, track) in tracks.iter().enumerate() {
            let reads = match track.deleted {
                true => Vec::new(),
                false => last_reads(track, basins, HEALS_WITHIN).await,
            };
            let name = match tracks.len() {
                1 => "history".to_owned(),
                _ => format!("history-{number}"),
            };
            let (track, path) = (track.clone(), dir.join(name));
            judged.push(tokio::task::spawn_blocking(move || judge(&track, &reads, &path)).await??);
        }
        if !self.keep && judged.iter().all(|it| it.findings.is_empty()) {
            std::fs::remove_dir_all(&dir)?;
        }
        Ok(judged)
    }
}

/// Every node serves, and through each of them an append and a read of it succeed; every channel is served by somebody,
/// all replicas of the metadata are the same, and the Express zones have what they are to have.
async fn whole(cluster: &mut Cluster, seed: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + HEALS_WITHIN;
    for node in 0..cluster.len() {
        if !cluster.runs(node) {
            cluster.start_node(node)?;
        }
    }
    for node in 0..cluster.len() {
        cluster.serves(node, HEALS_WITHIN).await?;
        let stream = basin_of(cluster, node, seed)?.stream("probe")?;
        let probe = async || -> Result<(), Error> {
            stream.ensure(StreamConfig::default()).await?;
            let ack = stream.append(Batch::new([format!("node {node}")])?).await?;
            let from = millrace_client::ReadOptions::from_seq_num(ack.start.seq_num).count(1);
            match stream.read(from).await?.len() {
                1 => Ok(()),
                _ => Err(Error::Corrupt(
                    "a record is not there that was acknowledged".into(),
                )),
            }
        };
        loop {
            match probe().await {
                Ok(()) => break,
                Err(error) if Instant::now() >= deadline => bail!("through node {}: {error}", node + 1),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }
    loop {
        let sound = async {
            admin::healthy(cluster).await?;
            admin::replicas_agree(cluster).await
        };
        match sound.await {
            Ok(()) => break,
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
    zones::whole(cluster, HEALS_WITHIN).await
}

fn ended_by_themselves(cluster: &mut Cluster) -> Vec<String> {
    cluster
        .fallen()
        .into_iter()
        .map(|fallen| format!("node {} ended by itself: {}", fallen.node + 1, fallen.status))
        .collect()
}

fn basin_of(cluster: &Cluster, node: usize, seed: u64) -> anyhow::Result<Basin> {
    let client: Client = client_of(cluster, node, seed)?;
    Ok(client.basin(BASIN)?)
}

fn outcomes(tracks: &[Track]) -> BTreeMap<&'static str, u64> {
    let mut outcomes = BTreeMap::new();
    for event in tracks.iter().flat_map(|track| track.recorder.events()) {
        if let Phase::Finish(finish) = event.event {
            let name = match finish {
                Finish::AppendSuccess { .. } => "appended",
                Finish::AppendDefiniteFailure => "refused",
                Finish::AppendIndefiniteFailure => "unknown",
                Finish::ReadSuccess { .. } => "read",
                Finish::CheckTailSuccess { .. } => "tail",
                Finish::ReadFailure | Finish::CheckTailFailure => "failed",
            };
            *outcomes.entry(name).or_default() += 1;
        }
    }
    outcomes
}

/// A directory of this run's own below the given one, or below the system's for what is temporary.
pub fn run_dir(dir: Option<PathBuf>, seed: u64) -> PathBuf {
    dir.unwrap_or_else(|| std::env::temp_dir().join(format!("millrace-jepsen-{seed:016x}")))
}
