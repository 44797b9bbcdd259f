//! The basin and the streams that a round works on, and their end.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};

use super::driver::{DriveError, Driver, StreamRef};
use super::plan::Plan;

/// Calls that make or delete streams at once.
const CONTROL_CALLS_MAX: usize = 16;

/// Names of one round, and which of them it made.
pub struct Site {
    driver: Arc<dyn Driver>,
    basin: String,
    streams: Vec<StreamRef>,
    made_basin: bool,
    made_streams: bool,
}

/// The basin of one round: the one that was asked for, or one that no other round has.
pub fn basin_name(plan: &Plan, label: &str, round: usize) -> String {
    match &plan.names.basin {
        Some(basin) => basin.clone(),
        // 48 bits of the seed: a basin's name is short.
        None => format!(
            "bench-{:012x}-{}{round}",
            plan.seed & 0xffff_ffff_ffff,
            label.to_ascii_lowercase()
        ),
    }
}

/// The first round's streams have the plain names, so that they can be read again; the others' differ, for a name
/// is free only some time after its stream was deleted.
fn stream_names(plan: &Plan, basin: &str, label: &str, round: usize) -> Vec<StreamRef> {
    let prefix = &plan.names.stream_prefix;
    let infix = match plan.names.existing || (round == 1 && label == "A") {
        true => String::new(),
        false => format!("{label}{round}/"),
    };
    let name = |n| StreamRef {
        basin: basin.to_owned(),
        stream: format!("{prefix}{infix}{n}"),
    };
    (0..plan.streams).map(name).collect()
}

impl Site {
    pub fn new(plan: &Plan, driver: Arc<dyn Driver>, label: &str, round: usize) -> Self {
        let basin = basin_name(plan, label, round);
        Self {
            streams: stream_names(plan, &basin, label, round),
            driver,
            basin,
            made_basin: false,
            made_streams: false,
        }
    }

    pub fn streams(&self) -> &[StreamRef] {
        &self.streams
    }

    /// Makes what is not there; all of it, unless the streams are to be there already.
    pub async fn make(&mut self, plan: &Plan) -> Result<()> {
        let there = self.driver.has_basin(&self.basin).await?;
        if plan.names.existing {
            ensure!(there, "there is no basin {}", self.basin);
            return Ok(());
        }
        if !there {
            self.made_basin = true;
            let created = self.driver.create_basin(&self.basin).await;
            created.with_context(|| format!("create basin {}", self.basin))?;
        }
        self.made_streams = true;
        let class = plan.storage_class;
        self.each_stream(move |driver, stream| async move {
            let created = driver.create_stream(&stream, class).await;
            created.with_context(|| format!("create stream {}", stream.stream))
        })
        .await
    }

    /// Deletes what was made, as far as it came to be.
    pub async fn remove(&self) -> Result<()> {
        if self.made_basin {
            let deleted = gone(self.driver.delete_basin(&self.basin).await);
            return deleted.with_context(|| format!("delete basin {}", self.basin));
        }
        if !self.made_streams {
            return Ok(());
        }
        self.each_stream(|driver, stream| async move {
            let deleted = gone(driver.delete_stream(&stream).await);
            deleted.with_context(|| format!("delete stream {}", stream.stream))
        })
        .await
    }

    /// Some at once; stops at the first failure.
    async fn each_stream<F>(&self, call: impl Fn(Arc<dyn Driver>, StreamRef) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        stream::iter(self.streams.clone())
            .map(|stream| call(self.driver.clone(), stream))
            .buffer_unordered(CONTROL_CALLS_MAX)
            .try_collect::<()>()
            .await
    }
}

/// What does not exist needs no deleting.
fn gone(deleted: Result<(), DriveError>) -> Result<(), DriveError> {
    match deleted {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
