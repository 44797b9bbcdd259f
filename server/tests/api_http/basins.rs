//! Behaviours 1 and 16 to 32.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, Reply, unique};

async fn create(api: &Api, token: Option<&str>, body: Value) -> Reply {
    let request = api.request(Method::POST, "/basins").json(&body);
    match token {
        Some(token) => Reply::of(request.header("s2-request-token", token)).await,
        None => Reply::of(request).await,
    }
}

fn retention(secs: u64) -> Value {
    json!({"default_stream_config": {"retention_policy": {"age": secs}}})
}

#[tokio::test]
async fn api_001_basin_names_are_bounded() {
    let api = Api::without_basin();
    for name in [
        "short-7",
        &"x".repeat(49),
        "Uppercase-name",
        "-leading-hyphen",
        "trailing-hyphen-",
    ] {
        create(&api, None, json!({"basin": name}))
            .await
            .expect_error(400, "bad_json");
        api.get(&format!("/basins/{name}"))
            .await
            .expect_error(400, "bad_path");
    }
    let id = unique("").trim_start_matches('-').to_owned();
    for name in [id.clone(), format!("{id}{}", "x".repeat(48 - id.len()))] {
        create(&api, None, json!({"basin": name})).await.expect(201);
    }
}

#[tokio::test]
async fn api_016_create_answers_what_was_created() {
    let api = Api::without_basin();
    let reply = create(&api, None, json!({"basin": api.basin})).await.expect(201);
    assert_eq!(reply.header("s2-provision-result"), Some("created"));
    let info = reply.json();
    assert_eq!(info["name"], api.basin.as_str());
    assert_eq!(info["deleted_at"], Value::Null);
    assert_eq!(info["state"], "active");
    let created_at = info["created_at"].as_str().unwrap();
    assert!(
        created_at.starts_with("20") && created_at.ends_with('Z'),
        "{created_at}"
    );
}

#[tokio::test]
async fn api_017_a_replay_is_recognised_by_token_and_config() {
    let api = Api::without_basin();
    let body = json!({"basin": api.basin, "config": retention(100)});
    let first = create(&api, Some("token"), body.clone()).await.expect(201);
    let replay = create(&api, Some("token"), body.clone()).await.expect(201);
    assert_eq!(replay.header("s2-provision-result"), Some("noop"));
    assert_eq!(replay.json(), first.json());
    let other_config = json!({"basin": api.basin, "config": retention(101)});
    let taken = (409, "resource_already_exists");
    create(&api, Some("token"), other_config)
        .await
        .expect_error(taken.0, taken.1);
    create(&api, Some("other"), body.clone())
        .await
        .expect_error(taken.0, taken.1);
    create(&api, None, body).await.expect_error(taken.0, taken.1);
}

#[tokio::test]
async fn api_018_put_does_not_break_a_replay() {
    let api = Api::without_basin();
    let body = json!({"basin": api.basin});
    create(&api, Some("token"), body.clone()).await.expect(201);
    api.put(&format!("/basins/{}", api.basin), json!({"config": retention(5)}))
        .await
        .expect(200);
    let replay = create(&api, Some("token"), body).await.expect(201);
    assert_eq!(replay.header("s2-provision-result"), Some("noop"));
}

#[tokio::test]
async fn api_019_020_put_creates_updates_or_leaves_alone() {
    let api = Api::without_basin();
    let path = format!("/basins/{}", api.basin);
    let config = json!({"config": {"create_stream_on_append": true, "default_stream_config": {"storage_class": "standard"}}});
    for (body, status, result) in [
        (config.clone(), 201, "created"),
        (config.clone(), 200, "noop"),
        (json!({"config": retention(9)}), 200, "updated"),
    ] {
        let reply = api.put(&path, body).await.expect(status);
        assert_eq!(reply.header("s2-provision-result"), Some(result));
        assert_eq!(reply.json()["name"], api.basin.as_str());
    }
    let now = api.get(&path).await.expect(200).json();
    assert_eq!(now["create_stream_on_append"], false);
    assert_eq!(now["default_stream_config"]["retention_policy"]["age"], 9);
    assert_eq!(now["default_stream_config"]["storage_class"], Value::Null);
}

