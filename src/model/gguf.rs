//! GGUF files of the families of `config`, as llama.cpp writes them: names, sizes and weights in the terms of the rest of the house.
//!
//! Weights in blocks of few bits become floats when they are read; how they are held then is for `precision` to say.
use super::{
    config::{Biases, DecoderConfig, Family, OutputIds, RopeScaling},
    rotary,
    stored::all_finite,
    weights::{ModelError, TensorSource},
};
use candle_core::{
    DType, Device, Tensor,
    quantized::gguf_file::{Content, Value},
};
use std::{
    fs::File,
    io::BufReader,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

/// Names outside of layers, ours and theirs.
const OUTSIDE: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", HEAD),
];
/// Parts of a layer: `model.layers.0.self_attn.q_proj.weight` is `blk.0.attn_q.weight`.
const PARTS: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
const HEAD: &str = "output.weight";
/// How many times each wavelength is stretched, where it is.
const STRETCHES: &str = "rope_freqs.weight";
/// What differs of a stretch from the formula's, at most: it is stored in 32 bits.
const STRETCH_TOLERANCE: f64 = 1e-3;
/// Ids that end a text, or a speaker's turn.
const EOS_KEYS: [&str; 2] = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];

/// One file, its tensors in `dtype` on `device` as they are asked for.
#[derive(Debug)]
pub struct Gguf {
    /// What its metadata say of the network.
    pub config: DecoderConfig,
    tensors: Tensors,
}

impl Gguf {
    /// Whether a path is one of such a file, by its name.
    #[must_use]
    pub fn is_at(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension == "gguf")
    }

    /// Opens a file and reads its metadata.
    ///
    /// # Errors
    /// If it is cut off or contradicts itself, is of another architecture or of a variant of one that `config` does not have, or holds
    /// blocks of an unknown kind.
    pub fn open(path: &Path, dtype: DType, device: &Device) -> Result<Self, ModelError> {
        let name = path.display().to_string();
        let unreadable = |reason: String| ModelError::Unreadable { file: name.clone(), reason };
        let mut reader = BufReader::new(File::open(path).map_err(|error| unreadable(error.to_string()))?);
        // The library divides by a number of the file, its alignment, which can be 0.
        let content = catch_unwind(AssertUnwindSafe(|| Content::read(&mut reader)));
        let content =
            content.map_err(|_| unreadable("its alignment is 0, or it is damaged otherwise".to_owned()))?;
        let content = content.map_err(|error| unreadable(error.to_string()))?;
        let mut tensors = Tensors { name, content, reader, dtype, device: device.clone() };
        let config = config(&mut tensors)?;
        Ok(Self { config, tensors })
    }
}

impl TensorSource for Gguf {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let theirs = theirs(name).ok_or_else(|| self.tensors.missing(name))?;
        let values = self.tensors.read(&theirs, shape)?;
        let n_heads = match self.config.family {
            Family::Llama if name.contains("q_proj") => self.config.n_heads,
            Family::Llama if name.contains("k_proj") => self.config.n_kv_heads,
            Family::Llama | Family::Qwen2 | Family::Qwen3 => 0,
        };
        let tensor = if n_heads > 0 { halves(&values, n_heads, shape)? } else { values };
        Ok(tensor.to_dtype(self.tensors.dtype)?.to_device(&self.tensors.device)?)
    }

    fn contains(&self, name: &str) -> bool {
        theirs(name).is_some_and(|name| self.tensors.content.tensor_infos.contains_key(&name))
    }
}

/// Our name of a tensor in theirs.
fn theirs(ours: &str) -> Option<String> {
    let outside = OUTSIDE.iter().find(|(name, _)| *name == ours);
    if let Some((_, theirs)) = outside {
        return Some((*theirs).to_owned());
    }
    let (layer, rest) = ours.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (_, theirs) = PARTS.iter().find(|(name, _)| *name == part)?;
    Some(format!("blk.{layer}.{theirs}.{kind}"))
}

/// Llama's heads are rotated by neighbours there and by halves here, so rows (pairs, 2) of each head become (2, pairs).
fn halves(tensor: &Tensor, n_heads: usize, shape: &[usize]) -> candle_core::Result<Tensor> {
    let per_pair = tensor.reshape((n_heads, shape[0] / n_heads / 2, 2, ()))?;
    per_pair.transpose(1, 2)?.contiguous()?.reshape(shape)
}

#[derive(Debug)]
struct Tensors {
    name: String,
    content: Content,
    reader: BufReader<File>,
    dtype: DType,
    device: Device,
}

impl Tensors {
    /// A tensor of their name, in f32 on the CPU.
    fn read(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let got = self.content.tensor_infos.get(name).map(|info| info.shape.dims().to_vec());
        let got = got.ok_or_else(|| self.missing(name))?;
        if got != shape {
            let (file, tensor) = (self.name.clone(), name.to_owned());
            return Err(ModelError::WrongShape { file, tensor, got, expected: shape.to_vec() });
        }
        let read = self.content.tensor(&mut self.reader, name, &Device::Cpu);
        let values = read.and_then(|blocks| blocks.dequantize(&Device::Cpu)).map_err(|error| {
            ModelError::Unreadable { file: self.name.clone(), reason: format!("tensor {name}: {error}") }
        })?;
        if !all_finite(&values.flatten_all()?.to_vec1()?, self.dtype) {
            return Err(ModelError::NotFinite { file: self.name.clone(), tensor: name.to_owned() });
        }
        Ok(values)
    }

