//! Channels that exist are served, whatever number of them is asked for.

use crate::fixture::{Running, stream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_dropped_channel_are_served_and_appended_to() {
    // Enough that some are on every channel.
    let names: Vec<_> = (0..32).map(|number| stream(format!("s/{number}"))).collect();
    let dir = tempfile::tempdir().unwrap();
    // Down, and up beyond what there was.
    for (life, channels) in [4, 1, 6].into_iter().enumerate() {
        let node = Running::start(dir.path(), |settings| settings.channels = Some(channels)).await;
        for name in &names {
            if life == 0 {
                node.create(name).await.unwrap();
            } else {
                assert_eq!(node.count(name).await, life, "{name} with {channels} channels");
            }
            let ack = node.append(name, &[b"x"]).await;
            let ack = ack.unwrap_or_else(|error| panic!("{name} with {channels} channels: {error}"));
            assert_eq!(ack.start.seq_num, life as u64);
        }
        let fresh = stream(format!("fresh/{life}"));
        node.create(&fresh).await.unwrap();
        node.append(&fresh, &[b"x"]).await.unwrap();
        let deleted = node.frontend.delete_stream(&node.basin, &fresh);
        deleted.await.expect("deletions reach every channel");
        node.stop().await;
    }
}
