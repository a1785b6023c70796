//! The clipped policy loss of group-relative policy optimisation, Dr.GRPO by default.
use super::{
    StepTotals, count, kl,
    policy_metrics::{Measured, PolicyMetrics},
    ratio_of,
};
use crate::model::ops::{entropies, token_logprobs};
use candle_core::{Device, Result, Tensor, bail};

/// Positions whose entropy is computed at one time where it is measured only, without a gradient.
const ENTROPY_CHUNK_ROWS: usize = 128;

/// Constants of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicySettings {
    /// Temperature the completions were sampled with (> 0). Log-probabilities and entropies are those of logits divided
    /// by it; a loss that forgets it optimises another policy than the one that sampled.
    pub temperature: f64,
    /// How far below 1 a ratio counts.
    pub epsilon_low: f64,
    /// How far above 1 a ratio counts; larger than `epsilon_low` in clip-higher (DAPO, arXiv 2503.14476).
    pub epsilon_high: f64,
    /// Whose probability the ratio compares.
    pub ratio: RatioLevel,
    /// How tokens become one number.
    pub aggregation: Aggregation,
    /// Weight of the divergence from the reference policy, k3 per token; 0: no reference is needed.
    pub beta: f64,
    /// Weight of the entropy bonus, the mean over tokens of the step; 0: none.
    pub entropy_coef: f64,
    /// Correction for completions that another engine sampled; None: they are this policy's own.
    pub importance: Option<ImportanceWeights>,
}

/// Whose probability a ratio compares under the policy now and when it sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RatioLevel {
    /// Each token's.
    Token,
    /// The completion's, as the geometric mean over its tokens. Source: GSPO, arXiv 2507.18071.
    Sequence,
}

/// How token losses become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// Sum over tokens / (rows of the step · a constant).
    ///
    /// Departs from GRPO (Dr.GRPO, arXiv 2503.20783): the divisor is not the row's own length, so a wrong long list is
    /// not punished less per token than a wrong short one.
    DrGrpo {
        /// The constant: most tokens a completion may have. Never the longest row of the batch.
        max_completion_tokens: usize,
    },
    /// Mean over rows of each row's mean over tokens; an empty row counts as 0. Source: GRPO, arXiv 2402.03300.
    Grpo,
    /// Mean over all tokens of the step. Source: DAPO, arXiv 2503.14476.
    Dapo,
}

/// Truncated importance weights exp(old - sampler) of each token, where the sampler's log-probabilities differ from
/// those that the training network gave the same tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImportanceWeights {
    /// Smallest weight.
    pub min: f64,
    /// Largest weight.
    pub max: f64,
    /// What happens to a weight outside.
    pub outside: Outside,
}

/// What happens to an importance weight outside of its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// It becomes the limit.
    Truncate,
    /// It becomes 0: the token teaches nothing.
    Mask,
}

/// Completion tokens of a micro-batch, row after row, without padding.
#[derive(Clone, Copy, Debug)]
pub struct PolicyBatch<'a> {
    /// The sampled tokens (n).
    pub ids: &'a [u32],
    /// Tokens of each row (B), together n; 0 where nothing was sampled.
    pub row_lengths: &'a [usize],
    /// Advantage of each token (n): that of its row, or one of its own.
    pub advantages: &'a [f32],
    /// Log-probabilities (n) under the policy that sampled, as the training network computes them, nats.
    pub old_logprobs: &'a [f32],
    /// Log-probabilities (n) under the reference policy, nats; needed where `beta` is not 0.
    pub ref_logprobs: Option<&'a [f32]>,
    /// Log-probabilities (n) as the engine that sampled reported them, nats; needed for importance weights.
    pub sampler_logprobs: Option<&'a [f32]>,
}

/// A micro-batch's share of the step's loss.
#[derive(Debug)]
pub struct PolicyLoss {
    /// The share, a scalar, differentiable in the logits.
    pub loss: Tensor,
    /// What the micro-batch was like.
    pub metrics: PolicyMetrics,
}

