//! `AccountService`

use millrace_api::grpc::*;
use tonic::Code;

use crate::support::{Api, expect_code, unique};

#[tokio::test]
async fn a_basin_is_created_once_and_again_by_the_same_request() {
    let mut api = Api::new().await;
    let basin = unique("basin");
    let create = CreateBasinRequest {
        basin: basin.clone(),
        request_token: Some("token".into()),
        ..Default::default()
    };
    let made = api
        .account
        .create_basin(create.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(made.outcome(), Outcome::Created);
    let info = made.basin.unwrap();
    assert_eq!((info.name.as_str(), info.deleted_at_ms), (&basin[..], None));
    assert!(info.created_at_ms > 1_700_000_000_000);
    let again = api
        .account
        .create_basin(create.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.outcome(), Outcome::Noop);
    let other = CreateBasinRequest {
        request_token: None,
        ..create
    };
    let taken = api.account.create_basin(other).await;
    expect_code(taken, Code::AlreadyExists, "resource_already_exists");
}

#[tokio::test]
async fn a_basin_is_ensured_configured_and_changed() {
    let mut api = Api::new().await;
    let basin = unique("basin");
    let ensure = |config| EnsureBasinRequest {
        basin: basin.clone(),
        config: Some(config),
        location: None,
    };
    let config = BasinConfig {
        create_stream_on_append: true,
        default_stream_config: Some(StreamConfig {
            retention: Some(stream_config::Retention::RetentionAgeSecs(60)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let outcome = |reply: tonic::Response<EnsureBasinResponse>| reply.get_ref().outcome();
    let made = api.account.ensure_basin(ensure(config)).await.unwrap();
    assert_eq!(outcome(made), Outcome::Created);
    let same = api.account.ensure_basin(ensure(config)).await.unwrap();
    assert_eq!(outcome(same), Outcome::Noop);
    let replaced = ensure(BasinConfig::default());
    let replaced = api.account.ensure_basin(replaced).await.unwrap();
    assert_eq!(outcome(replaced), Outcome::Updated);
    api.account.ensure_basin(ensure(config)).await.unwrap();

    let get = GetBasinConfigRequest { basin: basin.clone() };
    let got = api
        .account
        .get_basin_config(get.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(got.config, Some(config));

    let change = BasinReconfiguration {
        default_stream_config: Some(StreamReconfiguration {
            set: None,
            clear: vec![StreamConfigField::Retention.into()],
        }),
        create_stream_on_read: Some(true),
        ..Default::default()
    };
    let request = ReconfigureBasinRequest {
        basin: basin.clone(),
        change: Some(change),
    };
    let changed = api.account.reconfigure_basin(request).await.unwrap().into_inner();
    let expected = BasinConfig {
        create_stream_on_append: true,
        create_stream_on_read: true,
        default_stream_config: Some(StreamConfig::default()),
        ..Default::default()
    };
    assert_eq!(changed.config, Some(expected));
}

#[tokio::test]
async fn basins_are_listed_in_pages_and_deleted() {
    let mut api = Api::new().await;
    let prefix = unique("list");
    for n in 0..3 {
        let create = CreateBasinRequest {
            basin: format!("{prefix}-{n}"),
            ..Default::default()
        };
        api.account.create_basin(create).await.unwrap();
    }
    let list = |start_after: String, limit| ListBasinsRequest {
        prefix: prefix.clone(),
        start_after,
        limit,
    };
    let page = api
        .account
        .list_basins(list(String::new(), 2))
        .await
        .unwrap()
        .into_inner();
    let names: Vec<_> = page.basins.iter().map(|basin| basin.name.as_str()).collect();
    assert_eq!(names, [format!("{prefix}-0"), format!("{prefix}-1")]);
    assert!(page.has_more);
    let rest = list(format!("{prefix}-1"), 0);
    let rest = api.account.list_basins(rest).await.unwrap().into_inner();
    assert_eq!((rest.basins.len(), rest.has_more), (1, false));
    let impossible = ListBasinsRequest {
        prefix: "UPPER".into(),
        ..Default::default()
    };
    expect_code(
        api.account.list_basins(impossible).await,
        Code::InvalidArgument,
        "invalid",
    );

    let delete = DeleteBasinRequest {
        basin: format!("{prefix}-0"),
    };
    api.account.delete_basin(delete.clone()).await.unwrap();
    let page = api
        .account
        .list_basins(list(String::new(), 1))
        .await
        .unwrap()
        .into_inner();
    if let Some(basin) = page.basins.iter().find(|basin| basin.name == delete.basin) {
        assert!(basin.deleted_at_ms.is_some());
    }
}

#[tokio::test]
async fn access_tokens_are_not_implemented() {
    let mut api = Api::new().await;
    let issued = api.account.issue_access_token(IssueAccessTokenRequest {}).await;
    expect_code(issued, Code::Unimplemented, "not_implemented");
    let listed = api.account.list_access_tokens(ListAccessTokensRequest {}).await;
    expect_code(listed, Code::Unimplemented, "not_implemented");
    let revoked = api.account.revoke_access_token(RevokeAccessTokenRequest {}).await;
    expect_code(revoked, Code::Unimplemented, "not_implemented");
}
