//! The bytes of an object to be created, in parts that are shared rather than joined.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// An object's bytes: its parts, one after the other. Cloning shares everything, so that several zones and every
/// retry send the same memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    parts: Arc<[Bytes]>,
    len: u64,
}

impl Payload {
    pub fn new(parts: impl Into<Arc<[Bytes]>>) -> Self {
        let parts = parts.into();
        let len = parts.iter().map(|part| part.len() as u64).sum();
        Self { parts, len }
    }

    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// Bytes of all parts together.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Cuts the payload into pieces of `piece_len` bytes, the last one of what remains. They share its memory.
    ///
    /// # Panics
    /// If `piece_len` is 0.
    pub fn pieces(&self, piece_len: u64) -> impl Iterator<Item = Self> + Send + '_ {
        assert!(piece_len > 0, "a piece has a length");
        let mut parts = self.parts.iter().cloned();
        let mut rest = Bytes::new();
        std::iter::from_fn(move || {
            let (mut piece, mut room) = (Vec::new(), piece_len);
            while room > 0 {
                if rest.is_empty() {
                    match parts.next() {
                        Some(part) => rest = part,
                        None => break,
                    }
                }
                let taken = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
                let part = rest.split_to(taken);
                room -= taken as u64;
                piece.extend((taken > 0).then_some(part));
            }
            (!piece.is_empty()).then(|| Self::new(piece))
        })
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All bytes in one piece: a copy, unless there is only one part.
    pub fn to_bytes(&self) -> Bytes {
        match &*self.parts {
            [] => Bytes::new(),
            [one] => one.clone(),
            parts => {
                let mut all = BytesMut::with_capacity(self.len as usize);
                for part in parts {
                    all.extend_from_slice(part);
                }
                all.freeze()
            }
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::new([bytes])
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(parts: Vec<Bytes>) -> Self {
        Self::new(parts)
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} bytes in {} parts)", self.len, self.parts.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_payload_in_order_and_share_its_memory() {
        let parts: Vec<Bytes> = [3, 0, 10, 1, 1, 0, 7, 0]
            .map(|len: usize| Bytes::from((0..len as u8).collect::<Vec<u8>>()))
            .into();
        let payload = Payload::from(parts);
        let whole = payload.to_bytes();
        for piece_len in 1..30 {
            let pieces: Vec<Payload> = payload.pieces(piece_len).collect();
            let (last, full) = pieces.split_last().expect("at least one piece");
            assert!(full.iter().all(|piece| piece.len() == piece_len), "{piece_len}");
            assert!((1..=piece_len).contains(&last.len()), "{piece_len}");
            let joined: Vec<Bytes> = pieces.iter().map(Payload::to_bytes).collect();
            assert_eq!(joined.concat(), whole, "{piece_len}");
        }
        let first = payload.pieces(2).next().expect("a piece");
        assert_eq!(first.parts()[0].as_ptr(), payload.parts()[0].as_ptr());
        assert_eq!(Payload::from(vec![Bytes::new()]).pieces(5).count(), 0);
    }
}
