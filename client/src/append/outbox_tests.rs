use super::*;

const W: Writer = writer(7);

const fn writer(id: u64) -> Writer {
    Writer {
        id,
        opened_at: 3,
        stream_id: Bytes::new(),
    }
}

fn outbox(pending: usize) -> Outbox<usize> {
    let mut outbox = Outbox::new();
    for waiter in 0..pending {
        outbox.push(Pending {
            input: Bytes::from(vec![waiter as u8]),
            records: 1,
            waiter,
        });
    }
    outbox
}

fn opened(pending: usize, window: u32) -> Outbox<usize> {
    let mut outbox = outbox(pending);
    assert_eq!(outbox.resumes(), None);
    outbox.opened(W, window).unwrap();
    outbox
}

fn send_all(outbox: &mut Outbox<usize>) -> Vec<(u64, u8)> {
    std::iter::from_fn(|| outbox.next())
        .map(|outgoing| (outgoing.number, outgoing.input[0]))
        .collect()
}

fn ack(start: u64, end: u64) -> proto::AppendAck {
    let position = |seq_num| {
        Some(proto::StreamPosition {
            seq_num,
            timestamp: 0,
        })
    };
    proto::AppendAck {
        start: position(start),
        end: position(end),
        tail: position(end),
    }
}

fn broken() -> Error {
    Error::Broken("x".into())
}

/// One letter for each: the cause itself, not applied, unknown.
fn outcomes(outbox: Outbox<usize>, cause: Error) -> String {
    let letter = |error: &Error| match error {
        Error::NotApplied(_) => 'n',
        Error::Unknown(_) => 'u',
        _ => 'c',
    };
    outbox
        .failed(cause)
        .iter()
        .map(|(_, error)| letter(error))
        .collect()
}

#[test]
fn inputs_are_numbered_from_1_and_carry_what_is_acknowledged() {
    let mut outbox = opened(3, 2);
    assert_eq!(send_all(&mut outbox), [(1, 0), (2, 1)]);
    assert_eq!(outbox.acked(1, ack(5, 6)).unwrap().0, 0);
    let next = outbox.next().unwrap();
    assert_eq!((next.number, next.acked_through), (3, 1));
    assert_eq!(outbox.next(), None);
}

#[test]
fn a_break_sends_what_is_unacknowledged_again_under_its_numbers() {
    let mut outbox = opened(4, 3);
    send_all(&mut outbox);
    outbox.acked(1, ack(0, 1)).unwrap();
    outbox.call_over(true);
    assert_eq!(outbox.resumes(), Some(W));
    outbox.opened(W, 10).unwrap();
    assert_eq!(send_all(&mut outbox), [(2, 1), (3, 2), (4, 3)]);
}

#[test]
fn a_break_with_nothing_unacknowledged_opens_a_new_writer() {
    let mut outbox = opened(1, 3);
    send_all(&mut outbox);
    outbox.acked(1, ack(0, 1)).unwrap();
    outbox.call_over(true);
    assert_eq!(outbox.resumes(), None);
    outbox.push(Pending {
        input: Bytes::from_static(b"x"),
        records: 1,
        waiter: 9,
    });
    outbox.opened(writer(8), 10).unwrap();
    assert_eq!(send_all(&mut outbox), [(1, b'x')]);
}

#[test]
fn a_promise_that_nothing_happened_allows_a_new_writer_unless_an_earlier_call_broke() {
    let mut outbox = opened(2, 3);
    send_all(&mut outbox);
    outbox.call_over(false);
    assert_eq!(outbox.resumes(), None);
    outbox.opened(W, 3).unwrap();
    send_all(&mut outbox);
    outbox.call_over(true);
    outbox.opened(W, 3).unwrap();
    send_all(&mut outbox);
    outbox.call_over(false);
    assert_eq!(outbox.resumes(), Some(W));
}

#[test]
fn acks_out_of_turn_or_of_another_size_are_not_believed() {
    let mut outbox = opened(2, 3);
    assert!(outbox.acked(1, ack(0, 1)).is_err(), "nothing was sent");
    send_all(&mut outbox);
    assert!(outbox.acked(2, ack(0, 1)).is_err(), "out of turn");
    assert!(outbox.acked(1, ack(0, 2)).is_err(), "two records");
    assert!(outbox.acked(1, proto::AppendAck::default()).is_err(), "empty");
    outbox.acked(1, ack(5, 6)).unwrap();
    assert!(outbox.acked(1, ack(6, 7)).is_err(), "twice");
    assert!(outbox.acked(2, ack(5, 6)).is_err(), "the place is taken");
    outbox.acked(2, ack(6, 7)).unwrap();
    assert!(outbox.acked(3, ack(7, 8)).is_err(), "nothing waits");
}

#[test]
fn another_writer_than_the_one_asked_for_is_not_believed() {
    let mut outbox = opened(1, 3);
    send_all(&mut outbox);
    outbox.call_over(true);
    assert!(outbox.opened(writer(8), 3).is_err());
    assert!(Outbox::<()>::new().opened(writer(0), 3).is_err());
}

