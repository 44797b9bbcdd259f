//! One round on one endpoint: make what is needed, drive it, check it, and take it away again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Result, bail};

use super::batch::BatchTemplate;
use super::clock::{Clock, Nanos, Window, nanos};
use super::crew::Crew;
use super::driver::Driver;
use super::grpc::GrpcDriver;
use super::limit::Evidence;
use super::observer::{Observed, Observer};
use super::plan::{Pace, Plan, Protocol, Target, Workload};
use super::progress::Progress;
use super::report::{Aim, Flow, RoundReport, Verified};
use super::s2s::S2sDriver;
use super::schedule::{Pacer, Schedule};
use super::site::{Site, basin_name};
use super::usage::{Stopwatch, Used};
use super::workload::{CatchUp, Checks, Load, Meters, StreamState, WriteUntil};

/// No end is set where the work itself ends.
const OPEN_END: Nanos = u64::MAX;

pub struct Round<'a> {
    pub plan: &'a Plan,
    pub target: &'a Target,
    /// From 1.
    pub number: usize,
    /// Whether the endpoint is the null sink, which makes up what it holds.
    pub null_sink: bool,
    pub clock: Clock,
    pub progress: &'a Progress,
}

impl Round<'_> {
    /// What was made is deleted also where the round fails or is interrupted. If that fails, a warning says so, and
    /// the result stands.
    pub async fn run(&self) -> Result<RoundReport> {
        let (plan, label) = (self.plan, self.target.label);
        let driver = self.connect(&basin_name(plan, label, self.number)).await?;
        let mut site = Site::new(plan, driver.clone(), label, self.number);
        let outcome = tokio::select! {
            outcome = self.work(&mut site, driver) => outcome,
            interrupted = tokio::signal::ctrl_c() => match interrupted {
                Ok(()) => Err(anyhow::anyhow!("interrupted")),
                Err(error) => Err(error.into()),
            },
        };
        if !plan.names.keep
            && let Err(error) = site.remove().await
        {
            self.progress.warn(&format!("not deleted: {error:#}"));
        }
        outcome
    }

    async fn connect(&self, basin: &str) -> Result<Arc<dyn Driver>> {
        let (endpoint, connections) = (&self.target.endpoint, self.plan.connections);
        Ok(match self.target.protocol {
            Protocol::S2s => Arc::new(S2sDriver::connect(endpoint.clone(), basin, connections).await?),
            Protocol::Grpc => Arc::new(GrpcDriver::new(endpoint, connections)?),
        })
    }

    async fn work(&self, site: &mut Site, driver: Arc<dyn Driver>) -> Result<RoundReport> {
        site.make(self.plan).await?;
        let streams: Arc<[StreamState]> = site.streams().iter().cloned().map(StreamState::new).collect();
        match self.plan.workload {
            Workload::CatchUp => self.catch_up(driver, streams).await,
            _ => self.live(driver, streams).await,
        }
    }

    fn load(&self, driver: Arc<dyn Driver>, streams: Arc<[StreamState]>, window: Window) -> Result<Load> {
        let plan = self.plan;
        let open_loop = match plan.pace {
            Pace::Saturate => None,
            // It keeps its rate from the beginning, so that nothing jumps when measuring begins.
            Pace::Rate(rate) if window.end != OPEN_END => {
                let schedule = Schedule::new(self.clock.now(), window.end, rate, plan.streams);
                Some((schedule, Pacer::start(schedule, self.clock)?))
            }
            Pace::Rate(_) => None,
        };
        Ok(Load {
            driver,
            clock: self.clock,
            window,
            streams,
            template: BatchTemplate::new(plan.shape, plan.seed),
            shape: plan.shape,
            in_flight: plan.in_flight,
            open_loop,
            patience: plan.patience,
            content: plan.content,
            meters: Meters::new(window),
            checks: Checks::default(),
        })
    }

    /// Writers, with those who read meanwhile.
    async fn live(&self, driver: Arc<dyn Driver>, streams: Arc<[StreamState]>) -> Result<RoundReport> {
        let plan = self.plan;
        let stopwatch = Stopwatch::start(self.target.server_pid)?;
        let start = self.clock.now() + nanos(plan.warm_up);
        let window = Window {
            start,
            end: start + nanos(plan.duration),
        };
        let load = Arc::new(self.load(driver, streams, window)?);
        let mut crew = Crew::new(load.clone());
        for stream in 0..plan.streams {
            if plan.workload != Workload::Append {
                crew.follow(stream, plan.readers);
            }
            if plan.workload == Workload::Mixed {
                crew.catch_up_again(stream, plan.catch_up_readers, !self.null_sink);
            }
        }
        for stream in 0..plan.streams {
            crew.write(stream, WriteUntil::WindowEnd);
        }
        let observed = self.observe(&load, crew).await?;
        self.report(&load, observed, stopwatch)
    }

    /// Writes first where nothing is there yet; then reads everything once, at every reader.
    async fn catch_up(&self, driver: Arc<dyn Driver>, streams: Arc<[StreamState]>) -> Result<RoundReport> {
        let plan = self.plan;
        let everything = |start| Window { start, end: OPEN_END };
        let ready = plan.names.existing || self.null_sink;
        if !ready {
            self.progress
                .say(&format!("{}: writing what will be read", self.target.label));
            let window = everything(self.clock.now());
            let load = Arc::new(self.load(driver.clone(), streams.clone(), window)?);
            let mut crew = Crew::new(load.clone());
            for stream in 0..plan.streams {
                crew.write(stream, WriteUntil::Batches(plan.preload_batches()));
            }
            crew.join().await?;
            tokio::time::sleep(plan.settle).await;
        }
        let mut readings = Vec::new();
        for state in streams.iter() {
            let written = state.acked();
            let records = match ready {
                true => driver.tail(&state.name).await?,
                false => written.records,
            };
            if records == 0 {
                bail!("{} is empty: there is nothing to read", state.name.stream);
            }
            readings.push(CatchUp {
                records,
                writer: (!ready).then_some(written),
                deadline: None,
            });
        }
        let stopwatch = Stopwatch::start(self.target.server_pid)?;
        let load = Arc::new(self.load(driver, streams, everything(self.clock.now()))?);
        let mut crew = Crew::new(load.clone());
        for (stream, reading) in readings.into_iter().enumerate() {
            crew.catch_up(stream, plan.readers, reading);
        }
        let observed = self.observe(&load, crew).await?;
        self.report(&load, observed, stopwatch)
    }

    /// Counts and shows until all are done, or the first has failed.
    async fn observe(&self, load: &Load, mut crew: Crew) -> Result<Observed> {
        let mut observer = Observer::new(self.clock, load.window);
        let mut ticks = tokio::time::interval_at(self.clock.instant(load.window.start), self.plan.interval);
        let who = format!("{} round {}", self.target.label, self.number);
        let duration_s = (load.window.end != OPEN_END).then_some(self.plan.duration.as_secs_f64());
        loop {
            tokio::select! {
                joined = crew.join_next() => match joined {
                    None => return Ok(observer.finish(&load.meters)),
                    Some(done) => done?,
                },
                _ = ticks.tick() => if let Some(interval) = observer.tick(&load.meters) {
                    self.progress.interval(&who, duration_s, interval);
                },
            }
        }
    }

    fn report(&self, load: &Load, observed: Observed, stopwatch: Stopwatch) -> Result<RoundReport> {
        let used = stopwatch.stop(observed.flows.bytes_ever())?;
        let seconds = observed.seconds;
        let append = Flow::of(&observed.flows.append, seconds);
        let written = load.streams.iter().map(|stream| stream.acked().records).sum();
        let mut report = RoundReport {
            round: self.number,
            measured_s: seconds,
            append,
            tail: Flow::of(&observed.flows.tail, seconds),
            catch_up: Flow::of(&observed.flows.catch_up, seconds),
            target: self.aim(load, append.as_ref(), &observed),
            client: used.client,
            server: used.server,
            limit: super::limit::Limit::NotClient,
            verified: Verified {
                records_written: written,
                records_read: load.checks.records.load(Ordering::Relaxed),
                chains: load.checks.chains.load(Ordering::Relaxed),
            },
            intervals: observed.intervals,
        };
        report.limit = self.evidence(&report, &used, observed.lateness.p99_ms).limit();
        Ok(report)
    }

    /// Only of a load that had one: what `catch-up` writes is written as fast as it goes.
    fn aim(&self, load: &Load, append: Option<&Flow>, observed: &Observed) -> Option<Aim> {
        load.open_loop.as_ref()?;
        let records_s = self.plan.target_records_per_second()?;
        Some(Aim {
            records_s,
            reached: append.map_or(0.0, |flow| flow.records_s) / records_s,
            unsent_batches: load.meters.unsent_batches.load(Ordering::Relaxed),
            lateness: observed.lateness,
        })
    }

    fn evidence(&self, report: &RoundReport, used: &Used, lateness_p99_ms: f64) -> Evidence {
        Evidence {
            sink_cores: self.null_sink.then_some(used.sink_cores),
            cores_available: std::thread::available_parallelism().map_or(1, usize::from) as f64,
            client_cores: used.client.cores,
            busiest_thread: used.busiest_thread,
            server_cores: used.server.map(|server| server.cores),
            total_mib_s: report.total_mib_s(),
            ceiling_mib_s: self.plan.ceiling_mib_s,
            lateness_p99_ms,
            acked_p99_ms: report.append.map_or(0.0, |flow| flow.latency.p99_ms),
        }
    }
}
