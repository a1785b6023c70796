//! `quantization_config`: weights in 8 bits, as compressed-tensors describes them.
use serde_json::{Value, json};

/// How `newshound-trainer quantize` describes weights, in the words of compressed-tensors: signed bytes in steps of one size per output,
/// and inputs rounded on the fly.
#[must_use]
pub fn quantization() -> Value {
    let bytes = |strategy: &str, dynamic: bool| json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": strategy, "dynamic": dynamic});
    json!({
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": [],
        "kv_cache_scheme": null,
        "config_groups": {"group_0": {
            "targets": ["Linear", "Embedding"],
            "weights": bytes("channel", false),
            "input_activations": bytes("token", true),
        }},
    })
}

/// Weights in other steps would be read as other numbers.
pub(super) fn check_quantization(quantization: &Value) -> Result<(), String> {
    let is = |value: &Value, key: &str, expected: &Value| value.get(key) == Some(expected);
    let of_bytes = |group: &Value| {
        let weights = &group["weights"];
        is(weights, "num_bits", &json!(8))
            && is(weights, "type", &json!("int"))
            && is(weights, "symmetric", &json!(true))
            && is(weights, "strategy", &json!("channel"))
    };
    let groups = quantization["config_groups"].as_object();
    let is_ours = is(quantization, "quant_method", &json!("compressed-tensors"))
        && is(quantization, "format", &json!("int-quantized"))
        && groups.is_some_and(|groups| groups.values().all(of_bytes));
    if is_ours {
        return Ok(());
    }
    Err("quantization_config is not supported, expected none, or compressed-tensors of format int-quantized with symmetric 8-bit \
         weights per channel"
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bits_groups_and_methods_are_refused() {
        assert_eq!(check_quantization(&quantization()), Ok(()));
        let refused = |pointer: &str, value: Value| {
            let mut other = quantization();
            *other.pointer_mut(pointer).unwrap() = value;
            assert!(check_quantization(&other).is_err(), "{pointer}");
        };
        refused("/quant_method", json!("gptq"));
        refused("/format", json!("pack-quantized"));
        refused("/config_groups", json!(null));
        refused("/config_groups/group_0/weights/num_bits", json!(4));
        refused("/config_groups/group_0/weights/strategy", json!("group"));
        refused("/config_groups/group_0/weights/symmetric", json!(false));
    }
}
