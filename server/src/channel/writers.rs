//! Who appended what to a stream, so that an input that is sent again gets its first answer.
//!
//! - A writer numbers its inputs from 1 without gap; an input is sequenced once, whoever sends it how often.
//! - Of a writer that is forgotten nothing is guessed: `forgotten` is 1 + the highest sequence number of any input
//!   whose writer was dropped. One that was opened at or above it, and is not known, has never been sequenced.
//! - Dropping a writer is always safe; it costs at most that writer an honest "unknown".

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use millrace_api::bug::{Bug, planted};
use millrace_api::id::{ChunkSeq, WriterId};
use millrace_api::position::{SeqNum, StreamPosition};
use tokio::time::Instant;

use super::message::Refusal;
use super::writer_table::{KnownWriter, WriterTable};

/// Inputs of one writer that may wait for their acknowledgement; so many acks are remembered.
pub const SESSION_WINDOW: u32 = 1024;
/// Writers that one stream remembers.
const WRITERS_MAX: usize = 1024;
/// Acks that one stream remembers, over all its writers.
const ACKS_MAX: usize = 16 * SESSION_WINDOW as usize;
/// A writer that sends nothing for this long is forgotten. Sessions renew theirs much more often.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// An input of a session that outlives its owner, as its frontend numbered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterInput {
    pub writer: WriterId,
    /// The stream's durable tail when the writer was opened.
    pub opened_at: SeqNum,
    /// From 1.
    pub number: u64,
    /// Acks up to this number have arrived and will not be asked for again.
    pub acked_through: u64,
}

/// What became of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequenced {
    pub start: StreamPosition,
    pub end: StreamPosition,
    /// The slot of this epoch that holds it; `None` if it was recovered from an earlier one.
    pub slot: Option<ChunkSeq>,
}

/// The writers of one stream.
#[derive(Default)]
pub struct Writers {
    known: HashMap<WriterId, Writer>,
    acks: usize,
    forgotten: SeqNum,
}

struct Writer {
    /// The number sequenced last.
    last: u64,
    /// Of the inputs up to `last`, without gap.
    acks: VecDeque<Sequenced>,
    used_at: Instant,
    /// Behind the last record.
    end: SeqNum,
}

impl Writers {
    pub fn new(forgotten: SeqNum) -> Self {
        Self {
            forgotten,
            ..Self::default()
        }
    }

    pub fn forgotten(&self) -> SeqNum {
        self.forgotten
    }

    /// Everything that is known, or `None` if that is no writer.
    pub fn table(&self) -> Option<WriterTable> {
        let mut writers: Vec<_> = self
            .known
            .iter()
            .map(|(id, writer)| KnownWriter::new(*id, writer.last, writer.end, writer.acks.iter()))
            .collect();
        writers.sort_unstable_by_key(|writer| writer.writer());
        (!writers.is_empty()).then_some(WriterTable {
            forgotten: self.forgotten,
            writers,
        })
    }

    /// What a table says, as an owner that recovers knows it.
    pub fn of_table(table: &WriterTable, now: Instant) -> Self {
        let mut writers = Self::new(table.forgotten);
        for known in &table.writers {
            let acks: VecDeque<_> = known.acks().collect();
            writers.acks += acks.len();
            let writer = Writer {
                last: known.last,
                acks,
                used_at: now,
                end: known.end,
            };
            writers.known.insert(known.writer(), writer);
        }
        writers
    }

    /// Behind the last record of any writer, known or forgotten.
    pub fn end(&self) -> SeqNum {
        let known = self.known.values().map(|writer| writer.end);
        known.fold(self.forgotten, SeqNum::max)
    }

    /// `None` if the input is the writer's next and may be sequenced; what became of it if it was sequenced before.
    pub fn judge(&mut self, input: &WriterInput, now: Instant) -> Result<Option<Sequenced>, Refusal> {
        let Some(writer) = self.known.get_mut(&input.writer) else {
            return match input.number {
                _ if input.opened_at < self.forgotten => Err(Refusal::WriterUnknown),
                1 => Ok(None),
                _ if planted(Bug::WritersForgotten) => Ok(None),
                number => Err(gap(number, 1)),
            };
        };
        writer.used_at = now;
        self.acks -= writer.release(input.acked_through);
        if input.number == writer.last + 1 {
            return match writer.acks.len() < SESSION_WINDOW as usize {
                true => Ok(None),
                false => Err(Refusal::Invalid(format!(
                    "more than {SESSION_WINDOW} inputs wait for their acknowledgement"
                ))),
            };
        }
        if input.number > writer.last {
            return Err(gap(input.number, writer.last + 1));
        }
        let back = writer.last - input.number;
        let known = usize::try_from(back)
            .ok()
            .and_then(|back| writer.acks.len().checked_sub(back + 1));
        match known {
            Some(index) => Ok(Some(writer.acks[index])),
            None => Err(Refusal::Invalid(format!(
                "input {} was acknowledged before",
                input.number
            ))),
        }
    }

