//! Norm, softmax, rope and gated activation in two numerics; log-probabilities of tokens.
use super::rotary::Rotation;
use candle_core::{D, DType, Result, Tensor};

/// Which kernels a network uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numerics {
    /// Fused kernels without a backward pass. A gradient asked of them would be lost silently, so a network
    /// built for serving holds its weights outside of any graph: nothing at all gets a gradient from it.
    Serve,
    /// Differentiable operations.
    Train,
}

/// Divides each vector by its root mean square and scales it: x / sqrt(mean(x²) + eps) · weight.
///
/// `input` (.., D), `weight` (D). Source: arXiv 1910.07467.
/// # Errors
/// If the widths differ.
pub fn rms_norm(input: &Tensor, weight: &Tensor, eps: f64, numerics: Numerics) -> Result<Tensor> {
    match numerics {
        #[allow(clippy::cast_possible_truncation, reason = "the kernel takes the small constant as f32")]
        Numerics::Serve => candle_nn::ops::rms_norm(&input.contiguous()?, weight, eps as f32),
        Numerics::Train => {
            let mean_square = input.sqr()?.mean_keepdim(D::Minus1)?;
            input.broadcast_div(&(mean_square + eps)?.sqrt()?)?.broadcast_mul(weight)
        }
    }
}

/// Exponentials over the last dimension, normalised to sum 1.
///
/// # Errors
/// If there is no dimension.
pub fn softmax(input: &Tensor, numerics: Numerics) -> Result<Tensor> {
    match numerics {
        Numerics::Serve => candle_nn::ops::softmax_last_dim(&input.contiguous()?),
        Numerics::Train => candle_nn::ops::softmax(input, D::Minus1),
    }
}

/// Rotates pairs (i, i + head_dim / 2) of every head by its position's angles.
///
/// `input` (B, T, heads, head_dim). Source: arXiv 2104.09864, in the half-split layout of published checkpoints.
/// # Errors
/// If the rotation is of other lengths.
pub fn rope(input: &Tensor, rotation: &Rotation, numerics: Numerics) -> Result<Tensor> {
    let (_, _, _, head_dim) = input.dims4()?;
    match numerics {
        Numerics::Serve => {
            candle_nn::rotary_emb::rope_thd(&input.contiguous()?, &rotation.cos, &rotation.sin)
        }
        Numerics::Train => {
            let half = head_dim / 2;
            // (T, half) or (B, T, half) gain the dimension of heads.
            let (cos, sin) = (rotation.cos.unsqueeze(D::Minus2)?, rotation.sin.unsqueeze(D::Minus2)?);
            let (first, second) = (input.narrow(D::Minus1, 0, half)?, input.narrow(D::Minus1, half, half)?);
            let rotated_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
            let rotated_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
            Tensor::cat(&[rotated_first, rotated_second], D::Minus1)
        }
    }
}

/// silu(gate) · up, elementwise. Source: arXiv 2002.05202 (SwiGLU).
///
/// # Errors
/// If the shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

/// Returns the log-probability, in nats, of each given token at its position: (.., T) f32.
///
/// `logits` (.., T, V) are divided by `temperature` (> 0) first; `ids` (.., T) u32. Differentiable in the logits.
/// # Errors
/// If shapes differ, an id is not below V, or the temperature is not positive.
pub fn token_logprobs(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<Tensor> {
    let log_probs = log_softmax(logits, temperature)?;
    log_probs.gather(&ids.unsqueeze(D::Minus1)?.contiguous()?, D::Minus1)?.squeeze(D::Minus1)
}

/// Returns the entropy, in nats, of the next-token distribution at each position: (.., T) f32.
///
/// `logits` (.., T, V) are divided by `temperature` (> 0) first.
/// # Errors
/// If the temperature is not positive.
pub fn entropies(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    let log_probs = log_softmax(logits, temperature)?;
    (log_probs.exp()? * log_probs)?.sum(D::Minus1)?.neg()
}

fn log_softmax(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    if temperature.is_nan() || temperature <= 0.0 {
        candle_core::bail!("temperature is {temperature}, expected a positive number")
    }
    candle_nn::ops::log_softmax(&(logits.to_dtype(DType::F32)? / temperature)?, D::Minus1)
}
