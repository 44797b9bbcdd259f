//! What may happen next.

use std::fmt;

use super::rules::{Rule, Rules};
use super::state::{
    Cell, EPOCHS, Owner, Phase, QUORUM, REPLACEMENT, Record, SEAL_QUORUM, SLOTS, Said, Seal, State, ZONES,
};

/// Rules that have nothing to do with where an epoch ends, and with what stands there.
const NOT_OF_ENDS: [Rule; 6] = [
    Rule::SealedAreReplayed,
    Rule::VerdictStands,
    Rule::VerdictIsKnown,
    Rule::VoidIsUnread,
    Rule::NamedIsKept,
    Rule::ActivatedByCurrent,
];

/// One step of somebody. Epochs and owners are counted from 0 here, and from 1 wherever they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A blank zone takes the place of one of the three, under another generation.
    Replace { zone: usize },
    /// A create of a chunk takes effect.
    Land {
        epoch: usize,
        slot: usize,
        store: usize,
        version: usize,
    },
    /// A create of a seal takes effect.
    Seal { epoch: usize, slot: usize, store: usize },
    /// The channel gets its next owner.
    Assign,
    /// A recovery finds that a slot belongs to the epoch that it walks.
    Found {
        owner: usize,
        version: usize,
        certain: bool,
    },
    /// A recovery finds that the epoch ends before the slot.
    End { owner: usize },
    /// The verdict of a recovery is recorded.
    Verdict { owner: usize },
    /// A recovery takes its verdict for recorded.
    Presume { owner: usize },
    /// The epoch becomes active, and its owner shows what it found.
    Activate { owner: usize, skipping: bool },
    /// An active owner gives the channel back, and says where its epoch ends.
    Release { owner: usize },
    /// A recovery begins anew in the same epoch.
    Retry { owner: usize },
    /// A seal is removed.
    Sweep { epoch: usize, slot: usize, store: usize },
}

/// Appends what may happen in `state` under `rules`.
pub fn steps(rules: Rules, state: &State, steps: &mut Vec<Step>) {
    // Nobody begins after the last owner, and so nobody hears of a zone that is replaced then.
    let unheard = [
        Rule::BlankIsAnother,
        Rule::BlankIsSilent,
        Rule::RequestsNameTheGen,
    ];
    let matters = usize::from(state.current) + 1 < EPOCHS || !rules.all_kept(&unheard);
    if !state.any_replaced() && matters {
        steps.extend((0..ZONES).map(|zone| Step::Replace { zone }));
    }
    if usize::from(state.current) + 1 < EPOCHS {
        steps.push(Step::Assign);
    }
    for epoch in 0..EPOCHS {
        for slot in 0..SLOTS {
            creates(rules, state, epoch, slot, steps);
        }
    }
    for owner in 0..EPOCHS {
        match state.owners[owner].phase {
            Phase::Nobody | Phase::Stopped => continue,
            Phase::Walks => walks(rules, state, owner, steps),
            Phase::Proposes => proposes(rules, state, owner, steps),
            Phase::Ready => ready(rules, state, owner, steps),
            Phase::Active => {
                if may_release(state, owner) {
                    steps.push(Step::Release { owner });
                }
            }
        }
        if rules.dropped(Rule::BegunOnce) && may_retry(state, owner) {
            steps.push(Step::Retry { owner });
        }
    }
}

/// Creates that are on their way to a slot. A create that was sent once may take effect at any later time, whether or
/// not its sender is still there.
fn creates(rules: Rules, state: &State, epoch: usize, slot: usize, steps: &mut Vec<Step>) {
    if is_settled(rules, state, epoch, slot) {
        return;
    }
    let written = [0, 1].map(|version| is_sent(rules, state, epoch, slot, version));
    let walked = state.walked[epoch] && slot >= usize::from(state.records[epoch].named);
    for zone in 0..ZONES {
        let store = state.store(zone, state.records[epoch].replaced);
        let is_another = store != REPLACEMENT && zone == usize::from(state.replaced);
        let mut at = |store: usize, chunks: bool, seals: bool| match state.cell(epoch, slot, store) {
            Cell::Empty => {
                let versions = (0..2).filter(|version| chunks && written[*version]);
                steps.extend(versions.map(|version| Step::Land {
                    epoch,
                    slot,
                    store,
                    version,
                }));
                if seals && walked {
                    steps.push(Step::Seal { epoch, slot, store });
                }
            }
            Cell::Seal if rules.dropped(Rule::SealStays) && state.records[epoch].seal.is_some() => {
                steps.push(Step::Sweep { epoch, slot, store });
            }
            _ => {}
        };
        at(store, true, true);
        if is_another {
            let lands = rules.dropped(Rule::RequestsNameTheGen);
            let counts =
                rules.dropped(Rule::BlankIsSilent) && state.records[usize::from(state.current)].replaced;
            at(REPLACEMENT, lands, counts);
        }
    }
}

