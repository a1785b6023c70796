//! Bias of a linear layer with its gradient.
use super::{values, with_values};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

const CHUNK_ROWS: usize = 128;

/// input (n, D) + bias (D).
pub(crate) fn add_bias(input: &Tensor, bias: &Tensor) -> Result<Tensor> {
    input.contiguous()?.apply_op2(&bias.contiguous()?, AddBias)
}

/// Adds up parts of equal width, in order.
pub(super) fn total(parts: &[Vec<f32>], width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    for part in parts {
        for (total, part) in total.iter_mut().zip(part) {
            *total += part;
        }
    }
    total
}

struct AddBias;

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "fused-add-bias"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (input, bias) = (values(s1, l1)?, values(s2, l2)?);
        if l1.dims().last() != Some(&bias.len()) {
            bail!("bias of width {} was given {:?}", bias.len(), l1.dims())
        }
        let mut output = input.to_vec();
        output.par_chunks_mut(bias.len() * CHUNK_ROWS).for_each(|rows| {
            for row in rows.chunks_exact_mut(bias.len()) {
                for (value, bias) in row.iter_mut().zip(bias) {
                    *value += bias;
                }
            }
        });
        Ok((CpuStorage::F32(output), l1.shape().clone()))
    }

    fn bwd(
        &self,
        _input: &Tensor,
        bias: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = bias.elem_count();
        let bias_grad = with_values(grad, |grad| {
            let chunks = grad.par_chunks(width * CHUNK_ROWS);
            let parts: Vec<Vec<f32>> = chunks
                .map(|rows| {
                    let mut part = vec![0.0; width];
                    for row in rows.chunks_exact(width) {
                        for (part, value) in part.iter_mut().zip(row) {
                            *part += value;
                        }
                    }
                    part
                })
                .collect();
            Ok(total(&parts, width))
        })?;
        Ok((Some(grad.clone()), Some(Tensor::from_vec(bias_grad, bias.shape(), bias.device())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, random};

    #[test]
    fn fused_bias_agrees_with_the_composed_one() {
        for (n_rows, width) in [(1, 1), (300, 20)] {
            let (input, bias) = (random(&[n_rows, width], 1), random(&[width], 2));
            check(&[&input, &bias], || super::add_bias(&input, &bias), || input.broadcast_add(&bias));
        }
    }
}
