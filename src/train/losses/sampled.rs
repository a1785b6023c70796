//! Policy gradient towards a teacher: the teacher's word on each sampled token is that token's advantage.
use super::{
    LOG_RATIO_MAX,
    sparse::{RowLoss, sparse_losses},
    unprojected::{TokenLosses, TokenMean, Unprojected},
};
use candle_core::{Result, bail};

/// Sampled tokens of a micro-batch (n), row after row, without padding.
#[derive(Clone, Copy, Debug)]
pub struct SampledTokens<'a> {
    /// The tokens.
    pub ids: &'a [u32],
    /// Log-probability of each when it was sampled, nats.
    pub sampler_logprobs: &'a [f32],
    /// Advantage of each: the teacher's alone, or with that of the task added.
    pub advantages: &'a [f32],
}

/// Returns the advantage of each token: `kl_coef` · (log q - log p), with p the sampler and q the teacher, nats.
///
/// Its mean is the negative reverse KL from sampler to teacher.
/// # Errors
/// If lengths differ.
/// Source: `incorporate_kl_penalty` of tinker-cookbook's on-policy distillation, without discount.
pub fn teacher_advantages(kl_coef: f64, sampler: &[f32], teacher: &[f32]) -> Result<Vec<f32>> {
    if sampler.len() != teacher.len() {
        bail!("{} tokens of the sampler were given {} of the teacher", sampler.len(), teacher.len())
    }
    let advantage = |(p, q): (&f32, &f32)| kl_coef * (f64::from(*q) - f64::from(*p));
    #[allow(clippy::cast_possible_truncation, reason = "advantages are f32 as all values of tokens")]
    Ok(sampler.iter().zip(teacher).map(|pair| advantage(pair) as f32).collect())
}

/// Computes a micro-batch's share of the importance-weighted policy gradient: per token -exp(log p - sampler) · A.
///
/// It needs one log-probability per token of a teacher, and is the gradient of the reverse KL on average. The
/// difference of log-probabilities itself must not be the loss: its gradient is 0 on average.
/// # Errors
/// If lengths differ or an id is not below V.
/// Source: the `importance_sampling` loss of tinker-cookbook, which sums; `mean` decides here.
pub fn sampled_policy_gradient(
    mean: TokenMean,
    student: &Unprojected<'_>,
    tokens: &SampledTokens<'_>,
) -> Result<TokenLosses> {
    let SampledTokens { ids, sampler_logprobs, advantages } = *tokens;
    if sampler_logprobs.len() != ids.len() || advantages.len() != ids.len() {
        bail!(
            "{} ids were given {} logs and {} advantages",
            ids.len(),
            sampler_logprobs.len(),
            advantages.len()
        )
    }
    sparse_losses(mean, student, (ids, 1), |position, log_p| {
        let log_ratio = f64::from(log_p[0]) - f64::from(sampler_logprobs[position]);
        let ratio = log_ratio.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX).exp();
        let gain = ratio * f64::from(advantages[position]);
        RowLoss { value: -gain, rest_factor: gain, corrections: vec![-gain] }
    })
}
