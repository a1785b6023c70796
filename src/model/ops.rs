//! Norm, softmax, rope and gated activation in two numerics; log-probabilities of tokens.
#[cfg(feature = "cuda")]
use super::cuda;
pub(crate) use super::fused::exp;
use super::{fused, rotary::Rotation};
use candle_core::{D, DType, Device, Result, Tensor, bail};

/// Which kernels a network uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numerics {
    /// Fused kernels, most of them without a backward pass. A gradient asked of them would be lost silently, so a network
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
#[allow(clippy::cast_possible_truncation, reason = "the kernels take the small constant as f32")]
pub fn rms_norm(input: &Tensor, weight: &Tensor, eps: f64, numerics: Numerics) -> Result<Tensor> {
    match numerics {
        #[cfg(feature = "cuda")]
        Numerics::Serve if cuda::takes(input) && cuda::takes(weight) => {
            cuda::layer::normed(input, weight, eps)
        }
        Numerics::Serve => candle_nn::ops::rms_norm(&input.contiguous()?, weight, eps as f32),
        Numerics::Train if fused::takes(input) => fused::rms_norm(input, weight, eps as f32),
        Numerics::Train => composed::rms_norm(input, weight, eps),
    }
}

/// Calls `read` with the numbers of a tensor in order, as f32; they are copied only where they are held in another way, or elsewhere.
///
/// # Errors
/// If the device fails, or `read` does.
pub(crate) fn with_floats<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    fused::with_values(&tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?, read)
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
    if fused::takes(input) {
        return fused::rope(input, rotation);
    }
    match numerics {
        Numerics::Serve => {
            candle_nn::rotary_emb::rope_thd(&input.contiguous()?, &rotation.cos, &rotation.sin)
        }
        Numerics::Train => composed::rope(input, rotation),
    }
}

/// silu(gate) · up, elementwise. Source: arXiv 2002.05202 (SwiGLU).
///
/// # Errors
/// If the shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if fused::takes(gate) { fused::swiglu(gate, up) } else { gate.silu()? * up }
}

/// Returns the log-probability, in nats, of each given token at its position: (.., T) f32.
///
/// `logits` (.., T, V) are divided by `temperature` (> 0) first; `ids` (.., T) u32. Differentiable in the logits.
/// # Errors
/// If shapes differ, an id is not below V, or the temperature is not positive.
pub fn token_logprobs(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<Tensor> {
    check_temperature(temperature)?;
    if !fused::takes(logits) {
        return composed::token_logprobs(logits, ids, temperature);
    }
    let width = logits.dim(D::Minus1)?;
    if ids.dims() != &logits.dims()[..logits.rank() - 1] {
        bail!("ids {:?} do not fit logits {:?}", ids.dims(), logits.dims())
    }
    #[allow(clippy::cast_possible_truncation, reason = "logits are f32")]
    let temperature = temperature as f32;
    let flat = ids.flatten_all()?.to_vec1::<u32>()?;
    fused::token_logprobs(&logits.reshape(((), width))?, flat, temperature)?.reshape(ids.shape())
}

/// Sums, over rows, each row's weight times the negative log-probability of its token, in nats: a scalar.
///
/// `hidden` (n, D) are hidden states, `head` (V, D) the output weight; `ids` and `weights` (n). Rows of weight 0
/// cost nothing. Differentiable in `hidden` and `head`; on the CPU the logits of all rows never exist at once.
/// # Errors
/// If lengths differ, or an id is not below V.
pub fn linear_cross_entropy(hidden: &Tensor, head: &Tensor, ids: &[u32], weights: &[f32]) -> Result<Tensor> {
    let (n_rows, _) = hidden.dims2()?;
    if ids.len() != n_rows || weights.len() != n_rows {
        bail!("{} ids and {} weights do not fit {n_rows} hidden states", ids.len(), weights.len())
    }
    let counted: Vec<usize> = (0..n_rows).filter(|&row| weights[row] != 0.0).collect();
    if counted.is_empty() {
        return hidden.sum_all()? * 0.0;
    }
    let ids: Vec<u32> = counted.iter().map(|&row| ids[row]).collect();
    let weights: Vec<f32> = counted.iter().map(|&row| weights[row]).collect();
    let hidden = if counted.len() == n_rows {
        hidden.clone()
    } else {
        let rows =
            counted.iter().map(|&row| u32::try_from(row)).collect::<std::result::Result<Vec<_>, _>>()?;
        hidden.index_select(&Tensor::new(rows, hidden.device())?, 0)?
    };
    if fused::takes(&hidden) {
        return fused::linear_cross_entropy(&hidden, head, &ids, &weights);
    }
    let (ids, weights) = (Tensor::new(ids, hidden.device())?, Tensor::new(weights, hidden.device())?);
    (composed::token_logprobs(&hidden.matmul(&head.t()?)?, &ids, 1.0)? * weights)?.sum_all()?.neg()
}

/// Returns the entropy, in nats, of the next-token distribution at each position: (.., T) f32.
///
/// `logits` (.., T, V) are divided by `temperature` (> 0) first.
/// # Errors
/// If the temperature is not positive.
pub fn entropies(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    check_temperature(temperature)?;
    let log_probs = composed::log_softmax(logits, temperature)?;
    (log_probs.exp()? * log_probs)?.sum(D::Minus1)?.neg()
}

fn check_temperature(temperature: f64) -> Result<()> {
    if temperature.is_nan() || temperature <= 0.0 {
        bail!("temperature is {temperature}, expected a positive number")
    }
    Ok(())
}

pub(super) mod composed {
    //! The same functions in the library's differentiable operations: every device, and the oracle of the kernels.
    use super::Rotation;
    use candle_core::{D, DType, Result, Tensor};

    pub(crate) fn rms_norm(input: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        let mean_square = input.sqr()?.mean_keepdim(D::Minus1)?;
        input.broadcast_div(&(mean_square + eps)?.sqrt()?)?.broadcast_mul(weight)
    }

    pub(crate) fn rope(input: &Tensor, rotation: &Rotation) -> Result<Tensor> {
        let (_, _, _, head_dim) = input.dims4()?;
        let half = head_dim / 2;
        // (T, half) or (B, T, half) gain the dimension of heads.
        let (cos, sin) = (rotation.cos.unsqueeze(D::Minus2)?, rotation.sin.unsqueeze(D::Minus2)?);
        let (first, second) = (input.narrow(D::Minus1, 0, half)?, input.narrow(D::Minus1, half, half)?);
        let rotated_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
        let rotated_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
        Tensor::cat(&[rotated_first, rotated_second], D::Minus1)
    }

    pub(crate) fn token_logprobs(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<Tensor> {
        let log_probs = log_softmax(logits, temperature)?;
        log_probs.gather(&ids.unsqueeze(D::Minus1)?.contiguous()?, D::Minus1)?.squeeze(D::Minus1)
    }

    pub(crate) fn log_softmax(logits: &Tensor, temperature: f64) -> Result<Tensor> {
        candle_nn::ops::log_softmax(&(logits.to_dtype(DType::F32)? / temperature)?, D::Minus1)
    }
}
