//! Streams: their making, their configuration, their end.

use std::time::Duration;

use futures::TryStreamExt;
use s2_sdk::types::{
    BasinConfig, CommandRecord, CreateStreamInput, DeleteOnEmptyConfig, DeleteStreamInput, EnsureOutput,
    EnsureStreamInput, ListAllStreamsInput, ListStreamsInput, ReconfigureStreamInput, RetentionPolicy,
    StreamConfig, StreamPosition, StreamReconfiguration, TimestampingConfig, TimestampingMode,
    TimestampingReconfiguration,
};

use crate::fixture::{Refused, append, basin, batch, from_seq, input, read, soon, stream_name};

#[tokio::test]
async fn config_is_resolved_told_and_changed() {
    let defaults = StreamConfig::new().with_retention_policy(RetentionPolicy::Age(60));
    let basin = basin(BasinConfig::new().with_default_stream_config(defaults)).await;
    let name = stream_name();
    let timestamping = TimestampingConfig::new()
        .with_mode(TimestampingMode::ClientRequire)
        .with_uncapped(true);
    let own = StreamConfig::new()
        .with_timestamping(timestamping)
        .with_delete_on_empty(DeleteOnEmptyConfig::new().with_min_age(Duration::from_secs(90)));
    basin
        .create_stream(CreateStreamInput::new(name.clone()).with_config(own))
        .await
        .unwrap();
    let config = basin.get_stream_config(name.clone()).await.unwrap();
    let mode = |config: &StreamConfig| {
        config
            .timestamping
            .as_ref()
            .and_then(|timestamping| timestamping.mode)
    };
    assert_eq!(
        config.retention_policy,
        Some(RetentionPolicy::Age(60)),
        "the basin's default"
    );
    assert_eq!(mode(&config), Some(TimestampingMode::ClientRequire));
    assert_eq!(
        config.delete_on_empty.as_ref().map(|config| config.min_age_secs),
        Some(90)
    );

    let change = StreamReconfiguration::new()
        .with_retention_policy(RetentionPolicy::Infinite)
        .with_timestamping(TimestampingReconfiguration::new().with_mode(TimestampingMode::Arrival));
    let changed = basin
        .reconfigure_stream(ReconfigureStreamInput::new(name.clone(), change))
        .await
        .unwrap();
    assert_eq!(changed.retention_policy, Some(RetentionPolicy::Infinite));
    assert_eq!(mode(&changed), Some(TimestampingMode::Arrival));
    assert_eq!(
        changed
            .timestamping
            .and_then(|timestamping| timestamping.uncapped),
        Some(true),
        "not named"
    );
    let ack = append(&basin.stream(name), &["needs no timestamp any more"]).await;
    assert_eq!(ack.end.seq_num, 1);
}

#[tokio::test]
async fn ensure_tells_created_updated_and_unchanged_apart() {
    let (basin, name) = (basin(BasinConfig::new()).await, stream_name());
    let plain = EnsureStreamInput::new(name.clone());
    let kept = StreamConfig::new().with_retention_policy(RetentionPolicy::Infinite);
    let created = basin.ensure_stream(plain.clone()).await.unwrap();
    assert!(matches!(created, EnsureOutput::Created(info) if info.name == name));
    let same = basin.ensure_stream(plain.clone()).await.unwrap();
    assert!(matches!(same, EnsureOutput::ConfigUnchanged(_)), "{same:?}");
    let updated = basin.ensure_stream(plain.with_config(kept)).await.unwrap();
    assert!(matches!(updated, EnsureOutput::ConfigUpdated(_)), "{updated:?}");
    let config = basin.get_stream_config(name.clone()).await.unwrap();
    assert_eq!(config.retention_policy, Some(RetentionPolicy::Infinite));
    let duplicate = basin.create_stream(CreateStreamInput::new(name)).await;
    assert_eq!(duplicate.unwrap_err().refusal(), (409, "resource_already_exists"));
}

#[tokio::test]
async fn lists_page_in_order_of_bytes() {
    let basin = basin(BasinConfig::new()).await;
    let names = ["a", "b/1", "b/10", "b/2", "c d%", "ü"];
    for name in names.iter().rev() {
        basin
            .create_stream(CreateStreamInput::new(name.parse().unwrap()))
            .await
            .unwrap();
    }
    let all = basin.list_all_streams(ListAllStreamsInput::new());
    let all: Vec<_> = all
        .map_ok(|info| info.name.to_string())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(all, names);
    let input = ListStreamsInput::new()
        .with_prefix("b/".parse().unwrap())
        .with_start_after("b/1".parse().unwrap())
        .with_limit(1);
    let page = basin.list_streams(input).await.unwrap();
    assert_eq!(
        (page.values[0].name.as_ref(), page.values.len(), page.has_more),
        ("b/10", 1, true)
    );
}

