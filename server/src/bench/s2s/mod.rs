//! The S2 API over HTTP/2: sessions as S2S frames, the rest as JSON. In clear with prior knowledge, or over TLS.

mod connection;
mod session;
mod tls;
mod upload;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request};
use hyper::body::Incoming;
use millrace_api::config::StorageClass;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use url::Url;

use self::connection::Connection;
use self::session::{FrameReader, S2sAcks, S2sBatches, S2sInputs};
use self::upload::Upload;
use super::driver::{Acks, Batches, DriveError, Driver, Endpoint, Inputs, Lane, StreamRef};

const S2S: HeaderValue = HeaderValue::from_static("s2s/proto");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// All but the characters that a URL never needs escaped.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
/// Stands for the basin's name in the host of a basin URL.
const BASIN_PLACEHOLDER: &str = "{basin}";
/// Longest answer that is kept of a call that is no session.
const REPLY_BYTES_MAX: usize = 64 * 1024;
/// How long such a call may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Sessions per connection; S2 clients count on no endpoint allowing fewer.
pub const SESSIONS_PER_CONNECTION_MAX: usize = 100;

/// One endpoint, connected.
pub struct S2sDriver {
    endpoint: Endpoint,
    account: Connection,
    /// Of streams' own calls that are no sessions.
    control: Connection,
    writers: Vec<Connection>,
    readers: Vec<Connection>,
    authorization: Option<HeaderValue>,
    stream_base: Url,
}

impl S2sDriver {
    /// Opens `connections` for writers and as many for readers. `basin` decides the host where the endpoint has one
    /// for each.
    pub async fn connect(endpoint: Endpoint, basin: &str, connections: usize) -> Result<Self, DriveError> {
        let invalid = |what: &str| DriveError::Connect {
            endpoint: endpoint.url.to_string(),
            reason: what.to_owned(),
        };
        let authorization = endpoint
            .token
            .as_deref()
            .map(|token| {
                HeaderValue::from_str(&format!("Bearer {token}"))
                    .map(|mut value| {
                        value.set_sensitive(true);
                        value
                    })
                    .map_err(|_| invalid("the token has characters that no header holds"))
            })
            .transpose()?;
        let stream_base = match &endpoint.basin_url {
            None => endpoint.url.clone(),
            Some(url) => url
                .replace(BASIN_PLACEHOLDER, basin)
                .parse()
                .map_err(|_| invalid("the basin URL is none"))?,
        };
        let account = Connection::open(&endpoint.url, endpoint.insecure).await?;
        let control = Connection::open(&stream_base, endpoint.insecure).await?;
        let mut lanes = Vec::with_capacity(2 * connections);
        for _ in 0..2 * connections {
            lanes.push(Connection::open(&stream_base, endpoint.insecure).await?);
        }
        let readers = lanes.split_off(connections);
        Ok(Self {
            endpoint,
            account,
            control,
            writers: lanes,
            readers,
            authorization,
            stream_base,
        })
    }

    fn lane(&self, lane: Lane) -> &Connection {
        match lane {
            Lane::Writer(n) => &self.writers[n % self.writers.len()],
            Lane::Reader(n) => &self.readers[n % self.readers.len()],
        }
    }

    fn request(&self, base: &Url, method: Method, path: &str, body: Upload) -> Request<Upload> {
        let base = base.as_str().trim_end_matches('/').trim_end_matches("/v1");
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = format!("{base}/v1{path}")
            .parse()
            .expect("a URL with an escaped path is one");
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        request
    }

    fn of_account(&self, method: Method, path: &str, body: Option<Value>) -> Request<Upload> {
        with_json(
            self.request(&self.endpoint.url, method, path, Upload::empty()),
            body,
        )
    }

    fn of_stream(&self, stream: &StreamRef, method: Method, path: &str, body: Upload) -> Request<Upload> {
        let mut request = self.request(&self.stream_base, method, path, body);
        let in_host = matches!(&self.endpoint.basin_url, Some(url) if url.contains(BASIN_PLACEHOLDER));
        if !in_host {
            let basin = HeaderValue::from_str(&stream.basin).expect("a basin's name is ASCII");
            request.headers_mut().insert("s2-basin", basin);
        }
        request
    }
}

fn with_json(mut request: Request<Upload>, body: Option<Value>) -> Request<Upload> {
    if let Some(body) = body {
        request.headers_mut().insert(CONTENT_TYPE, JSON);
        *request.body_mut() = Upload::whole(Bytes::from(body.to_string()));
    }
    request
}

