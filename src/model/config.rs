//! `config.json` of the Qwen2/2.5, Qwen3 and Llama families (both layouts), checked.
mod output_ids;
mod quantization;

pub use output_ids::OutputIds;
pub use quantization::quantization;

use super::weights::ModelError;
use quantization::check_quantization;
use serde::Deserialize;
use serde_json::{Value, json};

/// A family of decoders: which biases and norms its attention has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Qwen2 and Qwen2.5: biases on query, key and value.
    Qwen2,
    /// Qwen3: a norm over each head of query and key.
    Qwen3,
    /// Llama 2 and 3.
    Llama,
}

/// A decoder's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Which biases and norms there are.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub n_layers: usize,
    /// Query heads per layer.
    pub n_heads: usize,
    /// Key and value heads per layer; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Rows of the embedding; may exceed the tokenizer's vocabulary.
    pub vocab_size: usize,
    /// Longest row, prompt and completion together, in tokens.
    pub max_positions: usize,
    /// Added to the mean square inside each norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
    /// How the wavelengths are stretched.
    pub rope_scaling: RopeScaling,
    /// Whether the embedding is also the output head.
    pub tied_head: bool,
    /// Ids that end a generation; may be empty.
    pub eos_ids: Vec<u32>,
    /// Which linear layers add a bias.
    pub biases: Biases,
    /// Tokens that may be written. A key of ours: other tools pass over it, and give the other tokens a share.
    pub output_ids: OutputIds,
}

/// Which linear layers add a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// Query, key and value projections.
    pub qkv: bool,
    /// Attention's output projection.
    pub output: bool,
    /// The three feed-forward projections.
    pub mlp: bool,
}

impl Biases {
    /// Returns what published checkpoints of the family have.
    #[must_use]
    pub fn of(family: Family) -> Self {
        Self { qkv: family == Family::Qwen2, output: false, mlp: false }
    }
}

/// How rotary wavelengths are stretched beyond the length of pre-training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Long wavelengths by `factor`, short ones not, a ramp between (Llama 3.1).
    Llama3 {
        /// How much long wavelengths are stretched.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Positions of pre-training.
        original_max_positions: usize,
    },
}

impl DecoderConfig {
    /// Parses either layout: `rope_theta` and `rope_scaling`, or `rope_parameters`. `file` names the source in errors.
    ///
    /// # Errors
    /// If it is no JSON object of a supported family, a size is missing, zero, absurd or inconsistent, or it asks
    /// for something that is not supported: a sliding window, another activation, another rotary scaling.
    pub fn parse(json: &[u8], file: &str) -> Result<Self, ModelError> {
        let config = serde_json::from_slice::<Raw>(json)
            .map_err(|error| error.to_string())
            .and_then(|raw| raw.check())
            .and_then(Self::checked);
        config.map_err(|reason| ModelError::Config { file: file.to_owned(), reason })
    }

    /// Writes a Hugging Face `config.json` that `parse` and other tools read back.
    #[must_use]
    pub fn to_json(&self) -> String {
        let (class, model_type) = match self.family {
            Family::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
            Family::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
            Family::Llama => ("LlamaForCausalLM", "llama"),
        };
        let eos = match self.eos_ids.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        };
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "attention_dropout": 0.0,
            "eos_token_id": eos,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_positions,
            "num_attention_heads": self.n_heads,
            "num_hidden_layers": self.n_layers,
            "num_key_value_heads": self.n_kv_heads,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": self.rope_scaling.to_json(),
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tied_head,
            "torch_dtype": "float32",
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        if let OutputIds::Kept(ids) = &self.output_ids {
            config["output_ids"] = json!(&**ids);
        }
        match self.family {
            Family::Qwen2 => config["use_sliding_window"] = json!(false),
            Family::Qwen3 => {
                config["use_sliding_window"] = json!(false);
                config["attention_bias"] = json!(self.biases.qkv);
            }
            Family::Llama => {
                config["attention_bias"] = json!(self.biases.qkv);
                config["mlp_bias"] = json!(self.biases.mlp);
            }
        }
        format!("{config:#}\n")
    }

    /// Itself, if its sizes make a network.
    pub(super) fn checked(self) -> Result<Self, String> {
        // The upper limits are far above every published model of these families; they keep sizes that are
        // typing mistakes from becoming allocations.
        let limits = [
            ("hidden_size", self.hidden_size, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1 << 18),
            ("num_hidden_layers", self.n_layers, 1 << 10),
            ("num_attention_heads", self.n_heads, 1 << 10),
            ("num_key_value_heads", self.n_kv_heads, 1 << 10),
            ("head_dim", self.head_dim, 1 << 10),
            ("vocab_size", self.vocab_size, 1 << 22),
            ("max_position_embeddings", self.max_positions, 1 << 24),
        ];
        for (key, value, max) in limits {
            if value == 0 || value > max {
                return Err(format!("{key} is {value}, expected 1 to {max}"));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(format!(
                "num_attention_heads {} is not a multiple of num_key_value_heads {}",
                self.n_heads, self.n_kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim {} is odd, so it cannot be rotated in pairs", self.head_dim));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(format!("rms_norm_eps is {}, expected a number between 0 and 1", self.rms_norm_eps));
        }
        if !(self.rope_theta >= 1.0 && self.rope_theta.is_finite()) {
            return Err(format!("rope_theta is {}, expected a number of at least 1", self.rope_theta));
        }
        self.output_ids.check(self.vocab_size, &self.eos_ids)?;
        Ok(self)
    }
}

impl RopeScaling {
    fn to_json(self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_positions,
            }),
        }
    }
}