/// Whether nothing that may yet take effect there is of interest to anybody. Without the rules that say where an epoch
/// ends, everything is.
fn is_settled(rules: Rules, state: &State, epoch: usize, slot: usize) -> bool {
    if !rules.all_but_kept(&NOT_OF_ENDS) {
        return false;
    }
    let stores = state.stores(epoch);
    // What a verdict names was durable before; one more copy changes nothing.
    if slot < usize::from(state.records[epoch].named) {
        return true;
    }
    // What is behind a slot that never holds a chunk is not acknowledged, and if its end is known, not read either.
    match state.records[epoch].seal {
        Some(seal) => {
            let end = usize::from(seal.end + seal.adopted);
            slot < end || (end..=slot).any(|at| state.seals(epoch, at, &stores) >= SEAL_QUORUM)
        }
        // Nobody reads the last epoch; its owner counts its chunks to the quorum.
        None if epoch + 1 == EPOCHS => state.copies(epoch, slot, &stores) >= QUORUM,
        None => (0..slot).any(|before| state.seals(epoch, before, &stores) == ZONES),
    }
}

/// Whether a chunk may be on its way to the slot.
fn is_sent(rules: Rules, state: &State, epoch: usize, slot: usize, version: usize) -> bool {
    let owner = &state.owners[epoch];
    if version == 1 {
        let again = rules.dropped(Rule::KeyKeepsItsBytes) && epoch == 0 && slot == 0;
        return again || state.said[epoch][slot][1] != Said::NOTHING;
    }
    if slot < usize::from(owner.adopted) {
        return true;
    }
    // Nobody recovers the last epoch: what it writes is of no interest.
    if epoch + 1 == EPOCHS {
        return false;
    }
    let early =
        rules.dropped(Rule::ActiveBeforeWriting) && matches!(owner.phase, Phase::Proposes | Phase::Ready);
    let active = state.records[epoch].activated || early;
    active && (owner.phase != Phase::Stopped || slot < usize::from(state.written[epoch]))
}

/// The zones that count for an epoch, as an owner that may know of a replacement sees it.
fn counted(rules: Rules, state: &State, owner: usize, epoch: usize) -> impl Iterator<Item = usize> {
    let (own, its) = (state.records[owner].replaced, state.records[epoch].replaced);
    let (state, replaced) = (*state, usize::from(state.replaced));
    (0..ZONES)
        .filter(move |zone| own == its || *zone != replaced || rules.dropped(Rule::BlankIsSilent))
        .map(move |zone| state.store(zone, own))
}

fn walks(rules: Rules, state: &State, owner: usize, steps: &mut Vec<Step>) {
    let memory = &state.owners[owner];
    let (epoch, slot) = (usize::from(memory.deciding), usize::from(memory.at));
    let mut stores = [0; ZONES];
    let mut count = 0;
    for store in counted(rules, state, owner, epoch) {
        stores[count] = store;
        count += 1;
    }
    let stores = &stores[..count];
    let (copies, seals) = (
        state.copies(epoch, slot, stores),
        state.seals(epoch, slot, stores),
    );
    let proven = slot < usize::from(memory.known[epoch].named);
    for version in 0..2 {
        let has = |store: &usize| state.cell(epoch, slot, *store) == Cell::Chunk(version);
        if !stores.iter().any(has) {
            continue;
        }
        if proven || copies >= QUORUM {
            steps.push(Step::Found {
                owner,
                version,
                certain: true,
            });
        }
        if !proven && rules.kept(Rule::AnyChunkBelongs) {
            steps.push(Step::Found {
                owner,
                version,
                certain: false,
            });
        }
    }
    let ends = match () {
        () if proven => false,
        () if rules.dropped(Rule::EndIsSealed) => stores.len() - copies >= SEAL_QUORUM,
        () if rules.dropped(Rule::SealQuorum) => seals >= 1,
        () if rules.dropped(Rule::SilenceIsNoAnswer) => true,
        () => seals >= SEAL_QUORUM,
    };
    if ends {
        steps.push(Step::End { owner });
    }
}

