//! `millrace storage`: prints objects, checks everything, removes what nothing names.

pub mod args;
mod print;
mod source;

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use millrace_wal::ReadRange;
use millrace_wal::segment::SEGMENT_OBJECT_LEN_MAX;
use serde_json::json;

use self::args::{Source, StorageArgs, StorageCommand};
use self::print::Printer;
use self::source::Worker;
use super::inspect::Inspection;
use crate::admin::pb;
use crate::env::Env;
use crate::zones::redacted;

/// Runs the command. `false` when it did what was asked, and what it found is not as it should be.
///
/// # Errors
///
/// If it did not do what was asked, or not all of it; the text is for the operator.
pub async fn run(args: StorageArgs, env: Env) -> anyhow::Result<bool> {
    match args.command {
        StorageCommand::Inspect {
            object,
            store,
            frames,
            json,
        } => {
            let bytes = read(&object, store.as_deref(), &env).await?;
            let seen = Inspection::of(&bytes, frames);
            Printer::new(json).print(&seen, &print::inspection(&seen))?;
            Ok(seen.fault.is_none())
        }
        StorageCommand::Verify { repair, source } => {
            let worker = Worker::new(&source, env).await?;
            let done = verify(&worker, &source, repair).await;
            worker.close().await;
            done
        }
        StorageCommand::Sweep { dry_run, source } => {
            let worker = Worker::new(&source, env).await?;
            let done = sweep(&worker, &source, dry_run).await;
            worker.close().await;
            done
        }
    }
}

async fn read(object: &str, store: Option<&str>, env: &Env) -> anyhow::Result<Bytes> {
    let Some(url) = store else {
        let len = std::fs::metadata(object)
            .with_context(|| format!("cannot read {object}"))?
            .len();
        if len > SEGMENT_OBJECT_LEN_MAX {
            bail!("{object} has {len} bytes, which no object has");
        }
        let bytes = std::fs::read(object).with_context(|| format!("cannot read {object}"))?;
        return Ok(bytes.into());
    };
    let opened = env.stores.open(url).with_context(|| redacted(url))?;
    let range = ReadRange::Range(0..SEGMENT_OBJECT_LEN_MAX + 1);
    let found = opened.get(object, range).await.with_context(|| redacted(url))?;
    found.with_context(|| format!("there is no object {object} in {}", redacted(url)))
}

async fn verify(worker: &Worker, source: &Source, repair: bool) -> anyhow::Result<bool> {
    use pb::verify_event::Event;
    let mut printer = Printer::new(source.reach.json);
    let deadline = worker.deadline();
    let mut events = worker.verify(repair).await?;
    while let Some(event) = worker.next(&mut events, deadline).await? {
        match event.event {
            Some(Event::Progress(progress)) => printer.progress(&progress),
            Some(Event::Broken(pb::Broken {
                promise,
                subject,
                why,
            })) => {
                let json = json!({"broken": promise, "subject": subject, "why": why});
                printer.print(&json, &format!("BROKEN {promise:<8} {subject}: {why}\n"))?;
            }
            Some(Event::Repaired(key)) => {
                printer.print(&json!({"repaired": key}), &format!("repaired {key}\n"))?;
            }
            Some(Event::Checked(checked)) => {
                let json = json!({
                    "objects": checked.objects, "object_bytes": checked.object_bytes, "runs": checked.runs,
                    "streams": checked.streams, "segments": checked.segments, "chunks": checked.chunks,
                    "chunk_bytes": checked.chunk_bytes, "promises_broken": checked.broken,
                    "repaired": checked.repaired,
                });
                printer.print(&json, &print::checked(&checked))?;
                return Ok(checked.broken == checked.repaired);
            }
            // Of a later release.
            None => {}
        }
    }
    bail!("the check ended before everything was checked")
}

async fn sweep(worker: &Worker, source: &Source, dry_run: bool) -> anyhow::Result<bool> {
    use pb::sweep_event::Event;
    let mut printer = Printer::new(source.reach.json);
    let deadline = worker.deadline();
    let mut events = worker.sweep(dry_run).await?;
    while let Some(event) = worker.next(&mut events, deadline).await? {
        match event.event {
            Some(Event::Progress(progress)) => printer.progress(&progress),
            Some(Event::Found(pb::FoundObject { key, orphan, why })) => {
                let what = if orphan { "orphan" } else { "unknown" };
                let json = json!({"found": what, "key": key, "why": why});
                printer.print(&json, &format!("{what:<8} {key}: {why}\n"))?;
            }
            Some(Event::WaitingMs(ms)) => {
                let pause = humantime::format_duration(Duration::from_millis(ms));
                printer.note(&format!("removing begins in {pause}, when readers are done"));
            }
            Some(Event::Removed(key)) => {
                printer.print(&json!({"removed": key}), &format!("removed  {key}\n"))?;
            }
            Some(Event::NotRemoved(pb::NotRemoved { key, why })) => {
                let json = json!({"not_removed": key, "why": why});
                printer.print(&json, &format!("NOT removed {key}: {why}\n"))?;
            }
            Some(Event::Swept(swept)) => {
                let json = json!({
                    "objects": swept.objects, "orphans": swept.orphans, "unknown": swept.unknown,
                    "orphans_removed": swept.removed, "orphans_failed": swept.failed,
                });
                printer.print(&json, &print::swept(&swept, dry_run))?;
                return Ok(swept.failed == 0);
            }
            // Of a later release.
            None => {}
        }
    }
    bail!("the sweep ended before everything was looked at")
}
