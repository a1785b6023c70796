//! What spans say: names of OpenTelemetry's conventions where they have one, ours after `newshound.` where they do not.
//!
//! Sources: OpenTelemetry's semantic conventions for RPC and for generative AI. Attributes of theirs that hold content are not used.
use super::Trace;
use crate::serve::{
    answer::{Answered, Origin},
    experiments::enrolment::Enrolment,
    metrics::outcome::Outcome,
    question::Question,
};
use opentelemetry::{Array, KeyValue, StringValue, Value};

/// Of a call, when it begins.
pub(super) fn call(method: &'static str) -> [KeyValue; 2] {
    [KeyValue::new("rpc.system.name", "grpc"), KeyValue::new("rpc.method", method)]
}

/// Of a call, when it ends.
pub(super) fn ended(code: &'static str) -> Vec<KeyValue> {
    let status = KeyValue::new("rpc.response.status_code", code);
    let error = (code != "OK").then(|| KeyValue::new("error.type", code));
    std::iter::once(status).chain(error).collect()
}

/// A number; one that a span cannot say becomes the largest that it can.
pub(super) fn number(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Trace {
    /// Notes what is asked, and as what it is answered.
    pub fn asked(&self, question: &Question, response_id: &str) {
        self.tell(|| {
            let (options, facts) = (&question.options, &question.writer.facts);
            let mut said = vec![
                KeyValue::new("gen_ai.operation.name", "text_completion"),
                KeyValue::new("gen_ai.provider.name", "newshound"),
                KeyValue::new("gen_ai.request.model", facts.manifest.name.clone()),
                KeyValue::new("gen_ai.request.choice.count", number(options.n_candidates)),
                KeyValue::new("gen_ai.request.max_tokens", number(options.max_output_tokens)),
                KeyValue::new("gen_ai.request.temperature", f64::from(options.sampler.temperature)),
                KeyValue::new("gen_ai.request.top_p", f64::from(options.sampler.top_p)),
                KeyValue::new("gen_ai.response.id", response_id.to_owned()),
                KeyValue::new("newshound.class", question.class.word()),
            ];
            said.extend(arms(&question.enrolment));
            said
        });
    }

    /// Notes how the request is answered. Tokens are told by the request for which they were written, and by no other.
    pub fn answered(&self, answered: &Answered) {
        self.tell(|| {
            let (answer, (status, age)) = (&answered.answer, answered.origin.status());
            let facts = &answer.model;
            let mut said = vec![
                KeyValue::new(
                    "gen_ai.response.model",
                    format!("{}:{}", facts.manifest.name, facts.manifest.version),
                ),
                KeyValue::new("newshound.bundle", facts.bundle.0.clone()),
                KeyValue::new("newshound.cache.status", status),
            ];
            said.extend(age.map(|age| KeyValue::new("newshound.cache.age", age.as_secs_f64())));
            said.extend(answered.degradation.iter().flat_map(|degradation| {
                [
                    KeyValue::new("newshound.rung", degradation.rung.word()),
                    KeyValue::new("newshound.rung.reason", degradation.why.word()),
                ]
            }));
            if matches!(answered.origin, Origin::Miss | Origin::Bypass) {
                let n_known = answer.prompt_tokens.saturating_sub(answer.prefill_tokens_computed);
                said.extend([
                    KeyValue::new("gen_ai.usage.input_tokens", number(answer.prompt_tokens)),
                    KeyValue::new("gen_ai.usage.cache_read.input_tokens", number(n_known)),
                    KeyValue::new("gen_ai.usage.output_tokens", number(answer.n_output_tokens())),
                ]);
            }
            said
        });
    }

    /// Notes what became of the request, in the word of the metrics.
    pub fn outcome(&self, outcome: Outcome) {
        self.tell(|| vec![KeyValue::new("newshound.outcome", outcome.word())]);
    }
}

/// Experiments and arms, which the operator has named.
fn arms(enrolment: &Enrolment) -> Option<KeyValue> {
    let arms = enrolment.assignments.iter();
    let arms: Vec<StringValue> = arms
        .map(|assignment| format!("{}={}", assignment.experiment.id, assignment.arm().id).into())
        .collect();
    (!arms.is_empty()).then(|| KeyValue::new("newshound.arms", Value::Array(Array::String(arms))))
}