fn proposes(rules: Rules, state: &State, owner: usize, steps: &mut Vec<Step>) {
    let memory = &state.owners[owner];
    let seal = memory
        .proposed
        .expect("whoever proposes has something to propose");
    let stores = state.stores(owner);
    let durable =
        (0..usize::from(seal.adopted)).all(|slot| own_copies(state, owner, slot, &stores) >= QUORUM);
    if !durable && rules.kept(Rule::AdoptedIsDurable) {
        return;
    }
    let epoch = usize::from(memory.deciding);
    let is_current = owner == usize::from(state.current) && !state.released;
    let is_open = state.records[epoch].seal.is_none();
    let in_turn = state.records[..epoch].iter().all(|record| record.seal.is_some());
    let by = is_current || rules.dropped(Rule::SealByCurrent);
    let accepted = by && in_turn && (is_open || rules.dropped(Rule::VerdictStands));
    match accepted {
        true => steps.push(Step::Verdict { owner }),
        false if rules.dropped(Rule::VerdictIsKnown) => steps.push(Step::Presume { owner }),
        false => {}
    }
}

fn ready(rules: Rules, state: &State, owner: usize, steps: &mut Vec<Step>) {
    let is_current = owner == usize::from(state.current) && !state.released;
    let sealed = state.records[..owner].iter().all(|record| record.seal.is_some());
    if !(is_current && sealed || rules.dropped(Rule::ActivatedByCurrent)) {
        return;
    }
    if shown(rules, state, owner, false).is_some() {
        steps.push(Step::Activate {
            owner,
            skipping: false,
        });
    }
    if rules.dropped(Rule::MissingIsWaitedFor) && shown(rules, state, owner, true).is_some() {
        steps.push(Step::Activate {
            owner,
            skipping: true,
        });
    }
}

/// The history of the channel as the owner finds it; `None` as long as it has to wait for some of it.
fn shown(rules: Rules, state: &State, owner: usize, skipping: bool) -> Option<[Said; SLOTS * EPOCHS]> {
    let mut log = [Said::NOTHING; SLOTS * EPOCHS];
    let mut len = 0;
    let mut show = |said: Said| {
        log[len] = said;
        len += 1;
    };
    let stores: [usize; ZONES] = std::array::from_fn(|zone| state.store(zone, state.records[owner].replaced));
    for epoch in 0..owner {
        let seal = state.owners[owner].known[epoch]
            .seal
            .expect("all earlier epochs have ended");
        if usize::from(seal.by) != owner && rules.dropped(Rule::SealedAreReplayed) {
            continue;
        }
        for slot in 0..usize::from(seal.end) {
            let mut chunks = stores
                .iter()
                .filter_map(|store| match state.cell(epoch, slot, *store) {
                    Cell::Chunk(version) => Some(state.said[epoch][slot][version]),
                    _ => None,
                });
            match chunks.next() {
                Some(_) if skipping && state.copies(epoch, slot, &stores) < ZONES => {}
                Some(said) => show(said),
                None => return None,
            }
        }
        if usize::from(seal.by) == owner {
            (0..usize::from(seal.adopted)).for_each(|slot| show(state.said[owner][slot][0]));
        }
    }
    Some(log)
}

/// Copies under the writer's own nonce.
fn own_copies(state: &State, owner: usize, slot: usize, stores: &[usize]) -> usize {
    let own = |store: &&usize| state.cell(owner, slot, **store) == Cell::Chunk(0);
    stores.iter().filter(own).count()
}

/// All that was written is durable, and nobody has taken over.
fn may_release(state: &State, owner: usize) -> bool {
    let stores = state.stores(owner);
    owner == usize::from(state.current)
        && owner + 1 < EPOCHS
        && !state.released
        && state.written[owner] >= state.owners[owner].adopted
        && (0..usize::from(state.written[owner]))
            .all(|slot| own_copies(state, owner, slot, &stores) >= QUORUM)
}

