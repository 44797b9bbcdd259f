//! The generated stubs of the gRPC services, and what every use of them has in common.

use tonic::transport::Channel;

#[allow(clippy::all)]
mod stubs {
    include!(concat!(env!("OUT_DIR"), "/client/millrace.v1.rs"));
}

pub(crate) type Account = stubs::account_service_client::AccountServiceClient<Channel>;
pub(crate) type Basin = stubs::basin_service_client::BasinServiceClient<Channel>;
pub(crate) type Stream = stubs::stream_service_client::StreamServiceClient<Channel>;

/// The largest answer is a batch: 1 MiB metered, whose encoding fits in 2 MiB, and a few bytes around it.
const MESSAGE_BYTES_MAX: usize = (2 << 20) + 1024;

pub(crate) fn account(channel: Channel) -> Account {
    Account::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn basin(channel: Channel) -> Basin {
    Basin::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn stream(channel: Channel) -> Stream {
    Stream::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}