#[tokio::test]
async fn api_007_put_without_config_is_accepted_in_every_form() {
    let api = Api::without_basin();
    let path = format!("/basins/{}", api.basin);
    Reply::of(api.request(Method::PUT, &path)).await.expect(201);
    for body in ["", " ", "null", "{}"] {
        let request = api
            .request(Method::PUT, &path)
            .header("content-type", "application/json")
            .body(body);
        let reply = Reply::of(request).await.expect(200);
        assert_eq!(reply.header("s2-provision-result"), Some("noop"), "{body:?}");
    }
    let request = api
        .request(Method::PUT, &path)
        .body("{\"config\":{\"create_stream_on_read\":true}}");
    Reply::of(request).await.expect(200);
    let config = api.get(&path).await.json();
    assert_eq!(
        config["create_stream_on_read"], true,
        "a body without a type still counts"
    );
}

#[tokio::test]
async fn api_021_min_age_zero_equals_unset_on_put() {
    let api = Api::without_basin();
    let path = format!("/basins/{}", api.basin);
    api.put(&path, json!({})).await.expect(201);
    let zero = json!({"config": {"default_stream_config": {"delete_on_empty": {"min_age_secs": 0}}}});
    let reply = api.put(&path, zero).await.expect(200);
    assert_eq!(reply.header("s2-provision-result"), Some("noop"));
}

#[tokio::test]
async fn api_022_023_patch_keeps_clears_and_sets() {
    let api = Api::with_config(json!({
        "create_stream_on_read": true,
        "default_stream_config": {
            "retention_policy": {"age": 60},
            "timestamping": {"mode": "arrival", "uncapped": true},
        },
    }))
    .await;
    let path = format!("/basins/{}", api.basin);
    let change =
        json!({"default_stream_config": {"timestamping": {"mode": null}, "storage_class": "standard"}});
    let patched = api.patch(&path, change).await.expect(200).json();
    let defaults = &patched["default_stream_config"];
    assert_eq!(defaults["retention_policy"]["age"], 60);
    assert_eq!(defaults["timestamping"]["mode"], Value::Null);
    assert_eq!(defaults["timestamping"]["uncapped"], true);
    assert_eq!(defaults["storage_class"], "standard");
    assert_eq!(patched["create_stream_on_read"], true);
    assert_eq!(api.get(&path).await.json(), patched);
    api.patch(&path, json!({"create_stream_on_append": null}))
        .await
        .expect_error(400, "bad_json");
}

#[tokio::test]
async fn api_024_config_round_trips() {
    let config = json!({
        "default_stream_config": {
            "storage_class": "standard",
            "retention_policy": {"infinite": {}},
            "timestamping": {"mode": "client-require", "uncapped": true},
            "delete_on_empty": {"min_age_secs": 7},
        },
        "create_stream_on_append": true,
        "create_stream_on_read": true,
    });
    let api = Api::with_config(config.clone()).await;
    let got = api
        .get(&format!("/basins/{}", api.basin))
        .await
        .expect(200)
        .json();
    for (name, value) in config.as_object().unwrap() {
        assert_eq!(&got[name], value, "{name}");
    }
}

#[tokio::test]
async fn api_025_unknown_basins_are_not_found() {
    let api = Api::without_basin();
    let path = format!("/basins/{}", api.basin);
    api.get(&path).await.expect_error(404, "basin_not_found");
    api.patch(&path, json!({}))
        .await
        .expect_error(404, "basin_not_found");
    api.delete(&path).await.expect_error(404, "basin_not_found");
}

#[tokio::test]
async fn api_026_047_a_deleting_basin_takes_nothing_new() {
    let api = Api::new().await;
    // Streams keep the basin from being gone at once.
    for _ in 0..3 {
        api.stream().await;
    }
    let path = format!("/basins/{}", api.basin);
    let deleted = api.delete(&path).await.expect(202);
    assert!(deleted.body.is_empty());
    let pending = (409, "basin_deletion_pending");
    create(&api, None, json!({"basin": api.basin}))
        .await
        .expect_error(pending.0, pending.1);
    api.put(&path, json!({})).await.expect_error(pending.0, pending.1);
    api.patch(&path, json!({}))
        .await
        .expect_error(pending.0, pending.1);
    api.post("/streams", json!({"stream": "s"}))
        .await
        .expect_error(pending.0, pending.1);
    api.delete(&path).await.expect(202);
}

