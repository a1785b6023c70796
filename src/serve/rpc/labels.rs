//! Metadata of answers, for proxies and access logs that do not open messages: which arms and which model answered. A caller's `x-request-id`
//! goes back to her beside them, from every method and with what it refuses, but not where the transport itself ends a call.
use super::{decode::ARM_HEADER, proto};
use axum::extract::Request;
use tonic::metadata::{MetadataMap, MetadataValue};

/// A request's id, of the caller or of a proxy.
pub(super) const REQUEST_ID_HEADER: &str = "x-request-id";
/// Longest id that comes back, as long as a request's `correlation_id`: it shares a refusal's trailers with all that is told of it, and clients take
/// 8 KiB of those.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Number of the model that has answered, as in `ModelRef.generation`; of a stream, of the one that answers now, as in `Accepted.model`.
pub(super) const GENERATION_HEADER: &str = "x-newshound-model-generation";
/// What may stand in an answer's metadata.
pub(super) const LABELS: [&str; 2] = [ARM_HEADER, GENERATION_HEADER];

/// A request without an id that is too long to come back.
pub(super) fn with_short_id(mut request: Request) -> Request {
    let headers = request.headers_mut();
    if headers.get(REQUEST_ID_HEADER).is_some_and(|id| id.len() > REQUEST_ID_BYTES_MAX) {
        headers.remove(REQUEST_ID_HEADER);
    }
    request
}

/// Arms as a request would name them (`experiment=arm,experiment=arm`; absent where there are none), and the model.
pub(super) fn labels(arms: &[proto::ArmAssignment], model: Option<&proto::ModelRef>) -> MetadataMap {
    let mut labels = MetadataMap::new();
    let pair = |arm: &proto::ArmAssignment| Some(format!("{}={}", arm.experiment_id, arm.arm_id.as_ref()?));
    let pairs: Vec<String> = arms.iter().filter_map(pair).collect();
    // Names of experiments and arms are letters, digits and some signs of ASCII.
    if let Ok(pairs) = MetadataValue::try_from(pairs.join(","))
        && !pairs.is_empty()
    {
        labels.insert(ARM_HEADER, pairs);
    }
    if let Some(model) = model {
        labels.insert(GENERATION_HEADER, model.generation.into());
    }
    labels
}
