//! The checker is checked: it refuses what breaks a promise, accepts what a correct stream did, and agrees with a
//! search that tries everything.

mod brute_force;
mod generate;

use millrace_jepsen::check::{Verdict, Violation, check, timeline};
use millrace_jepsen::history::{Append, Event, Finish, Phase, Start, stream_hash};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use generate::{Plan, generate};

/// Histories by hand: `call` begins an operation of the client, `ret` ends it.
#[derive(Default)]
struct Script {
    events: Vec<Event>,
    open: std::collections::BTreeMap<u64, u64>,
    next: u64,
}

impl Script {
    fn call(mut self, client_id: u64, start: Start) -> Self {
        self.next += 1;
        self.open.insert(client_id, self.next);
        self.events.push(Event {
            event: Phase::Start(start),
            client_id,
            op_id: self.next,
        });
        self
    }

    fn ret(mut self, client_id: u64, finish: Finish) -> Self {
        let op_id = self.open.remove(&client_id).expect("the client is at something");
        self.events.push(Event {
            event: Phase::Finish(finish),
            client_id,
            op_id,
        });
        self
    }

    fn append(self, client: u64, append: Append, finish: Finish) -> Self {
        self.call(client, Start::Append(append)).ret(client, finish)
    }

    fn read(self, client: u64, hashes: &[u64]) -> Self {
        self.call(client, Start::Read).ret(client, saw(hashes))
    }

    fn tail(self, client: u64, tail: u64) -> Self {
        self.call(client, Start::CheckTail)
            .ret(client, Finish::CheckTailSuccess { tail })
    }

    fn accepted(self) {
        let verdict = check(&self.events, None).unwrap();
        assert!(verdict.is_linearizable(), "{verdict:?}");
        assert!(brute_force::is_linearizable(&self.events));
    }

    fn refused(self) -> Violation {
        assert!(!brute_force::is_linearizable(&self.events));
        match check(&self.events, None).unwrap() {
            Verdict::Violation(violation) => *violation,
            other => panic!("{other:?}"),
        }
    }
}

fn saw(hashes: &[u64]) -> Finish {
    Finish::ReadSuccess {
        tail: hashes.len() as u64,
        stream_hash: stream_hash(hashes.iter().copied()),
    }
}

fn ok(tail: u64) -> Finish {
    Finish::AppendSuccess { tail }
}

fn batch(hashes: &[u64]) -> Append {
    Append::of(hashes.to_vec())
}

fn matched(hashes: &[u64], seq_num: u64) -> Append {
    Append {
        match_seq_num: Some(seq_num),
        ..batch(hashes)
    }
}

fn fence(hash: u64, sets: &str, token: Option<&str>) -> Append {
    Append {
        set_fencing_token: Some(sets.into()),
        fencing_token: token.map(str::to_owned),
        ..batch(&[hash])
    }
}

fn with_token(hashes: &[u64], token: &str) -> Append {
    Append {
        fencing_token: Some(token.into()),
        ..batch(hashes)
    }
}

const UNKNOWN: Finish = Finish::AppendIndefiniteFailure;
const REFUSED: Finish = Finish::AppendDefiniteFailure;

#[test]
fn a_lost_append_is_refused() {
    Script::default()
        .append(1, batch(&[1]), ok(1))
        .read(1, &[])
        .refused();
    Script::default()
        .append(1, batch(&[1]), ok(1))
        .append(2, batch(&[2]), ok(2))
        .append(2, batch(&[3]), ok(2))
        .refused();
}

#[test]
fn a_duplicate_is_refused() {
    Script::default()
        .append(1, batch(&[1]), ok(1))
        .read(1, &[1, 1])
        .refused();
    Script::default()
        .append(1, batch(&[1]), UNKNOWN)
        .read(2, &[1, 1])
        .refused();
    Script::default().append(1, batch(&[1]), ok(2)).refused();
}