/// The keys of `config.json` that decide a decoder's shape; others do not change its numbers.
#[derive(Deserialize)]
struct Raw {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    partial_rotary_factor: Option<f64>,
    tie_word_embeddings: Option<bool>,
    eos_token_id: Option<Eos>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    sliding_window: Option<u64>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<Value>,
    output_ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct RawRope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    /// The older name. Configs converted by newer tools carry both.
    r#type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    partial_rotary_factor: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Eos {
    One(u32),
    Many(Vec<u32>),
}

impl Raw {
    fn check(self) -> Result<DecoderConfig, String> {
        let family = self.family()?;
        self.check_support()?;
        // The defaults below are those of the published configuration classes.
        let head_dim = match (self.head_dim, family) {
            (Some(head_dim), _) => head_dim,
            (None, Family::Qwen3) => 128,
            (None, Family::Qwen2 | Family::Llama) => {
                if self.num_attention_heads == 0 || !self.hidden_size.is_multiple_of(self.num_attention_heads)
                {
                    return Err(format!(
                        "hidden_size {} is not a multiple of num_attention_heads {} and head_dim is not given",
                        self.hidden_size, self.num_attention_heads
                    ));
                }
                self.hidden_size / self.num_attention_heads
            }
        };
        let attention_bias = self.attention_bias == Some(true);
        let biases = match family {
            Family::Qwen2 => Biases::of(family),
            Family::Qwen3 => Biases { qkv: attention_bias, output: attention_bias, mlp: false },
            Family::Llama => {
                Biases { qkv: attention_bias, output: attention_bias, mlp: self.mlp_bias == Some(true) }
            }
        };
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let rope_theta = rope.and_then(|rope| rope.rope_theta).or(self.rope_theta).unwrap_or(10_000.0);
        Ok(DecoderConfig {
            family,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            n_layers: self.num_hidden_layers,
            n_heads: self.num_attention_heads,
            n_kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim,
            vocab_size: self.vocab_size,
            max_positions: self.max_position_embeddings,
            rms_norm_eps: self.rms_norm_eps.unwrap_or(1e-6),
            rope_theta,
            rope_scaling: rope.map_or(Ok(RopeScaling::None), RawRope::scaling)?,
            tied_head: self.tie_word_embeddings == Some(true),
            eos_ids: match self.eos_token_id {
                None => Vec::new(),
                Some(Eos::One(id)) => vec![id],
                Some(Eos::Many(ids)) => ids,
            },
            biases,
            output_ids: self.output_ids.map_or(OutputIds::All, |ids| OutputIds::Kept(ids.into())),
        })
    }

    fn family(&self) -> Result<Family, String> {
        let class = self.architectures.as_ref().and_then(|classes| classes.first());
        let known =
            ["Qwen2", "Qwen3", "Llama"].into_iter().zip([Family::Qwen2, Family::Qwen3, Family::Llama]);
        for (name, family) in known {
            let task = class.map(|class| class.strip_prefix(name));
            let of_class = matches!(task, Some(Some("ForCausalLM" | "ForSequenceClassification" | "Model")));
            let of_type = class.is_none() && self.model_type.as_deref() == Some(name.to_lowercase().as_str());
            if of_class || of_type {
                return Ok(family);
            }
        }
        let named = class.or(self.model_type.as_ref()).map_or("of no name", String::as_str);
        Err(format!("architecture {named} is unknown; Qwen2, Qwen3 and Llama decoders are supported"))
    }

    fn check_support(&self) -> Result<(), String> {
        let activation = self.hidden_act.as_deref().unwrap_or("silu");
        if activation != "silu" && activation != "swish" {
            return Err(format!("hidden_act {activation} is not supported, expected silu"));
        }
        let window_used = self.use_sliding_window == Some(true)
            && self.sliding_window.is_some_and(|window| window < self.max_position_embeddings as u64)
            && self.max_window_layers.is_none_or(|full| full < self.num_hidden_layers);
        if window_used {
            return Err("use_sliding_window is not supported, expected false".to_owned());
        }
        if let Some(kind) = self.layer_types.iter().flatten().find(|kind| *kind != "full_attention") {
            return Err(format!("layer type {kind} is not supported, expected full_attention"));
        }
        let rotary_share = self.rope_parameters.as_ref().and_then(|rope| rope.partial_rotary_factor);
        if let Some(share) = rotary_share.or(self.partial_rotary_factor).filter(|&share| share < 1.0) {
            return Err(format!("partial_rotary_factor {share} is not supported, expected 1"));
        }
        match &self.quantization_config {
            Some(quantization) => check_quantization(quantization),
            None => Ok(()),
        }
    }
}

impl RawRope {
    fn scaling(&self) -> Result<RopeScaling, String> {
        match self.rope_type.as_deref().or(self.r#type.as_deref()) {
            None | Some("default") => Ok(RopeScaling::None),
            Some("llama3") => {
                let positive = |key: &str, value: Option<f64>| {
                    value
                        .filter(|value| *value > 0.0 && value.is_finite())
                        .ok_or_else(|| format!("rope scaling llama3 needs {key}, a positive number"))
                };
                let low_freq_factor = positive("low_freq_factor", self.low_freq_factor)?;
                let high_freq_factor = positive("high_freq_factor", self.high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    return Err("rope scaling llama3 needs high_freq_factor above low_freq_factor".to_owned());
                }
                let original_max_positions = self
                    .original_max_position_embeddings
                    .filter(|&positions| positions > 0)
                    .ok_or("rope scaling llama3 needs original_max_position_embeddings, a positive number")?;
                let factor = positive("factor", self.factor)?;
                Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions })
            }
            Some(kind) => Err(format!("rope scaling {kind} is not supported, expected default or llama3")),
        }
    }
}
