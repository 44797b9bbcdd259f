//! Sessions through connections that do not last: every record once, in order, at the place that its ack says.
//!
//! `MILLRACE_DISCONNECT_SECONDS` sets how long records are appended, 20 by default; `MILLRACE_DISCONNECT_SEED` repeats
//! a run as far as the clock allows. Nothing here depends on how fast anything is.

mod support;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use millrace_client::{
    AppendSessionOptions, Batch, Client, Producer, ProducerOptions, ReadBatch, ReadOptions, Stream,
    StreamConfig,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::node::Running;
use support::proxy::Proxy;
use tokio::time::{Instant, sleep};

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect(name))
}

/// Where the records of one source are, by their index.
type Places = Vec<u64>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_there_once_in_order_and_where_its_ack_says() {
    let seconds = env("MILLRACE_DISCONNECT_SECONDS", 20);
    let seed = env("MILLRACE_DISCONNECT_SEED", 1);
    eprintln!("MILLRACE_DISCONNECT_SECONDS={seconds} MILLRACE_DISCONNECT_SEED={seed}");
    let node = Running::start().await;
    let proxies = [
        Proxy::start(node.addr(), seed).await,
        Proxy::start(node.addr(), seed + 1000).await,
    ];
    let client = |endpoints: Vec<String>| {
        let client = Client::builder().endpoints(endpoints).seed(seed);
        client.request_timeout(Duration::from_secs(5)).build().unwrap()
    };
    let urls = || proxies.iter().map(Proxy::url).collect::<Vec<_>>();
    let direct = client(vec![node.url()]).basin("disconnects").unwrap();
    direct.ensure(Default::default()).await.unwrap();
    let direct = direct.stream("s").unwrap();
    direct.create(StreamConfig::default()).await.unwrap();
    let through = || client(urls()).basin("disconnects").unwrap().stream("s").unwrap();

    let until = Instant::now() + Duration::from_secs(seconds);
    let session = tokio::spawn(by_session(through(), until, seed));
    let producer = tokio::spawn(by_producer(through(), until, seed));
    let reader = tokio::spawn(read_while_it_grows(through()));
    let sources = [session.await.unwrap(), producer.await.unwrap()];

    let total: usize = sources.iter().map(Places::len).sum();
    let tail = direct.check_tail().await.unwrap();
    assert_eq!(tail.seq_num, total as u64, "as many records as acks");
    let expected = expected(&sources);
    assert_eq!(read_all(&direct, total).await, expected);
    // A last record ends the reader, which has to come by all others first.
    direct.append(Batch::new(["end"]).unwrap()).await.unwrap();
    assert_eq!(reader.await.unwrap(), expected, "the reader's records");
    for proxy in &proxies {
        eprintln!("{total} records, {:?}", proxy.faults());
    }
    let cuts: u64 = proxies
        .iter()
        .map(|proxy| proxy.faults().cuts.load(Ordering::Relaxed))
        .sum();
    assert!(cuts > 0, "nothing was cut: the test has shown nothing");
    node.stop().await;
}

/// The body at each sequence number, as the acks have it.
fn expected(sources: &[Places]) -> Vec<String> {
    let total = sources.iter().map(Vec::len).sum();
    let mut log = vec![String::new(); total];
    for (source, places) in sources.iter().enumerate() {
        assert!(places.is_sorted(), "source {source} is in order");
        for (index, place) in places.iter().enumerate() {
            let body = &mut log[*place as usize];
            assert!(body.is_empty(), "two acks for {place}");
            *body = format!("{source}:{index}");
        }
    }
    log
}

/// Batches of one to five records through an append session.
async fn by_session(stream: Stream, until: Instant, seed: u64) -> Places {
    let mut rng = StdRng::seed_from_u64(seed);
    let session = stream
        .append_session(AppendSessionOptions {
            bytes_inflight_max: 16 * 1024,
            batches_inflight_max: 32,
        })
        .unwrap();
    let mut places = Places::new();
    let mut tickets = VecDeque::new();
    let mut index = 0usize;
    while Instant::now() < until {
        let records = rng.random_range(1..=5);
        let bodies = (index..index + records).map(|index| format!("0:{index}"));
        index += records;
        let ticket = session
            .submit(Batch::new(bodies).unwrap())
            .await
            .expect("a place");
        tickets.push_back(ticket);
        if tickets.len() > 100 {
            let ack = tickets.pop_front().unwrap().await.expect("an ack");
            places.extend(ack.start.seq_num..ack.end.seq_num);
        }
        sleep(Duration::from_micros(rng.random_range(0..3000))).await;
    }
    session.close().await.expect("all is acknowledged");
    for ticket in tickets {
        let ack = ticket.await.expect("an ack");
        places.extend(ack.start.seq_num..ack.end.seq_num);
    }
    assert_eq!(places.len(), index);
    places
}

/// Single records through a producer.
async fn by_producer(stream: Stream, until: Instant, seed: u64) -> Places {
    let mut rng = StdRng::seed_from_u64(seed + 1);
    let producer: Producer = stream
        .producer(ProducerOptions {
            linger: Duration::from_millis(2),
            bytes_inflight_max: 16 * 1024,
            ..ProducerOptions::default()
        })
        .unwrap();
    let mut places = Places::new();
    let mut tickets = VecDeque::new();
    let mut index = 0usize;
    while Instant::now() < until {
        let ticket = producer.produce(format!("1:{index}")).await.expect("a place");
        index += 1;
        tickets.push_back(ticket);
        if tickets.len() > 100 {
            places.push(tickets.pop_front().unwrap().await.expect("an ack").seq_num);
        }
        sleep(Duration::from_micros(rng.random_range(0..2000))).await;
    }
    producer.close().await.expect("all is acknowledged");
    for ticket in tickets {
        places.push(ticket.await.expect("an ack").seq_num);
    }
    assert_eq!(places.len(), index);
    places
}

/// Follows the stream from its start to the record that says `end`.
async fn read_while_it_grows(stream: Stream) -> Vec<String> {
    let mut session = stream.read_session(ReadOptions::from_seq_num(0));
    let mut bodies = Vec::new();
    while let Some(batch) = session.next().await {
        take(&mut bodies, batch.expect("a batch"));
        if bodies.last().is_some_and(|body| body == "end") {
            bodies.pop();
            return bodies;
        }
    }
    panic!("a read without a limit has ended");
}

async fn read_all(stream: &Stream, count: usize) -> Vec<String> {
    let mut session = stream.read_session(ReadOptions::from_seq_num(0).count(count));
    let mut bodies = Vec::new();
    while let Some(batch) = session.next().await {
        take(&mut bodies, batch.expect("a batch"));
    }
    bodies
}

fn take(bodies: &mut Vec<String>, batch: ReadBatch) {
    for record in batch {
        assert_eq!(record.seq_num, bodies.len() as u64, "no gap and no duplicate");
        bodies.push(String::from_utf8(record.body.to_vec()).unwrap());
    }
}
