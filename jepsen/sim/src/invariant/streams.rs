//! The streamlets of a stream tile it: the open one begins where the last one ended, that end never moves back, and no
//! streamlet is on two channels (I4, I2, as far as metadata says).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use millrace_raft::query::View;

/// Streams of a basin that one look takes in.
const STREAMS_MAX: usize = 1000;

#[derive(Default)]
pub struct Streams {
    /// By stream: the tail at its last rest, its trim point, and the index of the state that said so.
    rested: BTreeMap<String, (u64, u64, u64)>,
}

impl Streams {
    pub fn check(&mut self, node: u64, view: &View<'_>) -> anyhow::Result<()> {
        let index = view.applied_index()?;
        let mut open = BTreeSet::new();
        for basin in view.list_basins("", "", STREAMS_MAX)?.items {
            for entry in view.list_streams(basin.id, "", "", STREAMS_MAX)?.items {
                let Some(stream) = view.stream_by_id(entry.id)? else {
                    continue;
                };
                let name = format!("{} ({})", stream.name, stream.id);
                let (tail, trim) = (stream.tail.seq_num, stream.trim);
                ensure!(
                    trim <= tail,
                    "I4: stream {name} is trimmed to {trim}, behind its tail {tail}"
                );
                if let Some(streamlet) = stream.open {
                    let start = streamlet.start.seq_num;
                    ensure!(
                        start == tail,
                        "I4: stream {name} ended at {tail}, and its open streamlet begins at {start}"
                    );
                    ensure!(
                        open.insert(streamlet.streamlet),
                        "I4: two streams have streamlet {:?}",
                        streamlet.streamlet
                    );
                }
                let now = (tail, trim, index);
                let (tail_before, trim_before, at) = *self.rested.get(&name).unwrap_or(&(0, 0, 0));
                if index >= at {
                    ensure!(
                        tail >= tail_before && trim >= trim_before,
                        "I2: on node {node} stream {name} went from tail {tail_before} and trim {trim_before} back to \
                         {tail} and {trim}"
                    );
                    self.rested.insert(name, now);
                }
            }
        }
        Ok(())
    }
}
