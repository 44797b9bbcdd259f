//! Behaviours 4 to 15: what holds for every call.

use std::io::Write;

use reqwest::{Method, StatusCode, Version};
use serde_json::{Value, json};

use crate::support::{Api, DOMAIN, Reply, TestNode, shared_addr};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

#[tokio::test]
async fn api_004_streams_need_a_basin() {
    let api = Api::new().await;
    let get = async |basin: Option<&str>| {
        let mut request = api.client.get(format!("{}/streams", api.base));
        if let Some(basin) = basin {
            request = request.header("s2-basin", basin);
        }
        Reply::of(request).await
    };
    get(None).await.expect_error(400, "bad_header");
    for bad in ["", "UPPER-case", "short"] {
        get(Some(bad)).await.expect_error(400, "bad_header");
    }
    get(Some(&api.basin)).await.expect(200);
}

#[tokio::test]
async fn api_004_the_host_may_name_the_basin() {
    let api = Api::new().await;
    let stream = api.stream().await;
    let host = format!("{}.{DOMAIN}", api.basin);
    for h1_only in [true, false] {
        let builder = reqwest::Client::builder().resolve(&host, shared_addr());
        let builder = if h1_only {
            builder.http1_only()
        } else {
            builder.http2_prior_knowledge()
        };
        let client = builder.build().unwrap();
        let base = format!("http://{host}:{}/v1", shared_addr().port());
        Reply::of(client.get(format!("{base}{stream}/tail")))
            .await
            .expect(200);
        let contradicting = client
            .get(format!("{base}/streams"))
            .header("s2-basin", "another-basin");
        Reply::of(contradicting).await.expect_error(400, "bad_header");
        let agreeing = client
            .get(format!("{base}/streams"))
            .header("s2-basin", &api.basin);
        Reply::of(agreeing).await.expect(200);
    }
}

#[tokio::test]
async fn api_006_json_is_what_it_says() {
    let api = Api::new().await;
    let path = api.stream().await;
    for url in ["/streams", "/basins", &path] {
        for body in [
            "",
            "{",
            "[]",
            "null",
            "{\"stream\": 1, \"basin\": 1, \"records\": 1}",
        ] {
            let request = api
                .request(Method::POST, url)
                .header("content-type", "application/json")
                .body(body);
            Reply::of(request).await.expect_error(400, "bad_json");
        }
        let untyped = api.request(Method::POST, url).body("{}");
        Reply::of(untyped).await.expect_error(400, "bad_json");
        let mistyped = api
            .request(Method::POST, url)
            .header("content-type", "text/plain")
            .body("{}");
        Reply::of(mistyped).await.expect_error(400, "bad_json");
    }
    let deep = "[".repeat(10_000);
    let request = api
        .request(Method::POST, &path)
        .header("content-type", "application/json")
        .body(deep);
    Reply::of(request).await.expect_error(400, "bad_json");
}

#[tokio::test]
async fn api_008_unknown_paths_and_methods_are_told_as_errors() {
    let api = Api::new().await;
    for path in [
        "/",
        "/nothing",
        "/streams/a/b",
        "/streams/a/records/head",
        "/basins/",
    ] {
        api.get(path).await.expect_error(404, "bad_path");
    }
    let root = api.base.strip_suffix("/v1").unwrap();
    Reply::of(api.client.get(format!("{root}/v2/basins")))
        .await
        .expect_error(404, "bad_path");
    api.delete("/streams").await.expect_error(405, "bad_path");
    for path in [
        "/access-tokens",
        "/access-tokens/a",
        "/metrics",
        "/metrics/basin/stream",
        "/locations/default",
    ] {
        api.get(path).await.expect_error(501, "not_implemented");
        api.post(path, json!({}))
            .await
            .expect_error(501, "not_implemented");
    }
}

#[tokio::test]
async fn api_009_compressed_requests_are_accepted() {
    let api = Api::new().await;
    let path = api.stream().await;
    let json = serde_json::to_vec(&json!({"records": [{"body": "x".repeat(5000)}]})).unwrap();
    for (encoding, body) in [
        ("gzip", gzip(&json)),
        ("zstd", zstd(&json)),
        ("identity", json.clone()),
    ] {
        let request = api
            .request(Method::POST, &path)
            .header("content-type", "application/json")
            .header("content-encoding", encoding)
            .body(body);
        Reply::of(request).await.expect(200);
    }
    let wrong = api
        .request(Method::POST, &path)
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body(json.clone());
    Reply::of(wrong).await.expect_error(400, "bad_json");
    let unknown = api
        .request(Method::POST, &path)
        .header("content-type", "application/json")
        .header("content-encoding", "br")
        .body(json);
    Reply::of(unknown).await.expect_error(400, "bad_header");
}