fn basin_path(basin: &str) -> String {
    format!("/basins/{}", utf8_percent_encode(basin, SEGMENT))
}

fn stream_path(stream: &StreamRef) -> String {
    format!("/streams/{}", utf8_percent_encode(&stream.stream, SEGMENT))
}

/// The whole body of a successful answer.
async fn whole(connection: &Connection, request: Request<Upload>) -> Result<Bytes, DriveError> {
    let answer = async {
        let response = connection.send(request).await?;
        let status = response.status();
        let body = read_whole(response.into_body()).await?;
        match status.is_success() {
            true => Ok(body),
            false => Err(refused(status.as_u16(), &body)),
        }
    };
    let late = |_| DriveError::Broken(format!("no answer within {REPLY_TIMEOUT:?}"));
    tokio::time::timeout(REPLY_TIMEOUT, answer).await.map_err(late)?
}

async fn read_whole(body: Incoming) -> Result<Bytes, DriveError> {
    use http_body_util::{BodyExt, Limited};
    let collected = Limited::new(body, REPLY_BYTES_MAX).collect().await;
    let collected = collected.map_err(|error| DriveError::Broken(error.to_string()))?;
    Ok(collected.to_bytes())
}

fn refused(status: u16, body: &[u8]) -> DriveError {
    DriveError::Refused {
        status,
        body: String::from_utf8_lossy(body).into_owned(),
    }
}

#[async_trait]
impl Driver for S2sDriver {
    async fn has_basin(&self, basin: &str) -> Result<bool, DriveError> {
        let request = self.of_account(Method::GET, &basin_path(basin), None);
        match whole(&self.account, request).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn create_basin(&self, basin: &str) -> Result<(), DriveError> {
        let request = self.of_account(Method::POST, "/basins", Some(json!({ "basin": basin })));
        whole(&self.account, request).await.map(drop)
    }

    async fn delete_basin(&self, basin: &str) -> Result<(), DriveError> {
        let request = self.of_account(Method::DELETE, &basin_path(basin), None);
        whole(&self.account, request).await.map(drop)
    }

    async fn create_stream(&self, stream: &StreamRef, class: StorageClass) -> Result<(), DriveError> {
        let class = match class {
            StorageClass::Standard => "standard",
            StorageClass::Express => "express",
        };
        let body = json!({ "stream": stream.stream, "config": { "storage_class": class } });
        let request = self.of_stream(stream, Method::POST, "/streams", Upload::empty());
        whole(&self.control, with_json(request, Some(body)))
            .await
            .map(drop)
    }

    async fn delete_stream(&self, stream: &StreamRef) -> Result<(), DriveError> {
        let request = self.of_stream(stream, Method::DELETE, &stream_path(stream), Upload::empty());
        whole(&self.control, request).await.map(drop)
    }

    async fn tail(&self, stream: &StreamRef) -> Result<u64, DriveError> {
        let path = format!("{}/records/tail", stream_path(stream));
        let request = self.of_stream(stream, Method::GET, &path, Upload::empty());
        let body = whole(&self.control, request).await?;
        let reply: Value = serde_json::from_slice(&body)
            .map_err(|error| DriveError::Protocol(format!("the tail is no JSON: {error}")))?;
        reply["tail"]["seq_num"]
            .as_u64()
            .ok_or_else(|| DriveError::Protocol(format!("no tail in {reply}")))
    }

    async fn append_session(
        &self,
        stream: &StreamRef,
        lane: Lane,
    ) -> Result<(Box<dyn Inputs>, Box<dyn Acks>), DriveError> {
        let (inputs, body) = Upload::channel();
        let path = format!("{}/records", stream_path(stream));
        let mut request = self.of_stream(stream, Method::POST, &path, body);
        request.headers_mut().insert(CONTENT_TYPE, S2S);
        let frames = FrameReader::new(self.lane(lane).send(request));
        Ok((Box::new(S2sInputs::new(inputs)), Box::new(S2sAcks::new(frames))))
    }

    async fn read_session(
        &self,
        stream: &StreamRef,
        until: Option<u64>,
        lane: Lane,
    ) -> Result<Box<dyn Batches>, DriveError> {
        let count = until.map_or_else(String::new, |count| format!("&count={count}"));
        let path = format!("{}/records?seq_num=0{count}", stream_path(stream));
        let mut request = self.of_stream(stream, Method::GET, &path, Upload::empty());
        request.headers_mut().insert(CONTENT_TYPE, S2S);
        let frames = FrameReader::new(self.lane(lane).send(request));
        Ok(Box::new(S2sBatches::new(frames)))
    }
}
