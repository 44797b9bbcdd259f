//! Pieces that begin with their length, out of a byte stream that the transport has cut anywhere.

use bytes::{Bytes, BytesMut};

/// Puts pieces together. Holds at most one that is not complete yet.
///
/// - A piece that lies within one chunk shares its memory; any other is copied once, or a little more where the room
///   for it is made as it arrives.
/// - Nothing is reserved for a piece whose head was refused.
#[derive(Debug)]
pub struct Assembler {
    partial: BytesMut,
    reserve_max: usize,
}

impl Assembler {
    /// Of a piece that comes in several chunks, room for `reserve_max` bytes is made when its length is known, and for
    /// the rest as it arrives: never more than that, or twice what has arrived.
    pub fn new(reserve_max: usize) -> Self {
        Self {
            partial: BytesMut::new(),
            reserve_max,
        }
    }

    /// The next complete piece with its head, from the front of `input`. `None` means that all of `input` was consumed
    /// and more is needed.
    ///
    /// `body_len` reads from a complete head how much follows it, or refuses it; it may be asked more than once. After
    /// a refusal nothing further can be taken from the stream.
    pub fn take<const HEAD_LEN: usize, E>(
        &mut self,
        input: &mut Bytes,
        body_len: impl Fn(&[u8; HEAD_LEN]) -> Result<usize, E>,
    ) -> Result<Option<Bytes>, E> {
        let total = |bytes: &[u8]| {
            let head = bytes.first_chunk::<HEAD_LEN>();
            head.map(|head| Ok(HEAD_LEN + body_len(head)?)).transpose()
        };
        if input.is_empty() {
            return Ok(None);
        }
        if self.partial.is_empty() {
            let room = match total(input)? {
                Some(total) if input.len() >= total => return Ok(Some(input.split_to(total))),
                Some(total) => total.min(self.reserve_max).max(input.len()),
                None => HEAD_LEN,
            };
            self.partial.reserve(room);
        }
        self.fill(HEAD_LEN, input);
        let Some(total) = total(&self.partial)? else {
            return Ok(None);
        };
        let at_once = total.min(self.reserve_max);
        if self.partial.capacity() < at_once {
            self.partial.reserve(at_once - self.partial.len());
        }
        self.fill(total, input);
        match self.partial.len() < total {
            true => Ok(None),
            false => Ok(Some(std::mem::take(&mut self.partial).freeze())),
        }
    }

    /// Whether the stream has been cut between pieces.
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }

    /// Lets go of what is incomplete.
    pub fn clear(&mut self) {
        self.partial = BytesMut::new();
    }

    /// Bytes that are held for an incomplete piece.
    pub fn capacity(&self) -> usize {
        self.partial.capacity()
    }

    /// Moves bytes from `input` until `partial` has `len` of them.
    fn fill(&mut self, len: usize, input: &mut Bytes) {
        let missing = len.saturating_sub(self.partial.len()).min(input.len());
        self.partial.extend_from_slice(&input.split_to(missing));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RESERVE_MAX: usize = 64;

    /// Two bytes of length, at most 1,000.
    fn body_len(head: &[u8; 2]) -> Result<usize, usize> {
        match u16::from_be_bytes(*head).into() {
            len if len > 1000 => Err(len),
            len => Ok(len),
        }
    }

    fn piece(len: u16) -> Vec<u8> {
        let mut piece = len.to_be_bytes().to_vec();
        piece.extend((0..len).map(|n| n as u8));
        piece
    }

    #[test]
    fn a_piece_within_a_chunk_is_not_copied() {
        let whole = Bytes::from([piece(500), piece(0), piece(3)].concat());
        let mut input = whole.clone();
        let mut assembler = Assembler::new(RESERVE_MAX);
        for (at, len) in [(0, 502), (502, 2), (504, 5)] {
            let taken = assembler.take(&mut input, body_len).unwrap().unwrap();
            assert_eq!((taken.len(), taken.as_ptr()), (len, whole[at..].as_ptr()));
        }
        assert_eq!(assembler.take(&mut input, body_len), Ok(None));
        assert!(assembler.is_empty() && assembler.capacity() == 0);
    }

    #[test]
    fn a_refused_head_takes_no_memory() {
        for chunks in [vec![&[4u8, 0][..]], vec![&[4], &[0, 1]]] {
            let mut assembler = Assembler::new(usize::MAX);
            let refused = chunks.into_iter().find_map(|chunk| {
                let mut input = Bytes::from_static(chunk);
                assembler.take(&mut input, body_len).err()
            });
            assert_eq!(refused, Some(1024));
            assert!(assembler.capacity() < 100, "{}", assembler.capacity());
        }
    }

    #[test]
    fn room_is_made_at_once_only_up_to_the_bound() {
        for (reserve_max, least, most) in [(RESERVE_MAX, 64, 128), (usize::MAX, 802, 802)] {
            let mut assembler = Assembler::new(reserve_max);
            let mut input = Bytes::from(piece(800)).slice(..10);
            assert_eq!(assembler.take(&mut input, body_len), Ok(None));
            let capacity = assembler.capacity();
            assert!((least..=most).contains(&capacity), "{capacity}");
        }
    }

    proptest! {
        #[test]
        fn pieces_are_the_same_however_they_are_cut(
            lens in prop::collection::vec(0..300u16, 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            reserve_max in 0..400usize,
        ) {
            let pieces: Vec<_> = lens.iter().map(|&len| piece(len)).collect();
            let whole = Bytes::from(pieces.concat());
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
            at.extend([0, whole.len()]);
            at.sort_unstable();
            let mut assembler = Assembler::new(reserve_max);
            let mut taken = Vec::new();
            for pair in at.windows(2) {
                let mut input = whole.slice(pair[0]..pair[1]);
                while let Some(piece) = assembler.take(&mut input, body_len).unwrap() {
                    taken.push(piece);
                }
                prop_assert!(input.is_empty());
            }
            prop_assert_eq!(taken, pieces);
            prop_assert!(assembler.is_empty());
        }
    }
}
