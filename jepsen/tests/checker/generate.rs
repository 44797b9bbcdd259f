//! Histories of a stream that does what it should, with clients that overlap and answers that get lost.

use millrace_jepsen::history::{Append, Event, Finish, Start, record_hash, stream_hash};
use millrace_jepsen::recorder::{Client, Open, Recorder};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// What to make.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub clients: usize,
    pub operations: usize,
    /// Of appends, how many in a thousand have an unknown outcome.
    pub unknown_per_mille: u32,
    /// Of operations, how many in a hundred are reads; half of the rest are appends.
    pub reads_percent: u32,
    pub conditions: bool,
    pub records_max: usize,
    /// How many operations go by before bodies come again.
    pub bodies: usize,
}

struct Stream {
    hashes: Vec<u64>,
    token: String,
}

struct Busy {
    open: Open,
    start: Start,
    /// What the stream answered; `None` before it took the request.
    answer: Option<Finish>,
}

/// The events, and the hashes of all records in order.
pub fn generate(plan: Plan, seed: u64) -> (Vec<Event>, Vec<u64>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let recorder = Recorder::new();
    let mut stream = Stream {
        hashes: Vec::new(),
        token: String::new(),
    };
    let mut clients: Vec<(Client, Option<Busy>)> =
        (0..plan.clients).map(|_| (recorder.client(), None)).collect();
    // Requests whose clients have given up, still on their way.
    let mut ghosts: Vec<Append> = Vec::new();
    let mut begun = 0;
    while begun < plan.operations || clients.iter().any(|(_, busy)| busy.is_some()) {
        if !ghosts.is_empty() && rng.random_ratio(1, 20) {
            let ghost = ghosts.swap_remove(rng.random_range(0..ghosts.len()));
            if rng.random() {
                stream.append(&ghost);
            }
        }
        let index = rng.random_range(0..clients.len());
        let (client, busy) = &mut clients[index];
        match busy.take() {
            None if begun >= plan.operations => {}
            None => {
                begun += 1;
                let start = stream.request(&plan, &mut rng, begun);
                let open = client.start(start.clone());
                *busy = Some(Busy {
                    open,
                    start,
                    answer: None,
                });
            }
            Some(mut working) => {
                let lost = rng.random_ratio(plan.unknown_per_mille, 1000);
                match (&working.start, working.answer) {
                    (Start::Append(append), answer) if lost => {
                        if answer.is_none() {
                            ghosts.push(append.clone());
                        }
                        client.finish(working.open, Finish::AppendIndefiniteFailure);
                    }
                    (_, Some(answer)) => client.finish(working.open, answer),
                    (start, None) => {
                        working.answer = Some(stream.answer(start));
                        *busy = Some(working);
                    }
                }
            }
        }
    }
    let mut last = recorder.client();
    let open = last.start(Start::Read);
    last.finish(open, stream.answer(&Start::Read));
    (recorder.events(), stream.hashes)
}

impl Stream {
    fn tail(&self) -> u64 {
        self.hashes.len() as u64
    }

    fn request(&self, plan: &Plan, rng: &mut SmallRng, number: usize) -> Start {
        if rng.random_ratio(plan.reads_percent, 100) {
            return Start::Read;
        }
        if rng.random() {
            return Start::CheckTail;
        }
        let records = rng.random_range(0..plan.records_max) + 1;
        let number = number % plan.bodies;
        let hashes = (0..records).map(|record| record_hash(format!("{number}/{record}").as_bytes()));
        let mut append = Append::of(hashes.collect());
        if plan.conditions {
            let token = |rng: &mut SmallRng| format!("t{}", rng.random_range(0..3));
            if rng.random_ratio(1, 8) {
                append.record_hashes.truncate(1);
                append.num_records = 1;
                append.set_fencing_token = Some(token(rng));
            }
            append.fencing_token = rng.random_ratio(1, 3).then(|| token(rng));
            let tail = self.tail() + rng.random_range(0..3);
            append.match_seq_num = rng.random_ratio(1, 3).then_some(tail.saturating_sub(1));
        }
        Start::Append(append)
    }

    fn answer(&mut self, start: &Start) -> Finish {
        match start {
            Start::CheckTail => Finish::CheckTailSuccess { tail: self.tail() },
            Start::Read => Finish::ReadSuccess {
                tail: self.tail(),
                stream_hash: stream_hash(self.hashes.iter().copied()),
            },
            Start::Append(append) => match self.append(append) {
                true => Finish::AppendSuccess { tail: self.tail() },
                false => Finish::AppendDefiniteFailure,
            },
        }
    }

    fn append(&mut self, append: &Append) -> bool {
        let matches = append.match_seq_num.is_none_or(|seq_num| seq_num == self.tail());
        if !matches
            || append
                .fencing_token
                .as_ref()
                .is_some_and(|token| *token != self.token)
        {
            return false;
        }
        self.hashes.extend(&append.record_hashes);
        if let Some(token) = &append.set_fencing_token {
            self.token = token.clone();
        }
        true
    }
}
