//! One layer: its weights, and what it makes of hidden states before its attention and after.
use super::super::{
    config::{DecoderConfig, Family},
    linear::{Bias, Linear, Weight},
    lora::Adapter,
    ops::{self, Numerics},
    rotary::Rotation,
    weights::{ModelError, TensorSource},
};
#[cfg(feature = "cuda")]
use super::super::{cuda, linear::Input};
use candle_core::{Result, Tensor};

/// Weights of one layer.
#[derive(Debug)]
pub(super) struct Layer {
    attention_norm: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    /// Norms over each head of query and key (Qwen3).
    head_norms: Option<(Tensor, Tensor)>,
    output: Linear,
    mlp_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
    #[cfg(feature = "cuda")]
    joined: Option<cuda::layer::Joined>,
    shape: Shape,
}

/// How its numbers are to be read.
#[derive(Clone, Copy, Debug)]
struct Shape {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    eps: f64,
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
        let &DecoderConfig { n_heads, n_kv_heads, head_dim, rms_norm_eps, .. } = config;
        let shape = Shape { n_heads, n_kv_heads, head_dim, eps: rms_norm_eps };
        Ok(Self {
            attention_norm,
            query,
            key,
            value,
            head_norms,
            output,
            mlp_norm,
            gate,
            up,
            down,
            #[cfg(feature = "cuda")]
            joined: None,
            shape,
        })
    }

    /// With weights as a GPU multiplies them to serve; elsewhere they are as they were.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(clippy::unnecessary_wraps, unused_mut, reason = "a GPU can fail")
    )]
    pub(super) fn laid_out(mut self) -> Result<Self> {
        #[cfg(feature = "cuda")]
        {
            let Shape { n_heads, n_kv_heads, head_dim, .. } = self.shape;
            self.joined = cuda::layer::Joined::new(
                [&mut self.query, &mut self.key, &mut self.value],
                [&mut self.gate, &mut self.up],
                [&self.output, &self.down],
                [n_heads, n_kv_heads, head_dim],
            )?;
        }
        Ok(self)
    }

    /// Query (B, `n_asked`, n_heads, head_dim), of the last positions, and key and value (B, T, n_kv_heads, head_dim) of hidden states
    /// (B, T, D), rotated.
    pub(super) fn projected(
        &self,
        hidden: &Tensor,
        rotation: &Rotation,
        n_asked: usize,
        numerics: Numerics,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let Shape { n_heads, n_kv_heads, head_dim, eps } = self.shape;
        let (_, n_positions, _) = hidden.dims3()?;
        let norm = (&self.attention_norm, eps);
        let normed = self.query.normed_input(hidden, norm, numerics)?;
        #[cfg(feature = "cuda")]
        if let (Some(joined), Input::Plain(rows)) = (&self.joined, &normed) {
            let head_norms = self.head_norms.as_ref().map(|(query, key)| (query, key));
            let (query, key, value) = joined.projected(rows, head_norms, eps, rotation)?;
            return Ok((last(&query, n_asked)?, key, value));
        }
        let all_asked = n_asked == n_positions;
        let [query, key, value] = if all_asked {
            Linear::forward_all([&self.query, &self.key, &self.value], &normed)?
        } else {
            let asked = self.query.normed_input(&last(hidden, n_asked)?, norm, numerics)?;
            let [query] = Linear::forward_all([&self.query], &asked)?;
            let [key, value] = Linear::forward_all([&self.key, &self.value], &normed)?;
            [query, key, value]
        };
        let heads = |tensor: Tensor, n| tensor.reshape((tensor.dim(0)?, (), n, head_dim));
        let mut query = heads(query, n_heads)?;
        let mut key = heads(key, n_kv_heads)?;
        if let Some((query_norm, key_norm)) = &self.head_norms {
            query = ops::rms_norm(&query, query_norm, eps, numerics)?;
            key = ops::rms_norm(&key, key_norm, eps, numerics)?;
        }
        let of_query = if all_asked { rotation.clone() } else { rotation.last(n_asked)? };
        let query = ops::rope(&query, &of_query, numerics)?;
        let key = ops::rope(&key, rotation, numerics)?;
        Ok((query, key, heads(value, n_kv_heads)?))
    }

    /// Hidden states (B, T, D) with what was attended (B, T, n_heads · head_dim), and with what the layer makes of both. On a GPU
    /// `hidden` is written over: nobody else may read it any more.
    pub(super) fn answered(&self, hidden: &Tensor, attended: &Tensor, numerics: Numerics) -> Result<Tensor> {
        let norm = (&self.mlp_norm, self.shape.eps);
        #[cfg(feature = "cuda")]
        if let Some(joined) = &self.joined {
            let hidden = cuda::layer::add_product(hidden, attended, &self.output)?;
            let gated = joined.gated(&ops::rms_norm(&hidden, norm.0, norm.1, numerics)?)?;
            return cuda::layer::add_product(&hidden, &gated, &self.down);
        }
        let hidden = self.output.add_to(hidden, &self.output.input(attended)?)?;
        let normed = self.gate.normed_input(&hidden, norm, numerics)?;
        let gated = Linear::gated(&self.gate, &self.up, &normed, &self.down)?;
        self.down.add_to(&hidden, &gated)
    }
}

/// The last `n` positions of (B, T, ..).
pub(super) fn last(tensor: &Tensor, n: usize) -> Result<Tensor> {
    tensor.narrow(1, tensor.dim(1)? - n, n)
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
