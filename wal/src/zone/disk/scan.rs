//! Reading a log file from its beginning.

use std::io;

use super::file::LogFile;
use super::format::{BLOCK, Kind, RECORD_HEAD_LEN, RECORD_MAGIC, RecordHead, block_end, record_len};

/// Bytes that are searched at a time.
const SEARCH_LEN: usize = 1 << 20;

/// A record of a file, as it is needed to find it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordMeta {
    pub kind: Kind,
    pub key: Box<str>,
    pub seq: u64,
    pub offset: u64,
    pub body_len: u64,
    pub target: u64,
}

impl RecordMeta {
    pub(super) fn new(head: &RecordHead, key: &str) -> Self {
        Self {
            kind: head.kind,
            key: key.into(),
            seq: head.seq,
            offset: head.offset,
            body_len: head.body_len,
            target: head.target,
        }
    }

    pub(super) fn len(&self) -> u64 {
        record_len(&self.key, self.body_len)
    }
}

/// What a file holds.
#[derive(Debug)]
pub(super) struct Scanned {
    pub records: Vec<RecordMeta>,
    /// Where the next record would begin.
    pub end: u64,
    /// The next commit's number.
    pub commit: u64,
    /// The file says that nothing follows. Without it, the file was in use when its process ended.
    pub ended: bool,
}

/// Why a file cannot be taken as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScanError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the record at byte {0} is damaged, though later ones were committed")]
    Damaged(u64),
}

/// Reads every record up to the file's end or the first one that is torn. A bad record behind which a later commit
/// begins is not torn: the commit that it belongs to had been synced.
pub(super) fn scan(log: &LogFile) -> Result<Scanned, ScanError> {
    let file_len = log.len()?;
    let mut scanned = Scanned {
        records: Vec::new(),
        end: BLOCK,
        commit: 1,
        ended: false,
    };
    while let Some((head, key)) = log.record_at(scanned.end)? {
        if !log.body_is_whole(&head, &key, file_len)? {
            break;
        }
        let end = head.offset + record_len(&key, head.body_len);
        (scanned.end, scanned.commit) = match head.last {
            true => (block_end(end), head.commit + 1),
            false => (end, head.commit),
        };
        if head.kind == Kind::End {
            scanned.ended = true;
            return Ok(scanned);
        }
        scanned.records.push(RecordMeta::new(&head, &key));
    }
    match later_commit(log, &scanned)? {
        true => Err(ScanError::Damaged(scanned.end)),
        false => Ok(scanned),
    }
}

/// Whether there is a record, behind the first bad one, of a commit after the one that the bad one belongs to.
fn later_commit(log: &LogFile, scanned: &Scanned) -> io::Result<bool> {
    let mut at = scanned.end;
    loop {
        let bytes = log.read_up_to(at, SEARCH_LEN + RECORD_HEAD_LEN)?;
        let magic = |window: &[u8]| window == RECORD_MAGIC;
        for found in bytes
            .windows(RECORD_MAGIC.len())
            .enumerate()
            .filter(|(_, window)| magic(window))
        {
            let record = log.record_at(at + found.0 as u64)?;
            if record.is_some_and(|(head, _)| head.commit > scanned.commit) {
                return Ok(true);
            }
        }
        if bytes.len() < SEARCH_LEN {
            return Ok(false);
        }
        at += SEARCH_LEN as u64;
    }
}
