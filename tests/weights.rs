//! Checkpoints and configs: what loads, and the one clear error of each kind of damage.
mod gguf;
mod rounded;

use candle_core::{DType, Device};
use newshound::model::{
    config::{Biases, DecoderConfig, Family, OutputIds, RopeScaling},
    ops::Numerics,
    transformer::Transformer,
    weights::{Checkpoint, ModelError, Parameters, TensorSource},
};
use serde_json::{Value, json};
use std::{borrow::Cow, path::Path, sync::Arc};

fn config() -> DecoderConfig {
    DecoderConfig {
        family: Family::Qwen2,
        hidden_size: 8,
        intermediate_size: 12,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 4,
        vocab_size: 16,
        max_positions: 32,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        tied_head: true,
        eos_ids: vec![3],
        biases: Biases::of(Family::Qwen2),
        output_ids: OutputIds::All,
    }
}

fn parameters(config: &DecoderConfig) -> Parameters {
    let mut parameters = Parameters::fresh(7, &Device::Cpu);
    Transformer::load(config, &mut parameters, Numerics::Train).unwrap();
    parameters
}

/// Tensors of a header, in order, as (name, dtype, shape, bytes).
type Entry<'a> = (&'a str, &'a str, Vec<usize>, Vec<u8>);

fn file_of(entries: &[Entry]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in entries {
        let start = data.len();
        data.extend_from_slice(bytes);
        let info = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert((*name).to_owned(), info);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&u64::try_from(header.len()).unwrap().to_le_bytes(), header.as_bytes(), data].concat()
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn open(files: Vec<(&str, Vec<u8>)>) -> Result<Checkpoint, ModelError> {
    let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), Cow::Owned(bytes))).collect();
    Checkpoint::from_files(files, DType::F32, &Device::Cpu)
}

/// Opening or taking tensor `w` (2) fails, and the error names everything in `mentions`.
#[track_caller]
fn refused(files: Vec<(&str, Vec<u8>)>, mentions: &[&str]) {
    let error = open(files).and_then(|mut checkpoint| checkpoint.tensor("w", &[2])).unwrap_err().to_string();
    for mention in mentions {
        assert!(error.contains(mention), "{error:?} does not mention {mention:?}");
    }
}

fn pair(dtype: &str, bytes: Vec<u8>) -> Vec<u8> {
    file_of(&[("w", dtype, vec![2], bytes)])
}

#[test]
fn f32_f16_and_bf16_are_read_as_f32() {
    for (dtype, bytes) in [
        ("F32", f32_bytes(&[1.5, -2.0])),
        ("F16", vec![0x00, 0x3e, 0x00, 0xc0]),
        ("BF16", vec![0xc0, 0x3f, 0x00, 0xc0]),
    ] {
        let mut checkpoint = open(vec![("a.safetensors", pair(dtype, bytes))]).unwrap();
        let values = checkpoint.tensor("w", &[2]).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values, [1.5, -2.0], "{dtype}");
    }
}

#[test]
fn other_dtypes_are_refused() {
    for (dtype, bytes) in [("F64", 16), ("I64", 16), ("I32", 8), ("U8", 2), ("BOOL", 2)] {
        refused(vec![("a.safetensors", pair(dtype, vec![0; bytes]))], &["a.safetensors", "tensor w", dtype]);
    }
    refused(vec![("a.safetensors", pair("F7", vec![0; 2]))], &["a.safetensors", "tensor w", "F7"]);
}

#[test]
fn values_that_are_not_finite_are_refused() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let file = pair("F32", f32_bytes(&[0.0, value]));
        refused(vec![("a.safetensors", file)], &["a.safetensors", "tensor w", "not finite"]);
    }
    refused(vec![("a.safetensors", pair("F16", vec![0, 0, 0x00, 0x7c]))], &["tensor w", "not finite"]);
    refused(vec![("a.safetensors", pair("BF16", vec![0xc0, 0x7f, 0, 0]))], &["tensor w", "not finite"]);
}

