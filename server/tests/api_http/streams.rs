//! Behaviours 2, 3 and 33 to 57.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, Reply, segment, unique};

#[tokio::test]
async fn api_002_stream_names_are_bounded() {
    let api = Api::new().await;
    for name in ["", ".", "..", &"x".repeat(513), &"é".repeat(257)] {
        api.post("/streams", json!({"stream": name}))
            .await
            .expect_error(400, "bad_json");
    }
    for path in [
        "/streams/%2E",
        "/streams/%2E%2E",
        "/streams/%FF",
        &format!("/streams/{}", "x".repeat(513)),
    ] {
        let url = format!("{}{path}", api.base);
        // An URL parser would take the dots away.
        let request = raw_get(&url, &api.basin).await;
        assert!(request.starts_with("HTTP/1.1 400"), "{path}: {request}");
        assert!(request.contains("bad_path"), "{path}: {request}");
    }
    for name in ["x", &"x".repeat(512), "..."] {
        api.post("/streams", json!({"stream": name})).await.expect(201);
    }
}

#[allow(clippy::disallowed_methods)] // The test is the client.
async fn raw_get(url: &str, basin: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\ns2-basin: {basin}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn api_003_any_name_round_trips_through_the_path() {
    let api = Api::new().await;
    for name in ["a/b", "with space", "100%", "%2F", "😀", "a?b#c&d=e+f", "é/../x"] {
        api.post("/streams", json!({"stream": name})).await.expect(201);
        let path = format!("/streams/{}", segment(name));
        api.get(&path).await.expect(200);
        api.patch(&path, json!({})).await.expect(200);
        let put = api.put(&path, json!({})).await.expect(200).json();
        assert_eq!(put["name"], name);
        let records = format!("{path}/records");
        api.append(&records, &[name]).await;
        assert_eq!(api.bodies(&format!("{records}?seq_num=0")).await, [name]);
        assert_eq!(
            api.get(&format!("{records}/tail")).await.json()["tail"]["seq_num"],
            1
        );
        let listed = api
            .get(&format!("/streams?prefix={}", segment(name)))
            .await
            .json();
        assert_eq!(listed["streams"][0]["name"], name);
        api.delete(&path).await.expect(202);
    }
}

#[tokio::test]
async fn api_033_config_is_resolved_over_basin_and_system() {
    let api = Api::with_config(json!({"default_stream_config": {
        "retention_policy": {"age": 60}, "timestamping": {"mode": "arrival"},
    }}))
    .await;
    api.post(
        "/streams",
        json!({"stream": "s", "config": {"timestamping": {"mode": "client-require"}}}),
    )
    .await
    .expect(201);
    let config = api.get("/streams/s").await.expect(200).json();
    assert_eq!(config["storage_class"], "express");
    assert_eq!(config["retention_policy"]["age"], 60);
    assert_eq!(config["timestamping"]["mode"], "client-require");
    assert_eq!(config["timestamping"]["uncapped"], false);
}

#[tokio::test]
async fn api_034_035_036_replays_are_recognised_after_any_later_change() {
    let api = Api::new().await;
    let create = async |token: Option<&str>, body: Value| {
        let request = api.request(Method::POST, "/streams").json(&body);
        match token {
            Some(token) => Reply::of(request.header("s2-request-token", token)).await,
            None => Reply::of(request).await,
        }
    };
    let body = json!({"stream": "s"});
    let first = create(Some("token"), body.clone()).await.expect(201);
    assert_eq!(first.header("s2-provision-result"), Some("created"));
    let basin = format!("/basins/{}", api.basin);
    api.patch(
        &basin,
        json!({"default_stream_config": {"retention_policy": {"age": 5}}}),
    )
    .await
    .expect(200);
    api.put("/streams/s", json!({"storage_class": "standard"}))
        .await
        .expect(200);
    let replay = create(Some("token"), body.clone()).await.expect(201);
    assert_eq!(replay.header("s2-provision-result"), Some("noop"));
    assert_eq!(replay.json()["created_at"], first.json()["created_at"]);
    let other_config = json!({"stream": "s", "config": {"storage_class": "express"}});
    create(Some("token"), other_config)
        .await
        .expect_error(409, "resource_already_exists");
    create(Some("other"), body.clone())
        .await
        .expect_error(409, "resource_already_exists");
    create(None, body.clone())
        .await
        .expect_error(409, "resource_already_exists");
    create(Some(&"x".repeat(37)), body)
        .await
        .expect_error(400, "bad_header");
}

#[tokio::test]
async fn api_037_038_put_compares_the_effective_config() {
    let api =
        Api::with_config(json!({"default_stream_config": {"delete_on_empty": {"min_age_secs": 9}}})).await;
    let result = async |body: Value| {
        let reply = api.put("/streams/s", body).await;
        (
            reply.status.as_u16(),
            reply.header("s2-provision-result").unwrap().to_owned(),
        )
    };
    assert_eq!(result(json!(null)).await, (201, "created".into()));
    assert_eq!(
        result(json!({"storage_class": "express"})).await,
        (200, "noop".into())
    );
    assert_eq!(
        result(json!({"delete_on_empty": {"min_age_secs": 0}})).await,
        (200, "updated".into())
    );
    assert_eq!(
        api.get("/streams/s").await.json()["delete_on_empty"]["min_age_secs"],
        0
    );
}

#[tokio::test]
async fn api_039_040_changes_reach_the_active_stream() {
    let api = Api::new().await;
    api.post("/streams", json!({"stream": "s"})).await.expect(201);
    api.append("/streams/s/records", &["before"]).await;
    api.put("/streams/s", json!({"timestamping": {"mode": "client-require"}}))
        .await
        .expect(200);
    let untimed = json!({"records": [{"body": "x"}]});
    api.post("/streams/s/records", untimed.clone())
        .await
        .expect_error(422, "invalid");
    api.patch("/streams/s", json!({"timestamping": {"mode": "arrival"}}))
        .await
        .expect(200);
    api.post("/streams/s/records", untimed).await.expect(200);
}

#[tokio::test]
async fn api_041_042_patch_clears_to_the_basins_default() {
    let api = Api::with_config(json!({"default_stream_config": {"retention_policy": {"age": 77}}})).await;
    let config = json!({"retention_policy": {"infinite": {}}, "storage_class": "standard"});
    api.post("/streams", json!({"stream": "s", "config": config}))
        .await
        .expect(201);
    let before = api.get("/streams/s").await.json();
    assert_eq!(before["retention_policy"], json!({"infinite": {}}));
    assert_eq!(
        api.patch("/streams/s", json!({})).await.expect(200).json(),
        before
    );
    let after = api
        .patch("/streams/s", json!({"retention_policy": null}))
        .await
        .expect(200)
        .json();
    assert_eq!(after["retention_policy"]["age"], 77);
    assert_eq!(after["storage_class"], "standard");
}

#[tokio::test]
async fn api_043_every_config_round_trips() {
    let api = Api::new().await;
    for (n, config) in [
        json!({"timestamping": {"mode": "client-prefer", "uncapped": true}, "storage_class": "standard"}),
        json!({"timestamping": {"mode": "client-require", "uncapped": false}, "storage_class": "express"}),
        json!({"timestamping": {"mode": "arrival"}, "retention_policy": {"infinite": {}}}),
        json!({"retention_policy": {"age": 1}, "delete_on_empty": {"min_age_secs": 3600}}),
    ]
    .into_iter()
    .enumerate()
    {
        let (created, patched) = (format!("c{n}"), format!("p{n}"));
        api.post("/streams", json!({"stream": created, "config": config}))
            .await
            .expect(201);
        api.post("/streams", json!({"stream": patched})).await.expect(201);
        api.patch(&format!("/streams/{patched}"), config.clone())
            .await
            .expect(200);
        let created = api.get(&format!("/streams/{created}")).await.json();
        assert_eq!(api.get(&format!("/streams/{patched}")).await.json(), created);
        for (name, value) in config.as_object().unwrap() {
            for (field, value) in value.as_object().into_iter().flatten() {
                assert_eq!(&created[name][field], value, "{name}.{field}");
            }
        }
    }
}

#[tokio::test]
async fn api_044_bad_configs_are_refused_by_kind() {
    let api = Api::new().await;
    let zero = json!({"retention_policy": {"age": 0}});
    api.post("/streams", json!({"stream": "z", "config": zero}))
        .await
        .expect_error(422, "invalid");
    api.post("/streams", json!({"stream": "s"})).await.expect(201);
    api.patch("/streams/s", zero).await.expect_error(422, "invalid");
    for wrong in [json!({"age": -1}), json!({"age": "x"}), json!("forever")] {
        let change = json!({"retention_policy": wrong});
        api.patch("/streams/s", change)
            .await
            .expect_error(400, "bad_json");
    }
}

#[tokio::test]
async fn api_045_046_047_048_057_unknown_and_duplicate() {
    let api = Api::new().await;
    api.get("/streams/none")
        .await
        .expect_error(404, "stream_not_found");
    api.patch("/streams/none", json!({}))
        .await
        .expect_error(404, "stream_not_found");
    api.delete("/streams/none")
        .await
        .expect_error(404, "stream_not_found");
    api.post("/streams", json!({"stream": "s"})).await.expect(201);
    api.post("/streams", json!({"stream": "s"}))
        .await
        .expect_error(409, "resource_already_exists");

    let nowhere = Api::without_basin();
    nowhere.get("/streams").await.expect_error(404, "basin_not_found");
    nowhere
        .post("/streams", json!({"stream": "s"}))
        .await
        .expect_error(404, "basin_not_found");
    nowhere
        .put("/streams/s", json!({}))
        .await
        .expect_error(404, "basin_not_found");
}

#[tokio::test]
async fn api_048_049_050_051_deleting_and_starting_again() {
    let api = Api::new().await;
    api.post("/streams", json!({"stream": "s"})).await.expect(201);
    api.append("/streams/s/records", &["old"]).await;
    api.delete("/streams/s").await.expect(202);
    api.delete("/streams/s").await.expect(202);
    let pending = (409, "stream_deletion_pending");
    api.get("/streams/s").await.expect_error(pending.0, pending.1);
    api.put("/streams/s", json!({}))
        .await
        .expect_error(pending.0, pending.1);
    api.patch("/streams/s", json!({}))
        .await
        .expect_error(pending.0, pending.1);
    api.post("/streams", json!({"stream": "s"}))
        .await
        .expect_error(pending.0, pending.1);
    let record = json!({"records": [{"body": "x"}]});
    api.post("/streams/s/records", record)
        .await
        .expect_error(pending.0, pending.1);
    api.get("/streams/s/records?seq_num=0")
        .await
        .expect_error(pending.0, pending.1);
    api.get("/streams/s/records/tail")
        .await
        .expect_error(pending.0, pending.1);
    let listed = api.get("/streams").await.json();
    assert!(listed["streams"][0]["deleted_at"].is_string(), "{listed}");

    let gone = async {
        while api.get("/streams/s").await.status != 404 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, gone)
        .await
        .expect("the name is free again");
    api.post("/streams", json!({"stream": "s"})).await.expect(201);
    assert_eq!(
        api.get("/streams/s/records/tail").await.json()["tail"]["seq_num"],
        0
    );
    let ack = api.append("/streams/s/records", &["new"]).await;
    assert_eq!(ack["start"]["seq_num"], 0);
    assert_eq!(api.bodies("/streams/s/records?seq_num=0").await, ["new"]);
}

#[tokio::test]
async fn api_055_056_lists_page_without_loss() {
    let api = Api::new().await;
    let mut names: Vec<_> = (0..7).map(|_| unique("x/")).collect();
    names.push("y".into());
    for name in &names {
        api.post("/streams", json!({"stream": name})).await.expect(201);
    }
    let mut listed = Vec::new();
    loop {
        let after = listed
            .last()
            .map(|name: &String| segment(name))
            .unwrap_or_default();
        let page = api
            .get(&format!("/streams?limit=3&start_after={after}"))
            .await
            .expect(200)
            .json();
        let streams = page["streams"].as_array().unwrap();
        listed.extend(
            streams
                .iter()
                .map(|stream| stream["name"].as_str().unwrap().to_owned()),
        );
        if page["has_more"] == false {
            break;
        }
        assert_eq!(streams.len(), 3);
    }
    names.sort();
    assert_eq!(listed, names);
    let page = api.get("/streams?prefix=y").await.json();
    assert_eq!(page["streams"].as_array().unwrap().len(), 1);
    let past = api.get("/streams?start_after=zzz").await.json();
    assert_eq!(past, json!({"streams": [], "has_more": false}));
}