/// Computes a micro-batch's share of the policy loss: per token -min(r A, clip(r, 1 - low, 1 + high) A), times the
/// importance weight, plus beta · k3.
///
/// `logits` (n, V), f32: the policy's at the positions that predict `batch.ids`. r is the ratio of a token's
/// probability now and when it was sampled, A its advantage. Shares of all micro-batches add up to the loss of
/// the step, because divisors are counts of `totals`. Logits of the micro-batch exist with their gradient: its size
/// bounds the memory.
/// # Errors
/// If there is no token, lengths differ, the totals are smaller than the batch, a setting is out of its range, or
/// log-probabilities are missing that the settings need.
/// Source: `GRPOTrainer` of trl; `train_zero_math.py` of Dr.GRPO, arXiv 2503.20783.
pub fn policy_loss(
    settings: &PolicySettings,
    totals: StepTotals,
    logits: &Tensor,
    batch: &PolicyBatch<'_>,
) -> Result<PolicyLoss> {
    check_settings(settings, batch)?;
    check_lengths(totals, batch)?;
    let device = logits.device();
    let logprobs = token_logprobs(logits, &per_token(batch.ids, device)?, settings.temperature)?; // (n)
    let log_ratio = (&logprobs - per_token(batch.old_logprobs, device)?)?;
    let log_ratio = match settings.ratio {
        RatioLevel::Token => log_ratio,
        RatioLevel::Sequence => row_means(&log_ratio, batch.row_lengths)?,
    };
    let ratio = ratio_of(&log_ratio)?;
    let advantages = per_token(batch.advantages, device)?;
    let clipped = ratio.clamp(1.0 - settings.epsilon_low, 1.0 + settings.epsilon_high)?;
    let mut token_losses = (&ratio * &advantages)?.minimum(&(clipped * &advantages)?)?.neg()?;
    let importance = settings
        .importance
        .zip(batch.sampler_logprobs)
        .map(|(importance, sampler)| importance.of_tokens(batch.old_logprobs, sampler));
    if let Some(weights) = &importance {
        token_losses = (token_losses * per_token(weights, device)?)?;
    }
    if let Some(reference) = batch.ref_logprobs.filter(|_| settings.beta > 0.0) {
        let divergences = kl::k3(&logprobs, &per_token(reference, device)?)?;
        token_losses = (token_losses + (divergences * settings.beta)?)?;
    }
    let weights = per_token(&settings.aggregation.token_weights(batch.row_lengths, totals), device)?;
    let mut loss = (token_losses * weights)?.sum_all()?;
    let entropies = measured_entropies(settings, logits)?;
    if settings.entropy_coef > 0.0 {
        let bonus = (entropies.sum_all()? * (settings.entropy_coef / count(totals.n_tokens)))?;
        loss = (loss - bonus)?;
    }
    let measured = Measured {
        logprobs: &logprobs.to_vec1()?,
        ratios: &ratio.to_vec1()?,
        entropies: &entropies.to_vec1()?,
        importance: importance.as_deref(),
    };
    let metrics = PolicyMetrics::of(settings, batch, &measured);
    Ok(PolicyLoss { loss, metrics })
}

impl Aggregation {
    /// Weight of each token (n) in the sum that is the loss.
    fn token_weights(self, row_lengths: &[usize], totals: StepTotals) -> Vec<f32> {
        let weight = |length: usize| match self {
            Self::DrGrpo { max_completion_tokens } => {
                1.0 / (count(totals.n_rows) * count(max_completion_tokens))
            }
            Self::Grpo => 1.0 / (count(totals.n_rows) * count(length)),
            Self::Dapo => 1.0 / count(totals.n_tokens),
        };
        #[allow(clippy::cast_possible_truncation, reason = "weights multiply f32 losses")]
        let weights: Vec<f32> = row_lengths.iter().map(|&length| weight(length) as f32).collect();
        of_rows(row_lengths, &weights)
    }
}

impl ImportanceWeights {
    /// Weight of each token, from its log-probabilities in the training network and in the engine that sampled it.
    fn of_tokens(self, old: &[f32], sampler: &[f32]) -> Vec<f32> {
        let weight = |(old, sampler): (&f32, &f32)| {
            let weight = (f64::from(*old) - f64::from(*sampler)).exp();
            match self.outside {
                Outside::Truncate => weight.max(self.min).min(self.max),
                Outside::Mask if weight < self.min || weight > self.max => 0.0,
                Outside::Mask => weight,
            }
        };
        #[allow(clippy::cast_possible_truncation, reason = "weights multiply f32 losses")]
        let weights = old.iter().zip(sampler).map(|pair| weight(pair) as f32).collect();
        weights
    }
}

