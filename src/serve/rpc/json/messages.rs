//! Messages from JSON and to JSON, by the descriptors that reflection serves too.
use super::{
    super::{proto, status},
    Exposed,
};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions};
use std::sync::LazyLock;
use tonic::Status;
use tonic_types::pb;

/// Every message of `newshound.v1`, and google.rpc's, which are the details of errors.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("build.rs wrote descriptors");
    pool.decode_file_descriptor_set(pb::FILE_DESCRIPTOR_SET).expect("tonic-types has descriptors");
    pool
});

/// Also what is zero: whoever reads JSON does not know which fields there are.
const WRITTEN: SerializeOptions = SerializeOptions::new().skip_default_fields(false);

/// Longest description of what is wrong with a JSON text: it repeats names and values, which may be of any length.
const DESCRIPTION_CHARS_MAX: usize = 300;

/// The method that stands at a path.
pub(super) fn method(exposed: Exposed) -> MethodDescriptor {
    let service = POOL.get_service_by_name(exposed.service).expect("a service of proto/ is named");
    let method = service.methods().find(|method| method.name() == exposed.method);
    method.expect("a method of its service is named")
}

/// The shape of errors.
pub(super) fn error() -> MessageDescriptor {
    POOL.get_message_by_name("google.rpc.Status").expect("tonic-types describes it")
}

/// Reads a message of a shape.
///
/// # Errors
/// If the text is no JSON or no message of the shape; the status says where.
pub(super) fn read(shape: MessageDescriptor, json: &[u8]) -> Result<DynamicMessage, Status> {
    let mut json = serde_json::Deserializer::from_slice(json);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let read = DynamicMessage::deserialize(shape, tracked);
    let read = read.and_then(|message| json.end().map(|()| message));
    read.map_err(|error| {
        let (path, description) = (track.path().to_string(), error.to_string());
        let description: String = description.chars().take(DESCRIPTION_CHARS_MAX).collect();
        let path: String = path.chars().take(DESCRIPTION_CHARS_MAX).collect();
        status::unreadable(if path == "." { "" } else { &path }, &description)
    })
}

/// Writes a message.
///
/// # Errors
/// If it holds a time or a duration that JSON has no text for, which no message of ours does.
pub(super) fn write(message: &DynamicMessage) -> Result<Vec<u8>, Status> {
    let mut json = Vec::with_capacity(1024);
    let written = message.serialize_with_options(&mut serde_json::Serializer::new(&mut json), &WRITTEN);
    written.map_err(|_| Status::internal("answer cannot be said in JSON"))?;
    Ok(json)
}
