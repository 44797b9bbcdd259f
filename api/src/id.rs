//! Identities, one type each, so that one cannot stand in for another.

use std::fmt;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// Big-endian, so that byte order is number order.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }
    };
}

number_id! {
    /// A member of the metadata group. Never reused after its disk was wiped.
    NodeId(u64)
}
number_id! {
    /// A WAL writer that multiplexes many streams.
    ChannelId(u32)
}
number_id! {
    /// One ownership of a channel; grows by one with each assignment, starting at 1.
    Epoch(u64)
}
number_id! {
    /// A slot of an epoch: the number of a WAL object, dense from 0.
    ChunkSeq(u64)
}
number_id! {
    /// A flush of a channel; grows by one with each that is begun and committed, over all of its epochs, from 1.
    FlushSeq(u64)
}
number_id! {
    /// The part of a stream that one channel sequenced; the log index of the command that opened it.
    StreamletId(u64)
}
number_id! {
    /// A writer that outlives owners of a channel; 0 in a frame means that there is none.
    WriterId(u64)
}

random_id! {
    /// One creation of a stream. Delete and recreate gives another.
    StreamId
}
random_id! {
    /// One creation of a basin. Delete and recreate gives another.
    BasinId
}
random_id! {
    /// One start of a process.
    Incarnation
}
random_id! {
    /// One life of a zone store; a replaced or restored store has another.
    ZoneGen
}
random_id! {
    /// One writer of an epoch: random per process, channel and epoch.
    Nonce
}
