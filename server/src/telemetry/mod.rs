//! Logs and metrics of the node.

mod metrics;
mod wal;
mod zones;

use tracing_subscriber::EnvFilter;

pub use self::metrics::{Metrics, Sources};
use crate::config::LogFormat;

/// Sets up logging to stderr for the whole process. `filter` in the syntax of `tracing`'s environment filter.
pub fn init_logging(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("log filter {filter:?}: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let result = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    result.map_err(|error| error.to_string())
}
