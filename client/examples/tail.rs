//! Follow a stream and print what is appended from now on: `cargo run --example tail -- http://localhost:8080`

use futures::StreamExt;
use millrace_client::{Client, ReadOptions};

mod common;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::builder().endpoints(common::endpoints()).build()?;
    let stream = common::stream(&client, "append-and-read").await?;
    let mut batches = stream.read_session(ReadOptions::from_tail());
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        let caught_up = batch.is_caught_up();
        for record in batch {
            println!("{} {}", record.seq_num, String::from_utf8_lossy(&record.body));
        }
        if caught_up {
            println!("(that is all for now)");
        }
    }
    Ok(())
}
