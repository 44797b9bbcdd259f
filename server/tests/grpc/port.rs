//! What stands beside the API on the port: health, reflection, TLS, and HTTP itself.

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::support::{Api, TestNode, input, texts};

#[tokio::test]
async fn health_answers_for_the_node_and_each_service() {
    let api = Api::new().await;
    let mut health = HealthClient::new(api.channel.clone());
    for service in [
        "",
        "millrace.v1.AccountService",
        "millrace.v1.BasinService",
        "millrace.v1.StreamService",
    ] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = health.check(request.clone()).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
        let mut watch = health.watch(request).await.unwrap().into_inner();
        let state = watch.message().await.unwrap().unwrap();
        assert_eq!(state.status(), ServingStatus::Serving, "{service}");
    }
    let unknown = HealthCheckRequest {
        service: "nothing".into(),
    };
    let refused = health.check(unknown.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let mut watch = health.watch(unknown).await.unwrap().into_inner();
    let state = watch.message().await.unwrap().unwrap();
    assert_eq!(state.status(), ServingStatus::ServiceUnknown);
}

async fn reflect(api: &Api, request: MessageRequest) -> MessageResponse {
    let mut client = ServerReflectionClient::new(api.channel.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let requests = futures::stream::iter([request]);
    let mut replies = client
        .server_reflection_info(requests)
        .await
        .unwrap()
        .into_inner();
    let reply: ServerReflectionResponse = replies.message().await.unwrap().unwrap();
    reply.message_response.unwrap()
}

#[tokio::test]
async fn reflection_lists_the_services_and_describes_them_as_declared() {
    let api = Api::new().await;
    let MessageResponse::ListServicesResponse(list) =
        reflect(&api, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in [
        "millrace.v1.AccountService",
        "millrace.v1.BasinService",
        "millrace.v1.StreamService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol("millrace.v1.StreamService".into());
    let MessageResponse::FileDescriptorResponse(files) = reflect(&api, symbol).await else {
        panic!("no file");
    };
    let file = files.file_descriptor_proto.concat();
    let text = String::from_utf8_lossy(&file);
    assert!(text.contains(".s2.v1.AppendInput") && text.contains(".s2.v1.ReadBatch"));
    let symbol = MessageRequest::FileContainingSymbol("s2.v1.ReadBatch".into());
    assert!(matches!(
        reflect(&api, symbol).await,
        MessageResponse::FileDescriptorResponse(_)
    ));
}

#[tokio::test]
async fn one_connection_carries_grpc_and_http() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let url = format!("http://{}/v1/streams/{stream}/records?seq_num=0", api.addr);
    for builder in [
        reqwest::Client::builder().http1_only(),
        reqwest::Client::builder().http2_prior_knowledge(),
    ] {
        let client = builder.build().unwrap();
        let session = api.append_session(&stream, None);
        let mut session = session.await.unwrap();
        session.submit(1, &input(&["x"])).await;
        session.ack().await;
        let reply = client
            .get(&url)
            .header("s2-basin", &api.basin)
            .send()
            .await
            .unwrap();
        assert_eq!(reply.status(), 200);
        session.submit(2, &input(&["y"])).await;
        session.ack().await;
    }
    assert_eq!(api.tail(&stream).await.unwrap().seq_num, 4);
}

#[tokio::test]
async fn grpc_over_http_1_is_refused() {
    let api = Api::new().await;
    let client = reqwest::Client::builder().http1_only().build().unwrap();
    let url = format!("http://{}/millrace.v1.StreamService/Append", api.addr);
    let request = client.post(url).header("content-type", "application/grpc");
    assert_eq!(request.send().await.unwrap().status(), 505);
}

#[tokio::test]
async fn grpc_works_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let node = TestNode::start(|settings| {
        settings.tls_cert = Some(cert.clone());
        settings.tls_key = Some(key);
    });
    let channel = tls_channel(node.addr, CertificateDer::from_pem_file(&cert).unwrap()).await;
    let mut api = Api::over(node.addr, channel).await;
    let stream = api.stream().await;
    api.append(&stream, &input(&["x"])).await.unwrap();
    let mut session = api.read_session(api.whole(&stream)).await.unwrap();
    assert_eq!(texts(&session.records().await), ["x"]);
}

/// A channel that trusts this certificate alone and offers `h2`.
async fn tls_channel(addr: std::net::SocketAddr, trusted: CertificateDer<'static>) -> Channel {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connector = tower::service_fn(move |_: Uri| {
        let tls = tls.clone();
        async move {
            #[allow(clippy::disallowed_methods, reason = "the test is the client")]
            let tcp = TcpStream::connect(addr).await?;
            let name = ServerName::try_from("localhost").expect("a name");
            let stream = tls.connect(name, tcp).await?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_shared(format!("https://localhost:{}", addr.port())).unwrap();
    endpoint
        .connect_with_connector(connector)
        .await
        .expect("a connection")
}
