//! Single records that share batches: `cargo run --example producer`

use std::time::Duration;

use futures::future::try_join_all;
use millrace_client::{Client, ProducerOptions};

mod common;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::builder().endpoints(common::endpoints()).build()?;
    let stream = common::stream(&client, "producer").await?;
    let producer = stream.producer(ProducerOptions {
        linger: Duration::from_millis(10),
        ..ProducerOptions::default()
    })?;
    let mut tickets = Vec::new();
    for number in 0..10_000 {
        tickets.push(producer.produce(format!("record {number}")).await?);
    }
    producer.close().await?;
    let acks = try_join_all(tickets).await?;
    if let (Some(first), Some(last)) = (acks.first(), acks.last()) {
        println!("{} records at {}..={}", acks.len(), first.seq_num, last.seq_num);
    }
    Ok(())
}
