//! The tasks of one load. The first that fails ends it: the others are stopped when the crew is dropped.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;

use super::workload::{CatchUp, Load, WriteUntil, catch_up, follow, write};

/// Between two looks for something to catch up on.
const NOTHING_YET: Duration = Duration::from_millis(10);

pub struct Crew {
    load: Arc<Load>,
    tasks: JoinSet<Result<()>>,
    readers: usize,
}

impl Crew {
    pub fn new(load: Arc<Load>) -> Self {
        Self {
            load,
            tasks: JoinSet::new(),
            readers: 0,
        }
    }

    fn next_reader(&mut self) -> usize {
        self.readers += 1;
        self.readers - 1
    }

    pub fn write(&mut self, stream: usize, until: WriteUntil) {
        let load = self.load.clone();
        self.tasks.spawn(async move { write(&load, stream, until).await });
    }

    pub fn follow(&mut self, stream: usize, readers: usize) {
        for _ in 0..readers {
            let (load, reader) = (self.load.clone(), self.next_reader());
            self.tasks
                .spawn(async move { follow(&load, stream, reader).await });
        }
    }

    /// Each reads it once.
    pub fn catch_up(&mut self, stream: usize, readers: usize, what: CatchUp) {
        for _ in 0..readers {
            let (load, reader) = (self.load.clone(), self.next_reader());
            self.tasks
                .spawn(async move { catch_up(&load, stream, reader, what).await });
        }
    }

    /// Each reads what there is, again and again until the end of the window. `chained` says whether what is read is
    /// what the writer wrote.
    pub fn catch_up_again(&mut self, stream: usize, readers: usize, chained: bool) {
        for _ in 0..readers {
            let (load, reader) = (self.load.clone(), self.next_reader());
            self.tasks
                .spawn(async move { again(&load, stream, reader, chained).await });
        }
    }

    /// `None` when all are done.
    pub async fn join_next(&mut self) -> Option<Result<()>> {
        match self.tasks.join_next().await? {
            Ok(done) => Some(done),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Some(Err(error.into())),
        }
    }

    pub async fn join(mut self) -> Result<()> {
        while let Some(done) = self.join_next().await {
            done?;
        }
        Ok(())
    }
}

async fn again(load: &Load, stream: usize, reader: usize, chained: bool) -> Result<()> {
    while load.clock.now() < load.window.end {
        let acked = load.streams[stream].acked();
        if acked.records == 0 {
            tokio::time::sleep(NOTHING_YET).await;
            continue;
        }
        let what = CatchUp {
            records: acked.records,
            writer: chained.then_some(acked),
            deadline: Some(load.window.end),
        };
        catch_up(load, stream, reader, what).await?;
    }
    Ok(())
}
