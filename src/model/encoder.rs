//! BERT and RoBERTa family encoders: the network beneath the sentence embedder and the signal cleaner.
//!
//! Source: arXiv 1810.04805, 1907.11692; the norm follows each residual sum, positions are learned and absolute.
#![allow(clippy::cast_precision_loss, reason = "widths are small")]
pub mod classifier;
pub mod config;
pub mod embedder;

use super::{
    linear::{Bias, Linear},
    ops::{self, Numerics},
    weights::{ModelError, TensorSource},
};
use candle_core::{D, DType, Device, Result, Tensor, bail};
use config::{EncoderConfig, EncoderFamily};

/// Added to the attention scores of padding: far below any score, yet finite in every dtype.
const PADDING_SCORE: f64 = -1e4;

/// An encoder: padded rows of token ids in, hidden states out.
#[derive(Debug)]
pub struct Encoder {
    config: EncoderConfig,
    numerics: Numerics,
    words: Tensor,
    positions: Tensor,
    /// The embedding (1, D) of the first token type: every row is one text.
    token_type: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    /// What precedes the encoder's tensors in the checkpoint: `bert.`, `roberta.` or nothing.
    prefix: &'static str,
}

#[derive(Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

impl Encoder {
    /// Builds an encoder; tensor names may start with `bert.`, `roberta.` or nothing.
    ///
    /// # Errors
    /// If a tensor is missing, misshapen or not finite.
    pub fn load(
        config: &EncoderConfig,
        source: &mut dyn TensorSource,
        numerics: Numerics,
    ) -> std::result::Result<Self, ModelError> {
        let is_prefix =
            |prefix: &&str| source.contains(&format!("{prefix}embeddings.word_embeddings.weight"));
        let prefix = ["bert.", "roberta.", ""].into_iter().find(is_prefix).unwrap_or("");
        let width = config.hidden_size;
        let mut table = |name: &str, n_rows: usize| {
            source.tensor(&format!("{prefix}embeddings.{name}_embeddings.weight"), &[n_rows, width])
        };
        let words = table("word", config.vocab_size)?;
        let positions = table("position", config.n_position_rows)?;
        let token_type = table("token_type", config.n_token_types)?.narrow(0, 0, 1)?;
        let norm = Norm::load(config, source, &format!("{prefix}embeddings.LayerNorm"))?;
        let layers = (0..config.n_layers)
            .map(|layer_idx| Layer::load(config, source, &format!("{prefix}encoder.layer.{layer_idx}")))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(Self { config: config.clone(), numerics, words, positions, token_type, norm, layers, prefix })
    }

    /// The shape it was built with.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        self.words.device()
    }

    /// Computes hidden states (B, T, D) of padded rows.
    ///
    /// `ids` (B, T) u32. `mask` (B, T) f32, 1 where a token is real and 0 where it is padding, left or right.
    /// Hidden states of padding are finite and mean nothing.
    /// # Errors
    /// If shapes differ, a row is longer than the encoder's positions, or an id is not below the vocabulary.
    pub fn hidden(&self, ids: &Tensor, mask: &Tensor) -> std::result::Result<Tensor, ModelError> {
        Ok(self.run(ids, mask)?)
    }

    /// Pads rows of unequal length on the right; returns ids (B, T) u32 and mask (B, T) f32.
    ///
    /// # Errors
    /// If there is no row, a row is empty or too long, or an id is not below the vocabulary.
    pub fn padded(&self, rows: &[Vec<u32>]) -> std::result::Result<(Tensor, Tensor), ModelError> {
        let n_positions = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows.len() * n_positions);
        let mut mask = Vec::with_capacity(rows.len() * n_positions);
        for (row_idx, row) in rows.iter().enumerate() {
            if row.is_empty() || row.len() > self.config.tokens_max() {
                let (got, max) = (row.len(), self.config.tokens_max());
                return Err(message(format!("row {row_idx} has {got} ids, expected 1 to {max}")));
            }
            if let Some(id) = row.iter().find(|&&id| id as usize >= self.config.vocab_size) {
                return Err(message(format!("id {id} is not below {}", self.config.vocab_size)));
            }
            let n_padding = n_positions - row.len();
            ids.extend(row.iter().copied().chain(std::iter::repeat_n(self.config.pad_id, n_padding)));
            mask.extend(std::iter::repeat_n(1f32, row.len()).chain(std::iter::repeat_n(0f32, n_padding)));
        }
        if rows.is_empty() {
            return Err(message("there is no row".to_owned()));
        }
        let shape = (rows.len(), n_positions);
        Ok((Tensor::from_vec(ids, shape, self.device())?, Tensor::from_vec(mask, shape, self.device())?))
    }

    /// What precedes the encoder's tensors in the checkpoint.
    pub(super) fn prefix(&self) -> &'static str {
        self.prefix
    }

    fn run(&self, ids: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (n_rows, n_positions) = ids.dims2()?;
        let positions = self.position_ids(mask, (n_rows, n_positions))?;
        let rows_of = |table: &Tensor, ids: &Tensor| {
            table.index_select(&ids.flatten_all()?, 0)?.reshape((
                n_rows,
                n_positions,
                self.config.hidden_size,
            ))
        };
        let embedded = (rows_of(&self.words, ids)? + rows_of(&self.positions, &positions)?)?;
        let mut hidden = self.norm.forward(&embedded.broadcast_add(&self.token_type)?)?;
        let padding = mask.to_dtype(hidden.dtype())?.affine(-PADDING_SCORE, PADDING_SCORE)?;
        let padding = padding.reshape((n_rows, 1, 1, n_positions))?; // (B, 1, 1, T)
        for layer in &self.layers {
            hidden = layer.forward(&hidden, &padding, (self.config.n_heads, self.numerics))?;
        }
        Ok(hidden)
    }

    /// Rows of the position table (B, T): 0, 1, .. for BERT; for RoBERTa real tokens count from `pad_id` + 1 and padding has `pad_id`.
    fn position_ids(&self, mask: &Tensor, (n_rows, n_positions): (usize, usize)) -> Result<Tensor> {
        if mask.dims2()? != (n_rows, n_positions) {
            bail!("mask has shape {:?}, ids have {:?}", mask.dims(), (n_rows, n_positions))
        }
        if n_positions > self.config.tokens_max() {
            bail!("rows have {n_positions} tokens, the encoder has {} positions", self.config.tokens_max())
        }
        let positions: Vec<u32> = match self.config.family {
            EncoderFamily::Bert => (0..n_rows).flat_map(|_| (0u32..).take(n_positions)).collect(),
            EncoderFamily::Roberta => {
                let mut positions = Vec::with_capacity(n_rows * n_positions);
                for row in mask.to_dtype(DType::F32)?.to_vec2::<f32>()? {
                    let mut last = self.config.pad_id;
                    for flag in row {
                        let is_real = flag != 0.0;
                        last += u32::from(is_real);
                        positions.push(if is_real { last } else { self.config.pad_id });
                    }
                }
                positions
            }
        };
        Tensor::from_vec(positions, (n_rows, n_positions), self.device())
    }
}

