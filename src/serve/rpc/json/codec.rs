//! Messages whose shape is known from descriptors, in and out of the frames of gRPC.
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::{
    Status,
    codec::{self, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// Encodes any message, decodes those of one shape.
#[derive(Clone, Debug)]
pub(super) struct Codec {
    decoded: MessageDescriptor,
}

impl Codec {
    /// `decoded`: the shape of what comes back.
    pub(super) fn new(decoded: MessageDescriptor) -> Self {
        Self { decoded }
    }
}

impl codec::Codec for Codec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Codec {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, bytes: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(bytes).map_err(|_| Status::internal("request does not fit"))
    }
}

impl Decoder for Codec {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let message = DynamicMessage::decode(self.decoded.clone(), bytes);
        message.map(Some).map_err(|_| Status::internal("answer is none of its shape"))
    }
}