    fn missing(&self, name: &str) -> ModelError {
        ModelError::MissingTensor { file: self.name.clone(), tensor: name.to_owned() }
    }

    fn contains(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.content.metadata.get(key)?.to_string().ok().map(String::as_str)
    }

    /// A number that has to be there; its text reads back as what was meant before it was stored in 32 bits.
    fn number(&self, key: &str) -> Result<f64, String> {
        let value = self.content.metadata.get(key).ok_or(format!("{key} is missing"))?;
        let number = if let Value::F32(number) = value {
            number.to_string().parse().ok()
        } else {
            value.to_f64().ok()
        };
        number.ok_or(format!("{key} is no number"))
    }

    /// A number; `default` where there is no such key.
    fn number_or(&self, key: &str, default: f64) -> Result<f64, String> {
        if self.content.metadata.contains_key(key) { self.number(key) } else { Ok(default) }
    }

    /// A size; none where there is no such key.
    fn size(&self, key: &str) -> Result<Option<usize>, String> {
        let size = |value: &Value| {
            let size =
                value.to_u64().or_else(|_| value.to_i32().map(|size| u64::try_from(size).unwrap_or(0)));
            size.ok().and_then(|size| usize::try_from(size).ok()).ok_or(format!("{key} is no size"))
        };
        self.content.metadata.get(key).map(size).transpose()
    }
}

fn config(tensors: &mut Tensors) -> Result<DecoderConfig, ModelError> {
    let file = tensors.name.clone();
    let of_reason = |reason: String| ModelError::Config { file: file.clone(), reason };
    let config = shape(tensors).map_err(of_reason)?.checked().map_err(of_reason)?;
    if !tensors.contains(STRETCHES) {
        return Ok(config);
    }
    let stretches = tensors.read(STRETCHES, &[config.head_dim / 2])?.to_vec1::<f32>()?;
    let unknown = || format!("wavelengths in {STRETCHES} are not stretched as those of Llama 3.1");
    stretched(config, &stretches).ok_or_else(unknown).map_err(of_reason)
}

/// What the metadata say, before it is checked.
fn shape(tensors: &Tensors) -> Result<DecoderConfig, String> {
    let architecture = tensors.text("general.architecture").unwrap_or("of no name");
    let family = match architecture {
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        "llama" => Family::Llama,
        other => {
            return Err(format!("architecture {other} is unknown; qwen2, qwen3 and llama are supported"));
        }
    };
    let key = |rest: &str| format!("{architecture}.{rest}");
    let needed = |rest: &str| tensors.size(&key(rest))?.ok_or(format!("{} is missing", key(rest)));
    for unsupported in ["expert_count", "attention.sliding_window"] {
        if tensors.size(&key(unsupported))?.is_some_and(|size| size > 0) {
            return Err(format!("{} is not supported", key(unsupported)));
        }
    }
    if let Some(kind) = tensors.text(&key("rope.scaling.type")).filter(|kind| *kind != "none") {
        return Err(format!("{} {kind} is not supported", key("rope.scaling.type")));
    }
    let (hidden_size, n_heads) = (needed("embedding_length")?, needed("attention.head_count")?);
    let head_dim = tensors.size(&key("attention.key_length"))?.unwrap_or(hidden_size / n_heads.max(1));
    if tensors.size(&key("rope.dimension_count"))?.is_some_and(|rotated| rotated != head_dim) {
        return Err(format!("{} is not the width of a head, {head_dim}", key("rope.dimension_count")));
    }
    let embedding = tensors.content.tensor_infos.get("token_embd.weight");
    let vocab_size = embedding.and_then(|info| info.shape.dims().first().copied());
    let eos_ids = EOS_KEYS.iter().filter_map(|key| tensors.size(key).transpose());
    let eos_ids = eos_ids.map(|id| id.and_then(|id| u32::try_from(id).map_err(|error| error.to_string())));
    Ok(DecoderConfig {
        family,
        hidden_size,
        intermediate_size: needed("feed_forward_length")?,
        n_layers: needed("block_count")?,
        n_heads,
        n_kv_heads: tensors.size(&key("attention.head_count_kv"))?.unwrap_or(n_heads),
        head_dim,
        vocab_size: vocab_size.ok_or("tensor token_embd.weight is missing")?,
        max_positions: needed("context_length")?,
        rms_norm_eps: tensors.number(&key("attention.layer_norm_rms_epsilon"))?,
        rope_theta: tensors.number_or(&key("rope.freq_base"), 10_000.0)?,
        rope_scaling: RopeScaling::None,
        tied_head: !tensors.contains(HEAD),
        eos_ids: eos_ids.collect::<Result<_, _>>()?,
        biases: Biases {
            qkv: tensors.contains("blk.0.attn_q.bias"),
            output: tensors.contains("blk.0.attn_output.bias"),
            mlp: tensors.contains("blk.0.ffn_gate.bias"),
        },
        output_ids: OutputIds::All,
    })
}

/// The scaling that stretches wavelengths like that. The file says by how much, not by which rule: all published models have one rule, and
/// differ in its factor.
fn stretched(config: DecoderConfig, stretches: &[f32]) -> Option<DecoderConfig> {
    let factor = stretches.iter().copied().fold(1.0, f32::max).into();
    let rope_scaling = RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 8192,
    };
    let config = DecoderConfig { rope_scaling, ..config };
    let is_like = |(expected, got): (f64, &f32)| (f64::from(*got) / expected - 1.0).abs() < STRETCH_TOLERANCE;
    let is_known = rotary::stretches(&config).zip(stretches).all(is_like);
    is_known.then_some(config)
}
