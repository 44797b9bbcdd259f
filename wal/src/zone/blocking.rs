//! Where blocking work runs.

/// Where a store does its system calls: on tokio's pool of blocking threads, or on the calling task. The simulator
/// wants the latter, because threads make every run differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Blocking {
    #[default]
    Pool,
    Inline,
}

impl Blocking {
    /// Runs `work` to its end and returns its result; `None` if the runtime is shutting down. Dropping the future
    /// does not stop work that has begun. A panic in `work` goes on in the caller.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        match self {
            Self::Inline => Some(work()),
            Self::Pool => match tokio::task::spawn_blocking(work).await {
                Ok(result) => Some(result),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => None,
                },
            },
        }
    }
}
