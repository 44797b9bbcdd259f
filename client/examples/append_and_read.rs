//! Append a batch and read it back: `cargo run --example append_and_read -- http://localhost:8080`

use futures::StreamExt;
use millrace_client::{Batch, Client, ReadOptions, Record};

mod common;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::builder().endpoints(common::endpoints()).build()?;
    let stream = common::stream(&client, "append-and-read").await?;

    let records = [
        Record::new("first"),
        Record::new("second").header("content-type", "text/plain"),
    ];
    let ack = stream.append(Batch::new(records)?).await?;
    println!("durable as {}..{}", ack.start.seq_num, ack.end.seq_num);

    let options = ReadOptions::from_seq_num(ack.start.seq_num).count(2);
    let mut batches = stream.read_session(options);
    while let Some(batch) = batches.next().await {
        for record in batch? {
            println!("{} {}", record.seq_num, String::from_utf8_lossy(&record.body));
        }
    }
    Ok(())
}
