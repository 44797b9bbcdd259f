//! The streamlets of a stream tile it: the open one begins where the last one ended, that end never moves back, and no
//! streamlet is on two channels (I4, I2, as far as metadata says).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use millrace_raft::query::View;

/// Streams of a basin that one look takes in.
const STREAMS_MAX: usize = 1000;

#[derive(Default)]
pub struct Streams {
    /// By stream: the tail at its last flush or rest, its trim point, and the index of the state that said so.
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
                        start <= tail,
                        "I4: stream {name} was flushed to {tail}, and its open streamlet begins at {start}"
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

#[cfg(test)]
mod tests {
    use millrace_api::id::{ChannelId, StreamletId};
    use millrace_api::position::StreamPosition;
    use millrace_raft::state::record::OpenStreamlet;

    use super::*;
    use crate::invariant::replica::Replica;

    fn at(seq_num: u64) -> StreamPosition {
        StreamPosition {
            seq_num,
            timestamp: 0,
        }
    }

    #[test]
    fn a_gap_between_streamlets_is_found() {
        let mut replica = Replica::new();
        replica.forge(|stream| {
            stream.open = Some(OpenStreamlet {
                channel: ChannelId(1),
                streamlet: StreamletId(9),
                start: at(1),
            });
        });
        assert!(Streams::default().check(1, &replica.view()).is_err());
    }

    #[test]
    fn a_tail_that_goes_back_is_found() {
        let mut streams = Streams::default();
        let mut replica = Replica::new();
        replica.forge(|stream| stream.tail = at(5));
        streams.check(1, &replica.view()).unwrap();
        let behind = Replica::new();
        streams
            .check(2, &behind.view())
            .expect("a replica that is behind has an older tail");
        replica.forge(|stream| stream.tail = at(4));
        assert!(streams.check(1, &replica.view()).is_err());
    }

    #[test]
    fn a_trim_behind_the_tail_is_found() {
        let mut replica = Replica::new();
        replica.forge(|stream| stream.trim = 1);
        assert!(Streams::default().check(1, &replica.view()).is_err());
    }
}