#[test]
fn a_stale_tail_is_refused() {
    let violation = Script::default()
        .append(1, batch(&[1]), ok(1))
        .append(1, batch(&[2]), ok(2))
        .tail(2, 1)
        .tail(2, 2)
        .refused();
    assert_eq!(violation.events, 6, "the events behind are not needed");
    Script::default()
        .call(2, Start::CheckTail)
        .append(1, batch(&[1]), ok(1))
        .ret(2, Finish::CheckTailSuccess { tail: 0 })
        .accepted();
}

#[test]
fn a_stale_read_is_refused() {
    Script::default()
        .append(1, batch(&[1]), ok(1))
        .append(2, batch(&[2]), ok(2))
        .read(3, &[1])
        .refused();
    Script::default()
        .call(1, Start::Append(batch(&[1])))
        .read(2, &[1])
        .read(3, &[])
        .ret(1, ok(1))
        .refused();
}

#[test]
fn records_in_another_order_are_refused() {
    Script::default()
        .append(1, batch(&[1]), ok(1))
        .append(1, batch(&[2]), ok(2))
        .read(1, &[2, 1])
        .refused();
    Script::default()
        .append(1, batch(&[1]), ok(2))
        .append(1, batch(&[2]), ok(1))
        .refused();
    Script::default()
        .call(1, Start::Append(batch(&[1])))
        .append(2, batch(&[2]), ok(1))
        .ret(1, ok(2))
        .read(1, &[2, 1])
        .accepted();
}

#[test]
fn a_batch_in_pieces_is_refused() {
    Script::default()
        .call(1, Start::Append(batch(&[1, 2])))
        .read(2, &[1])
        .ret(1, ok(2))
        .refused();
}

#[test]
fn an_append_without_the_token_in_force_is_refused() {
    Script::default()
        .append(1, fence(1, "a", None), ok(1))
        .append(2, with_token(&[2], "b"), ok(2))
        .refused();
    Script::default()
        .append(1, fence(1, "a", None), ok(1))
        .append(1, fence(2, "b", Some("a")), ok(2))
        .append(2, with_token(&[3], "a"), ok(3))
        .refused();
    Script::default()
        .append(2, with_token(&[2], "b"), ok(1))
        .refused();
    Script::default()
        .append(1, fence(1, "a", None), ok(1))
        .append(2, batch(&[2]), ok(2))
        .append(2, with_token(&[3], "a"), ok(3))
        .append(2, with_token(&[4], "b"), REFUSED)
        .append(1, fence(5, "", None), ok(4))
        .append(2, with_token(&[6], ""), ok(5))
        .accepted();
}

#[test]
fn a_token_that_was_forgotten_is_noticed() {
    Script::default()
        .append(1, fence(1, "a", None), ok(1))
        .append(2, with_token(&[2], ""), ok(2))
        .refused();
    Script::default()
        .append(1, fence(1, "a", None), UNKNOWN)
        .append(2, with_token(&[2], "a"), ok(2))
        .append(2, with_token(&[3], ""), ok(3))
        .refused();
}

#[test]
fn an_append_at_another_seq_num_than_it_asked_for_is_refused() {
    Script::default().append(1, matched(&[1], 1), ok(1)).refused();
    Script::default()
        .call(1, Start::Append(matched(&[1], 0)))
        .append(2, matched(&[2], 0), ok(1))
        .ret(1, ok(2))
        .refused();
    Script::default()
        .append(1, matched(&[1], 0), UNKNOWN)
        .append(2, matched(&[2], 0), REFUSED)
        .append(2, matched(&[3], 1), ok(2))
        .accepted();
}

#[test]
fn a_definite_failure_that_shows_is_refused() {
    Script::default()
        .append(1, batch(&[1]), REFUSED)
        .read(1, &[1])
        .refused();
    Script::default()
        .append(1, batch(&[1]), REFUSED)
        .append(1, batch(&[2]), ok(2))
        .refused();
}

#[test]
fn an_unknown_outcome_may_show_at_any_time_or_never() {
    let unknown = || Script::default().append(1, batch(&[1]), UNKNOWN);
    unknown().tail(2, 0).accepted();
    unknown().tail(2, 0).tail(2, 1).accepted();
    unknown()
        .append(2, batch(&[2]), ok(1))
        .read(2, &[2, 1])
        .accepted();
    unknown()
        .append(2, batch(&[2]), ok(2))
        .read(2, &[1, 2])
        .accepted();
    unknown().tail(2, 1).tail(2, 0).refused();
    // It cannot show before it was asked for.
    Script::default()
        .tail(2, 1)
        .append(1, batch(&[1]), UNKNOWN)
        .refused();
}