    /// The writer's input `number` was found in the log, which does not say what acks have arrived.
    pub fn recovered(&mut self, writer: WriterId, number: u64, done: Sequenced, now: Instant) {
        let follows = match self.known.get(&writer) {
            Some(known) => known.last.checked_add(1) == Some(number),
            None => number == 1,
        };
        match follows {
            true => self.sequenced(writer, number, done, now),
            // Its earlier inputs are in no frame that was read: whatever is sent again is not known.
            false => self.forgotten = self.forgotten.max(done.end.seq_num),
        }
    }

    /// The writer's input `number`, judged to be its next, has its place.
    pub fn sequenced(&mut self, writer: WriterId, number: u64, done: Sequenced, now: Instant) {
        if !self.known.contains_key(&writer) {
            self.make_room(now);
        }
        let known = self.known.entry(writer).or_insert_with(|| Writer {
            last: number - 1,
            acks: VecDeque::new(),
            used_at: now,
            end: 0,
        });
        debug_assert!(
            number == known.last + 1 || planted(Bug::ResendSequenced) || planted(Bug::WritersForgotten),
            "inputs are sequenced without gap"
        );
        (known.last, known.used_at, known.end) = (number, now, done.end.seq_num);
        known.acks.push_back(done);
        self.acks += 1;
        if known.acks.len() > SESSION_WINDOW as usize {
            known.acks.pop_front();
            self.acks -= 1;
        }
        while self.acks > ACKS_MAX && self.known.len() > 1 {
            self.drop_oldest(Some(writer));
        }
    }

    /// Forgets writers that were not used for a while.
    pub fn forget_idle(&mut self, now: Instant) {
        let Some(used_since) = now.checked_sub(IDLE_MAX) else {
            return;
        };
        let (acks, forgotten) = (&mut self.acks, &mut self.forgotten);
        self.known.retain(|_, writer| {
            let used = writer.used_at >= used_since;
            if !used {
                *acks -= writer.acks.len();
                *forgotten = (*forgotten).max(writer.end);
            }
            used
        });
        if self.known.is_empty() {
            self.known.shrink_to_fit();
        }
    }

    fn make_room(&mut self, now: Instant) {
        if self.known.len() >= WRITERS_MAX {
            self.forget_idle(now);
        }
        while self.known.len() >= WRITERS_MAX {
            self.drop_oldest(None);
        }
    }

    /// Forgets the writer whose last input is the oldest in the stream.
    fn drop_oldest(&mut self, but: Option<WriterId>) {
        let others = self.known.iter().filter(|(id, _)| Some(**id) != but);
        let Some(oldest) = others.min_by_key(|(_, writer)| writer.end).map(|(id, _)| *id) else {
            return;
        };
        if let Some(writer) = self.known.remove(&oldest) {
            self.acks -= writer.acks.len();
            self.forgotten = self.forgotten.max(writer.end);
        }
    }
}

impl Writer {
    /// Drops acks that arrived; answers how many.
    fn release(&mut self, acked_through: u64) -> usize {
        let keep = usize::try_from(self.last.saturating_sub(acked_through)).unwrap_or(usize::MAX);
        let drop = self.acks.len().saturating_sub(keep);
        self.acks.drain(..drop);
        if self.acks.is_empty() {
            self.acks.shrink_to_fit();
        }
        drop
    }
}

