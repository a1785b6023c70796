//! GGUF files say what the same weights say as safetensors.
use candle_core::{
    DType, Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};
use newshound::{
    model::{
        config::{Biases, DecoderConfig, Family, OutputIds, RopeScaling},
        gguf::Gguf,
        ops::Numerics,
        transformer::Transformer,
        weights::{ModelError, Parameters, TensorSource},
    },
    train::model_folder::ModelFolder,
};
use std::{collections::BTreeMap, path::PathBuf};
use tempfile::TempDir;

/// One of each family, with what is special to it: biases, norms of heads, stretched wavelengths, an output head of its own.
fn configs() -> [DecoderConfig; 3] {
    let of = |family| DecoderConfig {
        family,
        hidden_size: 64,
        intermediate_size: 96,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        vocab_size: 40,
        max_positions: 64,
        rms_norm_eps: 1e-6,
        rope_theta: 500_000.0,
        rope_scaling: RopeScaling::None,
        tied_head: true,
        eos_ids: vec![3],
        biases: Biases::of(family),
        output_ids: OutputIds::All,
    };
    let rope_scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 8192,
    };
    let llama = DecoderConfig { rope_scaling, tied_head: false, ..of(Family::Llama) };
    [of(Family::Qwen2), DecoderConfig { head_dim: 32, ..of(Family::Qwen3) }, llama]
}