#[test]
fn an_unknown_outcome_does_not_escape_its_conditions() {
    Script::default()
        .append(1, matched(&[1], 1), UNKNOWN)
        .read(2, &[1])
        .refused();
    Script::default()
        .append(1, with_token(&[1], "a"), UNKNOWN)
        .read(2, &[1])
        .refused();
}

#[test]
fn which_of_several_unknown_outcomes_happened_is_found() {
    let lost = |script: Script| {
        (1..=8).fold(script, |script, client| {
            script.append(client, batch(&[client]), UNKNOWN)
        })
    };
    lost(Script::default())
        .read(9, &[7, 2, 5])
        .read(9, &[7, 2, 5, 1])
        .accepted();
    lost(Script::default())
        .read(9, &[7, 2, 5])
        .read(9, &[7, 5, 2, 1])
        .refused();
}

#[test]
fn the_shortest_beginning_that_fails_is_drawn() {
    let violation = Script::default()
        .append(1, batch(&[1]), ok(1))
        .append(2, fence(2, "<&>", None), UNKNOWN)
        .tail(1, 1)
        .append(3, batch(&[3]), ok(5))
        .append(4, batch(&[4]), ok(6))
        .tail(1, 7)
        .refused();
    assert_eq!(violation.events, 8);
    assert!(
        violation.summary().contains("operation 4 of client 3"),
        "{}",
        violation.summary()
    );
    let page = timeline::html(&violation);
    assert!(page.contains("class=blocked") && page.contains("class=unknown"));
    assert!(page.contains("sets token \"&lt;&amp;&gt;\""), "{page}");
    assert!(!page.contains("http"), "needs nothing from elsewhere");
}

const SMALL: Plan = Plan {
    clients: 3,
    operations: 7,
    unknown_per_mille: 250,
    reads_percent: 40,
    conditions: true,
    records_max: 2,
    bodies: usize::MAX,
};

#[test]
fn what_a_correct_stream_did_is_accepted() {
    for seed in 0..300 {
        let (events, records) = generate(SMALL, seed);
        assert!(check(&events, None).unwrap().is_linearizable(), "seed {seed}");
        assert!(
            check(&events, Some(&records)).unwrap().is_linearizable(),
            "seed {seed} with records"
        );
    }
    for seed in 0..20 {
        let plan = Plan {
            clients: 5,
            operations: 1000,
            unknown_per_mille: 20,
            reads_percent: 20,
            ..SMALL
        };
        let (events, _) = generate(plan, seed);
        assert!(check(&events, None).unwrap().is_linearizable(), "seed {seed}");
    }
}

/// Damages one answer, or makes an unknown outcome or a failure of it.
fn damage(events: &mut [Event], rng: &mut SmallRng) {
    for _ in 0..rng.random_range(1..3) {
        let index = rng.random_range(0..events.len());
        let Phase::Finish(finish) = &mut events[index].event else {
            continue;
        };
        let moved = |tail: u64, rng: &mut SmallRng| (tail + rng.random_range(0..3)).saturating_sub(1);
        *finish = match *finish {
            Finish::AppendSuccess { .. } if rng.random_ratio(1, 3) => REFUSED,
            Finish::AppendSuccess { tail } => ok(moved(tail, rng)),
            Finish::AppendIndefiniteFailure => REFUSED,
            Finish::AppendDefiniteFailure => UNKNOWN,
            Finish::ReadSuccess { tail, stream_hash } => Finish::ReadSuccess {
                tail: moved(tail, rng),
                stream_hash,
            },
            Finish::CheckTailSuccess { tail } => Finish::CheckTailSuccess {
                tail: moved(tail, rng),
            },
            other => other,
        };
    }
    // Real time, too: two neighbours change places where that makes sense.
    let index = rng.random_range(1..events.len());
    if events[index - 1].client_id != events[index].client_id {
        events.swap(index - 1, index);
    }
}