#[test]
fn values_too_large_for_f16_are_refused_in_f16() {
    for (value, fits) in [(65_504.0, true), (65_519.0, true), (65_520.0, false)] {
        let file = pair("F32", f32_bytes(&[value, 0.0]));
        let files = vec![("a.safetensors".to_owned(), Cow::Owned(file))];
        let mut checkpoint = Checkpoint::from_files(files, DType::F16, &Device::Cpu).unwrap();
        assert_eq!(checkpoint.tensor("w", &[2]).is_ok(), fits, "{value}");
    }
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let other = file_of(&[("v", "F32", vec![2], f32_bytes(&[0.0; 2]))]);
    refused(vec![("a.safetensors", other)], &["a.safetensors", "tensor w", "missing"]);
    let longer = file_of(&[("w", "F32", vec![3], f32_bytes(&[0.0; 3]))]);
    refused(vec![("a.safetensors", longer)], &["a.safetensors", "tensor w", "[3]", "[2]"]);
}

#[test]
fn damaged_files_are_refused() {
    let whole = pair("F32", f32_bytes(&[1.0, 2.0]));
    assert!(open(vec![("a.safetensors", whole.clone())]).is_ok());
    for kept in 0..whole.len() {
        refused(vec![("a.safetensors", whole[..kept].to_vec())], &["a.safetensors"]);
    }
    refused(vec![("a.safetensors", whole[..whole.len() - 1].to_vec())], &["tensor w", "file holds 7 bytes"]);
    refused(vec![("a.safetensors", [whole, vec![0]].concat())], &["describes 8 bytes", "holds 9"]);
}

