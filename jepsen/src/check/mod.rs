//! Whether a history is linearizable.
//!
//! [`check`] decides it for one stream. A stream is a partition of its own: operations of different streams say nothing
//! about each other, so that each stream has its own history. A history that is refused comes with the shortest
//! beginning of it that is refused already, and [`timeline`] draws that.

pub mod operations;
pub mod records;
pub mod search;
pub mod timeline;

use crate::history::Event;
use crate::model::{State, Tokens};

pub use self::operations::{Kind, Malformed, Operation};
pub use self::search::{Blocked, CONFIGURATIONS_MAX, Found};

/// To find the shortest beginning that is a violation, a dozen have to be judged.
const CONFIGURATIONS_OF_A_BEGINNING_MAX: usize = 300_000;

/// What is said of a history.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// There is an order.
    Linearizable {
        /// How many operations are in it.
        operations: usize,
        /// Appends of unknown outcome: how many happened in the order that was found, and how many there are.
        unknown: (usize, usize),
    },
    /// There is none.
    Violation(Box<Violation>),
    /// The search was given up.
    Undecided,
}

/// Why there is no order.
#[derive(Debug, Clone)]
pub struct Violation {
    /// So many events from the first on have no order, and one less has one.
    pub events: usize,
    /// The operations of these events.
    pub operations: Vec<Operation>,
    /// The longest part of them that can be put in order, as indices.
    pub order: Vec<usize>,
    /// The stream behind that part.
    pub state: State,
    /// Index of the operation that does not fit there.
    pub blocked: usize,
    /// Why.
    pub reason: String,
    /// For the texts of tokens.
    pub tokens: Tokens,
}

impl Verdict {
    /// Whether an order was found.
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable { .. })
    }
}

/// Judges a whole history of one stream, which was empty when it began.
///
/// `records`, if somebody read them all at the end and the history has that read, are the hashes of the stream's
/// records in order: with them no history takes long. They must be those of a read in the history; otherwise a history
/// may be refused because of them alone.
///
/// # Errors
/// [`Malformed`] if no clients can have made the history.
pub fn check(events: &[Event], records: Option<&[u64]>) -> Result<Verdict, Malformed> {
    check_within(events, records, CONFIGURATIONS_MAX)
}

/// The same with another bound of the search.
pub fn check_within(
    events: &[Event],
    records: Option<&[u64]>,
    configurations_max: usize,
) -> Result<Verdict, Malformed> {
    let mut tokens = Tokens::default();
    let operations = operations::operations(events, &mut tokens)?;
    Ok(match search::search(&operations, records, configurations_max) {
        Found::Undecided => Verdict::Undecided,
        Found::Order(order) => {
            let unknown = |it: &&Operation| it.ended.is_none();
            Verdict::Linearizable {
                operations: operations.len(),
                unknown: (
                    order
                        .iter()
                        .map(|index| &operations[*index])
                        .filter(unknown)
                        .count(),
                    operations.iter().filter(unknown).count(),
                ),
            }
        }
        Found::Nothing(blocked) => {
            let whole = Violation::new(events.len(), operations, blocked, tokens);
            Verdict::Violation(Box::new(shortest(events, records, whole)?))
        }
    })
}

/// The violation in the shortest beginning that has one. Every beginning of a linearizable history is linearizable, so
/// that halving finds it. A beginning that takes long to decide counts as good: then what is found is not the shortest.
fn shortest(events: &[Event], records: Option<&[u64]>, whole: Violation) -> Result<Violation, Malformed> {
    let (mut good, mut bad) = (0, whole);
    while bad.events - good > 1 {
        let middle = good + (bad.events - good) / 2;
        let mut tokens = Tokens::default();
        let operations = operations::operations(&events[..middle], &mut tokens)?;
        match search::search(&operations, records, CONFIGURATIONS_OF_A_BEGINNING_MAX) {
            Found::Nothing(blocked) => bad = Violation::new(middle, operations, blocked, tokens),
            Found::Order(_) | Found::Undecided => good = middle,
        }
    }
    Ok(bad)
}

impl Violation {
    fn new(events: usize, operations: Vec<Operation>, blocked: Blocked, tokens: Tokens) -> Self {
        Self {
            events,
            operations,
            order: blocked.order,
            state: blocked.state,
            blocked: blocked.operation,
            reason: blocked.reason,
            tokens,
        }
    }

    /// For people, one line.
    pub fn summary(&self) -> String {
        let operation = &self.operations[self.blocked];
        format!(
            "no order for the first {} events: operation {} of client {}, {}: {} (the longest order ends at tail {})",
            self.events,
            operation.op_id,
            operation.client_id,
            describe(operation, &self.tokens),
            self.reason,
            self.state.tail,
        )
    }
}

/// An operation for people.
pub fn describe(operation: &Operation, tokens: &Tokens) -> String {
    match &operation.kind {
        Kind::Read { tail, stream_hash } => format!("read → tail {tail}, hash {stream_hash:016x}"),
        Kind::CheckTail { tail } => format!("check tail → {tail}"),
        Kind::Append { batch, tail } => {
            let mut text = format!("append of {}", batch.len());
            if let Some(seq_num) = batch.match_seq_num {
                text += &format!(", match {seq_num}");
            }
            if let Some(token) = batch.token {
                text += &format!(", token {:?}", tokens.text(token));
            }
            if let Some(token) = batch.sets {
                text += &format!(", sets token {:?}", tokens.text(token));
            }
            match tail {
                Some(tail) => text + &format!(" → tail {tail}"),
                None => text + " → unknown",
            }
        }
    }
}
