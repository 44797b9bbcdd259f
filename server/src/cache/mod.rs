use millrace_api::segment::SegmentObjectId;
use millrace_wal::{Payload, ZoneStore};
use std::sync::Arc;
#[derive(Debug)]
pub struct PageCache {
    pub store: Arc<dyn ZoneStore>,
}
impl PageCache {
    pub fn new(store: Arc<dyn ZoneStore>, _bytes: u64) -> Self {
        Self { store }
    }
    pub fn insert_fresh(&self, _id: SegmentObjectId, _payload: &Payload) {}
}
