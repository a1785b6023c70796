//! Goldens: sampler. Probabilities after every processor, of every case of `sampler/cases.json`.
use crate::support::goldens;
use newshound::decode::sampler::{SamplerSettings, probabilities};
use serde_json::Value;

fn settings(config: &Value) -> SamplerSettings {
    let known = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty"];
    let unknown = config.as_object().unwrap().keys().find(|key| !known.contains(&key.as_str()));
    assert_eq!(unknown, None, "a processor that is not checked");
    let number = |key: &str, neutral: f32| config.get(key).map_or(neutral, goldens::f32_of);
    SamplerSettings {
        temperature: number("temperature", 1.0),
        top_k: usize::try_from(config.get("top_k").and_then(Value::as_u64).unwrap_or(0)).unwrap(),
        top_p: number("top_p", 1.0),
        min_p: number("min_p", 0.0),
        repetition_penalty: number("repetition_penalty", 1.0),
        constrained: false,
    }
}

#[test]
fn golden_sampler_keeps_and_weighs_tokens_as_the_reference() {
    let expected = goldens::json(&goldens::root().join("sampler/cases.json"));
    let history = goldens::u32s(&expected["history_ids"]);
    let cases = expected["cases"].as_array().unwrap();
    assert!(!cases.is_empty(), "no sampler case in {}", goldens::root().display());
    for case in cases {
        let row = case["logits_row"].as_str().unwrap();
        let what = format!("{row} {}", case["config"]);
        let logits = goldens::f32s(&expected["logits"][row]);
        let got = probabilities(&settings(&case["config"]), &logits, &history).unwrap();
        goldens::assert_close(&got, &goldens::f32s(&case["probs"]), 1e-4, &what);
        let kept: Vec<u32> = (0..).zip(&got).filter(|&(_, &p)| p > 0.0).map(|(id, _)| id).collect();
        assert_eq!(kept, goldens::u32s(&case["kept_ids"]), "{what}");
    }
}
