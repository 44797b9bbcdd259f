//! Two processes on the same data, or on the same store: at most one of them acknowledges.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use s2_sdk::S2Stream;
use s2_sdk::types::{
    AppendInput, AppendRecord, AppendRecordBatch, EnsureBasinInput, EnsureStreamInput, ReadFrom, ReadInput,
    ReadStart,
};
use tokio::time::{Instant, sleep};

use crate::support::{Node, Scratch, Server, copy_dir};
use crate::{READ_WITHIN, load, within};

const STREAM: &str = "taken-over";
/// The older process may take this long to say in its log what happened to it.
const SAYS_SO_WITHIN: Duration = Duration::from_secs(20);

/// A record that was acknowledged, and where.
type Acked = (u64, String);

async fn stream(server: &Server) -> Result<S2Stream> {
    let s2 = load::client(server.url())?;
    s2.ensure_basin(EnsureBasinInput::new(load::basin_name()?))
        .await?;
    let basin = load::basin(&s2)?;
    basin
        .ensure_stream(EnsureStreamInput::new(STREAM.parse()?))
        .await?;
    Ok(basin.stream(STREAM.parse()?))
}

/// One try; `Ok(None)` when it was not acknowledged.
async fn try_append(stream: &S2Stream, body: String) -> Result<Option<Acked>> {
    let input = AppendInput::new(AppendRecordBatch::try_from_iter([AppendRecord::new(
        body.clone(),
    )?])?);
    Ok(stream
        .append(input)
        .await
        .ok()
        .map(|ack| (ack.start.seq_num, body)))
}

async fn append(stream: &S2Stream, body: String) -> Result<Acked> {
    try_append(stream, body.clone())
        .await?
        .with_context(|| format!("{body} was not acknowledged"))
}

/// Everything in the stream, by sequence number.
async fn read_all(stream: &S2Stream) -> Result<Vec<Acked>> {
    let tail = stream.check_tail().await?.seq_num;
    let mut records = Vec::new();
    while (records.len() as u64) < tail {
        let start = ReadStart::new().with_from(ReadFrom::SeqNum(records.len() as u64));
        let batch = within(READ_WITHIN, async {
            Ok(stream.read(ReadInput::new().with_start(start)).await?)
        })
        .await?;
        ensure!(
            !batch.records.is_empty(),
            "nothing at {}, before the tail {tail}",
            records.len()
        );
        for record in batch.records {
            records.push((record.seq_num, String::from_utf8(record.body.to_vec())?));
        }
    }
    Ok(records)
}