fn check_settings(settings: &PolicySettings, batch: &PolicyBatch<'_>) -> Result<()> {
    let PolicySettings { epsilon_low, epsilon_high, beta, entropy_coef, .. } = *settings;
    if [epsilon_low, epsilon_high, beta, entropy_coef].iter().any(|value| value.is_nan() || *value < 0.0) {
        bail!("{settings:?} holds a negative number")
    }
    if beta > 0.0 && batch.ref_logprobs.is_none() {
        bail!("beta is {beta}, and there are no log-probabilities of a reference")
    }
    if settings.importance.is_some() && batch.sampler_logprobs.is_none() {
        bail!("importance weights need the log-probabilities of the sampler")
    }
    if let Aggregation::DrGrpo { max_completion_tokens } = settings.aggregation
        && let Some(length) = batch.row_lengths.iter().find(|&&length| length > max_completion_tokens)
    {
        bail!("a row has {length} tokens, completions have at most {max_completion_tokens}")
    }
    Ok(())
}

fn check_lengths(totals: StepTotals, batch: &PolicyBatch<'_>) -> Result<()> {
    let (n_rows, n_tokens) = (batch.row_lengths.len(), batch.ids.len());
    if n_tokens == 0 || batch.row_lengths.iter().sum::<usize>() != n_tokens {
        bail!("rows of {:?} tokens were given {n_tokens} ids", batch.row_lengths)
    }
    if totals.n_rows < n_rows || totals.n_tokens < n_tokens {
        bail!("{totals:?} cannot hold a batch of {n_rows} rows and {n_tokens} tokens")
    }
    if batch.advantages.len() != n_tokens {
        bail!("{n_tokens} tokens were given {} advantages", batch.advantages.len())
    }
    let logprobs = [Some(batch.old_logprobs), batch.ref_logprobs, batch.sampler_logprobs];
    if let Some(logprobs) = logprobs.into_iter().flatten().find(|logprobs| logprobs.len() != n_tokens) {
        bail!("{n_tokens} tokens were given {} log-probabilities", logprobs.len())
    }
    Ok(())
}

/// Entropy of each position (n): with a gradient where the loss asks for one, in chunks and without where it does not.
fn measured_entropies(settings: &PolicySettings, logits: &Tensor) -> Result<Tensor> {
    if settings.entropy_coef > 0.0 {
        return entropies(logits, settings.temperature);
    }
    let (n_tokens, logits) = (logits.dim(0)?, logits.detach());
    let chunks = (0..n_tokens).step_by(ENTROPY_CHUNK_ROWS).map(|start| {
        let length = ENTROPY_CHUNK_ROWS.min(n_tokens - start);
        entropies(&logits.narrow(0, start, length)?, settings.temperature)
    });
    Tensor::cat(&chunks.collect::<Result<Vec<_>>>()?, 0)
}

/// Mean of each row, given to each of its tokens: (n) to (n).
fn row_means(values: &Tensor, row_lengths: &[usize]) -> Result<Tensor> {
    let mut start = 0;
    let mut means = Vec::with_capacity(row_lengths.len());
    for &length in row_lengths.iter().filter(|&&length| length > 0) {
        means.push(values.narrow(0, start, length)?.mean_keepdim(0)?.expand(length)?);
        start += length;
    }
    Tensor::cat(&means, 0)
}

/// Gives each row's value (B) to each of its tokens: (n).
#[must_use]
pub fn of_rows(row_lengths: &[usize], values: &[f32]) -> Vec<f32> {
    let rows = row_lengths.iter().zip(values);
    rows.flat_map(|(&length, &value)| std::iter::repeat_n(value, length)).collect()
}

fn per_token<T: candle_core::WithDType>(values: &[T], device: &Device) -> Result<Tensor> {
    Tensor::from_slice(values, values.len(), device)
}
