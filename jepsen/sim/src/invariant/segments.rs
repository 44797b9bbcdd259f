//! Segments, and the indexes that stand for many of them, tile a stream from its trim point on up to what is flushed, each in an object that is there (I4, I8, as far
//! as metadata says).

use anyhow::ensure;
use millrace_raft::query::View;

/// Streams of a basin, and segments of a stream, that one look takes in.
const ITEMS_MAX: usize = 1000;

pub fn check(view: &View<'_>) -> anyhow::Result<()> {
    for basin in view.list_basins("", "", ITEMS_MAX)?.items {
        for entry in view.list_streams(basin.id, "", "", ITEMS_MAX)?.items {
            let Some(stream) = view.stream_by_id(entry.id)?.filter(|it| it.deletion.is_none()) else {
                continue;
            };
            let name = format!("{} ({})", stream.name, stream.id);
            let links = view.chain(stream.id, 0, ITEMS_MAX)?;
            let mut end = None;
            for link in &links {
                let (first, object) = (link.first_seq(), link.object());
                ensure!(
                    first <= end.unwrap_or(stream.trim) && end.is_none_or(|end| end == first),
                    "I4: stream {name} has a segment from {first}, where {end:?} ends what is kept from {}",
                    stream.trim
                );
                end = Some(link.end_seq());
                let row = view.segment_object(object)?;
                ensure!(
                    row.is_some_and(|row| row.dead_at_ms.is_none()),
                    "I8: stream {name} has a segment in the dead object {object}"
                );
            }
            let (end, tail) = (end.unwrap_or(stream.trim), stream.tail.seq_num);
            let is_whole = links.len() == ITEMS_MAX || end == tail;
            ensure!(
                is_whole,
                "I4: the segments of stream {name} end at {end}, and {tail} is flushed"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use millrace_api::position::StreamPosition;

    use super::*;
    use crate::invariant::replica::Replica;

    #[test]
    fn what_is_flushed_and_in_no_segment_is_found() {
        let mut replica = Replica::new();
        check(&replica.view()).unwrap();
        let tail = StreamPosition {
            seq_num: 5,
            timestamp: 0,
        };
        replica.forge(|stream| stream.tail = tail);
        assert!(check(&replica.view()).is_err());
        replica.forge(|stream| stream.trim = 5);
        check(&replica.view()).expect("all of it may be gone");
    }
}
