//! The channels that this node can reach.

use std::collections::BTreeMap;

use millrace_api::config::StorageClass;
use millrace_api::id::{ChannelId, StreamId};

use crate::channel::handle::ChannelHandle;

/// Fixed at start: a single node owns every channel.
#[derive(Clone, Default)]
pub struct Channels {
    by_id: BTreeMap<ChannelId, (StorageClass, ChannelHandle)>,
}

impl Channels {
    pub fn insert(&mut self, class: StorageClass, channel: ChannelHandle) {
        self.by_id.insert(channel.id(), (class, channel));
    }

    pub fn get(&self, channel: ChannelId) -> Option<ChannelHandle> {
        self.by_id.get(&channel).map(|(_, handle)| handle.clone())
    }

    /// A channel for a stream of the class: one of that class, or any while the class has none of its own.
    ///
    /// Always the same one for the same stream, so that concurrent first requests do not place it twice.
    pub fn pick(&self, class: StorageClass, stream: StreamId) -> Option<ChannelHandle> {
        let own: Vec<_> = self.by_id.values().filter(|(of, _)| *of == class).collect();
        let candidates = if own.is_empty() {
            self.by_id.values().collect()
        } else {
            own
        };
        // The id is random, so streams spread evenly.
        let index = stream.0.checked_rem(candidates.len() as u128)?;
        candidates.get(index as usize).map(|(_, handle)| handle.clone())
    }
}
