//! A request for pages, on its way out and in.

use std::ops::Range;

use millrace_api::segment::SegmentObjectId;
use millrace_wal::segment::SEGMENT_OBJECT_LEN_MAX;

use super::pb;
use crate::cache::PAGE_BYTES;
use crate::cache::flight::PAGES_PER_FETCH;

/// Pages that a node is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) object: SegmentObjectId,
    pub(super) object_len: u64,
    /// At least one, at most [`PAGES_PER_FETCH`], within the object.
    pub(super) pages: Range<u32>,
    pub(super) kept_only: bool,
    /// Pages and hashes of copies that are not what was written.
    pub(super) bad: Vec<(u32, u64)>,
}

/// What came is no request for pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request for pages is malformed: {0}")]
pub(super) struct Malformed(&'static str);

impl Asked {
    pub(super) fn to_message(&self) -> pb::PagesRequest {
        let bad = self.bad.iter().map(|&(page, hash)| pb::BadCopy { page, hash });
        pb::PagesRequest {
            object: self.object.to_string(),
            object_len: self.object_len,
            first: self.pages.start,
            count: self.pages.len() as u32,
            kept_only: self.kept_only,
            bad: bad.collect(),
        }
    }

    pub(super) fn from_message(message: pb::PagesRequest) -> Result<Self, Malformed> {
        let object = message.object.parse();
        let object = object.map_err(|_| Malformed("no name of a segment object"))?;
        let (object_len, count) = (message.object_len, message.count);
        let end = message.first.checked_add(count);
        let end = end.filter(|end| u64::from(*end) <= object_len.div_ceil(PAGE_BYTES));
        let pages = message.first..end.ok_or(Malformed("pages behind the object"))?;
        if pages.is_empty() || pages.len() > PAGES_PER_FETCH || object_len > SEGMENT_OBJECT_LEN_MAX {
            return Err(Malformed("too many pages, or none"));
        }
        if message.bad.len() > pages.len() || message.bad.iter().any(|bad| !pages.contains(&bad.page)) {
            return Err(Malformed("bad copies of other pages"));
        }
        Ok(Self {
            object,
            object_len,
            pages,
            kept_only: message.kept_only,
            bad: message.bad.iter().map(|bad| (bad.page, bad.hash)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::test_store::object_id;

    fn asked() -> Asked {
        Asked {
            object: object_id(7),
            object_len: 3 * PAGE_BYTES + 1,
            pages: 1..4,
            kept_only: true,
            bad: vec![(2, u64::MAX)],
        }
    }

    #[test]
    fn what_is_asked_for_is_what_arrives() {
        assert_eq!(Asked::from_message(asked().to_message()), Ok(asked()));
    }

    #[test]
    fn what_no_node_asks_for_is_refused() {
        let refuse = |change: fn(&mut pb::PagesRequest)| {
            let mut message = asked().to_message();
            change(&mut message);
            assert!(Asked::from_message(message.clone()).is_err(), "{message:?}");
        };
        refuse(|message| message.object = "wal/1".into());
        refuse(|message| message.count = 0);
        refuse(|message| message.count = 4);
        refuse(|message| (message.count, message.object_len) = (5, 100 * PAGE_BYTES));
        refuse(|message| message.first = u32::MAX);
        refuse(|message| message.object_len = u64::MAX);
        refuse(|message| message.bad[0].page = 0);
        refuse(|message| message.bad = vec![message.bad[0]; 4]);
    }
}