/// Random weights, biases and norms.
fn parameters(config: &DecoderConfig) -> Parameters {
    let mut parameters = Parameters::fresh(7, &Device::Cpu);
    Transformer::load(config, &mut parameters, Numerics::Train).unwrap();
    for (at, var) in parameters.vars().values().enumerate() {
        let n_values = var.elem_count();
        let wave = (0..n_values).map(|i| ((i * 31 + at * 17) as f32 * 0.7).sin() * 0.3);
        let offset = if var.rank() == 1 { 1.0 } else { 0.0 };
        let values: Vec<f32> = wave.map(|value| offset + value).collect();
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    parameters
}

/// llama.cpp's order of the rows of a projection of Llama's heads, by its index arithmetic.
fn interleaved(tensor: &Tensor, n_heads: usize) -> Tensor {
    let rows = tensor.dim(0).unwrap();
    let half = rows / n_heads / 2;
    let row = |at: usize| {
        let (head, within) = (at / (2 * half), at % (2 * half));
        u32::try_from(head * 2 * half + within % 2 * half + within / 2).unwrap()
    };
    let order = Tensor::from_vec((0..rows).map(row).collect(), rows, &Device::Cpu).unwrap();
    tensor.index_select(&order, 0).unwrap()
}

fn theirs(ours: &str) -> String {
    [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ]
    .iter()
    .fold(ours.to_owned(), |name, (from, to)| name.replace(from, to))
}

type Metadata = BTreeMap<String, Value>;

fn metadata(config: &DecoderConfig) -> Metadata {
    let architecture = match config.family {
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Llama => "llama",
    };
    let size = |size: usize| Value::U32(size.try_into().unwrap());
    let keys = [
        ("embedding_length", size(config.hidden_size)),
        ("feed_forward_length", size(config.intermediate_size)),
        ("block_count", size(config.n_layers)),
        ("attention.head_count", size(config.n_heads)),
        ("attention.head_count_kv", size(config.n_kv_heads)),
        ("attention.key_length", size(config.head_dim)),
        ("context_length", size(config.max_positions)),
        ("attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps as f32)),
        ("rope.freq_base", Value::F32(config.rope_theta as f32)),
    ];
    let mut metadata: Metadata =
        keys.into_iter().map(|(key, value)| (format!("{architecture}.{key}"), value)).collect();
    metadata.insert("general.architecture".to_owned(), Value::String(architecture.to_owned()));
    metadata.insert("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(config.eos_ids[0]));
    metadata
}

/// Matrices in blocks of a kind, and all else in f32, as llama.cpp does.
fn write(config: &DecoderConfig, kind: GgmlDType, metadata: &Metadata) -> (TempDir, PathBuf) {
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for (name, var) in parameters(config).vars() {
        let n_heads = match name.rsplit('.').nth(1) {
            Some("q_proj") if config.family == Family::Llama => Some(config.n_heads),
            Some("k_proj") if config.family == Family::Llama => Some(config.n_kv_heads),
            _ => None,
        };
        let tensor = n_heads.map_or(var.as_tensor().clone(), |n_heads| interleaved(var, n_heads));
        tensors.push((theirs(name), tensor));
    }
    if config.rope_scaling != RopeScaling::None {
        // Base 500,000 with heads of 16: wavelengths of 6, 32 and 167 stay, all from 4,443 on lie above or in the ramp to 8 times.
        let pair = |pair: i32| 2.0 * std::f64::consts::PI * 500_000_f64.powf(f64::from(pair) / 8.0);
        let stretch = |wavelength: f64| {
            let smooth = ((8192.0 / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
            (1.0 / ((1.0 - smooth) / 8.0 + smooth)) as f32
        };
        let stretches: Vec<f32> = (0..8).map(|at| stretch(pair(at))).collect();
        tensors.push(("rope_freqs.weight".to_owned(), Tensor::new(stretches, &Device::Cpu).unwrap()));
    }
    let blocks = |tensor: &Tensor| {
        QTensor::quantize(tensor, if tensor.rank() == 2 { kind } else { GgmlDType::F32 }).unwrap()
    };
    let tensors: Vec<(String, QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.clone(), blocks(tensor))).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(&path).unwrap(), &metadata, &tensors).unwrap();
    (dir, path)
}

fn open(path: &std::path::Path) -> Result<Gguf, ModelError> {
    Gguf::open(path, DType::F32, &Device::Cpu)
}

fn logits(config: &DecoderConfig, source: &mut impl TensorSource) -> Vec<f32> {
    let model = Transformer::load(config, source, Numerics::Serve).unwrap();
    let (_, hidden) = model.prefill(&[1, 5, 9, 2, 30]).unwrap();
    model.logits(&hidden).unwrap().squeeze(0).unwrap().to_vec1().unwrap()
}

#[test]
fn every_family_says_what_its_safetensors_say() {
    for config in configs() {
        let (_dir, path) = write(&config, GgmlDType::F32, &metadata(&config));
        let mut gguf = open(&path).unwrap();
        assert_eq!(gguf.config, config);
        let read = gguf.config.clone();
        assert_eq!(
            logits(&read, &mut gguf),
            logits(&config, &mut parameters(&config)),
            "{:?}",
            config.family
        );
    }
}

#[test]
fn blocks_of_few_bits_become_what_they_stand_for() {
    let [config, ..] = configs();
    let name = "model.layers.1.mlp.up_proj.weight";
    let exact = parameters(&config).vars()[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (kind, error) in
        [(GgmlDType::F16, 2e-4), (GgmlDType::BF16, 2e-3), (GgmlDType::Q8_0, 2e-3), (GgmlDType::Q4_0, 0.04)]
    {
        let (_dir, path) = write(&config, kind, &metadata(&config));
        let read = open(&path).unwrap().tensor(name, &[96, 64]).unwrap();
        let read = read.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let worst = read.iter().zip(&exact).map(|(read, exact)| (read - exact).abs()).fold(0.0, f32::max);
        assert!(worst > 0.0 && worst < error, "{kind:?}: {worst}");
    }
}

#[test]
fn what_cannot_be_a_supported_network_is_refused_with_a_reason() {
    let [config, ..] = configs();
    let refused = |key: &str, value: Value| {
        let mut metadata = metadata(&config);
        metadata.insert(key.to_owned(), value);
        let (_dir, path) = write(&config, GgmlDType::F32, &metadata);
        open(&path).unwrap_err().to_string()
    };
    let text = |text: &str| Value::String(text.to_owned());
    for (key, value, reason) in [
        ("general.architecture", text("gemma2"), "architecture gemma2 is unknown"),
        ("general.architecture", text("llama"), "llama.embedding_length is missing"),
        ("qwen2.expert_count", Value::U32(8), "qwen2.expert_count is not supported"),
        ("qwen2.rope.scaling.type", text("yarn"), "qwen2.rope.scaling.type yarn is not supported"),
        (
            "qwen2.rope.dimension_count",
            Value::U32(8),
            "qwen2.rope.dimension_count is not the width of a head",
        ),
        ("qwen2.attention.head_count", Value::U32(0), "num_attention_heads is 0"),
        ("qwen2.block_count", text("two"), "qwen2.block_count is no size"),
        ("general.alignment", Value::U32(0), "its alignment is 0"),
    ] {
        let error = refused(key, value);
        assert!(error.contains("model.gguf") && error.contains(reason), "{key}: {error}");
    }
}

#[test]
fn a_file_that_is_cut_off_or_lacks_a_tensor_is_refused() {
    let [config, ..] = configs();
    let (_dir, path) = write(&config, GgmlDType::F32, &metadata(&config));
    let bytes = std::fs::read(&path).unwrap();
    for n_bytes in [0, 3, 20, 400, bytes.len() / 2, bytes.len() - 32] {
        std::fs::write(&path, &bytes[..n_bytes]).unwrap();
        let loaded = open(&path).and_then(|mut gguf| {
            let config = gguf.config.clone();
            Transformer::load(&config, &mut gguf, Numerics::Serve)
        });
        let error = loaded.unwrap_err().to_string();
        assert!(error.contains("model.gguf"), "{n_bytes}: {error}");
    }
    std::fs::write(&path, &bytes).unwrap();
    let mut gguf = open(&path).unwrap();
    assert!(matches!(gguf.tensor("lm_head.weight", &[40, 64]), Err(ModelError::MissingTensor { .. })));
    let wrong = gguf.tensor("model.norm.weight", &[63]);
    assert!(matches!(wrong, Err(ModelError::WrongShape { got, .. }) if got == [64]));
}

#[test]
fn a_model_without_a_tokenizer_beside_it_takes_ids_alone() {
    let [config, ..] = configs();
    let (_dir, path) = write(&config, GgmlDType::Q8_0, &metadata(&config));
    let folder = ModelFolder::open_any(&path, &Device::Cpu).unwrap();
    assert_eq!(folder.stop_ids, [3]);
    assert_eq!(folder.ids("prompt", None, Some(&[1, 39])).unwrap(), [1, 39]);
    let error = folder.ids("prompt", Some("words"), None).unwrap_err();
    assert!(error.contains("no tokenizer.json beside the model"), "{error}");
}
