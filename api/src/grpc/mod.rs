//! The messages of the gRPC API, as generated from `proto/millrace/v1`; without the services, which are generated
//! where they are served or called.
//!
//! Records are never decoded on their way: an `AppendInput` field is the bytes of that message (for
//! [`crate::batch::AppendBatch`]), a [`ReadResponse`] carries those of a `ReadBatch`. On the wire nothing tells them
//! from the messages that the .proto files declare.

mod config;
mod error;
mod read;
mod read_response;
#[cfg(test)]
mod tests;

pub use self::error::{DETAIL_TYPE_URL, decode_status_details, encode_status_details};
pub use self::messages::*;
pub use self::read_response::ReadResponse;

/// The .proto files with all they import, as an encoded `FileDescriptorSet`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/millrace.v1.descriptors.bin"));

/// A message that says nothing that can be done; the text is meant for the client, under the code `invalid`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidMessage(String);

mod messages {
    #![allow(clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/millrace.v1.rs"));
}
