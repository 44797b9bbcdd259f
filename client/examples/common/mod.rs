//! Where the examples find a server, and a stream on it.

use millrace_client::{BasinConfig, Client, Error, Stream, StreamConfig};

/// The arguments, or a node on this machine.
pub fn endpoints() -> Vec<String> {
    let given: Vec<_> = std::env::args().skip(1).collect();
    match given.is_empty() {
        true => vec!["http://localhost:8080".to_owned()],
        false => given,
    }
}

/// A stream that exists, in the basin `examples`.
pub async fn stream(client: &Client, name: &str) -> Result<Stream, Error> {
    let basin = client.basin("examples")?;
    basin.ensure(BasinConfig::default()).await?;
    let stream = basin.stream(name)?;
    stream.ensure(StreamConfig::default()).await?;
    Ok(stream)
}
