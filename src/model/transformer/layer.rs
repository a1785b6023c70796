//! One layer's weights, as they are read.
use super::super::{
    config::{DecoderConfig, Family},
    linear::{Bias, Linear, Weight},
    lora::Adapter,
    ops::Numerics,
    weights::{ModelError, TensorSource},
};
use candle_core::Tensor;

/// Weights of one layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attention_norm: Tensor,
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    /// Norms over each head of query and key (Qwen3).
    pub(super) head_norms: Option<(Tensor, Tensor)>,
    pub(super) output: Linear,
    pub(super) mlp_norm: Tensor,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl Layer {
    pub(super) fn load(
        config: &DecoderConfig,
        source: &mut dyn TensorSource,
        name: &str,
    ) -> std::result::Result<Self, ModelError> {
        let width = config.hidden_size;
        let (query_width, kv_width) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        let bias = |added| if added { Bias::Added } else { Bias::Absent };
        let mut linear = |part: &str, shape: (usize, usize), added: bool| {
            Linear::load(source, &format!("{name}.{part}"), shape, bias(added))
        };
        let biases = config.biases;
        let query = linear("self_attn.q_proj", (width, query_width), biases.qkv)?;
        let key = linear("self_attn.k_proj", (width, kv_width), biases.qkv)?;
        let value = linear("self_attn.v_proj", (width, kv_width), biases.qkv)?;
        let output = linear("self_attn.o_proj", (query_width, width), biases.output)?;
        let gate = linear("mlp.gate_proj", (width, config.intermediate_size), biases.mlp)?;
        let up = linear("mlp.up_proj", (width, config.intermediate_size), biases.mlp)?;
        let down = linear("mlp.down_proj", (config.intermediate_size, width), biases.mlp)?;
        let mut norm = |part: &str, width: usize| source.tensor(&format!("{name}.{part}.weight"), &[width]);
        let head_norms = match config.family {
            Family::Qwen3 => {
                let head_dim = config.head_dim;
                Some((norm("self_attn.q_norm", head_dim)?, norm("self_attn.k_norm", head_dim)?))
            }
            Family::Qwen2 | Family::Llama => None,
        };
        let attention_norm = norm("input_layernorm", width)?;
        let mlp_norm = norm("post_attention_layernorm", width)?;
        Ok(Self { attention_norm, query, key, value, head_norms, output, mlp_norm, gate, up, down })
    }
}

/// Takes tensors out of the graph where the network is for serving.
pub(super) struct Taken<'a> {
    pub(super) source: &'a mut dyn TensorSource,
    pub(super) numerics: Numerics,
}

impl TensorSource for Taken<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> std::result::Result<Tensor, ModelError> {
        let tensor = self.source.tensor(name, shape)?;
        Ok(match self.numerics {
            Numerics::Serve => tensor.detach(),
            Numerics::Train => tensor,
        })
    }

    fn weight(&mut self, name: &str, shape: (usize, usize)) -> std::result::Result<Weight, ModelError> {
        let weight = self.source.weight(name, shape)?;
        Ok(match self.numerics {
            Numerics::Serve => weight.detach(),
            Numerics::Train => weight,
        })
    }

    fn contains(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    fn adapter(
        &mut self,
        layer: &str,
        shape: (usize, usize),
    ) -> std::result::Result<Option<Adapter>, ModelError> {
        let adapter = self.source.adapter(layer, shape)?;
        Ok(match self.numerics {
            Numerics::Serve => adapter.map(|Adapter { down, up, scale }| Adapter {
                down: down.detach(),
                up: up.detach(),
                scale,
            }),
            Numerics::Train => adapter,
        })
    }
}