fn may_retry(state: &State, owner: usize) -> bool {
    owner == usize::from(state.current)
        && state.owners[owner].phase != Phase::Active
        && state.records[owner].named == 0
        && state.said[owner].iter().all(|said| said[1] == Said::NOTHING)
}

/// The state after a step that may be taken.
pub fn take(rules: Rules, state: &State, step: Step) -> State {
    let mut next = *state;
    match step {
        Step::Replace { zone } => {
            next.replaced = zone as u8;
            if rules.dropped(Rule::BlankIsAnother) {
                let cells = next.cells.as_flattened_mut();
                cells.iter_mut().for_each(|cells| cells.set(zone, Cell::Empty));
            }
        }
        Step::Land {
            epoch,
            slot,
            store,
            version,
        } => {
            next.cells[epoch][slot].set(store, Cell::Chunk(version));
            let said = &mut next.said[epoch][slot][version];
            if *said == Said::NOTHING {
                *said = Said::first(epoch, slot, version);
            }
            // What an earlier attempt has sent does not count for the later one.
            if version == 0 || rules.kept(Rule::BegunOnce) {
                next.written[epoch] = next.written[epoch].max(slot as u8 + 1);
            }
        }
        Step::Seal { epoch, slot, store } => next.cells[epoch][slot].set(store, Cell::Seal),
        Step::Sweep { epoch, slot, store } => next.cells[epoch][slot].set(store, Cell::Empty),
        Step::Assign => assign(rules, &mut next),
        Step::Found {
            owner,
            version,
            certain,
        } => {
            let memory = &mut next.owners[owner];
            let slot = usize::from(memory.at);
            memory.found[slot] = state.said[usize::from(memory.deciding)][slot][version];
            memory.at += 1;
            memory.certain &= certain || rules.dropped(Rule::UncertainIsAdopted);
            memory.kept += u8::from(memory.certain);
            arrive(rules, &mut next, owner);
        }
        Step::End { owner } => end(rules, &mut next, owner),
        Step::Verdict { owner } => {
            let memory = &next.owners[owner];
            let seal = memory
                .proposed
                .expect("whoever proposes has something to propose");
            next.records[usize::from(memory.deciding)].seal = Some(seal);
            if seal.adopted > 0 {
                next.records[owner].named = seal.adopted;
            }
            conclude(rules, &mut next, owner);
        }
        Step::Presume { owner } => conclude(rules, &mut next, owner),
        Step::Activate { owner, skipping } => {
            let log = shown(rules, state, owner, skipping).expect("an owner shows what it found");
            next.records[owner].activated = true;
            let adopted = next.owners[owner].adopted;
            next.owners[owner] = Owner {
                phase: Phase::Active,
                adopted,
                log,
                ..Owner::default()
            };
        }
        Step::Release { owner } => {
            next.released = true;
            next.records[owner].seal = Some(Seal {
                end: state.written[owner],
                by: owner as u8,
                adopted: 0,
            });
            if rules.kept(Rule::ReleaseStops) {
                next.owners[owner].phase = Phase::Stopped;
            }
        }
        Step::Retry { owner } => {
            // What the first attempt has sent is another writer's now.
            for (said, cells) in next.said[owner].iter_mut().zip(&mut next.cells[owner]) {
                *said = [Said::NOTHING, said[0]];
                for store in 0..=REPLACEMENT {
                    if cells.get(store) == Cell::Chunk(0) {
                        cells.set(store, Cell::Chunk(1));
                    }
                }
            }
            begin(rules, &mut next, owner);
        }
    }
    acknowledge(rules, &mut next);
    forget(rules, &mut next);
    next
}

fn assign(rules: Rules, state: &mut State) {
    state.current += 1;
    state.released = false;
    let owner = usize::from(state.current);
    state.records[owner] = Record {
        replaced: state.any_replaced() && rules.kept(Rule::BlankIsAnother),
        ..Record::default()
    };
    begin(rules, state, owner);
}

fn begin(rules: Rules, state: &mut State, owner: usize) {
    let mut known = [Record::default(); EPOCHS - 1];
    known[..owner].copy_from_slice(&state.records[..owner]);
    state.owners[owner] = Owner {
        known,
        ..Owner::default()
    };
    next_epoch(rules, state, owner);
}

