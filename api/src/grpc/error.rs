//! What a failed call says besides its gRPC status: an [`ErrorDetail`] inside a `google.rpc.Status`, which gRPC carries
//! in the trailer `grpc-status-details-bin`.

use bytes::Bytes;
use prost::Message;

use super::ErrorDetail;

/// Names the one kind of detail that we send.
pub const DETAIL_TYPE_URL: &str = "type.googleapis.com/millrace.v1.ErrorDetail";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// The bytes of the trailer, for a call that failed with this gRPC status code and message.
pub fn encode_status_details(code: i32, message: &str, detail: &ErrorDetail) -> Bytes {
    let status = RpcStatus {
        code,
        message: message.to_owned(),
        details: vec![Any {
            type_url: DETAIL_TYPE_URL.to_owned(),
            value: detail.encode_to_vec().into(),
        }],
    };
    status.encode_to_vec().into()
}

/// The detail in a trailer's bytes; `None` if there is none of ours, as when a proxy answered.
pub fn decode_status_details(bytes: &[u8]) -> Option<ErrorDetail> {
    let status = RpcStatus::decode(bytes).ok()?;
    let ours = status
        .details
        .iter()
        .find(|detail| detail.type_url == DETAIL_TYPE_URL)?;
    ErrorDetail::decode(&ours.value[..]).ok()
}
