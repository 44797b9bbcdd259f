//! Basins.

use futures::TryStreamExt;
use s2_sdk::types::{
    BasinConfig, BasinReconfiguration, CreateBasinInput, CreateStreamInput, DeleteBasinInput,
    EnsureBasinInput, EnsureOutput, ListAllBasinsInput, ListBasinsInput, ReconfigureBasinInput,
    RetentionPolicy, StreamConfig, StreamReconfiguration,
};

use crate::fixture::{Refused, basin_name, client, soon, stream_name};

fn retention_of(config: &BasinConfig) -> Option<RetentionPolicy> {
    config.default_stream_config.as_ref()?.retention_policy
}

#[tokio::test]
async fn a_basin_is_created_once_and_told_in_full() {
    let (s2, name) = (client(), basin_name());
    let info = s2
        .create_basin(CreateBasinInput::new(name.clone()))
        .await
        .unwrap();
    assert_eq!((info.name, info.deleted_at), (name.clone(), None));
    let again = s2.create_basin(CreateBasinInput::new(name.clone())).await;
    assert_eq!(again.unwrap_err().refusal(), (409, "resource_already_exists"));
    let missing = s2.get_basin_config(basin_name()).await;
    assert_eq!(missing.unwrap_err().refusal(), (404, "basin_not_found"));
}

#[tokio::test]
async fn ensure_tells_created_updated_and_unchanged_apart() {
    let (s2, name) = (client(), basin_name());
    let plain = EnsureBasinInput::new(name.clone());
    let open = plain
        .clone()
        .with_config(BasinConfig::new().with_create_stream_on_append(true));
    let created = s2.ensure_basin(open.clone()).await.unwrap();
    assert!(matches!(created, EnsureOutput::Created(info) if info.name == name));
    let same = s2.ensure_basin(open).await.unwrap();
    assert!(matches!(same, EnsureOutput::ConfigUnchanged(_)), "{same:?}");
    let replaced = s2.ensure_basin(plain).await.unwrap();
    assert!(matches!(replaced, EnsureOutput::ConfigUpdated(_)), "{replaced:?}");
    let config = s2.get_basin_config(name).await.unwrap();
    assert!(!config.create_stream_on_append);
}

#[tokio::test]
async fn reconfigure_changes_what_it_names() {
    let (s2, name) = (client(), basin_name());
    let streams = StreamConfig::new()
        .with_retention_policy(RetentionPolicy::Age(3600))
        .with_storage_class("standard");
    let config = BasinConfig::new()
        .with_default_stream_config(streams)
        .with_create_stream_on_read(true);
    s2.create_basin(CreateBasinInput::new(name.clone()).with_config(config))
        .await
        .unwrap();
    let before = s2.get_basin_config(name.clone()).await.unwrap();
    assert_eq!(retention_of(&before), Some(RetentionPolicy::Age(3600)));
    assert!(before.create_stream_on_read && !before.create_stream_on_append);

    let defaults = StreamReconfiguration::new().with_retention_policy(RetentionPolicy::Infinite);
    let change = BasinReconfiguration::new()
        .with_default_stream_config(defaults)
        .with_create_stream_on_append(true);
    let after = s2
        .reconfigure_basin(ReconfigureBasinInput::new(name.clone(), change))
        .await
        .unwrap();
    assert_eq!(retention_of(&after), Some(RetentionPolicy::Infinite));
    assert!(after.create_stream_on_read && after.create_stream_on_append);
    let stored = s2.get_basin_config(name).await.unwrap();
    assert_eq!(retention_of(&stored), Some(RetentionPolicy::Infinite));
    assert_eq!(
        stored.default_stream_config.unwrap().storage_class.as_deref(),
        Some("standard")
    );
}

#[tokio::test]
async fn lists_page_and_go_on_by_themselves() {
    let s2 = client();
    let prefix = basin_name().to_string();
    let names: Vec<_> = (0..5).map(|n| format!("{prefix}-{n}")).collect();
    for name in &names {
        s2.create_basin(CreateBasinInput::new(name.parse().unwrap()))
            .await
            .unwrap();
    }
    let page = ListBasinsInput::new()
        .with_prefix(prefix.parse().unwrap())
        .with_start_after(names[0].parse().unwrap())
        .with_limit(2);
    let page = s2.list_basins(page).await.unwrap();
    assert!(page.has_more);
    let listed: Vec<_> = page.values.iter().map(|info| info.name.to_string()).collect();
    assert_eq!(listed, names[1..3]);
    let all = s2.list_all_basins(ListAllBasinsInput::new().with_prefix(prefix.parse().unwrap()));
    let all: Vec<_> = all
        .map_ok(|info| info.name.to_string())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(all, names);
}

#[tokio::test]
async fn api_027_a_deleted_basin_refuses_then_vanishes_and_can_be_made_anew() {
    let (s2, name) = (client(), basin_name());
    s2.create_basin(CreateBasinInput::new(name.clone()))
        .await
        .unwrap();
    let old = s2.basin(name.clone());
    old.create_stream(CreateStreamInput::new("kept/from/before".parse().unwrap()))
        .await
        .unwrap();
    s2.delete_basin(DeleteBasinInput::new(name.clone()))
        .await
        .unwrap();
    let pending = old.create_stream(CreateStreamInput::new(stream_name())).await;
    assert_eq!(pending.unwrap_err().refusal(), (409, "basin_deletion_pending"));
    soon(async {
        while s2.get_basin_config(name.clone()).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    let missing = s2.delete_basin(DeleteBasinInput::new(name.clone())).await;
    assert_eq!(missing.unwrap_err().refusal(), (404, "basin_not_found"));
    s2.delete_basin(DeleteBasinInput::new(name.clone()).with_ignore_not_found(true))
        .await
        .unwrap();
    s2.create_basin(CreateBasinInput::new(name.clone()))
        .await
        .unwrap();
    let streams = s2.basin(name).list_streams(Default::default()).await.unwrap();
    assert!(streams.values.is_empty(), "{streams:?}");
}
