//! What zones, metadata and owners hold.

/// Owners, each with the epoch of its number; the first has been writing from the start.
pub const EPOCHS: usize = 3;
/// Slots of an epoch that are ever written.
pub const SLOTS: usize = 2;
pub const ZONES: usize = 3;
/// The store behind those of the zones: the one that takes the place of one of them.
pub const REPLACEMENT: usize = 3;

pub const QUORUM: usize = 2;
pub const SEAL_QUORUM: usize = ZONES - QUORUM + 1;

/// What stands under a key in one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    Empty,
    Seal,
    /// A chunk, as the epoch's writer wrote it: first, or again with other bytes, which no rule allows.
    Chunk(usize),
}

/// One slot of one epoch in every store: two bits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Cells(u8);

impl Cells {
    pub fn get(self, store: usize) -> Cell {
        match self.0 >> (2 * store) & 3 {
            0 => Cell::Empty,
            1 => Cell::Seal,
            bits => Cell::Chunk(usize::from(bits) - 2),
        }
    }

    pub fn set(&mut self, store: usize, cell: Cell) {
        let bits = match cell {
            Cell::Empty => 0,
            Cell::Seal => 1,
            Cell::Chunk(version) => 2 + version as u8,
        };
        self.0 = self.0 & !(3 << (2 * store)) | bits << (2 * store);
    }

    /// With the zones in another order: the one at `order[n]` comes to `n`.
    fn reordered(self, order: [usize; ZONES]) -> Self {
        let mut cells = Self(self.0 & 3 << (2 * REPLACEMENT));
        for (to, from) in order.into_iter().enumerate() {
            cells.0 |= (self.0 >> (2 * from) & 3) << (2 * to);
        }
        cells
    }
}

/// What a chunk says, wherever it is copied to: which slot of which epoch it was first written to. Zero is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Said(pub u8);

impl Said {
    pub const NOTHING: Said = Said(0);

    pub fn first(epoch: usize, slot: usize, version: usize) -> Self {
        Self(1 + ((epoch * SLOTS + slot) * 2 + version) as u8)
    }

    /// Epoch and slot that it was first written to.
    pub fn origin(self) -> (usize, usize) {
        let place = (usize::from(self.0) - 1) / 2;
        (place / SLOTS, place % SLOTS)
    }

    pub fn name(self) -> String {
        if self == Self::NOTHING {
            return "nothing".into();
        }
        let (epoch, slot) = self.origin();
        let again = if (self.0 - 1) % 2 == 1 { "'" } else { "" };
        format!("{}/{slot}{again}", epoch + 1)
    }
}

/// The end of an epoch, as recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seal {
    pub end: u8,
    pub by: u8,
    pub adopted: u8,
}

/// What metadata know of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Record {
    /// Written under the generation of the replacement.
    pub replaced: bool,
    pub activated: bool,
    /// Adopted slots that a verdict names.
    pub named: u8,
    pub seal: Option<Seal>,
}

/// Where an owner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Phase {
    #[default]
    Nobody,
    /// Walks an epoch.
    Walks,
    /// Has made up its mind about an epoch.
    Proposes,
    /// All earlier epochs have ended.
    Ready,
    Active,
    /// Does nothing any more. What is on its way still arrives.
    Stopped,
}

/// An owner's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Owner {
    pub phase: Phase,
    /// The epoch that is being ended.
    pub deciding: u8,
    /// The slot of it that is being looked at.
    pub at: u8,
    /// Slots known to be at a write quorum, up to the first that is not.
    pub kept: u8,
    pub certain: bool,
    pub found: [Said; SLOTS],
    pub proposed: Option<Seal>,
    /// Slots of its own epoch that it wrote others' chunks to.
    pub adopted: u8,
    /// Metadata of earlier epochs as of the beginning of its own, with what it had recorded since.
    pub known: [Record; EPOCHS - 1],
    /// What it shows: everything that was ever written, in order.
    pub log: [Said; SLOTS * EPOCHS],
}

