//! Rules of the design that can be broken on purpose, to see that it is found.
//!
//! A checker that has never refused anything proves nothing. So each rule here has a place in the code that leaves it
//! out when the process was told to, and `millrace-sim bugs` shows after how many seeds that is found. This exists
//! with the feature `bugs` alone: without it [`planted`] is `false` at compile time, and with it nothing but a build
//! with debug assertions compiles.

#[cfg(all(feature = "bugs", not(debug_assertions)))]
compile_error!("the feature `bugs` breaks the promises of a server and is for simulations only");

macro_rules! bugs {
    ($($(#[doc = $rule:literal])+ $bug:ident => $name:literal,)+) => {
        /// What is left out, named for what happens then.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Bug {
            $($(#[doc = $rule])+ $bug,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$bug,)+];

            /// As it is called on a command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Bug::$bug => $name,)+
                }
            }

            /// The rule that it breaks.
            pub fn rule(self) -> String {
                match self {
                    $(Bug::$bug => concat!($($rule),+).trim().to_owned(),)+
                }
            }
        }
    };
}

bugs! {
    /// An append is acknowledged when its chunk is durable, not when it was sequenced.
    AckBeforeDurable => "ack-before-durable",
    /// A chunk is acknowledged when every slot before it is durable, too.
    AckBeyondPrefix => "ack-beyond-prefix",
    /// A tail is what is durable, not what was sequenced.
    TailBeforeDurable => "tail-before-durable",
    /// Conditions are judged against all that was sequenced, not against what is durable.
    ConditionOnDurable => "condition-on-durable",
    /// A failed condition is told when the state that it was judged by is durable.
    RefusalBeforeDurable => "refusal-before-durable",
    /// Reads and tails are answered while the lease runs, and not after.
    AnswerWithoutLease => "answer-without-lease",
    /// A lease is granted after leadership was confirmed, and not by who led once.
    GrantUnconfirmed => "grant-unconfirmed",
    /// A silent node is expired when its lease has run out, and not before.
    ExpireEarly => "expire-early",
    /// What storage may have is of unknown outcome when its owner stops.
    UnknownAsRefused => "unknown-as-refused",
    /// The fencing token in force is found again by a recovery.
    TokenForgotten => "token-forgotten",
    /// The trim point is found again by a recovery.
    TrimForgotten => "trim-forgotten",
    /// A trim is in force when its record is durable.
    TrimBeforeDurable => "trim-before-durable",
    /// Timestamps of a stream never decrease, whatever the clocks of its owners do.
    TimestampFromClock => "timestamp-from-clock",
    /// An input that is sent again gets its first answer.
    ResendSequenced => "resend-sequenced",
    /// The writers of a stream, and what they sent, are found again by a recovery.
    WritersForgotten => "writers-forgotten",
    /// A stream rests when nothing of it is in chunks alone.
    RestUnflushed => "rest-unflushed",
    /// What metadata say of a dormant stream is asked of the group, not of one replica.
    DormantUnconfirmed => "dormant-unconfirmed",
    /// That there is no such stream is asked of the group, not of one replica.
    MissUnconfirmed => "miss-unconfirmed",
    /// An owner stops answering for a stream that is deleted.
    DeletedStaysOpen => "deleted-stays-open",
    /// An epoch ends where seals stand, and not where nothing was found.
    SealSkipped => "seal-skipped",
    /// A key that is taken holds this writer's chunk, or the writer is fenced.
    ExistsIsLanded => "exists-is-landed",
    /// An epoch ends behind its last chunk.
    EndOneEarly => "end-one-early",
    /// An owner that gives a channel back says where its epoch ends, behind its last chunk.
    ReleasedOneEarly => "released-one-early",
    /// A recovery replays the sealed epochs, too.
    SealedNotReplayed => "sealed-not-replayed",
    /// An entry of the log is on disk before anybody counts on it.
    LogNotSynced => "log-not-synced",
    /// A linearizable read of metadata begins with a confirmation of the leader.
    ReadIndexLocal => "read-index-local",
    /// Every entry of the log changes every replica.
    EntryDropped => "entry-dropped",
    /// A channel that has an owner is not given to another.
    OwnerReplaced => "owner-replaced",
    /// A chunk is durable when a write quorum of zones holds it.
    DurableBelowQuorum => "durable-below-quorum",
    /// A slot is sealed when so many seals stand that no write quorum is left.
    SealInOneZone => "seal-in-one-zone",
    /// What is not known to be at a write quorum is written again.
    AdoptNothing => "adopt-nothing",
    /// What is written again counts in its new place, and not where it was found.
    AdoptInPlace => "adopt-in-place",
    /// All that follows a chunk that is written again is written again.
    AdoptOnlyFirst => "adopt-only-first",
    /// All that is uncertain is written again, and not its last chunk alone.
    AdoptOnlyLast => "adopt-only-last",
    /// An end is recorded when what was written again is durable.
    EndBeforeAdopted => "end-before-adopted",
    /// A zone that was replaced says nothing about what was written before.
    BlankZoneCounts => "blank-zone-counts",
}

/// Whether the rule is broken in this process. Never, without the feature `bugs`.
#[cfg(not(feature = "bugs"))]
#[inline(always)]
pub const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "bugs")]
pub use self::planting::{plant, planted, times_met};

#[cfg(feature = "bugs")]
mod planting {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    use super::Bug;

    const NONE: u8 = u8::MAX;

    static PLANTED: AtomicU8 = AtomicU8::new(NONE);
    static MET: AtomicU64 = AtomicU64::new(0);

    /// Breaks the rule in this process from now on, instead of any other.
    pub fn plant(bug: Bug) {
        PLANTED.store(bug as u8, Ordering::SeqCst);
    }

    /// Whether the rule is broken in this process.
    pub fn planted(bug: Bug) -> bool {
        let planted = PLANTED.load(Ordering::Relaxed) == bug as u8;
        if planted {
            MET.fetch_add(1, Ordering::Relaxed);
        }
        planted
    }

    /// How often the place was met where the rule is broken.
    pub fn times_met() -> u64 {
        MET.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
        assert!(Bug::ALL.len() >= 20);
    }
}
