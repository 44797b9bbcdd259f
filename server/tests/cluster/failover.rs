//! A node goes, and the others take over what it owned.

use futures::StreamExt;

use crate::cell::{Cell, PATIENCE, batch, stream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_stop_loses_nothing_and_sessions_go_on() {
    let mut cell = Cell::start().await;
    let names: Vec<_> = (0..6).map(|n| stream(format!("s/{n}"))).collect();
    for name in &names {
        cell.create(0, name).await;
        cell.append(0, name, "before").await.unwrap();
    }
    // Sessions through a node that stays, while each of the others stops and comes back.
    let frontend = cell.node(2).clone();
    let basin = cell.basin.clone();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writers: Vec<_> = names
        .iter()
        .cloned()
        .map(|name| {
            let (frontend, basin, stopped) = (frontend.clone(), basin.clone(), stopped.clone());
            tokio::spawn(async move {
                let session = frontend.append_session(&basin, &name).await.unwrap();
                let mut sent = 0u64;
                while !*stopped.borrow() {
                    let mut acks = Vec::new();
                    for _ in 0..5 {
                        acks.push(session.submit(batch(&sent.to_string())).await.unwrap());
                        sent += 1;
                    }
                    for ack in acks {
                        ack.wait().await.expect("the session goes on");
                    }
                }
                sent
            })
        })
        .collect();
    for node in 0..2 {
        cell.stop(node).await;
        for name in &names {
            cell.append(2, name, "meanwhile").await.unwrap();
        }
        cell.restart(node).await;
    }
    stop.send_replace(true);
    let sent: Vec<u64> = futures::stream::iter(writers)
        .then(|writer| async {
            tokio::time::timeout(PATIENCE, writer)
                .await
                .expect("the writer ends")
                .unwrap()
        })
        .collect()
        .await;
    for (name, sent) in names.iter().zip(sent) {
        let mut all = Vec::new();
        let tail = cell.node(0).check_tail(&cell.basin, name).await.unwrap().seq_num;
        while (all.len() as u64) < tail {
            let more = cell.bodies_from(1, name, all.len() as u64).await;
            assert!(!more.is_empty());
            all.extend(more);
        }
        let numbers: Vec<u64> = all.iter().filter_map(|body| body.parse().ok()).collect();
        assert!(
            numbers.iter().copied().eq(0..sent),
            "{name}: {} of {sent} inputs, in this order: {numbers:?}",
            numbers.len()
        );
        assert_eq!(all.len() as u64, sent + 3, "{name}");
    }
    cell.stop_all().await;
}
