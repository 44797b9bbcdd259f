//! Objects that metadata name only through a chain index: they look like orphans.

use std::collections::BTreeSet;

use bytes::Bytes;
use millrace_api::segment::SegmentObjectId;
use millrace_raft::query::{ChainIndexNames, View};
use millrace_wal::segment::ChainIndex;
use millrace_wal::{FormatError, ReadRange, StoreError, ZoneStore};

use super::judge::{Orphan, Remark, Unknown};
use crate::storage::cell::insist;
use crate::storage::checked::read_checked;

/// Rows of metadata read in one step.
const PAGE: usize = 1000;

/// Objects of which an index may know, and the indexes that have names around theirs. Both are of one state.
#[derive(Default)]
pub struct Suspects {
    ids: BTreeSet<SegmentObjectId>,
    indexes: Vec<ChainIndexNames>,
}

/// What the indexes say.
#[derive(Default)]
pub struct Packed {
    named: BTreeSet<SegmentObjectId>,
    /// Indexes that could not be read, and why; without a reason if they were not there any more.
    unread: Vec<(ChainIndexNames, Option<String>)>,
}

impl Suspects {
    pub fn find(
        view: View<'_>,
        ids: BTreeSet<SegmentObjectId>,
    ) -> Result<Self, millrace_raft::error::StoreError> {
        let mut indexes = Vec::new();
        let mut after = None;
        while !ids.is_empty() {
            let page = view.chain_indexes(after, PAGE)?;
            after = page.last().map(|last| last.index);
            let is_last = page.len() < PAGE;
            indexes.extend(
                page.into_iter()
                    .filter(|index| ids.iter().any(|id| has(index, id))),
            );
            if is_last {
                break;
            }
        }
        Ok(Self { ids, indexes })
    }

    /// Reads the indexes, one after the other.
    pub async fn look_up(self, store: &dyn ZoneStore) -> Result<Packed, StoreError> {
        let mut packed = Packed::default();
        for names in self.indexes {
            let key = names.index.to_string();
            let check = |bytes: Bytes| match ChainIndex::decode(&bytes)? {
                index if index.id == names.index => Ok(index),
                _ => Err(FormatError::Mismatch { what: "chain index" }),
            };
            match insist(|| read_checked(store, &key, ReadRange::Full, check)).await? {
                Some(Ok(index)) => {
                    let alone = index.entries.iter().filter(|entry| entry.alone);
                    let known = alone.map(|entry| entry.object).filter(|id| self.ids.contains(id));
                    packed.named.extend(known);
                }
                Some(Err(error)) => {
                    let why = format!("chain index {}: {error}", names.index);
                    packed.unread.push((names, Some(why)));
                }
                // Unpacked after metadata were looked at: the next sweep knows.
                None => packed.unread.push((names, None)),
            }
        }
        Ok(packed)
    }
}

impl Packed {
    /// What is said of an object that is an orphan unless an index names it.
    pub fn judge(&self, id: SegmentObjectId, orphan: Orphan) -> Option<Remark> {
        if self.named.contains(&id) {
            return None;
        }
        match self.unread.iter().find(|(names, _)| has(names, &id)) {
            None => Some(Remark::Orphan(orphan)),
            Some((_, None)) => None,
            Some((_, Some(why))) => Some(Remark::Unknown(Unknown::Unreadable(why.clone()))),
        }
    }
}

fn has(index: &ChainIndexNames, id: &SegmentObjectId) -> bool {
    let is_in = |(first, last): &(SegmentObjectId, SegmentObjectId)| (first..=last).contains(&id);
    index.names.iter().any(is_in)
}
