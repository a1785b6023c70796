//! Causal attention of grouped query heads with its gradient; scores are computed again in the backward pass.
//!
//! One batch row and one key head at a time, so that a score matrix stays in the cache of the core that works on it.
#![allow(clippy::cast_precision_loss, reason = "head widths are small")]
use super::{
    exp::{dot, exponentials},
    values, with_values,
};
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// Attends `query` (B, T, n_heads, head_dim) to `key`, `value` (B, T, n_kv_heads, head_dim): (B, T, n_heads · head_dim).
///
/// `real`: whether each of the B · T positions is a token; none: all. A padded query sees itself.
pub(crate) fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    real: Option<Arc<[bool]>>,
) -> Result<Tensor> {
    let (_, n_positions, n_heads, head_dim) = query.dims4()?;
    let op = Attention { n_positions, n_heads, n_kv_heads: key.dim(2)?, head_dim, real };
    query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, op)
}

struct Attention {
    n_positions: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    real: Option<Arc<[bool]>>,
}

/// Queries (shared · T, head_dim), keys and values (T, head_dim) of one key head in one row.
struct Unit {
    query: Tensor,
    key: Tensor,
    value: Tensor,
}

impl Attention {
    fn n_shared(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }

    /// Values of one batch row of query-shaped, and of key-shaped tensors.
    fn row_lengths(&self) -> (usize, usize) {
        let per_head = self.n_positions * self.head_dim;
        (per_head * self.n_heads, per_head * self.n_kv_heads)
    }

    /// Gathers heads `first..first + count` of one row (T, n_heads, head_dim) into (count · T, head_dim).
    fn gather(&self, row: &[f32], n_heads: usize, first: usize, count: usize) -> Result<Tensor> {
        let mut packed = Vec::with_capacity(count * self.n_positions * self.head_dim);
        for head in first..first + count {
            for token in row.chunks_exact(n_heads * self.head_dim) {
                packed.extend_from_slice(&token[head * self.head_dim..(head + 1) * self.head_dim]);
            }
        }
        Tensor::from_vec(packed, (count * self.n_positions, self.head_dim), &Device::Cpu)
    }

    /// The opposite of `gather`.
    fn scatter(&self, packed: &Tensor, row: &mut [f32], n_heads: usize, first: usize) -> Result<()> {
        with_values(packed, |packed| {
            for (head, packed) in packed.chunks_exact(self.n_positions * self.head_dim).enumerate() {
                let head = first + head;
                let tokens = row.chunks_exact_mut(n_heads * self.head_dim);
                for (token, packed) in tokens.zip(packed.chunks_exact(self.head_dim)) {
                    token[head * self.head_dim..(head + 1) * self.head_dim].copy_from_slice(packed);
                }
            }
            Ok(())
        })
    }

    fn unit(&self, (query, key, value): (&[f32], &[f32], &[f32]), kv_head: usize) -> Result<Unit> {
        Ok(Unit {
            query: self.gather(query, self.n_heads, kv_head * self.n_shared(), self.n_shared())?,
            key: self.gather(key, self.n_kv_heads, kv_head, 1)?,
            value: self.gather(value, self.n_kv_heads, kv_head, 1)?,
        })
    }

    /// Softmax over visible keys of (shared · T, T) scores; hidden ones get exactly 0.
    fn shares(&self, unit: &Unit, row_idx: usize) -> Result<Tensor> {
        let scores = unit.query.matmul(&unit.key.t()?)?;
        let n_positions = self.n_positions;
        let real = self.real.as_ref().map(|real| &real[row_idx * n_positions..(row_idx + 1) * n_positions]);
        let shares = with_values(&scores, |scores| {
            let mut shares = vec![0.0; scores.len()];
            let mut visible = Vec::with_capacity(n_positions);
            let rows = scores.chunks_exact(n_positions).zip(shares.chunks_exact_mut(n_positions));
            for (idx, (scores, shares)) in rows.enumerate() {
                let position = idx % n_positions;
                let hidden = |key: usize| key != position && real.is_some_and(|real| !real[key]);
                visible.clear();
                visible.extend(scores[..=position].iter().map(|score| score * self.scale()));
                if real.is_some() {
                    let hide = |(key, score): (usize, &mut f32)| {
                        if hidden(key) {
                            *score = f32::NEG_INFINITY;
                        }
                    };
                    visible.iter_mut().enumerate().for_each(hide);
                }
                let (_, total) = exponentials(&visible, shares);
                shares[..=position].iter_mut().for_each(|share| *share /= total);
            }
            Ok(shares)
        })?;
        Tensor::from_vec(shares, scores.shape(), &Device::Cpu)
    }

    fn forward_row(&self, row: (&[f32], &[f32], &[f32]), row_idx: usize, out: &mut [f32]) -> Result<()> {
        for kv_head in 0..self.n_kv_heads {
            let unit = self.unit(row, kv_head)?;
            let attended = self.shares(&unit, row_idx)?.matmul(&unit.value)?;
            self.scatter(&attended, out, self.n_heads, kv_head * self.n_shared())?;
        }
        Ok(())
    }