#[test]
fn a_lost_writer_is_replaced_only_while_nothing_can_have_been_applied() {
    let mut outbox = opened(2, 3);
    assert!(outbox.writer_lost(true), "nothing was sent");
    let mut outbox_sent = opened(2, 3);
    send_all(&mut outbox_sent);
    assert!(!outbox_sent.writer_lost(true));
    assert!(outbox_sent.writer_lost(false));
    assert_eq!(outbox_sent.resumes(), None);
    outbox.opened(W, 3).unwrap();
    send_all(&mut outbox);
    outbox.call_over(true);
    assert!(!outbox.writer_lost(false), "an earlier call broke");
}

#[test]
fn a_failed_condition_is_the_firsts_and_the_later_ones_did_not_happen() {
    let mut outbox = opened(4, 2);
    send_all(&mut outbox);
    outbox.call_over(true);
    outbox.opened(W, 2).unwrap();
    send_all(&mut outbox);
    assert_eq!(outcomes(outbox, Error::SeqNumMismatch { next: 1 }), "cnnn");
}

#[test]
fn a_refusal_is_the_firsts_and_the_later_ones_did_not_happen() {
    let mut outbox = opened(4, 2);
    send_all(&mut outbox);
    assert_eq!(outcomes(outbox, Error::invalid("x")), "cnnn");
}

#[test]
fn what_an_earlier_call_may_have_applied_stays_unknown_whatever_the_refusal() {
    let mut outbox = opened(4, 2);
    send_all(&mut outbox);
    outbox.call_over(true);
    assert_eq!(outcomes(outbox, Error::invalid("x")), "uunn");
}

#[test]
fn a_break_that_ends_the_session_leaves_all_that_was_sent_unknown() {
    let mut outbox = opened(4, 3);
    send_all(&mut outbox);
    assert_eq!(outcomes(outbox, broken()), "cuun");
}

#[test]
fn inputs_that_were_never_sent_did_not_happen() {
    let outbox = outbox(2);
    assert_eq!(outcomes(outbox, broken()), "nn");
}

/// A server that applies each number once, and a network that loses calls at any point: whatever happens, each input
/// is applied at most once, in order, and exactly once if it is acknowledged.
mod model {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Push,
        Send,
        /// The server takes what was sent.
        Deliver,
        /// The client hears of one ack.
        Ack,
        Break,
        /// The server refuses, and promises that nothing that it did not take happened.
        Refuse,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Push),
            4 => Just(Step::Send),
            4 => Just(Step::Deliver),
            4 => Just(Step::Ack),
            2 => Just(Step::Break),
            1 => Just(Step::Refuse),
        ]
    }

    #[derive(Default)]
    struct Server {
        log: Vec<u8>,
        /// By writer: position of each number.
        taken: std::collections::HashMap<u64, Vec<usize>>,
        writers: u64,
    }

    proptest! {
        #[test]
        fn each_input_is_applied_once(steps in prop::collection::vec(step(), 1..200)) {
            let mut server = Server::default();
            let mut outbox = Outbox::new();
            let mut pushed = 0u8;
            let mut acked = Vec::new();
            let mut call: Option<u64> = None;
            let mut wire: VecDeque<Outgoing> = VecDeque::new();
            let mut acks: VecDeque<(u64, usize)> = VecDeque::new();
            for step in steps {
                let writer = *call.get_or_insert_with(|| {
                    let writer = outbox.resumes().unwrap_or_else(|| {
                        server.writers += 1;
                        writer(server.writers)
                    });
                    outbox.opened(writer.clone(), 4).unwrap();
                    writer.id
                });
                match step {
                    Step::Push => {
                        let input = Bytes::from(vec![pushed]);
                        outbox.push(Pending { input, records: 1, waiter: pushed });
                        pushed = pushed.wrapping_add(1);
                    }
                    Step::Send => wire.extend(outbox.next()),
                    Step::Deliver => {
                        let Some(outgoing) = wire.pop_front() else { continue };
                        let taken = server.taken.entry(writer).or_default();
                        let number = outgoing.number as usize;
                        prop_assert!(number <= taken.len() + 1, "a gap");
                        if number == taken.len() + 1 {
                            taken.push(server.log.len());
                            server.log.push(outgoing.input[0]);
                        }
                        acks.push_back((outgoing.number, taken[number - 1]));
                    }
                    Step::Ack => {
                        let Some((number, at)) = acks.pop_front() else { continue };
                        let at = at as u64;
                        let (waiter, ack) = outbox.acked(number, ack(at, at + 1)).unwrap();
                        prop_assert_eq!(server.log[ack.start.seq_num as usize], waiter);
                        acked.push(waiter);
                    }
                    Step::Break => {
                        outbox.call_over(true);
                        (call, wire, acks) = (None, VecDeque::new(), VecDeque::new());
                    }
                    Step::Refuse if acks.is_empty() => {
                        outbox.call_over(false);
                        (call, wire) = (None, VecDeque::new());
                    }
                    Step::Refuse => {}
                }
            }
            let in_order: Vec<u8> = (0..server.log.len() as u8).collect();
            prop_assert_eq!(&server.log, &in_order);
            prop_assert_eq!(&acked[..], &in_order[..acked.len()]);
        }
    }
}