#[test]
fn lying_headers_are_refused() {
    let file = |header: &str| vec![("a.safetensors", with_header(header, &[0; 8]))];
    let info = |shape: &str, offsets: &str| {
        format!(r#"{{"w": {{"dtype": "F32", "shape": {shape}, "data_offsets": {offsets}}}}}"#)
    };
    assert!(open(file(&info("[2]", "[0, 8]"))).is_ok());
    refused(file(&info("[3]", "[0, 8]")), &["a.safetensors", "tensor w"]);
    refused(file(&info("[2]", "[8, 0]")), &["a.safetensors", "tensor w"]);
    refused(file(&info("[2]", "[4, 12]")), &["a.safetensors", "tensor w"]);
    refused(file(&info("[4]", "[0, 16]")), &["a.safetensors", "tensor w"]);
    let huge = u64::MAX;
    refused(file(&info(&format!("[{huge}]"), &format!("[0, {huge}]"))), &["a.safetensors", "tensor w"]);
    refused(file(&info(&format!("[{huge}, {huge}]"), "[0, 8]")), &["a.safetensors", "tensor w"]);
    refused(file(&info("[-2]", "[0, 8]")), &["a.safetensors", "tensor w"]);
    refused(file("[]"), &["a.safetensors", "header"]);
    refused(file(r#"{"w": 1}"#), &["a.safetensors", "tensor w"]);
    let overlapping = r#"{"v": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#;
    refused(file(overlapping), &["a.safetensors", "tensor w"]);
    let endless = [&u64::MAX.to_le_bytes()[..], &[0; 8]].concat();
    refused(vec![("a.safetensors", endless)], &["a.safetensors", "header"]);
}

fn index(entries: &[(&str, &str)]) -> Vec<u8> {
    let map: serde_json::Map<_, _> =
        entries.iter().map(|(tensor, shard)| ((*tensor).to_owned(), json!(shard))).collect();
    json!({"weight_map": map}).to_string().into_bytes()
}

fn save(dir: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(dir.join(name), bytes).unwrap();
}

#[test]
fn shards_named_by_an_index_load_as_one_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), "model-1.safetensors", &pair("F32", f32_bytes(&[1.0, 2.0])));
    save(dir.path(), "model-2.safetensors", &file_of(&[("v", "F32", vec![1], f32_bytes(&[3.0]))]));
    let map = index(&[("w", "model-1.safetensors"), ("v", "model-2.safetensors")]);
    save(dir.path(), "model.safetensors.index.json", &map);
    let mut checkpoint = Checkpoint::open(dir.path(), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(checkpoint.tensor("w", &[2]).unwrap().to_vec1::<f32>().unwrap(), [1.0, 2.0]);
    assert_eq!(checkpoint.tensor("v", &[1]).unwrap().to_vec1::<f32>().unwrap(), [3.0]);
    let error = checkpoint.tensor("u", &[1]).unwrap_err().to_string();
    assert!(error.contains("model.safetensors.index.json") && error.contains("tensor u"), "{error}");
}

#[test]
fn an_index_that_contradicts_its_shards_is_refused() {
    let shard = || pair("F32", f32_bytes(&[1.0, 2.0]));
    let indexed = |entries: &[(&str, &str)], mut files: Vec<(&'static str, Vec<u8>)>| {
        files.push(("model.safetensors.index.json", index(entries)));
        files
    };
    refused(
        indexed(&[("w", "b.safetensors")], vec![("a.safetensors", shard())]),
        &["b.safetensors", "missing"],
    );
    let named = [("w", "a.safetensors"), ("v", "a.safetensors")];
    refused(indexed(&named, vec![("a.safetensors", shard())]), &["a.safetensors", "tensor v", "missing"]);
    let twice = vec![("a.safetensors", shard()), ("b.safetensors", shard())];
    refused(indexed(&[("w", "a.safetensors")], twice), &["b.safetensors", "tensor w", "a.safetensors"]);
    for outside in ["../a.safetensors", "/a.safetensors", "b\\a.safetensors", ".a.safetensors", "a.bin"] {
        let files = indexed(&[("w", outside)], vec![("a.safetensors", shard())]);
        refused(files, &["model.safetensors.index.json", "plain"]);
    }
    refused(vec![("model.safetensors.index.json", b"{}".to_vec())], &["model.safetensors.index.json"]);
}

#[test]
fn a_folder_without_its_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(dir.path(), DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    save(dir.path(), "model.safetensors.index.json", &index(&[("w", "model-1.safetensors")]));
    let error = Checkpoint::open(dir.path(), DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("model-1.safetensors") && error.contains("missing"), "{error}");
}

#[test]
fn a_decoder_names_the_tensor_it_lacks() {
    let config = config();
    let bytes = parameters(&config).to_safetensors(DType::F32).unwrap();
    let load = |config: &DecoderConfig| {
        let mut checkpoint = open(vec![("model.safetensors", bytes.clone())]).unwrap();
        Transformer::load(config, &mut checkpoint, Numerics::Serve)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(load(&config), Ok(()));
    let untied = load(&DecoderConfig { tied_head: false, ..config.clone() }).unwrap_err();
    assert!(untied.contains("lm_head.weight") && untied.contains("model.safetensors"), "{untied}");
    let deeper = load(&DecoderConfig { n_layers: 3, ..config.clone() }).unwrap_err();
    assert!(deeper.contains("model.layers.2."), "{deeper}");
    let wider = load(&DecoderConfig { intermediate_size: 13, ..config }).unwrap_err();
    assert!(wider.contains("mlp.gate_proj.weight") && wider.contains("[13, 8]"), "{wider}");
}

#[test]
fn fresh_parameters_depend_on_seed_and_name_only() {
    let values = |seed, first: &str| {
        let mut parameters = Parameters::fresh(seed, &Device::Cpu);
        parameters.tensor(first, &[4, 4]).unwrap();
        parameters.tensor("a.weight", &[4, 4]).unwrap().to_vec2::<f32>().unwrap()
    };
    assert_eq!(values(1, "a.weight"), values(1, "b.weight"));
    assert_ne!(values(1, "a.weight"), values(2, "a.weight"));
    let mut parameters = Parameters::fresh(1, &Device::Cpu);
    for (name, expected) in
        [("norm.weight", 1.0), ("query.input_scale", 1.0), ("q_proj.bias", 0.0), ("query.input_mean", 0.0)]
    {
        assert_eq!(parameters.tensor(name, &[2]).unwrap().to_vec1::<f32>().unwrap(), [expected; 2], "{name}");
    }
}

#[test]
fn parameters_survive_a_round_trip_byte_for_byte() {
    let config = config();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let bytes = parameters(&config).to_safetensors(dtype).unwrap();
        let checkpoint = open(vec![("model.safetensors", bytes.clone())]).unwrap();
        let again = Parameters::from_checkpoint(checkpoint).unwrap().to_safetensors(dtype).unwrap();
        assert_eq!(bytes, again, "{dtype:?}");
    }
    assert!(parameters(&config).to_safetensors(DType::I64).is_err());
}

#[test]
fn both_config_layouts_say_the_same() {
    let old = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8,
        "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": 16, "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "rope_theta": 500.0,
        "tie_word_embeddings": true, "eos_token_id": [3, 4], "torch_dtype": "bfloat16", "sliding_window": 4,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16}});
    let mut new = old.clone();
    let map = new.as_object_mut().unwrap();
    let mut rope = map.remove("rope_scaling").unwrap();
    rope["rope_theta"] = map.remove("rope_theta").unwrap();
    map.insert("rope_parameters".to_owned(), rope);
    map.insert("sliding_window".to_owned(), Value::Null);
    map.insert("layer_types".to_owned(), json!(["full_attention", "full_attention"]));
    let parsed = parse(&old).unwrap();
    assert_eq!(parse(&new).unwrap(), parsed);
    // Configs converted by newer tools carry the older name of the type beside the newer one.
    new["rope_parameters"]["type"] = json!("llama3");
    assert_eq!(parse(&new).unwrap(), parsed);
    assert_eq!(parsed.head_dim, 4);
    assert_eq!(parsed.eos_ids, [3, 4]);
    assert_eq!(parsed.rope_theta, 500.0);
    assert_eq!(DecoderConfig::parse(parsed.to_json().as_bytes(), "config.json").unwrap(), parsed);
}

