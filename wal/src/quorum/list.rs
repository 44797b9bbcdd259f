//! Finding chunks without knowing their numbers.

use std::collections::BTreeSet;

use tokio::time::timeout;

use super::Wal;
use crate::format::ChunkId;
use crate::zone::StoreError;

impl Wal {
    /// Slots of the epoch of `id` that lie before it and hold an object in some zone: the first ones, at most `limit`
    /// of each zone. An error if a zone cannot be listed.
    pub async fn objects_before(&self, id: ChunkId, limit: usize) -> Result<Vec<ChunkId>, StoreError> {
        let prefix = ChunkId::epoch_prefix(id.channel, id.epoch);
        let mut found = BTreeSet::new();
        for zone in &self.inner.zones {
            let keys = timeout(
                self.inner.options.read_timeout,
                zone.store.list(&prefix, None, limit),
            )
            .await;
            let unanswered = |_| StoreError::Retry("no answer to a listing".into());
            let keys = keys.map_err(unanswered)??;
            found.extend(keys.iter().filter_map(|key| ChunkId::parse(key)));
        }
        Ok(found.into_iter().filter(|chunk| *chunk < id).collect())
    }
}