/// Turns to the oldest epoch that has no recorded end.
fn next_epoch(rules: Rules, state: &mut State, owner: usize) {
    let memory = &mut state.owners[owner];
    let open = memory.known[..owner]
        .iter()
        .position(|record| record.seal.is_none());
    let Some(epoch) = open else {
        memory.phase = Phase::Ready;
        return;
    };
    let record = memory.known[epoch];
    memory.deciding = epoch as u8;
    if record.activated || rules.dropped(Rule::VoidIsUnread) && record.named == 0 {
        memory.phase = Phase::Walks;
        (memory.at, memory.kept, memory.certain) = (0, 0, true);
        state.walked[epoch] = true;
        return;
    }
    memory.phase = Phase::Proposes;
    memory.proposed = Some(Seal {
        end: if rules.kept(Rule::NamedIsKept) {
            record.named
        } else {
            0
        },
        by: owner as u8,
        adopted: 0,
    });
}

/// Looks at the next slot. Behind the last one nobody writes: it is sealed without further ado.
fn arrive(rules: Rules, state: &mut State, owner: usize) {
    if usize::from(state.owners[owner].at) == SLOTS {
        end(rules, state, owner);
    }
}

/// The epoch ends before the slot that is looked at.
fn end(rules: Rules, state: &mut State, owner: usize) {
    let memory = &mut state.owners[owner];
    let (kept, end) = (usize::from(memory.kept), usize::from(memory.at));
    let mut run = memory.found[kept..end].to_vec();
    if rules.dropped(Rule::RunIsAdopted) {
        run.truncate(1);
    }
    if rules.dropped(Rule::AdoptedInOrder) {
        run.reverse();
    }
    memory.phase = Phase::Proposes;
    memory.proposed = Some(Seal {
        end: kept as u8,
        by: owner as u8,
        adopted: run.len() as u8,
    });
    if !run.is_empty() {
        memory.adopted = run.len() as u8;
    }
    (memory.at, memory.kept, memory.certain) = (0, 0, true);
    memory.found = [Said::NOTHING; SLOTS];
    for (slot, said) in run.into_iter().enumerate() {
        state.said[owner][slot][0] = said;
    }
}

/// The verdict is taken for recorded.
fn conclude(rules: Rules, state: &mut State, owner: usize) {
    let memory = &mut state.owners[owner];
    memory.known[usize::from(memory.deciding)].seal = memory.proposed.take();
    next_epoch(rules, state, owner);
}

/// Whoever may acknowledge does so at once: later is no different, but for fewer promises.
fn acknowledge(rules: Rules, state: &mut State) {
    for epoch in 0..EPOCHS - 1 {
        let early = rules.dropped(Rule::ActiveBeforeWriting);
        if !state.records[epoch].activated && !early {
            continue;
        }
        for slot in usize::from(state.owners[epoch].adopted)..SLOTS {
            let durable = [0, 1].map(|version| is_durable(rules, state, epoch, slot, version));
            let again = usize::from(rules.dropped(Rule::KeyKeepsItsBytes));
            for version in (0..=again).filter(|version| durable[*version]) {
                state.acked[epoch] |= 1 << (2 * slot + version);
            }
            if !durable[..=again].contains(&true) && rules.kept(Rule::AckedInOrder) {
                break;
            }
        }
    }
}

/// Whether an epoch's writer may know enough copies of its chunk.
pub fn is_durable(rules: Rules, state: &State, epoch: usize, slot: usize, version: usize) -> bool {
    let said = state.said[epoch][slot][version];
    if said == Said::NOTHING {
        return false;
    }
    let stores = state.stores(epoch);
    let holds = |zone: usize| {
        let own = |store: usize| match state.cell(epoch, slot, store) {
            Cell::Empty => false,
            Cell::Seal => rules.dropped(Rule::ExistsIsLookedAt),
            Cell::Chunk(other) => other == version,
        };
        let misled = rules.dropped(Rule::RequestsNameTheGen) && zone == usize::from(state.replaced);
        own(stores[zone]) || misled && own(REPLACEMENT)
    };
    let enough = if rules.kept(Rule::WriteQuorum) { QUORUM } else { 1 };
    (0..ZONES).filter(|zone| holds(*zone)).count() >= enough
}

