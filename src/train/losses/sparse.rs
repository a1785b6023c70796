//! Losses that look at a few ids of each position, and treat all other ids alike.
use super::unprojected::{ChunkLosses, TokenLosses, TokenMean, Unprojected, token_losses};
use candle_core::{Result, Tensor, bail};

/// Loss of one position and its gradient with respect to the scaled logits: p · `rest_factor` for every id, and
/// `corrections` on top for the position's k ids.
pub(super) struct RowLoss {
    pub(super) value: f64,
    pub(super) rest_factor: f64,
    pub(super) corrections: Vec<f64>,
}

/// Sums losses that look at k ids of each position only: `ids` (n · k); `loss_of` is given a position and the
/// log-probabilities of its k ids.
pub(super) fn sparse_losses(
    mean: TokenMean,
    student: &Unprojected<'_>,
    (ids, k): (&[u32], usize),
    loss_of: impl Fn(usize, &[f32]) -> RowLoss,
) -> Result<TokenLosses> {
    let (n_positions, n_ids) = student.dims()?;
    if ids.len() != n_positions * k || ids.iter().any(|&id| id as usize >= n_ids) {
        bail!("{} ids do not fit {n_positions} positions of k = {k} and {n_ids} logits", ids.len())
    }
    token_losses(student, mean, |log_probs, range| {
        let (shape, device) = ((range.len(), k), log_probs.device());
        let ids = Tensor::from_slice(&ids[range.start * k..range.end * k], shape, device)?;
        let of_ids = log_probs.gather(&ids, 1)?.to_vec2::<f32>()?;
        let rows: Vec<RowLoss> =
            range.clone().zip(&of_ids).map(|(position, log_p)| loss_of(position, log_p)).collect();
        let tensor = |values: Vec<f64>, width: usize| {
            #[allow(clippy::cast_possible_truncation, reason = "losses and gradients are f32")]
            let values = values.into_iter().map(|value| value as f32).collect();
            Tensor::from_vec(values, (range.len(), width), device)
        };
        let values = tensor(rows.iter().map(|row| row.value).collect(), 1)?;
        let factors = tensor(rows.iter().map(|row| row.rest_factor).collect(), 1)?;
        let corrections = tensor(rows.into_iter().flat_map(|row| row.corrections).collect(), k)?;
        let gradient = log_probs.exp()?.broadcast_mul(&factors)?.scatter_add(&ids, &corrections, 1)?;
        Ok(ChunkLosses { per_token: values.squeeze(1)?, gradient })
    })
}
