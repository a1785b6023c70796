//! Losses of reinforcement learning and distillation: functions of logits, log-probabilities and rewards alone.
//!
//! Each loss is a sum over tokens, divided by counts of the whole optimiser step. The gradients of its micro-batches
//! therefore add up to the same sum however the step is cut.
pub mod advantages;
pub mod best_of;
pub mod dr_grpo;
pub mod kl;
pub mod policy_metrics;
pub mod reverse_kl;
pub mod sampled;
mod sparse;
pub mod top_k;
pub mod unprojected;

use candle_core::{Result, Tensor};

/// What one optimiser step holds, all its micro-batches together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepTotals {
    /// Completions, empty ones included.
    pub n_rows: usize,
    /// Sampled tokens, the stop token of each completion included.
    pub n_tokens: usize,
}

/// Largest log-ratio of two policies that is told from a larger one.
///
/// Beyond it the exponential overflows, and a gradient of 0 · infinity would poison every parameter. The limit is that
/// of verl's policy loss; ratios within it are unchanged.
const LOG_RATIO_MAX: f64 = 20.0;

/// Exponential of a log-ratio.
fn ratio_of(log_ratio: &Tensor) -> Result<Tensor> {
    log_ratio.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX)?.exp()
}

/// A scalar whose value and gradients are known already: `value`, and for each tensor the gradient beside it.
fn with_gradients(value: f64, parts: &[(&Tensor, &Tensor)]) -> Result<Tensor> {
    let mut loss: Option<Tensor> = None;
    for (tensor, gradient) in parts {
        let n_values = tensor.elem_count();
        // As a product of a row and a column, nothing of the tensor's size but its gradient is made on the way back.
        let product = tensor.reshape((1, n_values))?.matmul(&gradient.detach().reshape((n_values, 1))?)?;
        let zero = (&product - product.detach())?.reshape(())?;
        loss = Some(match loss {
            None => (zero + value)?,
            Some(sum) => (sum + zero)?,
        });
    }
    match loss {
        Some(loss) => Ok(loss),
        None => candle_core::bail!("a loss of no tensor has no gradient"),
    }
}

/// A count as a divisor.
#[allow(clippy::cast_precision_loss, reason = "steps hold fewer than 2^53 tokens")]
fn count(n: usize) -> f64 {
    n as f64
}