#[tokio::test]
async fn api_028_029_030_lists_page_in_order() {
    let api = Api::without_basin();
    let prefix = unique("list");
    for name in ["a", "b", "c", "d"] {
        create(&api, None, json!({"basin": format!("{prefix}-{name}")}))
            .await
            .expect(201);
    }
    let list = async |query: &str| {
        let page = api
            .get(&format!("/basins?prefix={prefix}{query}"))
            .await
            .expect(200)
            .json();
        let names: String = page["basins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|basin| {
                basin["name"]
                    .as_str()
                    .unwrap()
                    .rsplit('-')
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        (names, page["has_more"].as_bool().unwrap())
    };
    assert_eq!(list("").await, ("abcd".into(), false));
    assert_eq!(list("&limit=0").await, ("abcd".into(), false));
    assert_eq!(list("&limit=5000").await, ("abcd".into(), false));
    assert_eq!(list("&limit=2").await, ("ab".into(), true));
    assert_eq!(
        list(&format!("-&limit=2&start_after={prefix}-b")).await,
        ("cd".into(), false)
    );
    assert_eq!(list("&start_after=a").await, ("abcd".into(), false));
    assert_eq!(
        list(&format!("&start_after={prefix}-d")).await,
        (String::new(), false)
    );
    api.get("/basins?limit=-1").await.expect_error(400, "bad_query");
    api.get("/basins?prefix=UPPER")
        .await
        .expect_error(400, "bad_query");
}

#[tokio::test]
async fn api_031_retention_of_zero_is_invalid() {
    let api = Api::new().await;
    let path = format!("/basins/{}", api.basin);
    let other = json!({"basin": unique("basin"), "config": retention(0)});
    create(&api, None, other).await.expect_error(422, "invalid");
    api.put(&path, json!({"config": retention(0)}))
        .await
        .expect_error(422, "invalid");
    api.patch(&path, retention(0)).await.expect_error(422, "invalid");
}

#[tokio::test]
async fn encryption_that_is_not_there_is_refused_rather_than_ignored() {
    let api = Api::without_basin();
    let cipher = json!({"stream_cipher": "aegis-256"});
    create(&api, None, json!({"basin": api.basin, "config": cipher}))
        .await
        .expect_error(501, "not_implemented");
    let path = format!("/basins/{}", api.basin);
    api.put(&path, json!({"config": cipher}))
        .await
        .expect_error(501, "not_implemented");
    create(&api, None, json!({"basin": api.basin})).await.expect(201);
    api.patch(&path, cipher)
        .await
        .expect_error(501, "not_implemented");
}

#[tokio::test]
async fn api_032_the_location_of_a_basin_is_fixed() {
    let api = Api::without_basin();
    let path = format!("/basins/{}", api.basin);
    let created = api
        .put(&path, json!({"location": "here"}))
        .await
        .expect(201)
        .json();
    assert_eq!(created["location"], "here");
    api.put(&path, json!({"location": "here"})).await.expect(200);
    api.put(&path, json!({"location": "there"}))
        .await
        .expect_error(422, "invalid");
    api.put(&path, json!({"config": {"create_stream_on_append": true}}))
        .await
        .expect(200);
    let listed = api.get(&format!("/basins?prefix={}", api.basin)).await.json();
    assert_eq!(listed["basins"][0]["location"], "here", "{listed}");
}

#[tokio::test]
async fn api_027_a_basin_made_anew_has_nothing_of_the_old() {
    let api = Api::with_config(json!({"create_stream_on_append": true})).await;
    for n in 0..5 {
        api.append(&format!("/streams/s{n}/records"), &["old"]).await;
    }
    let path = format!("/basins/{}", api.basin);
    api.delete(&path).await.expect(202);
    let gone = async {
        while api.get(&path).await.status != 404 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, gone)
        .await
        .expect("the name is free again");
    api.get("/streams").await.expect_error(404, "basin_not_found");
    api.post("/basins", json!({"basin": api.basin})).await.expect(201);
    let streams = api.get("/streams").await.expect(200).json();
    assert_eq!(streams, json!({"streams": [], "has_more": false}));
    api.get("/streams/s0/records/tail")
        .await
        .expect_error(404, "stream_not_found");
    let config = api.get(&path).await.json();
    assert_eq!(config["create_stream_on_append"], false, "{config}");
}
