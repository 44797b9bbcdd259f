//! The whole API against a real node.

use futures::{StreamExt, TryStreamExt};
use millrace_client::*;

use crate::support::node::Running;

fn basin_of(node: &Running, name: &str) -> (Client, Basin) {
    let client = Client::builder().endpoints([node.url()]).build().unwrap();
    let basin = client.basin(name).unwrap();
    (client, basin)
}

#[tokio::test]
async fn basins_and_streams_are_managed() {
    let node = Running::start().await;
    let (client, basin) = basin_of(&node, "managed-basin");
    let config = BasinConfig {
        create_stream_on_append: true,
        ..BasinConfig::default()
    };
    let info = basin.create(config).await.unwrap();
    assert_eq!(info.name, "managed-basin");
    let error = basin.create(config).await.unwrap_err();
    assert_eq!(error.code(), Some("resource_already_exists"));
    assert_eq!(basin.ensure(config).await.unwrap().0, Outcome::Unchanged);
    assert_eq!(basin.config().await.unwrap(), config);
    let change = BasinReconfiguration {
        create_stream_on_read: Some(true),
        ..BasinReconfiguration::default()
    };
    assert!(basin.reconfigure(change).await.unwrap().create_stream_on_read);
    assert!(client.basin("short").is_err());

    for stream in 0..5 {
        let stream = basin.stream(format!("s/{stream}")).unwrap();
        stream
            .create_with_token(StreamConfig::default(), "token")
            .await
            .unwrap();
        stream
            .create_with_token(StreamConfig::default(), "token")
            .await
            .unwrap();
    }
    let options = ListOptions::default().prefix("s/").page_size(2);
    let listed: Vec<_> = basin.streams(options).try_collect().await.unwrap();
    let names: Vec<_> = listed.iter().map(|stream| &stream.name[..]).collect();
    assert_eq!(names, ["s/0", "s/1", "s/2", "s/3", "s/4"]);
    let options = ListOptions::default().start_after("s/3");
    let behind: Vec<_> = basin.streams(options).try_collect().await.unwrap();
    assert_eq!(behind.len(), 1);

    let stream = basin.stream("s/0").unwrap();
    let age = StreamReconfiguration {
        retention: Patch::Set(RetentionPolicy::Age(60)),
        ..StreamReconfiguration::default()
    };
    let config = stream.reconfigure(age).await.unwrap();
    assert_eq!(config.retention, Some(RetentionPolicy::Age(60)));
    assert_eq!(stream.config().await.unwrap(), config);
    let (outcome, _) = stream.ensure(StreamConfig::default()).await.unwrap();
    assert_eq!(outcome, Outcome::Updated);
    stream.delete().await.unwrap();
    assert!(stream.check_tail().await.is_err());

    let names = client.basins(ListOptions::default()).map_ok(|basin| basin.name);
    let names: Vec<_> = names.try_collect().await.unwrap();
    assert!(names.contains(&"managed-basin".to_owned()));
    basin.delete().await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn records_go_and_come_back() {
    let node = Running::start().await;
    let (_, basin) = basin_of(&node, "records-basin");
    basin.create(BasinConfig::default()).await.unwrap();
    let stream = basin.stream("s").unwrap();
    let missing = stream.append(Batch::new(["x"]).unwrap()).await.unwrap_err();
    assert_eq!(missing.code(), Some("stream_not_found"));
    assert!(!missing.may_have_happened());
    stream.create(StreamConfig::default()).await.unwrap();

    let past = stream
        .read(ReadOptions::from_seq_num(0).count(1))
        .await
        .unwrap_err();
    assert!(
        matches!(past, Error::PastTail { tail } if tail.seq_num == 0),
        "{past:?}"
    );
    let record = Record::new("body").header("name", "value").timestamp(7);
    let ack = stream.append(Batch::try_from(record).unwrap()).await.unwrap();
    assert_eq!((ack.start.seq_num, ack.end.seq_num), (0, 1));
    let batch = stream.read(ReadOptions::from_seq_num(0)).await.unwrap();
    let record = &batch.records()[0];
    assert_eq!((&record.body[..], record.timestamp), (&b"body"[..], 7));
    assert_eq!(&record.headers[0].value[..], b"value");

    let token = FencingToken::new("token").unwrap();
    stream.fence(&token).await.unwrap();
    let fenced = Batch::new(["x"])
        .unwrap()
        .fencing_token(&FencingToken::new("other").unwrap());
    let error = stream.append(fenced).await.unwrap_err();
    assert!(matches!(&error, Error::FencingTokenMismatch { in_force } if &**in_force == "token"));
    let error = stream
        .fence_if(&FencingToken::default(), &token)
        .await
        .unwrap_err();
    assert!(!error.may_have_happened());
    let matched = Batch::new(["x"]).unwrap().match_seq_num(9);
    let error = stream.append(matched).await.unwrap_err();
    assert!(matches!(error, Error::SeqNumMismatch { next: 2 }), "{error:?}");
    let trim = stream.trim(1).await.unwrap();
    assert_eq!(stream.check_tail().await.unwrap().seq_num, trim.end.seq_num);
    node.stop().await;
}

#[tokio::test]
async fn a_tail_follows_a_session_and_a_producer() {
    let node = Running::start().await;
    let (_, basin) = basin_of(&node, "tailed-basin");
    basin.create(BasinConfig::default()).await.unwrap();
    let stream = basin.stream("s").unwrap();
    stream.create(StreamConfig::default()).await.unwrap();
    let mut tail = stream.read_session(ReadOptions::from_tail());
    let caught_up = tail.next().await.unwrap().unwrap();
    assert!(caught_up.is_empty() && caught_up.is_caught_up());

    let session = stream.append_session(AppendSessionOptions::default()).unwrap();
    let mut tickets = Vec::new();
    for body in 0..100 {
        let batch = Batch::new([format!("{body}")]).unwrap();
        tickets.push(session.submit(batch).await.unwrap());
    }
    session.close().await.unwrap();
    for (seq_num, ticket) in (0..).zip(tickets) {
        assert_eq!(ticket.await.unwrap().start.seq_num, seq_num);
    }
    let producer = stream.producer(ProducerOptions::default()).unwrap();
    let mut tickets = Vec::new();
    for body in 100..200 {
        tickets.push(producer.produce(format!("{body}")).await.unwrap());
    }
    producer.close().await.unwrap();
    for (seq_num, ticket) in (100..).zip(tickets) {
        assert_eq!(ticket.await.unwrap().seq_num, seq_num);
    }
    let mut next = 0;
    while next < 200 {
        for record in tail.next().await.unwrap().unwrap() {
            assert_eq!(record.body, next.to_string());
            next += 1;
        }
    }
    let mut from_time = stream.read_session(ReadOptions::from_timestamp(0).count(150));
    let mut read = 0;
    while let Some(batch) = from_time.next().await {
        read += batch.unwrap().len();
    }
    assert_eq!(read, 150);
    drop((tail, from_time));
    node.stop().await;
}
