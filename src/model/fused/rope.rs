//! Rotary position embedding with its gradient, which is the opposite rotation.
use super::{super::rotary::Rotation, values, with_values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Rotates `input` (B, T, heads, head_dim) by (T, head_dim / 2) or (B, T, head_dim / 2) cosines and sines.
pub(crate) fn rope(input: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    let (n_rows, n_positions, n_heads, head_dim) = input.dims4()?;
    let n_angles = rotation.cos.elem_count();
    let per_row = n_positions * (head_dim / 2);
    if rotation.sin.elem_count() != n_angles || (n_angles != per_row && n_angles != n_rows * per_row) {
        bail!("rotation {:?} does not fit input {:?}", rotation.cos.dims(), input.dims())
    }
    let table = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
    let op = Rope { cos: table(&rotation.cos)?, sin: table(&rotation.sin)?, n_heads, head_dim };
    input.contiguous()?.apply_op1(op)
}

struct Rope {
    cos: Vec<f32>,
    sin: Vec<f32>,
    n_heads: usize,
    head_dim: usize,
}

impl Rope {
    /// `direction`: 1 rotates forwards, -1 backwards.
    fn rotate(&self, input: &[f32], direction: f32) -> Vec<f32> {
        let half = self.head_dim / 2;
        let token_width = self.n_heads * self.head_dim;
        let n_tokens = self.cos.len() / half;
        let mut output = vec![0.0; input.len()];
        let tokens = output.par_chunks_mut(token_width).with_min_len(64);
        tokens.zip(input.par_chunks(token_width)).enumerate().for_each(|(token, (out, input))| {
            // Rows share the table where it has one row.
            let angles = (token % n_tokens) * half..(token % n_tokens + 1) * half;
            let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
            for (out, input) in out.chunks_exact_mut(self.head_dim).zip(input.chunks_exact(self.head_dim)) {
                let (out_first, out_second) = out.split_at_mut(half);
                let (first, second) = input.split_at(half);
                for pair in 0..half {
                    let (cos, sin) = (cos[pair], direction * sin[pair]);
                    out_first[pair] = first[pair] * cos - second[pair] * sin;
                    out_second[pair] = second[pair] * cos + first[pair] * sin;
                }
            }
        });
        output
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "fused-rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.rotate(values(storage, layout)?, 1.0)), layout.shape().clone()))
    }

    fn bwd(&self, input: &Tensor, _result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = with_values(grad, |grad| Ok(self.rotate(grad, -1.0)))?;
        Ok(Some(Tensor::from_vec(grad, input.shape(), input.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        super::{ops, rotary::Rotation},
        testing::{check, random},
    };

    #[test]
    fn fused_rope_agrees_with_the_composed_one() {
        for table in [&[5, 3][..], &[2, 5, 3]] {
            let input = random(&[2, 5, 4, 6], 1);
            let cos = random(table, 2).cos().unwrap().detach();
            let rotation = Rotation { sin: random(table, 2).sin().unwrap().detach(), cos };
            check(&[&input], || super::rope(&input, &rotation), || ops::composed::rope(&input, &rotation));
        }
    }
}
