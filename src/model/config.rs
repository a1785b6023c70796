//! `config.json` of the Qwen2/2.5, Qwen3 and Llama families (both layouts), checked.
use super::weights::ModelError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family { Qwen2, Qwen3, Llama }

/// A decoder's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    pub family: Family,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    pub max_positions: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    pub tied_head: bool,
    pub eos_ids: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_positions: usize },
}

impl DecoderConfig {
    /// Parses either layout. `file` names the source in errors.
    pub fn parse(json: &[u8], file: &str) -> Result<Self, ModelError> { todo!() }
    /// A Hugging Face `config.json` that `parse` and other tools read back.
    pub fn to_json(&self) -> String { todo!() }
}