fn gap(number: u64, next: u64) -> Refusal {
    Refusal::Invalid(format!(
        "input {number} of the session leaves a gap: the next one is {next}"
    ))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    const W: WriterId = WriterId(7);

    fn input(number: u64, acked_through: u64) -> WriterInput {
        WriterInput {
            writer: W,
            opened_at: 10,
            number,
            acked_through,
        }
    }

    /// What input `number` of a writer that began at 10 became, a record each.
    fn done(number: u64) -> Sequenced {
        Sequenced {
            start: StreamPosition::new(9 + number, 1),
            end: StreamPosition::new(10 + number, 1),
            slot: None,
        }
    }

    fn with(numbers: u64, now: Instant) -> Writers {
        let mut writers = Writers::new(10);
        for number in 1..=numbers {
            assert_eq!(writers.judge(&input(number, 0), now), Ok(None));
            writers.sequenced(W, number, done(number), now);
        }
        writers
    }

    #[tokio::test]
    async fn a_table_tells_everything() {
        let now = Instant::now();
        let mut writers = Writers::new(3);
        for number in 1..=5 {
            writers.sequenced(W, number, done(number), now);
        }
        writers.sequenced(WriterId(9), 1, done(1), now);
        let table = WriterTable::parse(writers.table().unwrap().encode_to_vec().into()).unwrap();
        let mut read = Writers::of_table(&table, now);
        assert_eq!((read.forgotten(), read.acks), (3, 6));
        for number in 1..=5 {
            assert_eq!(read.judge(&input(number, 0), now), Ok(Some(done(number))));
        }
        assert_eq!(read.judge(&input(6, 0), now), Ok(None), "it goes on");
        assert!(Writers::new(7).table().is_none());
        assert!(WriterTable::parse(bytes::Bytes::from_static(&[0xff; 3])).is_err());
    }

    #[tokio::test]
    async fn an_input_that_is_sent_again_gets_its_first_answer() {
        let now = Instant::now();
        let mut writers = with(7, now);
        for number in 1..=7 {
            assert_eq!(writers.judge(&input(number, 0), now), Ok(Some(done(number))));
        }
        assert_eq!(writers.judge(&input(8, 0), now), Ok(None));
    }

    #[tokio::test]
    async fn of_what_has_arrived_nothing_is_kept() {
        let now = Instant::now();
        let mut writers = with(7, now);
        assert_eq!(writers.judge(&input(5, 4), now), Ok(Some(done(5))));
        assert!(matches!(
            writers.judge(&input(4, 4), now),
            Err(Refusal::Invalid(_))
        ));
        assert_eq!(writers.acks, 3);
        assert_eq!(writers.judge(&input(8, 99), now), Ok(None));
        assert_eq!(writers.acks, 0);
        assert_eq!(writers.known[&W].acks.capacity(), 0);
    }

    #[tokio::test]
    async fn gaps_are_refused() {
        let now = Instant::now();
        let mut writers = Writers::new(10);
        assert!(matches!(
            writers.judge(&input(2, 0), now),
            Err(Refusal::Invalid(_))
        ));
        let mut writers = with(2, now);
        assert!(matches!(
            writers.judge(&input(4, 0), now),
            Err(Refusal::Invalid(_))
        ));
    }

    #[tokio::test]
    async fn nothing_is_guessed_of_a_forgotten_writer() {
        let now = Instant::now();
        let mut writers = with(7, now);
        writers.forget_idle(now + IDLE_MAX);
        assert_eq!(writers.forgotten(), 10, "used within the bound");
        let later = now + IDLE_MAX + Duration::from_millis(1);
        writers.forget_idle(later);
        assert_eq!((writers.forgotten(), writers.acks), (17, 0));
        for number in [5, 6, 7, 8, 1] {
            assert_eq!(
                writers.judge(&input(number, 4), later),
                Err(Refusal::WriterUnknown)
            );
        }
        let opened_since = WriterInput {
            opened_at: 17,
            ..input(1, 0)
        };
        assert_eq!(writers.judge(&opened_since, later), Ok(None));
    }

    #[tokio::test]
    async fn what_is_sent_again_of_a_writer_of_which_only_the_last_input_was_found_is_not_applied() {
        let now = Instant::now();
        let mut writers = Writers::new(10);
        // A recovery meets input 7; what is before it was flushed, and its table lost.
        writers.recovered(W, 7, done(7), now);
        assert_eq!((writers.known.len(), writers.forgotten()), (0, 17));
        for number in [5, 6, 7, 8] {
            assert_eq!(
                writers.judge(&input(number, 4), now),
                Err(Refusal::WriterUnknown),
                "nobody knows of input {number}"
            );
        }
        // What follows is found, too, and makes nothing known again.
        writers.recovered(W, 8, done(8), now);
        assert_eq!(writers.forgotten(), 18);
        assert_eq!(writers.judge(&input(8, 7), now), Err(Refusal::WriterUnknown));
        let renewed = WriterInput {
            writer: WriterId(8),
            opened_at: 18,
            ..input(1, 0)
        };
        assert_eq!(writers.judge(&renewed, now), Ok(None), "a new writer goes on");
    }

    #[tokio::test]
    async fn memory_is_bounded_and_the_oldest_goes_first() {
        let now = Instant::now();
        let mut writers = Writers::new(0);
        let mut seq_num = 0;
        for id in 1..=WRITERS_MAX as u64 + 5 {
            for number in 1..=20 {
                let start = StreamPosition::new(seq_num, 1);
                seq_num += 1;
                let end = StreamPosition::new(seq_num, 1);
                let done = Sequenced {
                    start,
                    end,
                    slot: None,
                };
                writers.sequenced(WriterId(id), number, done, now);
            }
            assert!(writers.known.len() <= WRITERS_MAX && writers.acks <= ACKS_MAX);
        }
        let kept: usize = writers.known.values().map(|writer| writer.acks.len()).sum();
        assert_eq!(writers.acks, kept);
        let oldest = writers.known.keys().min().unwrap().0;
        assert_eq!(
            writers.forgotten(),
            (oldest - 1) * 20,
            "exactly the writers before it are forgotten"
        );
        assert!(writers.known.contains_key(&WriterId(WRITERS_MAX as u64 + 5)));
    }

    #[tokio::test]
    async fn the_window_bounds_what_waits() {
        let now = Instant::now();
        let window = u64::from(SESSION_WINDOW);
        let mut writers = with(window, now);
        assert!(matches!(
            writers.judge(&input(window + 1, 0), now),
            Err(Refusal::Invalid(_))
        ));
        assert_eq!(writers.judge(&input(window + 1, 1), now), Ok(None));
    }
}
