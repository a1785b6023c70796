//! Cross-entropy of given next tokens.
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

/// Sums the negative log-likelihood of `targets` (N) under `logits` (N, V), in nats: a scalar, f32.
///
/// The sum, not the mean: the caller divides by the tokens of the whole optimiser step, so that the
/// gradient does not depend on how the step is cut into micro-batches. Differentiable in the logits:
/// softmax(logits) - onehot(targets).
/// # Errors
/// If the shapes differ, a target is outside the vocabulary, or the logits are not on the CPU.
pub fn sum(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let (n_targets, vocab_size) = logits.dims2()?; // (N, V)
    if targets.len() != n_targets {
        bail!("{n_targets} rows of logits, {} targets", targets.len());
    }
    let targets: Vec<usize> = targets.iter().map(|&id| usize::try_from(id).unwrap_or(usize::MAX)).collect();
    if let Some(id) = targets.iter().find(|id| **id >= vocab_size) {
        bail!("target {id} is outside the vocabulary of {vocab_size}");
    }
    logits.to_dtype(DType::F32)?.contiguous()?.apply_op1(NegativeLogLikelihood { targets, vocab_size })
}

/// One pass over the logits in each direction. Composed of tensor operations it takes eight arrays as wide as the
/// vocabulary, and most of a step's time goes into their memory.
struct NegativeLogLikelihood {
    targets: Vec<usize>,
    vocab_size: usize,
}

impl CustomOp1 for NegativeLogLikelihood {
    fn name(&self) -> &'static str {
        "negative-log-likelihood"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = contiguous(storage, layout)?;
        let rows = logits.chunks_exact(self.vocab_size).zip(&self.targets);
        let sum: f64 = rows.map(|(row, &target)| log_partition(row) - f64::from(row[target])).sum();
        #[allow(clippy::cast_possible_truncation, reason = "the loss is reported in f32")]
        Ok((CpuStorage::F32(vec![sum as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _sum: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let scale = gradient.to_scalar::<f32>()?;
        let (storage, layout) = logits.storage_and_layout();
        let candle_core::Storage::Cpu(cpu) = &*storage else { bail!("cross-entropy is for the CPU") };
        let values = contiguous(cpu, layout)?;
        let mut result = Vec::with_capacity(values.len());
        for (row, &target) in values.chunks_exact(self.vocab_size).zip(&self.targets) {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "logits are f32, so is their partition's logarithm"
            )]
            let log_partition = log_partition(row) as f32;
            let start = result.len();
            result.extend(row.iter().map(|logit| scale * (logit - log_partition).exp()));
            result[start + target] -= scale;
        }
        Ok(Some(Tensor::from_vec(result, logits.shape(), logits.device())?))
    }
}

/// ln Σ exp, the largest logit taken out first.
fn log_partition(row: &[f32]) -> f64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row
        .chunks(64)
        .map(|part| f64::from(part.iter().map(|logit| (logit - largest).exp()).sum::<f32>()))
        .sum();
    f64::from(largest) + sum.ln()
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("logits are not contiguous"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device, Var};

    /// The same loss of tensor operations that candle differentiates by itself.
    fn composed(logits: &Tensor, targets: &[u32]) -> Tensor {
        let logprobs = candle_nn::ops::log_softmax(logits, D::Minus1).unwrap();
        let targets = Tensor::from_slice(targets, (targets.len(), 1), &Device::Cpu).unwrap();
        logprobs.gather(&targets, 1).unwrap().sum_all().unwrap().neg().unwrap()
    }

    #[test]
    fn loss_and_gradient_are_those_of_log_softmax() {
        let logits =
            Var::from_vec(vec![0.5_f32, -1.0, 3.0, 80.0, 79.0, -80.0], (2, 3), &Device::Cpu).unwrap();
        let targets = [2, 1];
        let (ours, theirs) = (sum(&logits, &targets).unwrap(), composed(&logits, &targets));
        let difference = ours.to_scalar::<f32>().unwrap() - theirs.to_scalar::<f32>().unwrap();
        assert!(difference.abs() < 1e-6, "{difference}");
        let gradient = |loss: Tensor| {
            (loss * 0.25)
                .unwrap()
                .backward()
                .unwrap()
                .get(&logits)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        for (ours, theirs) in gradient(ours).into_iter().zip(gradient(theirs)) {
            assert!((ours - theirs).abs() < 1e-6, "{ours} {theirs}");
        }
    }

    #[test]
    fn target_outside_the_vocabulary_is_refused() {
        let logits = Tensor::zeros((1, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(sum(&logits, &[3]).is_err());
        assert!(sum(&logits, &[2]).is_ok());
    }
}
