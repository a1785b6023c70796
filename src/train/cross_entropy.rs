//! Cross-entropy of given next tokens.
use candle_core::{D, DType, Result, Tensor};

/// Sums the negative log-likelihood of `targets` (N) u32 under `logits` (N, V), in nats.
///
/// The sum, not the mean: the caller divides by the tokens of the whole optimiser step, so that the
/// gradient does not depend on how the step is cut into micro-batches.
/// # Errors
/// If the shapes differ or a target is outside the vocabulary.
pub fn sum(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (n_targets, _vocab) = logits.dims2()?; // (N, V)
    if targets.dims() != [n_targets] {
        candle_core::bail!("{n_targets} rows of logits, targets of shape {:?}", targets.dims());
    }
    let logits = logits.to_dtype(DType::F32)?;
    // The largest logit cancels out of the value and of the gradient, so none flows through it.
    let largest = logits.detach().max_keepdim(D::Minus1)?;
    let shifted = logits.broadcast_sub(&largest)?;
    let log_partition = shifted.exp()?.sum(D::Minus1)?.log()?;
    let chosen = shifted.gather(&targets.unsqueeze(1)?, D::Minus1)?.squeeze(1)?;
    (log_partition - chosen)?.sum_all()
}
