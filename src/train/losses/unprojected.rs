//! Losses of logits that never exist all at once: hidden states meet the output weight a few positions at a time.
use super::{count, with_gradients};
use candle_core::{D, DType, Result, Tensor, bail};
use std::ops::Range;

/// Logits that exist at one time: 16 MiB, or one position where the vocabulary is larger still. About eight tensors of
/// this size live together; fewer positions would read the output weight more often.
const CHUNK_LOGITS: usize = 1 << 22;

/// Logits of n positions, before the output head was applied.
#[derive(Clone, Copy, Debug)]
pub struct Unprojected<'a> {
    /// Hidden states (n, D) after the final norm, f32.
    pub hidden: &'a Tensor,
    /// Output weight (V, D), f32.
    pub head: &'a Tensor,
}

/// How logits are read and token losses become one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenMean {
    /// Logits are divided by it (> 0).
    pub temperature: f64,
    /// The divisor of the sum: tokens of the whole optimiser step for its mean, 1 for the sum.
    pub n_tokens: usize,
}

/// A micro-batch's share of a distillation loss.
#[derive(Debug)]
pub struct TokenLosses {
    /// The share, a scalar, differentiable in the student's hidden states and output weight.
    pub loss: Tensor,
    /// Loss of each position (n), not divided by anything, nats.
    pub per_token: Vec<f32>,
}

/// Losses (c) of a chunk of positions, and their gradient (c, V) with respect to the logits divided by the temperature.
pub(super) struct ChunkLosses {
    pub(super) per_token: Tensor,
    pub(super) gradient: Tensor,
}

impl Unprojected<'_> {
    /// Computes log-probabilities (c, V), f32, of a range of positions and the first `width` ids; outside of any graph.
    pub(super) fn log_probs(&self, range: Range<usize>, width: usize, temperature: f64) -> Result<Tensor> {
        let head = self.head.detach().narrow(0, 0, width)?;
        let hidden = self.hidden.detach().narrow(0, range.start, range.len())?;
        let logits = hidden.matmul(&head.t()?)?.to_dtype(DType::F32)?;
        candle_nn::ops::log_softmax(&(logits / temperature)?, D::Minus1)
    }

    /// Returns (positions, ids).
    pub(super) fn dims(&self) -> Result<(usize, usize)> {
        let ((n_positions, width), (n_ids, head_width)) = (self.hidden.dims2()?, self.head.dims2()?);
        if width != head_width {
            bail!("hidden states of width {width} were given an output weight of width {head_width}")
        }
        Ok((n_positions, n_ids))
    }
}

/// Sums the losses of the student's positions; `losses_of` computes those of a chunk from its log-probabilities (c, V)
/// and its range of positions.
pub(super) fn token_losses(
    student: &Unprojected<'_>,
    mean: TokenMean,
    losses_of: impl Fn(&Tensor, Range<usize>) -> Result<ChunkLosses>,
) -> Result<TokenLosses> {
    let (_, n_ids) = student.dims()?;
    in_chunks(student, mean, (CHUNK_LOGITS / n_ids.max(1)).max(1), losses_of)
}