#[tokio::test]
async fn api_010_large_replies_are_compressed_when_asked() {
    let api = Api::new().await;
    let path = api.stream().await;
    api.append(&path, &[&"x".repeat(5000)]).await;
    let url = format!("{path}?seq_num=0");
    let get = async |path: &str, accept: Option<&str>| {
        let request = api.request(Method::GET, path);
        Reply::of(match accept {
            Some(accept) => request.header("accept-encoding", accept),
            None => request,
        })
        .await
        .expect(200)
    };
    let plain = get(&url, None).await;
    assert_eq!(plain.header("content-encoding"), None);
    let gzipped = get(&url, Some("gzip")).await;
    assert_eq!(gzipped.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&gzipped.body[..]), &mut text).unwrap();
    assert_eq!(text.as_bytes(), plain.body);
    let zstandard = get(&url, Some("zstd")).await;
    assert_eq!(zstandard.header("content-encoding"), Some("zstd"));
    assert_eq!(zstd::decode_all(&zstandard.body[..]).unwrap(), plain.body);
    let small = get(&format!("{path}/tail"), Some("gzip, zstd")).await;
    assert_eq!(small.header("content-encoding"), None);
}

#[tokio::test]
async fn api_011_bodies_are_bounded_before_and_after_decompression() {
    let api = Api::new().await;
    let path = api.stream().await;
    let big = vec![b' '; 512 * 1024 * 1024];
    let (gzip, zstd) = (gzip(&big), zstd(&big));
    drop(big);
    assert!(gzip.len() < 4 * 1024 * 1024 && zstd.len() < 1024 * 1024);
    for (encoding, body) in [
        ("gzip", gzip),
        ("zstd", zstd),
        ("identity", vec![b' '; 2 * 1024 * 1024 + 1]),
    ] {
        for (content_type, code) in [
            ("application/json", "bad_json"),
            ("application/protobuf", "bad_proto"),
        ] {
            let request = api
                .request(Method::POST, &path)
                .header("content-type", content_type)
                .header("content-encoding", encoding)
                .body(body.clone());
            Reply::of(request).await.expect_error(400, code);
        }
    }
    // A length that is not announced.
    let chunks = futures::stream::iter((0..40).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 * 1024])));
    let request = api
        .request(Method::POST, &path)
        .header("content-type", "application/json")
        .body(reqwest::Body::wrap_stream(chunks));
    Reply::of(request).await.expect_error(400, "bad_json");
}

#[tokio::test]
async fn api_013_health_metrics_and_ping() {
    let api = Api::new().await;
    let root = api.base.strip_suffix("/v1").unwrap();
    for path in ["/health", "/ping"] {
        let reply = Reply::of(api.client.get(format!("{root}{path}")))
            .await
            .expect(200);
        assert_eq!(reply.body, "OK");
    }
    let metrics = Reply::of(api.client.get(format!("{root}/metrics")))
        .await
        .expect(200);
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
}

#[tokio::test]
async fn api_014_every_call_works_over_http_2() {
    let api = Api::new().await.h2();
    let path = api.stream().await;
    api.append(&path, &["over h2"]).await;
    let response = api
        .request(Method::GET, &format!("{path}?seq_num=0"))
        .send()
        .await
        .unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    assert_eq!(
        response.json::<Value>().await.unwrap()["records"][0]["body"],
        "over h2"
    );
}

#[tokio::test]
async fn api_014_tls_offers_both_versions() {
    let node = TestNode::start(|settings| settings.tls_self = Some(true));
    for (h1_only, version) in [(true, Version::HTTP_11), (false, Version::HTTP_2)] {
        let builder = reqwest::Client::builder().danger_accept_invalid_certs(true);
        let builder = if h1_only { builder.http1_only() } else { builder };
        let url = format!("https://localhost:{}/v1/basins", node.addr.port());
        let response = builder.build().unwrap().get(url).send().await.unwrap();
        assert_eq!((response.status(), response.version()), (StatusCode::OK, version));
    }
}

#[tokio::test]
async fn scripts_of_other_origins_may_call_and_see_our_headers() {
    let api = Api::new().await;
    let preflight = api
        .client
        .request(Method::OPTIONS, format!("{}/streams/s", api.base))
        .header("origin", "https://app.example")
        .header("access-control-request-method", "PATCH")
        .header(
            "access-control-request-headers",
            "authorization,s2-basin,s2-format,content-type",
        );
    let reply = Reply::of(preflight).await.expect(200);
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    assert!(
        reply
            .header("access-control-allow-methods")
            .unwrap()
            .contains("PATCH")
    );
    let allowed = reply.header("access-control-allow-headers").unwrap();
    assert!(allowed.contains("authorization") && allowed.contains("s2-basin"));
    let request = api
        .request(Method::GET, "/streams")
        .header("origin", "https://app.example");
    let reply = Reply::of(request).await.expect(200);
    let exposed = reply.header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("s2-provision-result") && exposed.contains("retry-after-ms"));
}

#[tokio::test]
async fn cors_can_be_switched_off() {
    let node = TestNode::start(|settings| settings.no_cors = Some(true));
    let api = Api::at(node.addr);
    let request = api
        .request(Method::GET, "/basins")
        .header("origin", "https://app.example");
    assert_eq!(
        Reply::of(request)
            .await
            .expect(200)
            .header("access-control-allow-origin"),
        None
    );
}
