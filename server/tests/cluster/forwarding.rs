//! Any node serves any request.

use std::time::Duration;

use futures::StreamExt;
use millrace_api::error::ErrorCode;
use millrace_api::read::{ReadLimits, ReadRequest, ReadStart};
use millrace_server::error::ServiceError;
use millrace_server::frontend::service::types::ReadEvent;

use crate::cell::{Cell, PATIENCE, batch, stream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_answers_for_every_stream() {
    let cell = Cell::start().await;
    for n in 0..9 {
        let name = stream(format!("s/{n}"));
        cell.create(n % 3, &name).await;
        for node in 0..3 {
            let ack = cell.append(node, &name, &format!("{n} by {node}")).await.unwrap();
            assert_eq!(ack.start.seq_num, node as u64, "{name} through node {node}");
        }
        for node in 0..3 {
            let tail = cell.node(node).check_tail(&cell.basin, &name).await.unwrap();
            assert_eq!(tail.seq_num, 3);
            let bodies = cell.bodies(node, &name).await;
            assert_eq!(bodies, [0, 1, 2].map(|by| format!("{n} by {by}")));
        }
    }
    cell.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_followers_work_through_nodes_that_are_not_the_owner() {
    let cell = Cell::start().await;
    let name = stream("s");
    cell.create(0, &name).await;
    let follow = ReadRequest {
        start: ReadStart::SeqNum(0),
        clamp: false,
        limits: ReadLimits {
            count: Some(300),
            ..ReadLimits::default()
        },
        wait: Some(PATIENCE),
    };
    let mut followers = Vec::new();
    for node in 0..3 {
        let mut session = cell
            .node(node)
            .read_session(&cell.basin, &name, follow)
            .await
            .unwrap();
        followers.push(tokio::spawn(async move {
            let mut count = 0;
            while let Some(event) = session.next().await {
                if let ReadEvent::Batch(batch) = event.expect("the session goes on") {
                    count += batch.count;
                }
            }
            count
        }));
    }
    for node in 0..3 {
        let session = cell.node(node).append_session(&cell.basin, &name).await.unwrap();
        let mut acks = Vec::new();
        for n in 0..100 {
            acks.push(session.submit(batch(&format!("{node}/{n}"))).await.unwrap());
        }
        let ends: Vec<_> = futures::stream::iter(acks)
            .then(|ack| async { ack.wait().await.unwrap().end.seq_num })
            .collect()
            .await;
        let first = node as u64 * 100;
        assert!(ends.iter().copied().eq(first + 1..=first + 100), "{ends:?}");
    }
    for follower in followers {
        let count = tokio::time::timeout(PATIENCE, follower).await;
        assert_eq!(count.expect("every record arrives").unwrap(), 300);
    }
    cell.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_and_deletions_hold_whichever_node_is_asked() {
    let cell = Cell::start().await;
    let name = stream("s");
    cell.create(0, &name).await;
    cell.append(1, &name, "first").await.unwrap();
    let expects_none = millrace_api::proto::AppendInput {
        records: vec![Default::default()],
        match_seq_num: Some(0),
        fencing_token: None,
    };
    for node in 0..3 {
        let batch = millrace_api::batch::AppendBatch::from_proto(expects_none.clone()).unwrap();
        let refused = cell.node(node).append(&cell.basin, &name, batch).await;
        assert_eq!(refused, Err(ServiceError::SeqNumMismatch { next: 1 }));
    }
    cell.node(2).delete_stream(&cell.basin, &name).await.unwrap();
    for node in 0..3 {
        let error = cell.append(node, &name, "late").await.unwrap_err();
        let gone = [ErrorCode::StreamDeletionPending, ErrorCode::StreamNotFound];
        assert!(
            matches!(&error, ServiceError::Code { code, .. } if gone.contains(code)),
            "{error}"
        );
    }
    // The name is free again, and what was there is not.
    let created = async {
        while cell
            .node(1)
            .create_stream(&cell.basin, name.clone(), Default::default())
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, created)
        .await
        .expect("the name is free");
    assert_eq!(cell.append(2, &name, "new").await.unwrap().start.seq_num, 0);
    cell.stop_all().await;
}