fn in_chunks(
    student: &Unprojected<'_>,
    mean: TokenMean,
    chunk_rows: usize,
    losses_of: impl Fn(&Tensor, Range<usize>) -> Result<ChunkLosses>,
) -> Result<TokenLosses> {
    let (n_positions, n_ids) = student.dims()?;
    if n_positions == 0 || mean.n_tokens == 0 || mean.temperature.is_nan() || mean.temperature <= 0.0 {
        bail!("{n_positions} positions cannot be averaged as {mean:?}")
    }
    let (hidden, head) = (student.hidden.detach(), student.head.detach());
    let mut per_token: Vec<f32> = Vec::with_capacity(n_positions);
    let mut hidden_gradients = Vec::new();
    let mut head_gradient: Option<Tensor> = None;
    for start in (0..n_positions).step_by(chunk_rows) {
        let range = start..(start + chunk_rows).min(n_positions);
        let log_probs = student.log_probs(range.clone(), n_ids, mean.temperature)?;
        let losses = losses_of(&log_probs, range.clone())?;
        per_token.extend(losses.per_token.to_vec1::<f32>()?);
        let gradient = (losses.gradient / (mean.temperature * count(mean.n_tokens)))?;
        hidden_gradients.push(gradient.matmul(&head)?);
        // A head that is not trained needs no gradient, which would be as large as the head.
        if student.head.track_op() {
            let part = gradient.t()?.matmul(&hidden.narrow(0, range.start, range.len())?)?;
            head_gradient = Some(match head_gradient {
                None => part,
                Some(sum) => (sum + part)?,
            });
        }
    }
    let hidden_gradient = Tensor::cat(&hidden_gradients, 0)?;
    let value = per_token.iter().map(|loss| f64::from(*loss)).sum::<f64>() / count(mean.n_tokens);
    let mut parts = vec![(student.hidden, &hidden_gradient)];
    parts.extend(head_gradient.iter().map(|gradient| (student.head, gradient)));
    Ok(TokenLosses { loss: with_gradients(value, &parts)?, per_token })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn ramp(shape: (usize, usize), step: f32) -> Var {
        let values: Vec<f32> =
            (0_u16..).take(shape.0 * shape.1).map(|idx| (f32::from(idx) * step).sin()).collect();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Negative log-probability of id 0: its gradient is p minus 1 at id 0.
    fn first_id(log_probs: &Tensor, _: Range<usize>) -> Result<ChunkLosses> {
        let first = log_probs.narrow(1, 0, 1)?;
        let rest = log_probs.narrow(1, 1, log_probs.dim(1)? - 1)?;
        let gradient = Tensor::cat(&[(first.exp()? - 1.0)?, rest.exp()?], 1)?;
        Ok(ChunkLosses { per_token: first.squeeze(1)?.neg()?, gradient })
    }

    /// Whatever the chunks, value and gradients are those of the loss that holds all logits in one graph.
    #[test]
    fn chunked_loss_is_that_of_all_logits_at_once() {
        let (hidden, head) = (ramp((7, 4), 0.7), ramp((11, 4), 1.3));
        let mean = TokenMean { temperature: 0.8, n_tokens: 9 };
        let logits = (hidden.matmul(&head.t().unwrap()).unwrap() / 0.8).unwrap();
        let log_probs = candle_nn::ops::log_softmax(&logits, 1).unwrap();
        let expected = (log_probs.narrow(1, 0, 1).unwrap().sum_all().unwrap().neg().unwrap() / 9.0).unwrap();
        let expected_store = expected.backward().unwrap();
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for chunk_rows in [1, 2, 7, 100] {
            let student = Unprojected { hidden: &hidden, head: &head };
            let got = in_chunks(&student, mean, chunk_rows, first_id).unwrap();
            let store = got.loss.backward().unwrap();
            let mut pairs = vec![(flat(&got.loss), flat(&expected))];
            for var in [&hidden, &head] {
                pairs.push((flat(store.get(var).unwrap()), flat(expected_store.get(var).unwrap())));
            }
            for (got, expected) in pairs {
                assert_eq!(got.len(), expected.len());
                for (got, expected) in got.iter().zip(&expected) {
                    assert!((got - expected).abs() < 1e-6, "{got}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn loss_of_no_token_or_no_temperature_is_refused() {
        let (hidden, head) = (ramp((2, 4), 0.7), ramp((3, 4), 1.3));
        let refused =
            |mean| token_losses(&Unprojected { hidden: &hidden, head: &head }, mean, first_id).is_err();
        assert!(refused(TokenMean { temperature: 0.0, n_tokens: 1 }));
        assert!(refused(TokenMean { temperature: 1.0, n_tokens: 0 }));
        assert!(!refused(TokenMean { temperature: 1.0, n_tokens: 1 }));
    }
}
