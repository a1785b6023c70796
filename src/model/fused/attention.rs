//! Causal attention of grouped query heads with its gradient; scores are computed again in the backward pass.
//!
//! One run of tokens and one key head at a time, so that a score matrix stays in the cache of the core that works on it. Runs that
//! continue one beginning share its keys and values, and each adds to their gradient.
#![allow(clippy::cast_precision_loss, reason = "head widths are small")]
use super::{
    exp::{dot, exponentials},
    values, with_values,
};
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::{ops::Range, sync::Arc};

/// A run of queries and the keys that they see: all of `before`, and of their own run those up to themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::model) struct Span {
    /// Tokens of the run, among all tokens of a tensor.
    pub(in crate::model) queries: Range<usize>,
    /// Tokens of the run that it continues; empty where it begins a sequence.
    pub(in crate::model) before: Range<usize>,
}

impl Span {
    /// Rows of equal length, each by itself.
    pub(in crate::model) fn rows(n_rows: usize, n_positions: usize) -> Arc<[Self]> {
        let row = |row: usize| Self { queries: row * n_positions..(row + 1) * n_positions, before: 0..0 };
        (0..n_rows).map(row).collect()
    }

    fn n_keys(&self) -> usize {
        self.before.len() + self.queries.len()
    }
}

/// Attends `query` (B, T, n_heads, head_dim) to `key`, `value` (B, T, n_kv_heads, head_dim): (B, T, n_heads · head_dim).
///
/// `spans` stand in order and do not overlap; what is in none of them gets 0. `real`: whether each of the B · T positions is a token;
/// none: all. A padded query sees itself.
pub(in crate::model) fn attention(
    (query, key, value): (&Tensor, &Tensor, &Tensor),
    spans: Arc<[Span]>,
    real: Option<Arc<[bool]>>,
) -> Result<Tensor> {
    let (n_rows, n_positions, n_heads, head_dim) = query.dims4()?;
    let overlap = spans.windows(2).any(|pair| pair[0].queries.end > pair[1].queries.start);
    if overlap || spans.iter().any(|span| span.queries.end.max(span.before.end) > n_rows * n_positions) {
        bail!("spans of attention overlap, or leave {n_rows} rows of {n_positions}")
    }
    let op = Attention { n_heads, n_kv_heads: key.dim(2)?, head_dim, spans, real };
    query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, op)
}

struct Attention {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    spans: Arc<[Span]>,
    real: Option<Arc<[bool]>>,
}

/// Values of whole tensors, token after token.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
}

/// Queries (shared · n, head_dim), keys and values (keys of the span, head_dim) of one key head in one span.
struct Unit {
    query: Tensor,
    key: Tensor,
    value: Tensor,
}

/// Gradients of one span: of its own queries, keys and values, and of the keys and values before it.
struct SpanGradients {
    query: Vec<f32>,
    own: [Vec<f32>; 2],
    before: [Vec<f32>; 2],
}

impl Attention {
    fn n_shared(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }

    /// Values of one token of query-shaped, and of key-shaped tensors.
    fn token_lengths(&self) -> (usize, usize) {
        (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim)
    }

    /// Gathers heads `first..first + count` of runs of tokens (n, n_heads, head_dim) into (count · n, head_dim).
    fn gather(&self, runs: &[&[f32]], n_heads: usize, first: usize, count: usize) -> Result<Tensor> {
        let width = n_heads * self.head_dim;
        let n_tokens = runs.iter().map(|run| run.len() / width).sum::<usize>();
        let mut packed = Vec::with_capacity(count * n_tokens * self.head_dim);
        for head in first..first + count {
            for token in runs.iter().flat_map(|run| run.chunks_exact(width)) {
                packed.extend_from_slice(&token[head * self.head_dim..(head + 1) * self.head_dim]);
            }
        }
        Tensor::from_vec(packed, (count * n_tokens, self.head_dim), &Device::Cpu)
    }