impl Layer {
    fn load(
        config: &EncoderConfig,
        source: &mut dyn TensorSource,
        name: &str,
    ) -> std::result::Result<Self, ModelError> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let mut linear = |part: &str, shape: (usize, usize)| {
            Linear::load(source, &format!("{name}.{part}"), shape, Bias::Added)
        };
        let query = linear("attention.self.query", (width, width))?;
        let key = linear("attention.self.key", (width, width))?;
        let value = linear("attention.self.value", (width, width))?;
        let output = linear("attention.output.dense", (width, width))?;
        let up = linear("intermediate.dense", (width, inner))?;
        let down = linear("output.dense", (inner, width))?;
        let attention_norm = Norm::load(config, source, &format!("{name}.attention.output.LayerNorm"))?;
        let norm = Norm::load(config, source, &format!("{name}.output.LayerNorm"))?;
        Ok(Self { query, key, value, output, attention_norm, up, down, norm })
    }

    /// `hidden` (B, T, D); `padding` (B, 1, 1, T) is added to the attention scores.
    fn forward(
        &self,
        hidden: &Tensor,
        padding: &Tensor,
        (n_heads, numerics): (usize, Numerics),
    ) -> Result<Tensor> {
        let (n_rows, n_positions, width) = hidden.dims3()?;
        let head_dim = width / n_heads;
        let heads = |linear: &Linear| {
            let split = linear.forward(hidden)?.reshape((n_rows, n_positions, n_heads, head_dim))?;
            split.transpose(1, 2)?.contiguous()
        };
        let (query, key, value) = (heads(&self.query)?, heads(&self.key)?, heads(&self.value)?); // (B, H, T, head_dim)
        let scores = (query.matmul(&key.transpose(2, 3)?.contiguous()?)? / (head_dim as f64).sqrt())?;
        let shares = ops::softmax(&scores.broadcast_add(padding)?, numerics)?;
        let mixed = shares.matmul(&value)?.transpose(1, 2)?.reshape((n_rows, n_positions, width))?;
        let hidden = self.attention_norm.forward(&(self.output.forward(&mixed)? + hidden)?)?;
        let inner = self.up.forward(&hidden)?.gelu_erf()?;
        self.norm.forward(&(self.down.forward(&inner)? + &hidden)?)
    }
}

/// Layer norm with a gradient: (x - mean) / sqrt(variance + eps) · weight + bias. Source: arXiv 1607.06450.
#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl Norm {
    fn load(
        config: &EncoderConfig,
        source: &mut dyn TensorSource,
        name: &str,
    ) -> std::result::Result<Self, ModelError> {
        // Checkpoints converted from the first release say gamma and beta.
        let is_first_release =
            !source.contains(&format!("{name}.weight")) && source.contains(&format!("{name}.gamma"));
        let (weight, bias) = if is_first_release { ("gamma", "beta") } else { ("weight", "bias") };
        let width = [config.hidden_size];
        let weight = source.tensor(&format!("{name}.{weight}"), &width)?;
        let bias = source.tensor(&format!("{name}.{bias}"), &width)?;
        Ok(Self { weight, bias, eps: config.layer_norm_eps })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let centred = input.broadcast_sub(&input.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let scaled = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        scaled.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

fn message(text: String) -> ModelError {
    ModelError::Forward(candle_core::Error::Msg(text))
}
