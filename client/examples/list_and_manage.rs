//! Create, configure, list and delete: `cargo run --example list_and_manage`

use futures::TryStreamExt;
use millrace_client::{
    BasinConfig, Client, ListOptions, Patch, RetentionPolicy, StreamConfig, StreamReconfiguration,
};

mod common;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::builder().endpoints(common::endpoints()).build()?;
    common::stream(&client, "managed/one").await?;
    let basin = client.basin("examples")?;
    let (outcome, info) = basin.ensure(BasinConfig::default()).await?;
    println!("basin {}: {outcome:?}", info.name);

    let stream = basin.stream("managed/two")?;
    stream.ensure(StreamConfig::default()).await?;
    let change = StreamReconfiguration {
        retention: Patch::Set(RetentionPolicy::Age(3600)),
        ..StreamReconfiguration::default()
    };
    println!("{:?}", stream.reconfigure(change).await?);

    let mut streams = std::pin::pin!(basin.streams(ListOptions::default().prefix("managed/")));
    while let Some(stream) = streams.try_next().await? {
        println!("stream {} since {} ms", stream.name, stream.created_at_ms);
    }
    stream.delete().await?;
    Ok(())
}