    /// The opposite of `gather`.
    fn scatter(&self, packed: &Tensor, runs: &mut [&mut [f32]], n_heads: usize, first: usize) -> Result<()> {
        let width = n_heads * self.head_dim;
        let n_tokens = runs.iter().map(|run| run.len() / width).sum::<usize>();
        with_values(packed, |packed| {
            for (head, packed) in packed.chunks_exact(n_tokens * self.head_dim).enumerate() {
                let head = first + head;
                let tokens = runs.iter_mut().flat_map(|run| run.chunks_exact_mut(width));
                for (token, packed) in tokens.zip(packed.chunks_exact(self.head_dim)) {
                    token[head * self.head_dim..(head + 1) * self.head_dim].copy_from_slice(packed);
                }
            }
            Ok(())
        })
    }

    fn unit(&self, inputs: Inputs<'_>, span: &Span, kv_head: usize) -> Result<Unit> {
        let (query_len, key_len) = self.token_lengths();
        let keys = |values| {
            self.gather(
                &[of(values, &span.before, key_len), of(values, &span.queries, key_len)],
                self.n_kv_heads,
                kv_head,
                1,
            )
        };
        let query = of(inputs.query, &span.queries, query_len);
        Ok(Unit {
            query: self.gather(&[query], self.n_heads, kv_head * self.n_shared(), self.n_shared())?,
            key: keys(inputs.key)?,
            value: keys(inputs.value)?,
        })
    }

    /// Softmax over visible keys of (shared · n, keys) scores; hidden ones get exactly 0.
    fn shares(&self, unit: &Unit, span: &Span) -> Result<Tensor> {
        let scores = unit.query.matmul(&unit.key.t()?)?;
        let (n_before, n_queries, n_keys) = (span.before.len(), span.queries.len(), span.n_keys());
        let is_real = |key: usize| {
            let token =
                if key < n_before { span.before.start + key } else { span.queries.start + key - n_before };
            self.real.as_ref().is_none_or(|real| real[token])
        };
        let shares = with_values(&scores, |scores| {
            let mut shares = vec![0.0; scores.len()];
            let mut visible = Vec::with_capacity(n_keys);
            let rows = scores.chunks_exact(n_keys).zip(shares.chunks_exact_mut(n_keys));
            for (idx, (scores, shares)) in rows.enumerate() {
                let own = n_before + idx % n_queries;
                visible.clear();
                visible.extend(scores[..=own].iter().map(|score| score * self.scale()));
                if self.real.is_some() {
                    let hide = |(key, score): (usize, &mut f32)| {
                        if key != own && !is_real(key) {
                            *score = f32::NEG_INFINITY;
                        }
                    };
                    visible.iter_mut().enumerate().for_each(hide);
                }
                let (_, total) = exponentials(&visible, shares);
                shares[..=own].iter_mut().for_each(|share| *share /= total);
            }
            Ok(shares)
        })?;
        Tensor::from_vec(shares, scores.shape(), &Device::Cpu)
    }

    /// `out`: what the span's own tokens get.
    fn forward_span(&self, inputs: Inputs<'_>, span: &Span, out: &mut [f32]) -> Result<()> {
        for kv_head in 0..self.n_kv_heads {
            let unit = self.unit(inputs, span, kv_head)?;
            let attended = self.shares(&unit, span)?.matmul(&unit.value)?;
            self.scatter(&attended, &mut [&mut *out], self.n_heads, kv_head * self.n_shared())?;
        }
        Ok(())
    }

