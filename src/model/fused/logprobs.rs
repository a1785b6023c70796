//! Log-probabilities of given tokens with their gradient.
use super::{
    exp::{exp, exponentials},
    values, with_values,
};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Log-probability of `ids[n]` under `logits` (n, V) / `temperature`: (n).
pub(crate) fn token_logprobs(logits: &Tensor, ids: Vec<u32>, temperature: f32) -> Result<Tensor> {
    let (n_rows, width) = logits.dims2()?;
    if ids.len() != n_rows || ids.iter().any(|&id| id as usize >= width) {
        bail!("{} ids do not fit logits {:?}", ids.len(), logits.dims())
    }
    logits.contiguous()?.apply_op1(TokenLogprobs { ids, width, scale: temperature.recip() })
}

struct TokenLogprobs {
    ids: Vec<u32>,
    width: usize,
    scale: f32,
}

impl CustomOp1 for TokenLogprobs {
    fn name(&self) -> &'static str {
        "fused-token-logprobs"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = values(storage, layout)?;
        let rows = logits.par_chunks(self.width).zip(&self.ids);
        let scratch = || (vec![0.0; self.width], vec![0.0; self.width]);
        let logprobs: Vec<f32> = rows
            .map_init(scratch, |(scaled, exponents), (row, &id)| {
                scaled.iter_mut().zip(row).for_each(|(scaled, logit)| *scaled = logit * self.scale);
                let (max, total) = exponentials(scaled, exponents);
                scaled[id as usize] - max - total.ln()
            })
            .collect();
        Ok((CpuStorage::F32(logprobs), Shape::from(self.ids.len())))
    }

    fn bwd(&self, logits: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let logits_grad = with_values(logits, |logits| {
            with_values(result, |logprobs| {
                with_values(grad, |grad| {
                    let mut out = vec![0.0; logits.len()];
                    let rows = out.par_chunks_mut(self.width).zip(logits.par_chunks(self.width));
                    let tokens = self.ids.par_iter().zip(logprobs).zip(grad);
                    rows.zip(tokens).for_each(|((out, row), ((&id, logprob), grad))| {
                        // log p(v) = scaled logit - log of the sum, and the sum is known from the result.
                        let log_total = row[id as usize] * self.scale - logprob;
                        let factor = grad * self.scale;
                        let spread = Spread { row, out: &mut *out, scale: self.scale, log_total, factor };
                        pulp::Arch::new().dispatch(spread);
                        out[id as usize] += factor;
                    });
                    Ok(out)
                })
            })
        })?;
        Ok(Some(Tensor::from_vec(logits_grad, logits.shape(), logits.device())?))
    }
}

/// What every logit of a row loses, each by its probability; compiled for several kinds of vector registers.
struct Spread<'a> {
    row: &'a [f32],
    out: &'a mut [f32],
    scale: f32,
    log_total: f32,
    factor: f32,
}

impl pulp::NullaryFnOnce for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (out, logit) in self.out.iter_mut().zip(self.row) {
            *out = -self.factor * exp(logit * self.scale - self.log_total);
        }
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
    fn fused_logprobs_agree_with_the_composed_ones() {
        for temperature in [1.0, 0.7] {
            let logits = random(&[3, 37], 1);
            let ids = vec![0_u32, 36, 5];
            let tensor = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap();
            let fused = || super::token_logprobs(&logits, ids.clone(), temperature);
            let composed = || ops::composed::token_logprobs(&logits, &tensor, f64::from(temperature));
            check(&[&logits], fused, composed);
        }
        assert!(super::token_logprobs(&random(&[1, 4], 1), vec![4], 1.0).is_err());
        assert!(super::token_logprobs(&random(&[1, 4], 1), vec![1, 1], 1.0).is_err());
    }
}