#[tokio::test]
async fn api_051_a_stream_made_anew_starts_at_zero_with_nothing_of_the_old() {
    let (basin, name) = (basin(BasinConfig::new()).await, stream_name());
    basin
        .create_stream(CreateStreamInput::new(name.clone()))
        .await
        .unwrap();
    let stream = basin.stream(name.clone());
    append(&stream, &["old", "older"]).await;
    let fence = CommandRecord::fence("mine".parse().unwrap());
    stream
        .append(batch([fence, CommandRecord::trim(2)]))
        .await
        .unwrap();
    basin
        .delete_stream(DeleteStreamInput::new(name.clone()))
        .await
        .unwrap();
    let pending = stream.append(input(&["late"])).await.unwrap_err();
    assert_eq!(pending.refusal(), (409, "stream_deletion_pending"));
    assert!(pending.has_no_side_effects());

    soon(async {
        while let Err(error) = basin.create_stream(CreateStreamInput::new(name.clone())).await {
            assert_eq!(error.refusal(), (409, "stream_deletion_pending"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(stream.check_tail().await.unwrap(), StreamPosition::new(0, 0));
    let unfenced = input(&["new"])
        .with_match_seq_num(0)
        .with_fencing_token("".parse().unwrap());
    assert_eq!(stream.append(unfenced).await.unwrap().start.seq_num, 0);
    assert_eq!(read(&stream, from_seq(0)).await, ["new"]);
}

#[tokio::test]
async fn deleting_what_is_not_there_is_told_or_ignored() {
    let (basin, name) = (basin(BasinConfig::new()).await, stream_name());
    let missing = basin.delete_stream(DeleteStreamInput::new(name.clone())).await;
    assert_eq!(missing.unwrap_err().refusal(), (404, "stream_not_found"));
    basin
        .delete_stream(DeleteStreamInput::new(name).with_ignore_not_found(true))
        .await
        .unwrap();
}

#[tokio::test]
async fn streams_come_into_being_where_the_basin_says_so() {
    let config = BasinConfig::new()
        .with_create_stream_on_append(true)
        .with_create_stream_on_read(true);
    let open = basin(config).await;
    assert_eq!(
        append(&open.stream(stream_name()), &["first"])
            .await
            .start
            .seq_num,
        0
    );
    assert_eq!(open.stream(stream_name()).check_tail().await.unwrap().seq_num, 0);
    let session = open.stream(stream_name()).append_session(Default::default());
    let ticket = session.submit(input(&["in a session"])).await.unwrap();
    assert_eq!(soon(ticket).await.unwrap().start.seq_num, 0);
    session.close().await.unwrap();
    let mut follower = open
        .stream(stream_name())
        .read_session(from_seq(0), Default::default())
        .await
        .unwrap();
    let caught_up = follower.caught_up();
    let tail = tokio::select! {
        tail = soon(caught_up) => tail.unwrap(),
        batch = futures::StreamExt::next(&mut follower) => panic!("nothing was appended: {batch:?}"),
    };
    assert_eq!(tail, StreamPosition::new(0, 0));
    assert_eq!(
        open.list_streams(Default::default()).await.unwrap().values.len(),
        4
    );

    let closed = basin(BasinConfig::new()).await;
    let appended = closed.stream(stream_name()).append(input(&["x"])).await;
    assert_eq!(appended.unwrap_err().refusal(), (404, "stream_not_found"));
    let tail = closed.stream(stream_name()).check_tail().await;
    assert_eq!(tail.unwrap_err().refusal(), (404, "stream_not_found"));
}

#[tokio::test]
async fn api_081_first_appends_at_the_same_time_make_one_stream() {
    let basin = basin(BasinConfig::new().with_create_stream_on_append(true)).await;
    let stream = basin.stream(stream_name());
    let appends = (0..20).map(|_| append(&stream, &["x"]));
    let mut starts: Vec<_> = futures::future::join_all(appends)
        .await
        .iter()
        .map(|ack| ack.start.seq_num)
        .collect();
    starts.sort_unstable();
    assert_eq!(starts, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stream_that_comes_into_being_has_the_config_that_the_append_asked_for() {
    let basin = basin(BasinConfig::new().with_create_stream_on_append(true)).await;
    let name = stream_name();
    let config = StreamConfig::new().with_retention_policy(RetentionPolicy::Age(77));
    let input = input(&["x"]).with_stream_config(config);
    basin.stream(name.clone()).append(input).await.unwrap();
    let config = basin.get_stream_config(name).await.unwrap();
    assert_eq!(config.retention_policy, Some(RetentionPolicy::Age(77)));
}