    fn backward_row(
        &self,
        row: (&[f32], &[f32], &[f32]),
        row_idx: usize,
        grad: &[f32],
    ) -> Result<[Vec<f32>; 3]> {
        let (query_len, key_len) = self.row_lengths();
        let [mut query_grad, mut key_grad, mut value_grad] =
            [vec![0.0; query_len], vec![0.0; key_len], vec![0.0; key_len]];
        for kv_head in 0..self.n_kv_heads {
            let unit = self.unit(row, kv_head)?;
            let first = kv_head * self.n_shared();
            let grad = self.gather(grad, self.n_heads, first, self.n_shared())?;
            let shares = self.shares(&unit, row_idx)?;
            self.scatter(&shares.t()?.matmul(&grad)?, &mut value_grad, self.n_kv_heads, kv_head)?;
            let scores_grad = self.scores_grad(&shares, &grad.matmul(&unit.value.t()?)?)?;
            self.scatter(&scores_grad.matmul(&unit.key)?, &mut query_grad, self.n_heads, first)?;
            self.scatter(&scores_grad.t()?.matmul(&unit.query)?, &mut key_grad, self.n_kv_heads, kv_head)?;
        }
        Ok([query_grad, key_grad, value_grad])
    }

    /// Gradient of the unscaled scores: share · (its gradient - the row's mean gradient under the shares) · scale.
    fn scores_grad(&self, shares: &Tensor, shares_grad: &Tensor) -> Result<Tensor> {
        let n_positions = self.n_positions;
        let scale = self.scale();
        let scores_grad = with_values(shares, |shares| {
            with_values(shares_grad, |shares_grad| {
                let mut out = vec![0.0; shares.len()];
                let rows = shares.chunks_exact(n_positions).zip(shares_grad.chunks_exact(n_positions));
                for (idx, ((shares, grad), out)) in rows.zip(out.chunks_exact_mut(n_positions)).enumerate() {
                    let n_visible = idx % n_positions + 1;
                    let mean = dot(&shares[..n_visible], &grad[..n_visible]);
                    for ((out, share), grad) in out[..n_visible].iter_mut().zip(shares).zip(grad) {
                        *out = share * (grad - mean) * scale;
                    }
                }
                Ok(out)
            })
        })?;
        Tensor::from_vec(scores_grad, shares.shape(), &Device::Cpu)
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "fused-attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (query, key, value) = (values(s1, l1)?, values(s2, l2)?, values(s3, l3)?);
        let (query_len, key_len) = self.row_lengths();
        let mut out = vec![0.0; query.len()];
        let rows = query.par_chunks(query_len).zip(key.par_chunks(key_len).zip(value.par_chunks(key_len)));
        out.par_chunks_mut(query_len).zip(rows).enumerate().try_for_each(
            |(row_idx, (out, (query, (key, value))))| self.forward_row((query, key, value), row_idx, out),
        )?;
        let shape = (query.len() / query_len, self.n_positions, self.n_heads * self.head_dim);
        Ok((CpuStorage::F32(out), Shape::from(shape)))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (query_len, key_len) = self.row_lengths();
        let rows: Vec<[Vec<f32>; 3]> = with_values(query, |q| {
            with_values(key, |k| {
                with_values(value, |v| {
                    with_values(grad, |g| {
                        let keys = k.par_chunks(key_len).zip(v.par_chunks(key_len));
                        let rows = q.par_chunks(query_len).zip(g.par_chunks(query_len)).zip(keys).enumerate();
                        rows.map(|(row_idx, ((q, g), (k, v)))| self.backward_row((q, k, v), row_idx, g))
                            .collect()
                    })
                })
            })
        })?;
        let joined = |part: usize, like: &Tensor| {
            let values: Vec<f32> = rows.iter().flat_map(|row| row[part].iter().copied()).collect();
            Tensor::from_vec(values, like.shape(), like.device()).map(Some)
        };
        Ok((joined(0, query)?, joined(1, key)?, joined(2, value)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        super::{attention::WholeRows, ops::Numerics},
        testing::{check, random},
    };

    #[test]
    fn fused_attention_agrees_with_the_composed_one() {
        let padded: Vec<bool> = [[true; 7], [false, false, true, true, true, true, false]].concat();
        for (n_heads, n_kv_heads) in [(4, 2), (3, 1), (2, 2)] {
            for real in [None, Some(padded.as_slice())] {
                let query = random(&[2, 7, n_heads, 6], 1);
                let (key, value) = (random(&[2, 7, n_kv_heads, 6], 2), random(&[2, 7, n_kv_heads, 6], 3));
                let fused = || super::attention(&query, &key, &value, real.map(Into::into));
                let composed = || {
                    WholeRows::new(7, real.map(Into::into), Numerics::Train).composed(&query, &key, &value)
                };
                check(&[&query, &key, &value], fused, composed);
            }
        }
    }
}
