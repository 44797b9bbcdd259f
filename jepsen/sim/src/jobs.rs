//! Several things at a time.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Does `work` for each of the items, in order, `jobs` at a time. The first failure of a worker is passed on when all
/// have ended.
pub fn each<T: Sync>(
    items: &[T],
    jobs: usize,
    work: impl Fn(&T) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let worker = || -> anyhow::Result<()> {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::SeqCst)) {
            work(item)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            match worker.join() {
                Ok(done) => done?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })
}
