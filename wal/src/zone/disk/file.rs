//! One log file on the disk.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::{Errno, pwritev};

use super::format::{BLOCK, RECORD_HEAD_LEN_MAX, RecordHead, record_len};

/// Slices that one system call takes.
const SLICES_MAX: usize = 1024;
/// Zeros are written in pieces of this size, and so are bodies read that are only checked.
const PIECE_LEN: usize = 1 << 20;
/// Zeros are synced after this many pieces, so that commits of the file in use never wait behind many of them.
const PIECES_PER_SYNC: u64 = 4;

/// A log file that is open. Readers hold it while they read: what they read is not written anew meanwhile.
#[derive(Debug)]
pub(super) struct LogFile {
    pub number: u64,
    pub file: File,
}

impl LogFile {
    /// Writes all slices, one behind the other.
    pub(super) fn write(&self, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        // Drops empty slices at the front: a write of nothing would look like the end of the device.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let some = &slices[..slices.len().min(SLICES_MAX)];
            match pwritev(&self.file, some, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Reads what there is of a range.
    pub(super) fn read_up_to(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match self.file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// The head and the key of the record at `offset`, if one was written there. Its body may be anything.
    pub(super) fn record_at(&self, offset: u64) -> io::Result<Option<(RecordHead, String)>> {
        let bytes = self.read_up_to(offset, RECORD_HEAD_LEN_MAX)?;
        let record = RecordHead::decode(&bytes, self.number, offset);
        Ok(record.map(|(head, key)| (head, key.to_owned())))
    }

    /// Whether a record's body is what was written. `end` is where the file ends.
    pub(super) fn body_is_whole(&self, head: &RecordHead, key: &str, end: u64) -> io::Result<bool> {
        let body_at = head.offset + record_len(key, 0);
        let Some(body_end) = body_at
            .checked_add(head.body_len)
            .filter(|body_end| *body_end <= end)
        else {
            return Ok(false);
        };
        let (mut at, mut crc) = (body_at, 0);
        while at < body_end {
            let piece = self.read_up_to(at, PIECE_LEN.min((body_end - at) as usize))?;
            if piece.is_empty() {
                return Ok(false);
            }
            crc = crc32c::crc32c_append(crc, &piece);
            at += piece.len() as u64;
        }
        Ok(crc == head.body_crc)
    }
}

/// Takes room for a file of `len` bytes. On a file system that cannot, the file grows as it is written.
pub(super) fn allocate(file: &File, len: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Fills the file with zeros behind its head, and syncs them: blocks that were written once are written again without
/// a change of the file system's own data, so that a sync of them is one write of the device. Answers whether it was
/// done to the end: it stops when it is not to `go_on`.
pub(super) fn fill_with_zeros(file: &File, len: u64, go_on: impl Fn() -> bool) -> io::Result<bool> {
    let zeros = vec![0; PIECE_LEN];
    let (mut at, mut pieces) = (BLOCK, 0);
    while at < len {
        let piece = &zeros[..PIECE_LEN.min((len - at) as usize)];
        file.write_all_at(piece, at)?;
        at += piece.len() as u64;
        pieces += 1;
        if pieces % PIECES_PER_SYNC == 0 {
            fdatasync(file)?;
            if !go_on() {
                return Ok(false);
            }
        }
    }
    fdatasync(file)?;
    Ok(true)
}