impl Owner {
    pub fn shows(&self) -> impl Iterator<Item = Said> + '_ {
        self.log.iter().copied().take_while(|said| *said != Said::NOTHING)
    }
}

/// Zones, metadata and owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub cells: [[Cells; SLOTS]; EPOCHS],
    /// The zone that was replaced; [`ZONES`] as long as none was.
    pub replaced: u8,
    pub current: u8,
    /// The current epoch's owner gave the channel back.
    pub released: bool,
    pub records: [Record; EPOCHS],
    pub owners: [Owner; EPOCHS],
    /// What each epoch's writer put into its slots, by version.
    pub said: [[[Said; 2]; SLOTS]; EPOCHS],
    /// Somebody walks the epoch, or has, and may have sealed any slot of it.
    pub walked: [bool; EPOCHS],
    /// Slots below were written.
    pub written: [u8; EPOCHS],
    /// Which of its own slots an epoch's owner may have acknowledged: two bits a slot, by version.
    pub acked: [u8; EPOCHS],
}

impl State {
    /// The first owner is active and has not written.
    pub fn initial() -> Self {
        let mut state = Self {
            cells: Default::default(),
            replaced: ZONES as u8,
            current: 0,
            released: false,
            records: Default::default(),
            owners: Default::default(),
            said: Default::default(),
            walked: [false; EPOCHS],
            written: [0; EPOCHS],
            acked: [0; EPOCHS],
        };
        state.records[0].activated = true;
        state.owners[0].phase = Phase::Active;
        state
    }

    pub fn any_replaced(&self) -> bool {
        usize::from(self.replaced) < ZONES
    }

    /// The store that is meant by a zone under the generation that an epoch is written under.
    pub fn store(&self, zone: usize, under_replacement: bool) -> usize {
        match under_replacement && zone == usize::from(self.replaced) {
            true => REPLACEMENT,
            false => zone,
        }
    }

    /// The stores that an epoch is written to.
    pub fn stores(&self, epoch: usize) -> [usize; ZONES] {
        let under_replacement = self.records[epoch].replaced;
        std::array::from_fn(|zone| self.store(zone, under_replacement))
    }

    pub fn cell(&self, epoch: usize, slot: usize, store: usize) -> Cell {
        self.cells[epoch][slot].get(store)
    }

    /// Seals among the given stores.
    pub fn seals(&self, epoch: usize, slot: usize, stores: &[usize]) -> usize {
        let seals = stores
            .iter()
            .filter(|store| self.cell(epoch, slot, **store) == Cell::Seal);
        seals.count()
    }

    /// Copies of a chunk among the given stores, whatever it says.
    pub fn copies(&self, epoch: usize, slot: usize, stores: &[usize]) -> usize {
        let is_chunk = |store: &&usize| matches!(self.cell(epoch, slot, **store), Cell::Chunk(_));
        stores.iter().filter(is_chunk).count()
    }

    /// Copies among the given stores that say this.
    pub fn copies_of(&self, epoch: usize, slot: usize, stores: &[usize], said: Said) -> usize {
        let says_it = |store: &&usize| match self.cell(epoch, slot, **store) {
            Cell::Chunk(version) => self.said[epoch][slot][version] == said,
            _ => false,
        };
        stores.iter().filter(says_it).count()
    }

    /// With zones in the order that stands for all others.
    pub fn with_zones_in_order(&self) -> Self {
        const ORDERS: [[usize; ZONES]; 6] =
            [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let replaced = usize::from(self.replaced);
        let orders = ORDERS
            .iter()
            // The one that was replaced comes first.
            .filter(|order| !self.any_replaced() || order[0] == replaced)
            .map(|order| self.cells.map(|slots| slots.map(|cells| cells.reordered(*order))));
        let cells = orders.min().expect("some order is left");
        Self {
            cells,
            replaced: if self.any_replaced() { 0 } else { self.replaced },
            ..*self
        }
    }
}
