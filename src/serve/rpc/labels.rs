//! Metadata of answers, for proxies and access logs that do not open messages: which arms and which model answered. A caller's `x-request-id`
//! goes back to her beside them, from every method and with every refusal (`server`).
use super::{decode::ARM_HEADER, proto};
use tonic::metadata::{MetadataMap, MetadataValue};

/// Number of the model that answers or has answered, as in `ModelRef.generation`.
pub(super) const GENERATION_HEADER: &str = "x-newshound-model-generation";
/// What may stand in an answer's metadata.
pub(super) const LABELS: [&str; 2] = [ARM_HEADER, GENERATION_HEADER];

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
