//! Root-mean-square norm with its gradient.
#![allow(clippy::cast_precision_loss, reason = "widths are small")]
use super::{exp::dot, values, with_values};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Rows per unit of parallel work; fixed, so that sums do not depend on the number of threads.
const CHUNK_ROWS: usize = 128;

/// x / sqrt(mean(x²) + eps) · weight over the last dimension; `weight` (D).
pub(crate) fn rms_norm(input: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    input.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps })
}

struct RmsNorm {
    eps: f32,
}

impl RmsNorm {
    #[inline(always)]
    fn inverse(&self, row: &[f32]) -> f32 {
        (dot(row, row) / row.len() as f32 + self.eps).sqrt().recip()
    }

    #[inline(always)]
    fn forward_rows(&self, input: &[f32], weight: &[f32], out: &mut [f32]) {
        let width = weight.len();
        for (out, x) in out.chunks_exact_mut(width).zip(input.chunks_exact(width)) {
            let inverse = self.inverse(x);
            for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                *out = x * inverse * w;
            }
        }
    }

    /// Writes the rows' input gradients; returns their share of the weight gradient.
    #[inline(always)]
    fn backward_rows(&self, input: &[f32], weight: &[f32], grad: &[f32], out: &mut [f32]) -> Vec<f32> {
        let width = weight.len();
        let mut weight_grad = vec![0.0; width];
        let rows = input.chunks_exact(width).zip(grad.chunks_exact(width)).zip(out.chunks_exact_mut(width));
        for ((x, g), out) in rows {
            let inverse = self.inverse(x);
            for ((out, g), w) in out.iter_mut().zip(g).zip(weight) {
                *out = g * w;
            }
            // d/dx of x·r(x): the projection on x leaves, because the norm keeps the length fixed.
            let along = dot(out, x) * inverse * inverse / width as f32;
            for (((out, x), g), weight_grad) in out.iter_mut().zip(x).zip(g).zip(&mut weight_grad) {
                *out = inverse * (*out - along * x);
                *weight_grad += g * x * inverse;
            }
        }
        weight_grad
    }
}

/// A chunk of rows, compiled for several kinds of vector registers.
struct Rows<'a> {
    norm: &'a RmsNorm,
    input: &'a [f32],
    weight: &'a [f32],
    /// The gradient of what came out; none: it is what is asked for.
    grad: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Rows<'_> {
    /// Their share of the weight's gradient.
    type Output = Vec<f32>;

    #[inline(always)]
    fn call(self) -> Vec<f32> {
        let Self { norm, input, weight, grad, out } = self;
        match grad {
            Some(grad) => norm.backward_rows(input, weight, grad, out),
            None => {
                norm.forward_rows(input, weight, out);
                Vec::new()
            }
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "fused-rms-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (input, weight) = (values(s1, l1)?, values(s2, l2)?);
        let width = weight.len();
        if l1.dims().last() != Some(&width) {
            bail!("norm of width {width} was given {:?}", l1.dims())
        }
        let mut output = vec![0.0; input.len()];
        output.par_chunks_mut(width * CHUNK_ROWS).zip(input.par_chunks(width * CHUNK_ROWS)).for_each(
            |(out, input)| {
                pulp::Arch::new().dispatch(Rows { norm: self, input, weight, grad: None, out });
            },
        );
        Ok((CpuStorage::F32(output), l1.shape().clone()))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = weight.elem_count();
        let chunk = width * CHUNK_ROWS;
        let (input_grad, weight_grad) = with_values(input, |x| {
            with_values(weight, |w| {
                with_values(grad, |g| {
                    let mut input_grad = vec![0.0; x.len()];
                    let parts: Vec<Vec<f32>> = input_grad
                        .par_chunks_mut(chunk)
                        .zip(x.par_chunks(chunk).zip(g.par_chunks(chunk)))
                        .map(|(out, (input, grad))| {
                            let rows = Rows { norm: self, input, weight: w, grad: Some(grad), out };
                            pulp::Arch::new().dispatch(rows)
                        })
                        .collect();
                    Ok((input_grad, super::bias::total(&parts, width)))
                })
            })
        })?;
        let device = input.device();
        Ok((
            Some(Tensor::from_vec(input_grad, input.shape(), device)?),
            Some(Tensor::from_vec(weight_grad, weight.shape(), device)?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, random};
    use candle_core::D;

    #[test]
    fn fused_norm_agrees_with_the_composed_one() {
        for shape in [[1, 1, 4], [3, 50, 24], [2, 7, 33]] {
            let (input, weight) = (random(&shape, 1), random(&shape[2..], 2));
            let composed = || {
                let mean_square = input.sqr()?.mean_keepdim(D::Minus1)?;
                input.broadcast_div(&(mean_square + 1e-6)?.sqrt()?)?.broadcast_mul(&weight)
            };
            check(&[&input, &weight], || super::rms_norm(&input, &weight, 1e-6), composed);
        }
    }
}
