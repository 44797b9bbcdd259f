//! Failures that every call may end with.

use bytes::Bytes;
use millrace_api::grpc::*;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};

use crate::support::{Api, detail, expect_code, input, unique};

/// What a path is answered that nobody serves.
const NO_SERVICE: &str = "there is no such service here";

#[tokio::test]
async fn names_that_none_may_have_and_things_that_are_not_there() {
    let mut api = Api::new().await;
    for basin in ["", "UPPER-case", "short"] {
        let get = GetBasinConfigRequest { basin: basin.into() };
        expect_code(
            api.account.get_basin_config(get).await,
            Code::InvalidArgument,
            "invalid",
        );
        let tail = CheckTailRequest {
            basin: basin.into(),
            stream: "s".into(),
        };
        expect_code(
            api.records.check_tail(tail).await,
            Code::InvalidArgument,
            "invalid",
        );
    }
    let none = unique("none-here");
    let get = GetBasinConfigRequest { basin: none.clone() };
    expect_code(
        api.account.get_basin_config(get).await,
        Code::NotFound,
        "basin_not_found",
    );
    let list = ListStreamsRequest {
        basin: none,
        ..Default::default()
    };
    expect_code(
        api.streams.list_streams(list).await,
        Code::NotFound,
        "basin_not_found",
    );
    expect_code(api.tail("none").await, Code::NotFound, "stream_not_found");
    let appended = api.append("none", &input(&["x"])).await;
    expect_code(appended, Code::NotFound, "stream_not_found");
    let read = api.read(api.whole("none")).await;
    expect_code(read, Code::NotFound, "stream_not_found");
    let read = api.read_session(api.whole("none")).await.map(drop);
    expect_code(read, Code::NotFound, "stream_not_found");
}

#[tokio::test]
async fn a_deleted_stream_refuses_everything() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let delete = DeleteStreamRequest {
        basin: api.basin.clone(),
        stream: stream.clone(),
    };
    api.streams.delete_stream(delete).await.unwrap();
    let appended = api.append(&stream, &input(&["x"])).await;
    expect_code(appended, Code::FailedPrecondition, "stream_deletion_pending");
}

#[tokio::test]
async fn ciphers_are_not_implemented() {
    let mut api = Api::new().await;
    let create = CreateBasinRequest {
        basin: unique("basin"),
        config: Some(BasinConfig {
            stream_cipher: Some(Cipher::Aegis256.into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let refused = api.account.create_basin(create).await;
    expect_code(refused, Code::Unimplemented, "not_implemented");
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_with_a_detail() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let long = AppendRequest {
        basin: api.basin.clone(),
        stream: stream.clone(),
        input: Bytes::from(vec![0; 3 * 1024 * 1024]),
    };
    let refused = api.records.append(long).await;
    let status = refused.unwrap_err();
    let told = detail(&status, Code::InvalidArgument);
    assert_eq!((told.code.as_str(), told.may_have_happened), ("bad_proto", false));
    assert!(status.message().contains("too large"), "{status:?}");
    let long = GetBasinConfigRequest {
        basin: "x".repeat(20_000),
    };
    let refused = api.account.get_basin_config(long).await;
    expect_code(refused, Code::InvalidArgument, "bad_proto");
    api.append(&stream, &input(&["the connection goes on"]))
        .await
        .unwrap();
}

/// Sends `message` as the request of `path`, whatever it is.
async fn call(api: &Api, path: PathAndQuery, message: Bytes) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(api.channel.clone());
    grpc.ready().await.unwrap();
    let codec = raw::Codec;
    grpc.unary(Request::new(message), path, codec).await.map(drop)
}

#[tokio::test]
async fn bytes_that_are_no_message_are_bad_proto() {
    let api = Api::new().await;
    for path in [
        "/millrace.v1.StreamService/Append",
        "/millrace.v1.StreamService/ReadSession",
        "/millrace.v1.StreamService/AppendSession",
        "/millrace.v1.BasinService/CreateStream",
    ] {
        let refused = call(
            &api,
            PathAndQuery::from_static(path),
            Bytes::from_static(&[0xff; 9]),
        )
        .await;
        expect_code(refused, Code::InvalidArgument, "bad_proto");
    }
}

#[tokio::test]
async fn what_no_service_has_is_not_implemented() {
    let api = Api::new().await;
    for path in [
        "/millrace.v1.StreamService/Nothing",
        "/millrace.v1.AccountService/Nothing",
        "/millrace.v1.NoService/Nothing",
    ] {
        let refused = call(&api, PathAndQuery::from_static(path), Bytes::new()).await;
        expect_code(refused, Code::Unimplemented, "not_implemented");
    }
}

/// `StreamService` is routed by hand.
#[tokio::test]
async fn every_method_that_is_declared_is_served() {
    let api = Api::new().await;
    let declared = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut methods = 0;
    for file in declared
        .file
        .iter()
        .filter(|file| file.package() == "millrace.v1")
    {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/millrace.v1.{}/{}", service.name(), method.name());
                let called = call(&api, PathAndQuery::try_from(path.as_str()).unwrap(), Bytes::new()).await;
                let detail = called.err().map(|status| status.message().to_owned());
                assert_ne!(detail.as_deref(), Some(NO_SERVICE), "{path}");
                methods += 1;
            }
        }
    }
    assert!(methods >= 15, "{methods}");
}

/// Messages as bytes.
mod raw {
    use bytes::{Buf, BufMut, Bytes};
    use tonic::Status;
    use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};

    pub struct Codec;

    impl tonic::codec::Codec for Codec {
        type Encode = Bytes;
        type Decode = Bytes;
        type Encoder = Self;
        type Decoder = Self;

        fn encoder(&mut self) -> Self {
            Codec
        }

        fn decoder(&mut self) -> Self {
            Codec
        }
    }

    impl Encoder for Codec {
        type Item = Bytes;
        type Error = Status;

        fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
            out.put(message);
            Ok(())
        }
    }

    impl Decoder for Codec {
        type Item = Bytes;
        type Error = Status;

        fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
            Ok(Some(input.copy_to_bytes(input.remaining())))
        }
    }
}
