//! Which of the work in the background is this node's. Nodes that disagree for a moment, because one has heard of a
//! third and the other has not, do some of it twice or a little later, and nothing else.

use millrace_api::id::{BasinId, ChannelId, NodeId, StreamId};
use millrace_api::segment::SegmentObjectId;
use millrace_raft::error::StoreError;
use millrace_raft::query::StateReader;

/// One of several equal parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    index: u64,
    of: u64,
}

impl Share {
    /// What `node` does, among the nodes that live; `None` if it is not one of them.
    pub fn of_node(node: NodeId, state: &StateReader) -> Result<Option<Self>, StoreError> {
        let mut living: Vec<_> = state.nodes()?.into_iter().filter(|it| !it.expired).collect();
        living.sort_unstable_by_key(|it| it.node);
        let index = living.iter().position(|it| it.node == node);
        Ok(index.map(|index| Self {
            index: index as u64,
            of: living.len() as u64,
        }))
    }

    #[cfg(test)]
    pub fn part(index: u64, of: u64) -> Self {
        Self { index, of }
    }

    /// The first stream of the share, and the first behind it; `None` if there is none.
    pub fn streams(self) -> (StreamId, Option<StreamId>) {
        let at = |index: u64| StreamId(u128::MAX / u128::from(self.of) * u128::from(index));
        let end = (self.index + 1 < self.of).then(|| at(self.index + 1));
        (at(self.index), end)
    }

    pub fn has_stream(self, stream: StreamId) -> bool {
        let (first, end) = self.streams();
        first <= stream && end.is_none_or(|end| stream < end)
    }

    pub fn has_basin(self, basin: BasinId) -> bool {
        // Ids are random.
        basin.0 % u128::from(self.of) == u128::from(self.index)
    }

    pub fn has_channel(self, channel: ChannelId) -> bool {
        u64::from(channel.0) % self.of == self.index
    }

    /// Whether it has what could be anybody's.
    pub fn is_first(self) -> bool {
        self.index == 0
    }

    pub fn has_object(self, object: SegmentObjectId) -> bool {
        (u64::from(object.channel.0) + object.seq.0) % self.of == self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_is_in_one_share() {
        for of in 1..6 {
            let shares: Vec<_> = (0..of).map(|index| Share { index, of }).collect();
            let edges = shares.iter().flat_map(|share| {
                let (first, end) = share.streams();
                [
                    first.0,
                    first.0 + 1,
                    first.0.wrapping_sub(1),
                    end.map_or(u128::MAX, |end| end.0),
                ]
            });
            for stream in edges.chain([0, u128::MAX]) {
                let holders = shares.iter().filter(|share| share.has_stream(StreamId(stream)));
                assert_eq!(holders.count(), 1, "{stream:x} of {of}");
            }
        }
    }
}
