//! Messages of the generated services, to and from the buffers of the gRPC library.

use std::marker::PhantomData;

use millrace_api::error::ErrorCode;
use prost::Message;
use tonic::Status;
use tonic::codec::{
    Codec as GrpcCodec, DecodeBuf, Decoder as GrpcDecoder, EncodeBuf, Encoder as GrpcEncoder,
};

use super::error::status;
use crate::error::ServiceError;

/// Protobuf that refuses what does not decode as the rest of the API does.
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> GrpcCodec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> Decoder<U> {
        Decoder(PhantomData)
    }
}

pub struct Encoder<T>(PhantomData<T>);

impl<T: Message> GrpcEncoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(out).expect("a growing buffer takes all");
        Ok(())
    }
}

pub struct Decoder<U>(PhantomData<U>);

impl<U: Message + Default> GrpcDecoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let decoded = U::decode(input);
        decoded
            .map(Some)
            .map_err(|error| status(&ServiceError::new(ErrorCode::BadProto, error.to_string())))
    }
}