#[test]
fn it_agrees_with_trying_everything() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..4000 {
        let bodies = if seed % 4 == 0 { 2 } else { usize::MAX };
        let (mut events, _) = generate(Plan { bodies, ..SMALL }, seed);
        damage(&mut events, &mut SmallRng::seed_from_u64(seed));
        let expected = brute_force::is_linearizable(&events);
        let verdict = check(&events, None).unwrap();
        assert_eq!(verdict.is_linearizable(), expected, "seed {seed}: {verdict:?}");
        if let Verdict::Violation(violation) = verdict {
            assert!(
                !brute_force::is_linearizable(&events[..violation.events]),
                "seed {seed}"
            );
            assert!(
                brute_force::is_linearizable(&events[..violation.events - 1]),
                "seed {seed}"
            );
        }
        *if expected { &mut good } else { &mut bad } += 1;
    }
    assert!(
        good > 500 && bad > 500,
        "both kinds are tried: {good} good, {bad} bad"
    );
}

#[test]
fn a_search_that_is_too_long_is_given_up_and_not_passed() {
    let (events, _) = generate(
        Plan {
            operations: 200,
            ..SMALL
        },
        1,
    );
    let verdict = millrace_jepsen::check::check_within(&events, None, 0).unwrap();
    assert!(matches!(verdict, Verdict::Undecided), "{verdict:?}");
}

#[test]
fn what_the_last_reads_contradict_is_refused_without_a_search() {
    let script = Script::default()
        .call(2, Start::Append(batch(&[2])))
        .append(1, batch(&[1]), ok(1))
        .read(3, &[1, 2]);
    let within = |records: Option<&[u64]>| {
        millrace_jepsen::check::check_within(&script.events, records, 0).expect("a history")
    };
    assert!(matches!(within(None), Verdict::Undecided), "it takes a search");
    match within(Some(&[1, 3])) {
        Verdict::Violation(violation) => assert!(violation.reason.contains("others"), "{violation:?}"),
        other => panic!("{other:?}"),
    }
    assert!(check(&script.events, Some(&[1, 2])).unwrap().is_linearizable());
    // Records behind those that are known say nothing.
    assert!(check(&script.events, Some(&[1])).unwrap().is_linearizable());
}

/// cargo test --release -p millrace-jepsen --test checker -- --ignored --nocapture
#[test]
#[ignore = "a measurement; run it in release"]
fn ten_thousand_operations_are_decided_in_time() {
    for (name, reads_percent) in [
        ("a third reads", 33),
        ("one read in ten", 10),
        ("one read in a hundred", 1),
    ] {
        for damaged in [false, true] {
            let plan = Plan {
                clients: 5,
                operations: 10_000,
                unknown_per_mille: 20,
                reads_percent,
                conditions: false,
                records_max: 10,
                bodies: usize::MAX,
            };
            let mut slowest = std::time::Duration::ZERO;
            let mut unknown = 0;
            for seed in 0..10 {
                let (mut events, _) = generate(plan, seed);
                unknown += events
                    .iter()
                    .filter(|event| event.event == Phase::Finish(UNKNOWN))
                    .count();
                if damaged {
                    // The last acknowledged append is lost: everything before has to be tried in vain.
                    let last = events.iter_mut().rev().find_map(|event| match &mut event.event {
                        Phase::Finish(finish @ Finish::AppendSuccess { .. }) => Some(finish),
                        _ => None,
                    });
                    *last.unwrap() = REFUSED;
                }
                let began = tokio::time::Instant::now();
                let verdict = check(&events, None).unwrap();
                slowest = slowest.max(began.elapsed());
                match verdict {
                    Verdict::Linearizable { .. } => assert!(!damaged),
                    Verdict::Violation(_) => assert!(damaged),
                    Verdict::Undecided => println!("seed {seed}: undecided"),
                }
            }
            println!(
                "{name}, damaged {damaged}: slowest of 10 {slowest:?}, {} unknown each",
                unknown / 10
            );
        }
    }
}
