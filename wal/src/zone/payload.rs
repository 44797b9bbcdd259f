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
