//! Rules of the protocol, each of which can be left out.

/// A rule that the seal of an epoch rests on, by its number in the design and in the order of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Rule {
    BegunOnce,
    ReleaseStops,
    BlankIsAnother,
    BlankIsSilent,
    RequestsNameTheGen,
    SilenceIsNoAnswer,
    WriteQuorum,
    AckedInOrder,
    KeyKeepsItsBytes,
    ExistsIsLookedAt,
    SealedAreReplayed,
    MissingIsWaitedFor,
    AnyChunkBelongs,
    EndIsSealed,
    SealQuorum,
    UncertainIsAdopted,
    RunIsAdopted,
    AdoptedInOrder,
    AdoptedIsDurable,
    SealByCurrent,
    VerdictStands,
    VerdictIsKnown,
    VoidIsUnread,
    NamedIsKept,
    ActiveBeforeWriting,
    ActivatedByCurrent,
    SealStays,
}

impl Rule {
    /// All of them.
    pub const ALL: &[Rule] = &[
        Rule::BegunOnce,
        Rule::ReleaseStops,
        Rule::BlankIsAnother,
        Rule::BlankIsSilent,
        Rule::RequestsNameTheGen,
        Rule::SilenceIsNoAnswer,
        Rule::WriteQuorum,
        Rule::AckedInOrder,
        Rule::KeyKeepsItsBytes,
        Rule::ExistsIsLookedAt,
        Rule::SealedAreReplayed,
        Rule::MissingIsWaitedFor,
        Rule::AnyChunkBelongs,
        Rule::EndIsSealed,
        Rule::SealQuorum,
        Rule::UncertainIsAdopted,
        Rule::RunIsAdopted,
        Rule::AdoptedInOrder,
        Rule::AdoptedIsDurable,
        Rule::SealByCurrent,
        Rule::VerdictStands,
        Rule::VerdictIsKnown,
        Rule::VoidIsUnread,
        Rule::NamedIsKept,
        Rule::ActiveBeforeWriting,
        Rule::ActivatedByCurrent,
        Rule::SealStays,
    ];

    /// As it is called on a command line.
    pub const fn name(self) -> &'static str {
        self.told().0
    }

    /// What it says.
    pub const fn says(self) -> &'static str {
        self.told().1
    }

    const fn told(self) -> (&'static str, &'static str) {
        match self {
            Rule::BegunOnce => (
                "begun-once",
                "an epoch is recovered into by one attempt of one process",
            ),
            Rule::ReleaseStops => (
                "release-stops",
                "an owner that says where its epoch ends has stopped writing",
            ),
            Rule::BlankIsAnother => (
                "blank-is-another",
                "a zone that lost what it held is another one, under a generation of its own",
            ),
            Rule::BlankIsSilent => (
                "blank-is-silent",
                "a zone says nothing about epochs that are not written under its generation",
            ),
            Rule::RequestsNameTheGen => (
                "requests-name-the-gen",
                "a request to another generation of a zone than it has is refused",
            ),
            Rule::SilenceIsNoAnswer => (
                "silence-is-no-answer",
                "a seal counts when the zone said so, and not when nothing was heard",
            ),
            Rule::WriteQuorum => ("write-quorum", "a chunk is durable when two zones hold it"),
            Rule::AckedInOrder => (
                "acked-in-order",
                "a chunk is acknowledged when all before it are durable, too",
            ),
            Rule::KeyKeepsItsBytes => (
                "key-keeps-its-bytes",
                "a key is never used again with other bytes",
            ),
            Rule::ExistsIsLookedAt => (
                "exists-is-looked-at",
                "what stands under a key that is taken counts when it is the writer's own",
            ),
            Rule::SealedAreReplayed => ("sealed-are-replayed", "a recovery replays the sealed epochs, too"),
            Rule::MissingIsWaitedFor => (
                "missing-is-waited-for",
                "a slot of a sealed epoch that nobody shows is waited for",
            ),
            Rule::AnyChunkBelongs => (
                "any-chunk-belongs",
                "a chunk that any zone holds belongs to the epoch",
            ),
            Rule::EndIsSealed => ("end-is-sealed", "an epoch ends where seals stand"),
            Rule::SealQuorum => (
                "seal-quorum",
                "a slot is sealed when so many seals stand that no write quorum is left",
            ),
            Rule::UncertainIsAdopted => (
                "uncertain-is-adopted",
                "what is not known to be at a write quorum is written again",
            ),
            Rule::RunIsAdopted => (
                "run-is-adopted",
                "with a chunk all that follow it are written again",
            ),
            Rule::AdoptedInOrder => ("adopted-in-order", "what is written again keeps its order"),
            Rule::AdoptedIsDurable => (
                "adopted-is-durable",
                "an end is recorded when what is written again is durable",
            ),
            Rule::SealByCurrent => (
                "seal-by-current",
                "the current epoch's owner alone has an end recorded",
            ),
            Rule::VerdictStands => ("verdict-stands", "an end that is recorded stays as it is"),
            Rule::VerdictIsKnown => (
                "verdict-is-known",
                "a recovery goes on when it knows that its own verdict was recorded",
            ),
            Rule::VoidIsUnread => (
                "void-is-unread",
                "an epoch that was never active and that no verdict names holds nothing",
            ),
            Rule::NamedIsKept => (
                "named-is-kept",
                "an epoch that a verdict names holds what the verdict says",
            ),
            Rule::ActiveBeforeWriting => (
                "active-before-writing",
                "an owner writes of its own when it knows that its epoch is active",
            ),
            Rule::ActivatedByCurrent => (
                "activated-by-current",
                "an epoch is activated while it is the channel's current one",
            ),
            Rule::SealStays => ("seal-stays", "a seal that ended an epoch is never removed"),
        }
    }
}

/// Rules that leave nothing to be seen when they are left out alone. A current owner proposes one end for each epoch, so
/// that only one that is over could have another recorded, which is refused; and one that goes on without knowing is
/// over, or else it would know, and does not come to be active.
pub const HELD_TWICE: [Rule; 2] = [Rule::VerdictStands, Rule::VerdictIsKnown];

/// The rules that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    dropped: u32,
}

impl Rules {
    /// All are kept.
    pub const ALL: Rules = Rules { dropped: 0 };

    /// All but these are kept.
    pub fn without(dropped: &[Rule]) -> Self {
        let dropped = dropped.iter().fold(0, |bits, rule| bits | 1 << (*rule as u8));
        Self { dropped }
    }

    pub(super) const fn kept(self, rule: Rule) -> bool {
        self.dropped & 1 << (rule as u8) == 0
    }

    /// None of these is left out.
    pub(super) fn all_kept(self, rules: &[Rule]) -> bool {
        rules.iter().all(|rule| self.kept(*rule))
    }

    /// None but these is left out.
    pub(super) fn all_but_kept(self, rules: &[Rule]) -> bool {
        Rule::ALL
            .iter()
            .all(|rule| self.kept(*rule) || rules.contains(rule))
    }

    pub(super) const fn dropped(self, rule: Rule) -> bool {
        !self.kept(rule)
    }
}
