//! Where work that blocks a thread is done.

use crate::error::StoreError;

/// How synced writes and other slow disk work are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Blocking {
    /// On threads of their own: production.
    #[default]
    Pool,
    /// On the calling task, so that a run is the same every time: simulation.
    Inline,
}

impl Blocking {
    /// Runs `work` to its end, even if the returned future is dropped.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self {
            Blocking::Inline => work(),
            Blocking::Pool => match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(error) => Err(StoreError::io("thread pool", error)),
            },
        }
    }
}
