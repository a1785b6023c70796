//! Output head and cross-entropy in one op, so that logits of a whole batch never exist.
use super::{exp::exponentials, with_values};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Rows whose logits exist at one time: at a vocabulary of 4,096 they fill 8 MiB.
const CHUNK_ROWS: usize = 512;

/// Sum over rows of `weights[n]` times the negative log-probability of `ids[n]`; `hidden` (n, D), `head` (V, D).
///
/// Both gradients are computed with the value, because the logits are at hand only then.
pub(crate) fn linear_cross_entropy(
    hidden: &Tensor,
    head: &Tensor,
    ids: &[u32],
    weights: &[f32],
) -> Result<Tensor> {
    let (n_rows, _) = hidden.dims2()?;
    let (n_ids, _) = head.dims2()?;
    if ids.len() != n_rows || weights.len() != n_rows || ids.iter().any(|&id| id as usize >= n_ids) {
        bail!("{} ids and {} weights do not fit {n_rows} rows and {n_ids} logits", ids.len(), weights.len())
    }
    let (rows, vectors) = (hidden.detach().contiguous()?, head.detach());
    let mut loss = 0.0_f64;
    let mut hidden_grads = Vec::new();
    let mut head_grad: Option<Tensor> = None;
    for start in (0..n_rows).step_by(CHUNK_ROWS) {
        let length = CHUNK_ROWS.min(n_rows - start);
        let chunk = rows.narrow(0, start, length)?;
        let logits = chunk.matmul(&vectors.t()?)?;
        let range = start..start + length;
        let (chunk_loss, logits_grad) = softmax_loss(&logits, &ids[range.clone()], &weights[range])?;
        loss += chunk_loss;
        hidden_grads.push(logits_grad.matmul(&vectors)?);
        // A head that is not trained needs no gradient, which would be as large as the head.
        if head.track_op() {
            let part = logits_grad.t()?.matmul(&chunk)?;
            head_grad = Some(match head_grad {
                None => part,
                Some(sum) => (sum + part)?,
            });
        }
    }
    if hidden_grads.is_empty() {
        bail!("cross-entropy of no rows")
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "losses are f32 tensors; only the sum needs more digits"
    )]
    let op = LinearCrossEntropy { loss: loss as f32, hidden_grad: Tensor::cat(&hidden_grads, 0)?, head_grad };
    hidden.apply_op2(head, op)
}

/// Returns the weighted loss of a chunk, and its gradient with respect to the logits.
fn softmax_loss(logits: &Tensor, ids: &[u32], weights: &[f32]) -> Result<(f64, Tensor)> {
    let (_, width) = logits.dims2()?;
    let (loss, grad) = with_values(logits, |logits| {
        let mut grad = vec![0.0; logits.len()];
        let rows = grad.par_chunks_mut(width).zip(logits.par_chunks(width));
        let losses: Vec<f64> = rows
            .zip(ids.par_iter().zip(weights))
            .map(|((grad, logits), (&id, &weight))| {
                let (max, total) = exponentials(logits, grad);
                let factor = weight / total;
                grad.iter_mut().for_each(|value| *value *= factor);
                grad[id as usize] -= weight;
                f64::from(weight) * f64::from(max + total.ln() - logits[id as usize])
            })
            .collect();
        Ok((losses.iter().sum(), grad))
    })?;
    Ok((loss, Tensor::from_vec(grad, logits.shape(), logits.device())?))
}

struct LinearCrossEntropy {
    loss: f32,
    hidden_grad: Tensor,
    head_grad: Option<Tensor>,
}

impl CustomOp2 for LinearCrossEntropy {
    fn name(&self) -> &'static str {
        "fused-linear-cross-entropy"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.loss]), Shape::from(())))
    }

    fn bwd(
        &self,
        _hidden: &Tensor,
        _head: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let factor = f64::from(grad.to_scalar::<f32>()?);
        let scaled = |tensor: &Tensor| {
            // The usual factor is exactly 1: then nothing is copied.
            if factor.to_bits() == 1.0_f64.to_bits() { Ok(tensor.clone()) } else { tensor * factor }
        };
        Ok((Some(scaled(&self.hidden_grad)?), self.head_grad.as_ref().map(scaled).transpose()?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        super::ops,
        testing::{check, random},
    };
    use candle_core::{Device, Tensor};

    #[test]
    fn fused_cross_entropy_agrees_with_the_composed_one() {
        for n_rows in [1_usize, 512, 600] {
            let (hidden, head) = (random(&[n_rows, 6], 1), random(&[19, 6], 2));
            let ids: Vec<u32> = (0..19).cycle().take(n_rows).collect();
            let weights: Vec<f32> = [0.01, 0.0, 0.02].into_iter().cycle().take(n_rows).collect();
            let tensors = (
                Tensor::new(ids.as_slice(), &Device::Cpu).unwrap(),
                Tensor::new(weights.as_slice(), &Device::Cpu).unwrap(),
            );
            let fused = || super::linear_cross_entropy(&hidden, &head, &ids, &weights);
            let composed = || {
                let logprobs = ops::composed::token_logprobs(&hidden.matmul(&head.t()?)?, &tensors.0, 1.0)?;
                (logprobs * &tensors.1)?.sum_all()?.neg()
            };
            check(&[&hidden, &head], fused, composed);
            let frozen = head.detach();
            check(&[&hidden], || super::linear_cross_entropy(&hidden, &frozen, &ids, &weights), composed);
        }
        let (hidden, head) = (random(&[1, 6], 1), random(&[19, 6], 2));
        assert!(super::linear_cross_entropy(&hidden, &head, &[19], &[1.0]).is_err());
        assert!(super::linear_cross_entropy(&hidden, &head, &[1, 1], &[1.0]).is_err());
    }
}
