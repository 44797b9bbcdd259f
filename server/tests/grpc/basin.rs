//! `BasinService`

use millrace_api::grpc::*;
use tonic::Code;

use crate::support::{Api, expect_code, unique};

#[tokio::test]
async fn a_stream_is_created_ensured_configured_changed_and_deleted() {
    let mut api = Api::new().await;
    let (basin, stream) = (api.basin.clone(), unique("stream"));
    let config = StreamConfig {
        storage_class: Some(StorageClass::Standard.into()),
        retention: Some(stream_config::Retention::RetentionInfinite(true)),
        timestamping_mode: Some(TimestampingMode::Arrival.into()),
        timestamping_uncapped: Some(true),
        delete_on_empty_min_age_secs: Some(9),
    };
    let create = CreateStreamRequest {
        basin: basin.clone(),
        stream: stream.clone(),
        config: Some(config),
        request_token: None,
    };
    let made = api
        .streams
        .create_stream(create.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(made.outcome(), Outcome::Created);
    assert_eq!(made.stream.unwrap().name, stream);
    let taken = api.streams.create_stream(create).await;
    expect_code(taken, Code::AlreadyExists, "resource_already_exists");

    let get = GetStreamConfigRequest {
        basin: basin.clone(),
        stream: stream.clone(),
    };
    let got = api
        .streams
        .get_stream_config(get.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(got.config, Some(config));

    let ensure = EnsureStreamRequest {
        basin: basin.clone(),
        stream: stream.clone(),
        config: Some(config),
    };
    let same = api.streams.ensure_stream(ensure).await.unwrap().into_inner();
    assert_eq!(same.outcome(), Outcome::Noop);

    let change = StreamReconfiguration {
        set: Some(StreamConfig {
            timestamping_mode: Some(TimestampingMode::ClientPrefer.into()),
            ..Default::default()
        }),
        clear: vec![StreamConfigField::DeleteOnEmpty.into()],
    };
    let reconfigure = |change| ReconfigureStreamRequest {
        basin: basin.clone(),
        stream: stream.clone(),
        change: Some(change),
    };
    let changed = api.streams.reconfigure_stream(reconfigure(change)).await.unwrap();
    let expected = StreamConfig {
        timestamping_mode: Some(TimestampingMode::ClientPrefer.into()),
        delete_on_empty_min_age_secs: Some(0),
        ..config
    };
    assert_eq!(changed.into_inner().config, Some(expected));
    let contradiction = StreamReconfiguration {
        set: Some(config),
        clear: vec![StreamConfigField::Retention.into()],
    };
    let refused = api.streams.reconfigure_stream(reconfigure(contradiction)).await;
    expect_code(refused, Code::InvalidArgument, "invalid");

    let delete = DeleteStreamRequest {
        basin: basin.clone(),
        stream: stream.clone(),
    };
    api.streams.delete_stream(delete).await.unwrap();
    let gone = api.streams.get_stream_config(get).await;
    let detail = crate::support::detail(&gone.unwrap_err(), Code::FailedPrecondition);
    assert_eq!(detail.code, "stream_deletion_pending");
}

#[tokio::test]
async fn streams_are_listed_in_pages() {
    let mut api = Api::new().await;
    for name in ["a/1", "a/2", "b/1"] {
        let create = CreateStreamRequest {
            basin: api.basin.clone(),
            stream: name.into(),
            ..Default::default()
        };
        api.streams.create_stream(create).await.unwrap();
    }
    let list = ListStreamsRequest {
        basin: api.basin.clone(),
        prefix: "a/".into(),
        start_after: String::new(),
        limit: 1,
    };
    let page = api.streams.list_streams(list.clone()).await.unwrap().into_inner();
    assert_eq!((page.streams.len(), page.has_more), (1, true));
    assert_eq!(page.streams[0].name, "a/1");
    let rest = ListStreamsRequest {
        start_after: "a/1".into(),
        limit: u32::MAX,
        ..list
    };
    let page = api.streams.list_streams(rest).await.unwrap().into_inner();
    assert_eq!((page.streams.len(), page.has_more), (1, false));
    assert_eq!(page.streams[0].name, "a/2");
}

#[tokio::test]
async fn what_no_stream_may_be_is_refused() {
    let mut api = Api::new().await;
    let create = |stream: &str, config| CreateStreamRequest {
        basin: api.basin.clone(),
        stream: stream.into(),
        config: Some(config),
        request_token: None,
    };
    let age_0 = StreamConfig {
        retention: Some(stream_config::Retention::RetentionAgeSecs(0)),
        ..Default::default()
    };
    let no_class = StreamConfig {
        storage_class: Some(77),
        ..Default::default()
    };
    for request in [
        create("", StreamConfig::default()),
        create("..", StreamConfig::default()),
        create(&"x".repeat(513), StreamConfig::default()),
        create("s", age_0),
        create("s", no_class),
    ] {
        let refused = api.streams.create_stream(request).await;
        expect_code(refused, Code::InvalidArgument, "invalid");
    }
}