/// Drops what is of no interest any more, so that states that differ in nothing else are one.
fn forget(rules: Rules, state: &mut State) {
    let without_effect = [
        Rule::SealByCurrent,
        Rule::VoidIsUnread,
        Rule::ActiveBeforeWriting,
        Rule::ActivatedByCurrent,
    ];
    for epoch in 0..EPOCHS {
        let replaced = epoch < usize::from(state.current) && !state.records[epoch].activated;
        if replaced && rules.all_kept(&without_effect) {
            forget_owner(state, epoch);
        }
        if rules.all_but_kept(&NOT_OF_ENDS) {
            forget_end(state, epoch);
        }
    }
}

/// An owner that was replaced before it was active has its verdicts refused, shows nothing, and nobody reads its epoch
/// unless a verdict names it: all that is left of it are seals that are on their way.
fn forget_owner(state: &mut State, owner: usize) {
    let named = state.records[owner].named;
    state.owners[owner] = Owner {
        phase: Phase::Stopped,
        adopted: named,
        ..Owner::default()
    };
    if named == 0 {
        state.cells[owner] = Default::default();
        state.said[owner] = Default::default();
        state.written[owner] = 0;
    }
}

/// Nobody reads an epoch behind its recorded end, and behind a seal nothing is acknowledged.
fn forget_end(state: &mut State, epoch: usize) {
    let Some(seal) = state.records[epoch].seal else {
        return;
    };
    let stores = state.stores(epoch);
    let (end, through) = (usize::from(seal.end), usize::from(seal.end + seal.adopted));
    for slot in end..through.min(SLOTS) {
        state.cells[epoch][slot] = Default::default();
    }
    if through < SLOTS && state.seals(epoch, through, &stores) >= SEAL_QUORUM {
        for slot in through..SLOTS {
            state.cells[epoch][slot] = Default::default();
            stores
                .iter()
                .for_each(|store| state.cells[epoch][slot].set(*store, Cell::Seal));
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = |store: usize| match store {
            REPLACEMENT => "the blank zone".to_owned(),
            zone => format!("zone {}", ["A", "B", "C"][zone]),
        };
        match *self {
            Step::Replace { zone: of } => write!(f, "a blank zone takes the place of {}", zone(of)),
            Step::Land {
                epoch,
                slot,
                store,
                version,
            } => {
                let other = if version == 1 { ", with other bytes" } else { "" };
                let (owner, at) = (epoch + 1, zone(store));
                write!(
                    f,
                    "a create by owner {owner} takes effect: chunk {owner}/{slot} in {at}{other}"
                )
            }
            Step::Seal { epoch, slot, store } => {
                write!(
                    f,
                    "a create takes effect: a seal at {}/{slot} in {}",
                    epoch + 1,
                    zone(store)
                )
            }
            Step::Sweep { epoch, slot, store } => {
                write!(
                    f,
                    "the seal at {}/{slot} in {} is removed",
                    epoch + 1,
                    zone(store)
                )
            }
            Step::Assign => write!(f, "the channel is given to the next owner"),
            Step::Found { owner, certain, .. } => {
                let known = if certain {
                    ""
                } else {
                    ", not known to be at a quorum"
                };
                write!(f, "owner {}: the slot has a chunk{known}", owner + 1)
            }
            Step::End { owner } => write!(f, "owner {}: the epoch ends here", owner + 1),
            Step::Verdict { owner } => write!(f, "the verdict of owner {} is recorded", owner + 1),
            Step::Presume { owner } => {
                write!(f, "owner {} takes its verdict for recorded", owner + 1)
            }
            Step::Activate { owner, skipping } => {
                let skipped = if skipping {
                    ", without what was missing just then"
                } else {
                    ""
                };
                write!(
                    f,
                    "epoch {} is activated, and shows what was found{skipped}",
                    owner + 1
                )
            }
            Step::Release { owner } => {
                write!(
                    f,
                    "owner {} gives the channel back, and says where its epoch ends",
                    owner + 1
                )
            }
            Step::Retry { owner } => write!(f, "owner {} begins its recovery anew", owner + 1),
        }
    }
}
