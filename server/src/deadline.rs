//! Waiting for moments.

use tokio::time::Instant;

/// Until the moment has come, or for ever if there is none. Cancel safe.
pub async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