    fn backward_span(&self, inputs: Inputs<'_>, span: &Span, grad: &[f32]) -> Result<SpanGradients> {
        let (query_len, key_len) = self.token_lengths();
        let grad = of(grad, &span.queries, query_len);
        let zeros = |n_tokens: usize| [vec![0.0; n_tokens * key_len], vec![0.0; n_tokens * key_len]];
        let mut query_grad = vec![0.0; grad.len()];
        let ([mut keys, mut values], [mut keys_before, mut values_before]) =
            (zeros(span.queries.len()), zeros(span.before.len()));
        for kv_head in 0..self.n_kv_heads {
            let unit = self.unit(inputs, span, kv_head)?;
            let first = kv_head * self.n_shared();
            let grad = self.gather(&[grad], self.n_heads, first, self.n_shared())?;
            let shares = self.shares(&unit, span)?;
            let value_grad = shares.t()?.matmul(&grad)?;
            self.scatter(&value_grad, &mut [&mut values_before, &mut values], self.n_kv_heads, kv_head)?;
            let scores_grad = self.scores_grad(&shares, &grad.matmul(&unit.value.t()?)?, span)?;
            self.scatter(&scores_grad.matmul(&unit.key)?, &mut [&mut query_grad], self.n_heads, first)?;
            let key_grad = scores_grad.t()?.matmul(&unit.query)?;
            self.scatter(&key_grad, &mut [&mut keys_before, &mut keys], self.n_kv_heads, kv_head)?;
        }
        Ok(SpanGradients { query: query_grad, own: [keys, values], before: [keys_before, values_before] })
    }

    /// Gradient of the unscaled scores: share · (its gradient - the row's mean gradient under the shares) · scale.
    fn scores_grad(&self, shares: &Tensor, shares_grad: &Tensor, span: &Span) -> Result<Tensor> {
        let (n_queries, n_keys) = (span.queries.len(), span.n_keys());
        let scale = self.scale();
        let scores_grad = with_values(shares, |shares| {
            with_values(shares_grad, |shares_grad| {
                let mut out = vec![0.0; shares.len()];
                let rows = shares.chunks_exact(n_keys).zip(shares_grad.chunks_exact(n_keys));
                for (idx, ((shares, grad), out)) in rows.zip(out.chunks_exact_mut(n_keys)).enumerate() {
                    let n_visible = span.before.len() + idx % n_queries + 1;
                    let (shares, grad, out) =
                        (&shares[..n_visible], &grad[..n_visible], &mut out[..n_visible]);
                    pulp::Arch::new().dispatch(ScoresGrad { shares, grad, scale, out });
                }
                Ok(out)
            })
        })?;
        Tensor::from_vec(scores_grad, shares.shape(), &Device::Cpu)
    }

    /// Sums the spans' gradients in their order: what many continue is moved by all of them.
    fn sum(&self, spans: &[SpanGradients], (n_query, n_key): (usize, usize)) -> [Vec<f32>; 3] {
        let (query_len, key_len) = self.token_lengths();
        let (mut query, mut sums) = (vec![0.0; n_query], [vec![0.0; n_key], vec![0.0; n_key]]);
        for (span, gradients) in self.spans.iter().zip(spans) {
            query[span.queries.start * query_len..][..gradients.query.len()]
                .copy_from_slice(&gradients.query);
            for (range, parts) in [(&span.queries, &gradients.own), (&span.before, &gradients.before)] {
                for (sums, part) in sums.iter_mut().zip(parts) {
                    let places = sums[range.start * key_len..].iter_mut();
                    places.zip(part).for_each(|(sum, part)| *sum += part);
                }
            }
        }
        let [key, value] = sums;
        [query, key, value]
    }
}

/// Gradients of one query's scores, compiled for several kinds of vector registers.
struct ScoresGrad<'a> {
    shares: &'a [f32],
    grad: &'a [f32],
    scale: f32,
    out: &'a mut [f32],
}

impl pulp::NullaryFnOnce for ScoresGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let mean = dot(self.shares, self.grad);
        for ((out, share), grad) in self.out.iter_mut().zip(self.shares).zip(self.grad) {
            *out = share * (grad - mean) * self.scale;
        }
    }
}

