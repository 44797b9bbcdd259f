//! Bytes that lie where the connection put them.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// One sequence of bytes out of many pieces. What is taken from it shares the memory of the piece that it lies in; only
/// what a cut goes through is copied.
#[derive(Debug, Default)]
pub struct Pieces {
    /// None is empty.
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Pieces {
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// How many there are; each takes memory beside its bytes.
    pub fn count(&self) -> usize {
        self.pieces.len()
    }

    /// The first bytes, if there are so many; they stay.
    pub fn peek<const LEN: usize>(&self) -> Option<[u8; LEN]> {
        let mut bytes = self.pieces.iter().flatten();
        let mut first = [0; LEN];
        for place in &mut first {
            *place = *bytes.next()?;
        }
        Some(first)
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece[..])
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "there are {} bytes and not {count}", self.len);
        self.len -= count;
        while count > 0 {
            let front = self.pieces.front_mut().expect("as many bytes as counted");
            if front.len() > count {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.pieces.pop_front();
        }
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        assert!(len <= self.len, "there are {} bytes and not {len}", self.len);
        if let Some(front) = self.pieces.front_mut()
            && len <= front.len()
        {
            let taken = front.slice(..len);
            self.advance(len);
            return taken;
        }
        let mut joined = BytesMut::with_capacity(len);
        while joined.len() < len {
            let part = self.chunk();
            let part_len = part.len().min(len - joined.len());
            joined.extend_from_slice(&part[..part_len]);
            self.advance(part_len);
        }
        joined.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(of: &[&'static [u8]]) -> Pieces {
        let mut pieces = Pieces::default();
        of.iter().for_each(|piece| pieces.push(Bytes::from_static(piece)));
        pieces
    }

    #[test]
    fn what_lies_in_one_piece_is_not_copied() {
        let piece = Bytes::from(vec![7; 100]);
        let mut pieces = pieces(&[b"abc"]);
        pieces.push(piece.clone());
        assert_eq!(pieces.copy_to_bytes(3), "abc");
        let taken = pieces.copy_to_bytes(60);
        assert_eq!((taken.len(), taken.as_ptr()), (60, piece.as_ptr()));
        assert_eq!(pieces.copy_to_bytes(40).as_ptr(), piece[60..].as_ptr());
        assert_eq!((pieces.remaining(), pieces.count()), (0, 0));
    }

    #[test]
    fn the_first_bytes_are_seen_through_cuts() {
        let pieces = pieces(&[b"a", b"", b"bc", b"d"]);
        assert_eq!(pieces.peek(), Some(*b"abcd"));
        assert_eq!(pieces.peek::<5>(), None);
        assert_eq!((pieces.remaining(), pieces.count()), (4, 3));
    }

    proptest! {
        #[test]
        fn the_bytes_are_the_same_however_they_are_cut_and_taken(
            whole in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            takes in prop::collection::vec((0..60usize, any::<bool>()), 0..20),
        ) {
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
            at.extend([0, whole.len()]);
            at.sort_unstable();
            let mut pieces = Pieces::default();
            for pair in at.windows(2) {
                pieces.push(Bytes::copy_from_slice(&whole[pair[0]..pair[1]]));
            }
            let mut left = &whole[..];
            for (len, skip) in takes {
                let len = len.min(left.len());
                let (expected, rest) = left.split_at(len);
                match skip {
                    true => pieces.advance(len),
                    false => prop_assert_eq!(&pieces.copy_to_bytes(len)[..], expected),
                }
                left = rest;
                prop_assert_eq!(pieces.remaining(), left.len());
                prop_assert_eq!(pieces.chunk().is_empty(), left.is_empty());
            }
        }
    }
}