fn show<T>(result: Result<T>, nodes: &[&Node]) -> T {
    result.unwrap_or_else(|error| {
        let logs: String = nodes.iter().map(|node| node.log_tail()).collect();
        panic!("{error:#}\n{logs}")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_process_on_same_data_is_refused() {
    let scratch = Scratch::new("two").expect("a directory for the data");
    let node = Node::local(scratch.path(), "node");
    let second = Node {
        log: scratch.path().join("second.log"),
        ..node.clone()
    };
    let result = async {
        let server = node.start().await?;
        let stream = stream(&server).await?;
        let first = append(&stream, "before".into()).await?;

        let mut refused = second.spawn()?;
        let status = refused.exit().await.context("the second process")?;
        ensure!(!status.success(), "the second process ended with {status}");
        let said = refused.log_text();
        ensure!(!said.contains("listening http"), "the second process served");
        ensure!(
            said.contains(&node.data_dir.display().to_string()) && said.contains("another process"),
            "the second process does not say which directory is in use: {said}"
        );
        ensure!(
            !said.contains("panicked"),
            "the second process panicked instead of refusing: {said}"
        );

        let after = append(&stream, "after".into())
            .await
            .context("the first process is undisturbed")?;
        ensure!(
            read_all(&stream).await? == [first, after],
            "the stream holds exactly what was acknowledged"
        );
        Ok(())
    }
    .await;
    show(result, &[&node, &second]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_of_the_data_on_the_same_bucket_fences_the_older_process() {
    let scratch = Scratch::new("copy").expect("a directory for the data");
    let older = Node::local(scratch.path(), "older");
    let newer = Node::on_store(scratch.path(), "newer", older.store.clone());
    let result = async {
        let server = older.start().await?;
        let mut acked = vec![append(&stream(&server).await?, "before the copy".into()).await?];
        server.kill().await?;
        copy_dir(&older.data_dir, &newer.data_dir)?;

        let first = older.start().await?;
        let on_first = stream(&first).await?;
        acked.push(append(&on_first, "after the copy".into()).await?);

        // The older process writes on while the newer one takes over: that is when it could go wrong.
        let writing = tokio::spawn({
            let on_first = on_first.clone();
            async move {
                let mut acked = Vec::new();
                for number in 0.. {
                    match try_append(&on_first, format!("meanwhile {number}")).await? {
                        Some(record) => acked.push(record),
                        None => break,
                    }
                    sleep(Duration::from_millis(2)).await;
                }
                Ok::<_, anyhow::Error>(acked)
            }
        });
        let second = newer.start().await.context("the newer process takes over")?;
        let on_second = stream(&second).await?;
        let taken_over = append(&on_second, "taken over".into()).await?;
        acked.extend(
            within(READ_WITHIN, async { writing.await? })
                .await
                .context("the older process's writer")?,
        );

        for number in 0..20 {
            if let Some((at, _)) = try_append(&on_first, format!("too late {number}")).await? {
                bail!("the older process acknowledged a record, at {at}, after the newer one had");
            }
        }
        let held = read_all(&on_second).await?;
        for (at, body) in &acked {
            let there = held.get(*at as usize).map(|(_, body)| body);
            ensure!(
                there == Some(body),
                "LOST: {body:?} was acknowledged at {at}, where the newer has {there:?}"
            );
        }
        ensure!(
            held.contains(&taken_over),
            "the newer process's own record is at {}",
            taken_over.0
        );
        ensure!(
            !held.iter().any(|(_, body)| body.starts_with("too late")),
            "a failed append turned up"
        );

        let deadline = Instant::now() + SAYS_SO_WITHIN;
        while !first.log_text().to_lowercase().contains("fenced") {
            ensure!(
                Instant::now() < deadline,
                "the older process does not say that it is fenced"
            );
            sleep(Duration::from_millis(50)).await;
        }
        append(&on_second, "and on".into())
            .await
            .context("the newer process goes on")?;
        Ok(())
    }
    .await;
    show(result, &[&older, &newer]);
}

/// With metadata of its own a process knows nothing of what the bucket holds: it must not write into it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fresh_data_on_a_used_bucket_is_refused() {
    let scratch = Scratch::new("fresh").expect("a directory for the data");
    let owner = Node::local(scratch.path(), "owner");
    let fresh = Node::on_store(scratch.path(), "fresh", owner.store.clone());
    let result = async {
        let server = owner.start().await?;
        let stream = stream(&server).await?;
        let first = append(&stream, "before".into()).await?;

        let mut refused = fresh.spawn()?;
        let status = refused.exit().await.context("the process with fresh data")?;
        ensure!(
            !status.success(),
            "the process with fresh data ended with {status}"
        );
        let said = refused.log_text();
        ensure!(
            !said.contains("listening http"),
            "the process with fresh data served"
        );
        ensure!(
            !said.contains("panicked"),
            "it panicked instead of refusing: {said}"
        );

        let after = append(&stream, "after".into())
            .await
            .context("the owner is undisturbed")?;
        ensure!(
            read_all(&stream).await? == [first, after],
            "the stream holds exactly what was acknowledged"
        );
        Ok(())
    }
    .await;
    show(result, &[&owner, &fresh]);
}
