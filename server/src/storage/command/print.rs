//! What the commands print: text for people, or a JSON object on each line for programs.

use std::io::{ErrorKind, Write};

use anyhow::Context;
use bytesize::ByteSize;
use serde::Serialize;

use crate::admin::pb;
use crate::admin::progress::Progress;
use crate::admin::table::table;
use crate::storage::inspect::{Inspection, Part};

/// Cells of the bar.
const BAR: u64 = 24;

/// Standard output for what is found, standard error for how far it is.
pub struct Printer {
    json: bool,
    progress: Progress,
}

impl Printer {
    pub fn new(json: bool) -> Self {
        Self {
            json,
            progress: Progress::new(),
        }
    }

    /// One line of JSON, or the text.
    pub fn print(&mut self, json: &impl Serialize, text: &str) -> anyhow::Result<()> {
        self.progress.clear();
        let text = match self.json {
            true => serde_json::to_string(json)? + "\n",
            false => text.to_owned(),
        };
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // Whoever reads has read enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            done => done.context("cannot write"),
        }
    }

    pub fn progress(&mut self, progress: &pb::Progress) {
        self.progress.tick(&bar(progress));
    }

    pub fn note(&mut self, text: &str) {
        self.progress.note(text);
    }
}

fn bar(progress: &pb::Progress) -> String {
    let pb::Progress { what, done, total } = progress;
    match total {
        Some(total) if *total > 0 => {
            let full = (BAR * done.min(total) / total) as usize;
            let (full, rest) = ("#".repeat(full), "-".repeat(BAR as usize - full));
            format!("[{full}{rest}] {done} of {total} {what}")
        }
        _ => format!("{done} {what}"),
    }
}

pub fn checked(checked: &pb::Checked) -> String {
    let bytes = |bytes: u64| ByteSize::b(bytes).display().iec().to_string();
    let row = |what: &str, count: u64, size: String| vec![what.to_owned(), count.to_string(), size];
    let rows = [
        row("segment objects", checked.objects, bytes(checked.object_bytes)),
        row("runs in them that are in use", checked.runs, String::new()),
        row("streams", checked.streams, String::new()),
        row("segments of streams", checked.segments, String::new()),
        row("chunks", checked.chunks, bytes(checked.chunk_bytes)),
    ];
    let verdict = match checked.broken.saturating_sub(checked.repaired) {
        0 if checked.broken > 0 => "what was broken was repaired: see above".to_owned(),
        0 => "all of it is as it should be".to_owned(),
        1 => "1 promise is BROKEN: see above".to_owned(),
        broken => format!("{broken} promises are BROKEN: see above"),
    };
    format!(
        "{}{verdict}\n",
        table(&["CHECKED", "COUNT", "BYTES"], &rows, &[1, 2])
    )
}

pub fn swept(swept: &pb::Swept, dry_run: bool) -> String {
    let mut text = format!("{} objects looked at: {} orphans", swept.objects, swept.orphans);
    text += &match (dry_run, swept.failed) {
        (true, _) => ", of which none was removed (--dry-run)".to_owned(),
        (false, 0) => format!(", {} removed", swept.removed),
        (false, failed) => format!(", {} removed, {failed} NOT removed", swept.removed),
    };
    if swept.unknown > 0 {
        text += &format!("; {} unknown, left alone", swept.unknown);
    }
    text + "\n"
}

pub fn inspection(seen: &Inspection) -> String {
    let mut text = format!("{} of {} bytes\n", seen.kind, seen.bytes);
    for (what, value) in &seen.header {
        let what = what.replace('_', " ");
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text += &format!("  {what:<16} {value}\n");
    }
    if !seen.parts.is_empty() {
        let heading = [
            "OFFSET",
            "BYTES",
            "WHAT",
            "STREAM",
            "RECORDS",
            "TIMESTAMPS",
            "METERED",
            "CHECK",
        ];
        let rows: Vec<_> = seen.parts.iter().map(part).collect();
        text += &format!("\n{}", table(&heading, &rows, &[0, 1, 6]));
    }
    text += &match &seen.fault {
        None => "\nwhole: every check passes\n".to_owned(),
        Some(fault) => format!("\nNOT whole: {fault}\n"),
    };
    text
}

fn part(part: &Part) -> Vec<String> {
    let check = part
        .fault
        .as_ref()
        .map_or("ok".to_owned(), |fault| format!("BAD: {fault}"));
    let (stream, records, timestamps, metered) = match &part.records {
        None => Default::default(),
        Some(records) => (
            records.stream.clone(),
            format!("{}..{}", records.first_seq, records.end_seq),
            format!("{}..={}", records.first_timestamp, records.last_timestamp),
            records.metered_bytes.to_string(),
        ),
    };
    vec![
        part.offset.to_string(),
        part.bytes.to_string(),
        part.object.clone().unwrap_or_else(|| part.what.to_owned()),
        stream,
        records,
        timestamps,
        metered,
        check,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_what_is_done() {
        let at = |done, total| {
            bar(&pb::Progress {
                what: "things".into(),
                done,
                total,
            })
        };
        assert_eq!(at(0, Some(10)), "[------------------------] 0 of 10 things");
        assert_eq!(at(5, Some(10)), "[############------------] 5 of 10 things");
        assert_eq!(at(12, Some(10)), "[########################] 12 of 10 things");
        assert_eq!(at(3, None), "3 things");
        assert_eq!(at(0, Some(0)), "0 things");
    }
}
