//! What the networks share: linear maps, norms, masks.
use crate::model::weights::{ModelError, TensorSource};
use candle_core::{D, Device, Result, Tensor};

/// Added to a variance before its root; the usual one of layer norm.
const EPS: f64 = 1e-5;
/// Added to scores of positions that must not be seen.
const UNSEEN: f32 = -1e9;

/// x W^T + b.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// Loads `NAME.weight` (out, in) and `NAME.bias` (out).
    /// # Errors
    /// If a tensor cannot be made.
    pub fn load(
        name: &str,
        (width, out): (usize, usize),
        source: &mut dyn TensorSource,
    ) -> std::result::Result<Self, ModelError> {
        let weight = source.tensor(&format!("{name}.weight"), &[out, width])?;
        Ok(Self { weight, bias: source.tensor(&format!("{name}.bias"), &[out])? })
    }

    /// (.., in) to (.., out).
    /// # Errors
    /// If the widths differ.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let (out, width) = self.weight.dims2()?;
        let mut shape = input.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = out;
        }
        let flat = input.reshape(((), width))?.matmul(&self.weight.t()?)?;
        flat.broadcast_add(&self.bias)?.reshape(shape)
    }
}

/// Layer norm. Source: arXiv 1607.06450.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    /// Loads `NAME.weight` and `NAME.bias` (width).
    /// # Errors
    /// If a tensor cannot be made.
    pub fn load(
        name: &str,
        width: usize,
        source: &mut dyn TensorSource,
    ) -> std::result::Result<Self, ModelError> {
        let weight = source.tensor(&format!("{name}.weight"), &[width])?;
        Ok(Self { weight, bias: source.tensor(&format!("{name}.bias"), &[width])? })
    }

    /// Each vector of the last dimension, to mean 0 and variance 1, scaled and shifted.
    /// # Errors
    /// If the widths differ.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        normalised(input)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

/// Each vector of the last dimension, to mean 0 and variance 1.
pub(super) fn normalised(input: &Tensor) -> Result<Tensor> {
    let centred = input.broadcast_sub(&input.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + EPS)?.sqrt()?)
}

/// (T, T): 0 where a position sees another, a large negative number where that one is later.
pub(super) fn causal_bias(n: usize, device: &Device) -> Result<Tensor> {
    let cell = |at: usize| if at % n > at / n { UNSEEN } else { 0.0 };
    Tensor::from_iter((0..n * n).map(cell), device)?.reshape((n, n))
}

/// (T, T): 1 where a position sees another, 0 where that one is later.
pub(super) fn causal_mask(n: usize, device: &Device) -> Result<Tensor> {
    let cell = |at: usize| if at % n > at / n { 0.0_f32 } else { 1.0 };
    Tensor::from_iter((0..n * n).map(cell), device)?.reshape((n, n))
}

/// (B, T, heads x width) to (B, heads, T, width).
pub(super) fn heads(input: &Tensor, n_heads: usize) -> Result<Tensor> {
    let (n_rows, n, width) = input.dims3()?;
    input.reshape((n_rows, n, n_heads, width / n_heads))?.transpose(1, 2)?.contiguous()
}

/// (B, heads, T, width) to (B, T, heads x width).
pub(super) fn joined(input: &Tensor) -> Result<Tensor> {
    let (n_rows, n_heads, n, width) = input.dims4()?;
    input.transpose(1, 2)?.contiguous()?.reshape((n_rows, n, n_heads * width))
}
