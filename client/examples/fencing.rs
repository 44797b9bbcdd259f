//! One writer at a time, by a fencing token; and a compare-and-append, by a sequence number:
//! `cargo run --example fencing`

use millrace_client::{Batch, Client, Error, FencingToken};

mod common;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::builder().endpoints(common::endpoints()).build()?;
    let stream = common::stream(&client, "fencing").await?;

    let mine = FencingToken::new("writer-b")?;
    stream.fence(&mine).await?;
    stream
        .append(Batch::new(["from b"])?.fencing_token(&mine))
        .await?;
    let old = FencingToken::new("writer-a")?;
    match stream.append(Batch::new(["from a"])?.fencing_token(&old)).await {
        Err(Error::FencingTokenMismatch { in_force }) => println!("a is fenced off by {in_force}"),
        other => println!("unexpected: {other:?}"),
    }

    let tail = stream.check_tail().await?;
    let next = Batch::new(["decided on what was there"])?.match_seq_num(tail.seq_num);
    match stream.append(next).await {
        Ok(ack) => println!("nobody came between: {}", ack.start.seq_num),
        Err(Error::SeqNumMismatch { next }) => println!("somebody did: the tail is {next} now"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