fn parse(config: &Value) -> Result<DecoderConfig, ModelError> {
    DecoderConfig::parse(config.to_string().as_bytes(), "config.json")
}

#[test]
fn every_family_writes_a_config_that_it_reads() {
    for family in [Family::Qwen2, Family::Qwen3, Family::Llama] {
        for eos_ids in [vec![], vec![3], vec![3, 4]] {
            let config = DecoderConfig { family, eos_ids, biases: Biases::of(family), ..config() };
            for output_ids in [OutputIds::All, OutputIds::Kept(Arc::new([0, 3, 4, 15]))] {
                let config = DecoderConfig { output_ids, ..config.clone() };
                assert_eq!(DecoderConfig::parse(config.to_json().as_bytes(), "config.json").unwrap(), config);
            }
        }
    }
}

/// A config with one key changed is refused, and the error names file and key.
#[track_caller]
fn config_refused(key: &str, value: Value, mention: &str) {
    let mut changed: Value = serde_json::from_str(&config().to_json()).unwrap();
    changed[key] = value;
    let error = parse(&changed).unwrap_err().to_string();
    assert!(
        error.contains("config.json") && error.contains(mention),
        "{error:?} does not mention {mention:?}"
    );
}

#[test]
fn configs_of_no_supported_decoder_are_refused() {
    config_refused("architectures", json!(["Qwen2MoeForCausalLM"]), "Qwen2MoeForCausalLM");
    config_refused("architectures", json!(["BertModel"]), "BertModel");
    config_refused("hidden_act", json!("gelu"), "gelu");
    config_refused("layer_types", json!(["full_attention", "sliding_attention"]), "sliding_attention");
    config_refused("rope_scaling", json!({"type": "yarn", "factor": 4.0}), "yarn");
    config_refused("rope_scaling", json!({"rope_type": "llama3", "factor": 4.0}), "low_freq_factor");
    config_refused("quantization_config", json!({"bits": 4}), "quantization_config");
    for key in
        ["hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "vocab_size"]
    {
        config_refused(key, json!(0), key);
        config_refused(key, json!(u64::MAX), key);
    }
    for (ids, mention) in [
        (json!([]), "ascending"),
        (json!([5, 3]), "ascending"),
        (json!([3, 3]), "ascending"),
        (json!([3, 16]), "16, which is not below"),
        (json!([2, 4]), "lacks 3"),
    ] {
        config_refused("output_ids", ids, mention);
    }
    config_refused("head_dim", json!(3), "head_dim");
    config_refused("num_key_value_heads", json!(3), "num_key_value_heads");
    config_refused("rms_norm_eps", json!(0.0), "rms_norm_eps");
    config_refused("rope_theta", json!(0.0), "rope_theta");
    config_refused("hidden_size", json!("wide"), "invalid type");
    config_refused("hidden_size", Value::Null, "invalid type");
    assert!(DecoderConfig::parse(b"{", "config.json").is_err());
    assert!(DecoderConfig::parse(b"[]", "config.json").is_err());
}

#[test]
fn a_sliding_window_is_refused_only_where_it_would_be_used() {
    let with = |used: bool, window: Value, full_layers: usize| {
        let mut changed: Value = serde_json::from_str(&config().to_json()).unwrap();
        changed["use_sliding_window"] = json!(used);
        changed["sliding_window"] = window;
        changed["max_window_layers"] = json!(full_layers);
        parse(&changed)
    };
    assert!(with(true, json!(31), 0).unwrap_err().to_string().contains("use_sliding_window"));
    assert!(with(true, json!(31), 1).is_err());
    assert!(with(true, json!(31), 2).is_ok());
    assert!(with(true, json!(32), 0).is_ok());
    assert!(with(true, Value::Null, 0).is_ok());
    assert!(with(false, json!(31), 0).is_ok());
}
