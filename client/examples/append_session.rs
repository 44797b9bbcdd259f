//! Many batches on their way at once, in order, across breaks: `cargo run --example append_session`

use millrace_client::{AppendSessionOptions, Batch, Client, Error};

mod common;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::builder().endpoints(common::endpoints()).build()?;
    let stream = common::stream(&client, "append-session").await?;
    let session = stream.append_session(AppendSessionOptions::default())?;
    let mut tickets = Vec::new();
    for number in 0..1000 {
        // Waits when the session holds as much as it may.
        let batch = Batch::new([format!("batch {number}")])?;
        tickets.push(session.submit(batch).await?);
    }
    session.close().await?;
    for ticket in tickets {
        match ticket.await {
            Ok(ack) => println!("durable at {}", ack.start.seq_num),
            Err(error @ Error::Unknown(_)) => println!("perhaps appended: {error}"),
            Err(error) => println!("not appended: {error}"),
        }
    }
    Ok(())
}
