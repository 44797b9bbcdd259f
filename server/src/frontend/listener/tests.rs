use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::StreamExt;
use reqwest::Version;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::env::Env;

/// A server with a few telling endpoints.
struct Served {
    server: Server,
    addr: SocketAddr,
}

async fn serve_with(tls: Option<Tls>, router: Router, connections_max: usize) -> Served {
    let listener = Env::system()
        .network
        .listen(([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    let server = Server::start(listener, tls, router, connections_max).unwrap();
    let addr = server.local_addr();
    Served { server, addr }
}

async fn serve_default() -> Served {
    serve_with(None, router(), 100).await
}

fn router() -> Router {
    Router::new()
        .route(
            "/version",
            get(|request: Request| async move { format!("{:?}", request.version()) }),
        )
        .route("/refuse", post(|| async { StatusCode::BAD_REQUEST }))
        .route("/echo", post(|body: Body| async move { body }))
        .route(
            "/slow",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                "slow"
            }),
        )
        .route("/never", get(std::future::pending::<()>))
}

impl Served {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    #[allow(clippy::disallowed_methods)] // The test is the client.
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends `request` raw and reads until the server closes.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        read_all(&mut stream).await
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until `text` has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    while !String::from_utf8_lossy(&bytes).contains(text) {
        let len = stream.read(&mut chunk).await.unwrap();
        assert_ne!(len, 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&chunk[..len]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn api_014_both_versions_work_on_one_plain_port() {
    let served = serve_default().await;
    let h1 = reqwest::Client::builder().http1_only().build().unwrap();
    let h2 = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    for (client, version, text) in [
        (h1, Version::HTTP_11, "HTTP/1.1"),
        (h2, Version::HTTP_2, "HTTP/2.0"),
    ] {
        let response = client.get(served.url("/version")).send().await.unwrap();
        assert_eq!(response.version(), version);
        assert_eq!(response.text().await.unwrap(), text);
    }
}

#[tokio::test]
async fn api_014_both_versions_are_negotiated_over_tls() {
    let tls = Tls::self_signed().unwrap();
    let root = reqwest::Certificate::from_der(tls.certificate()).unwrap();
    let served = serve_with(Some(tls), router(), 100).await;
    let url = format!("https://localhost:{}/version", served.addr.port());
    for (h1_only, version) in [(true, Version::HTTP_11), (false, Version::HTTP_2)] {
        let builder = reqwest::Client::builder()
            .use_rustls_tls()
            .add_root_certificate(root.clone());
        let builder = if h1_only { builder.http1_only() } else { builder };
        let response = builder.build().unwrap().get(&url).send().await.unwrap();
        assert_eq!(response.version(), version);
    }
}

#[tokio::test]
async fn api_015_the_answer_flows_while_the_request_does() {
    let served = serve_default().await;
    let mut stream = served.connect().await;
    stream
        .write_all(
            b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        )
        .await
        .unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    for word in ["one", "two"] {
        stream
            .write_all(format!("3\r\n{word}\r\n").as_bytes())
            .await
            .unwrap();
        read_until(&mut stream, word).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert!(read_all(&mut stream).await.ends_with("0\r\n\r\n"));
}

#[tokio::test]
async fn a_client_that_ended_its_side_still_gets_its_answer() {
    let served = serve_default().await;
    let mut stream = served.connect().await;
    stream
        .write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    assert!(read_all(&mut stream).await.ends_with("slow"));
}

#[tokio::test]
async fn an_early_refusal_reaches_a_client_that_is_still_sending() {
    let served = serve_default().await;
    let mut stream = served.connect().await;
    let len = 8 * 1024 * 1024;
    let head = format!("POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: {len}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![0; len]).await.unwrap();
    assert!(
        read_until(&mut stream, "\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 400")
    );
}

#[tokio::test]
async fn a_client_does_not_reuse_a_connection_that_ends() {
    let served = serve_default().await;
    let client = reqwest::Client::new();
    for _ in 0..50 {
        let refused = client.post(served.url("/refuse")).body(vec![0; 300_000]).send();
        let response = refused.await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()["connection"], "close");
        let echoed = client.post(served.url("/echo")).body("whole").send();
        let response = echoed.await.unwrap();
        assert!(!response.headers().contains_key("connection"));
        assert_eq!(response.text().await.unwrap(), "whole");
    }
}

#[tokio::test]
async fn oversized_heads_are_answered_431() {
    let served = serve_default().await;
    let value = "x".repeat(80 * 1024);
    let answer = served
        .exchange(format!("GET /version HTTP/1.1\r\nhost: x\r\na: {value}\r\n\r\n").as_bytes())
        .await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many: String = (0..200).map(|n| format!("h{n}: x\r\n")).collect();
    let answer = served
        .exchange(format!("GET /version HTTP/1.1\r\nhost: x\r\n{many}\r\n").as_bytes())
        .await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");

    let h2 = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let response = h2.get(served.url("/version")).header("a", value).send().await;
    // A client may see the peer's announced bound and refuse by itself.
    assert!(response.is_err() || response.unwrap().status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn garbage_is_answered_or_closed_and_the_next_connection_served() {
    let served = serve_default().await;
    for garbage in [
        &b"\x16\x03\x01\0\0"[..],
        b"\0\0\0\0\0\0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage.....",
    ] {
        let mut stream = served.connect().await;
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good as a close.
        let _ = stream.read_to_end(&mut answer).await;
    }
    let text = reqwest::get(served.url("/version"))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert_eq!(text, "HTTP/1.1");
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_one_to_end() {
    let served = serve_with(None, router(), 1).await;
    let first = served.connect().await;
    let request = b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut second = served.connect().await;
    second.write_all(request).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), read_all(&mut second)).await;
    assert!(early.is_err(), "served beside the first");
    drop(first);
    assert!(read_all(&mut second).await.ends_with("HTTP/1.1"));
}

#[tokio::test]
async fn shutdown_lets_requests_under_way_end_and_takes_no_more() {
    let served = serve_default().await;
    let mut idle = served.connect().await;
    idle.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut idle, "HTTP/1.1 200").await;
    let slow = tokio::spawn(reqwest::get(served.url("/slow")));
    tokio::time::sleep(Duration::from_millis(100)).await;
    served.server.stop(Duration::from_secs(10)).await;
    assert_eq!(slow.await.unwrap().unwrap().text().await.unwrap(), "slow");
    read_all(&mut idle).await;
    assert!(
        reqwest::get(format!("http://{}/version", served.addr))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn shutdown_cuts_what_does_not_end_in_time() {
    let served = serve_default().await;
    let never = tokio::spawn(reqwest::get(served.url("/never")));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stop = served.server.stop(Duration::from_millis(200));
    tokio::time::timeout(Duration::from_secs(5), stop).await.unwrap();
    assert!(never.await.unwrap().is_err());
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_request() {
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            ALIVE.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let stream = || {
        ALIVE.fetch_add(1, Ordering::SeqCst);
        let guard = Guard;
        futures::stream::unfold(guard, |guard| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"tick")), guard))
        })
    };
    let router = Router::new().route(
        "/ticks",
        get(move || async move { Body::from_stream(stream().boxed()) }),
    );
    let served = serve_with(None, router, 100).await;
    let mut response = reqwest::get(served.url("/ticks")).await.unwrap();
    response.chunk().await.unwrap().unwrap();
    assert_eq!(ALIVE.load(Ordering::SeqCst), 1);
    drop(response);
    for _ in 0..500 {
        if ALIVE.load(Ordering::SeqCst) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the response is still being written");
}