/// The values of a run of tokens.
fn of<'a>(values: &'a [f32], tokens: &Range<usize>, token_len: usize) -> &'a [f32] {
    &values[tokens.start * token_len..tokens.end * token_len]
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
        let inputs = Inputs { query: values(s1, l1)?, key: values(s2, l2)?, value: values(s3, l3)? };
        let (query_len, _) = self.token_lengths();
        let mut out = vec![0.0; inputs.query.len()];
        let (mut rest, mut at) = (out.as_mut_slice(), 0);
        let mut parts = Vec::with_capacity(self.spans.len());
        for span in self.spans.iter() {
            let (_, behind) = rest.split_at_mut((span.queries.start - at) * query_len);
            let (own, behind) = behind.split_at_mut(span.queries.len() * query_len);
            parts.push((span, own));
            (rest, at) = (behind, span.queries.end);
        }
        parts.into_par_iter().try_for_each(|(span, out)| self.forward_span(inputs, span, out))?;
        let (n_rows, n_positions, ..) = l1.shape().dims4()?;
        Ok((CpuStorage::F32(out), Shape::from((n_rows, n_positions, query_len))))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let spans: Vec<SpanGradients> = with_values(query, |query| {
            with_values(key, |key| {
                with_values(value, |value| {
                    with_values(grad, |grad| {
                        let inputs = Inputs { query, key, value };
                        self.spans.par_iter().map(|span| self.backward_span(inputs, span, grad)).collect()
                    })
                })
            })
        })?;
        let [query_grad, key_grad, value_grad] = self.sum(&spans, (query.elem_count(), key.elem_count()));
        let like = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device()).map(Some);
        Ok((like(query_grad, query)?, like(key_grad, key)?, like(value_grad, value)?))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::{
                attention::{PackedRows, WholeRows},
                ops::Numerics,
            },
            testing::{check, random},
        },
        *,
    };

    #[test]
    fn fused_attention_agrees_with_the_composed_one() {
        let padded: Vec<bool> = [[true; 7], [false, false, true, true, true, true, false]].concat();
        for (n_heads, n_kv_heads) in [(4, 2), (3, 1), (2, 2)] {
            for real in [None, Some(padded.as_slice())] {
                let query = random(&[2, 7, n_heads, 6], 1);
                let (key, value) = (random(&[2, 7, n_kv_heads, 6], 2), random(&[2, 7, n_kv_heads, 6], 3));
                let fused = || attention((&query, &key, &value), Span::rows(2, 7), real.map(Into::into));
                let composed = || {
                    WholeRows::new(7, real.map(Into::into), Numerics::Train).composed(&query, &key, &value)
                };
                check(&[&query, &key, &value], fused, composed);
            }
        }
    }

    #[test]
    fn runs_that_share_a_beginning_agree_with_the_composed_ones() {
        let spans: Arc<[Span]> = [(0..3, 0..0), (3..5, 0..3), (5..6, 0..3), (6..10, 0..0), (10..12, 6..10)]
            .into_iter()
            .map(|(queries, before)| Span { queries, before })
            .collect();
        for (n_heads, n_kv_heads) in [(4, 2), (3, 1)] {
            let query = random(&[1, 12, n_heads, 6], 4);
            let (key, value) = (random(&[1, 12, n_kv_heads, 6], 5), random(&[1, 12, n_kv_heads, 6], 6));
            let fused = || attention((&query, &key, &value), spans.clone(), None);
            let composed = || PackedRows::new(spans.clone(), Numerics::Train).composed(&query, &key, &value);
            check(&[&query, &key, &value], fused, composed);
        }
    }

    #[test]
    fn spans_that_overlap_or_leave_the_tensor_are_refused() {
        let (query, key) = (random(&[1, 4, 2, 6], 7), random(&[1, 4, 1, 6], 8));
        let refused = |spans: &[(Range<usize>, Range<usize>)]| {
            let spans = spans.iter().cloned().map(|(queries, before)| Span { queries, before }).collect();
            attention((&query, &key, &key), spans, None).is_err()
        };
        assert!(refused(&[(0..3, 0..0), (2..4, 0..0)]));
        assert!(refused(&[(0..5, 0..0)]));
        assert!(refused(&[(0..2, 3..5)]));
        assert!(!refused(&[(0..2, 0..0), (2..4, 0..2)]));
    }
}
