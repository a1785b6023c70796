//! What a policy step was like: how much was clipped, how sure the policy is, how far it went.
use super::{
    count,
    dr_grpo::{PolicyBatch, PolicySettings, RatioLevel},
    kl::KlEstimates,
};

/// Sums over the tokens of a step, from which shares and means are read. Sums of micro-batches are joined by `plus`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyMetrics {
    n_tokens: usize,
    /// Ratios that could be clipped: one per token, or one per row.
    n_ratios: usize,
    n_clipped_low: usize,
    n_clipped_high: usize,
    entropy: f64,
    low_min: f64,
    high_max: f64,
    reference: KlEstimates,
    old: KlEstimates,
    sampler_difference: f64,
    sampler_difference_max: f64,
    importance: Option<ImportanceSpread>,
}

/// Importance weights of tokens, as the loss used them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImportanceSpread {
    n_tokens: usize,
    sum: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// Values of each token (n) that the loss computed on its way.
pub(super) struct Measured<'a> {
    pub(super) logprobs: &'a [f32],
    pub(super) ratios: &'a [f32],
    pub(super) entropies: &'a [f32],
    pub(super) importance: Option<&'a [f32]>,
}

/// Shares of ratios that the clip made constant, as trl counts them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipRatios {
    /// Ratios below 1 - `epsilon_low` of rows with a negative advantage.
    pub low_mean: f64,
    /// Ratios above 1 + `epsilon_high` of rows with a positive advantage.
    pub high_mean: f64,
    /// Either.
    pub region_mean: f64,
    /// Smallest share of low ones in a row.
    pub low_min: f64,
    /// Largest share of high ones in a row.
    pub high_max: f64,
}

impl PolicyMetrics {
    /// Counts one micro-batch, whose lengths were checked.
    pub(super) fn of(settings: &PolicySettings, batch: &PolicyBatch<'_>, measured: &Measured<'_>) -> Self {
        let differences = || {
            let pairs = batch.old_logprobs.iter().zip(batch.sampler_logprobs.unwrap_or_default());
            pairs.map(|(old, sampler)| f64::from((old - sampler).abs()))
        };
        let mut metrics = Self {
            n_tokens: batch.ids.len(),
            n_ratios: match settings.ratio {
                RatioLevel::Token => batch.ids.len(),
                RatioLevel::Sequence => batch.row_lengths.len(),
            },
            n_clipped_low: 0,
            n_clipped_high: 0,
            entropy: measured.entropies.iter().map(|entropy| f64::from(*entropy)).sum(),
            low_min: 1.0,
            high_max: 0.0,
            reference: batch
                .ref_logprobs
                .map_or_else(KlEstimates::default, |other| KlEstimates::of(measured.logprobs, other)),
            old: KlEstimates::of(batch.old_logprobs, measured.logprobs),
            sampler_difference: differences().sum(),
            sampler_difference_max: differences().fold(0.0, f64::max),
            importance: measured.importance.map(ImportanceSpread::of),
        };
        metrics.count_clipped(settings, batch, measured.ratios);
        metrics
    }

    fn count_clipped(&mut self, settings: &PolicySettings, batch: &PolicyBatch<'_>, ratios: &[f32]) {
        let (low, high) = (1.0 - settings.epsilon_low, 1.0 + settings.epsilon_high);
        let mut start = 0;
        for &length in batch.row_lengths {
            // An empty row has no share; tokens of a row have one and the same sequence ratio.
            let n_counted = match settings.ratio {
                RatioLevel::Token => length,
                RatioLevel::Sequence => length.min(1),
            };
            let (ratios, advantages) =
                (&ratios[start..][..n_counted], &batch.advantages[start..][..n_counted]);
            start += length;
            if ratios.is_empty() {
                continue;
            }
            let clipped = |is_clipped: &dyn Fn(f64, f32) -> bool| {
                let pairs = ratios.iter().zip(advantages);
                pairs.filter(|(ratio, advantage)| is_clipped(f64::from(**ratio), **advantage)).count()
            };
            let n_low = clipped(&|ratio, advantage| ratio < low && advantage < 0.0);
            let n_high = clipped(&|ratio, advantage| ratio > high && advantage > 0.0);
            self.n_clipped_low += n_low;
            self.n_clipped_high += n_high;
            self.low_min = self.low_min.min(count(n_low) / count(ratios.len()));
            self.high_max = self.high_max.max(count(n_high) / count(ratios.len()));
        }
    }

    /// Joins the sums of two micro-batches.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            n_tokens: self.n_tokens + other.n_tokens,
            n_ratios: self.n_ratios + other.n_ratios,
            n_clipped_low: self.n_clipped_low + other.n_clipped_low,
            n_clipped_high: self.n_clipped_high + other.n_clipped_high,
            entropy: self.entropy + other.entropy,
            low_min: self.low_min.min(other.low_min),
            high_max: self.high_max.max(other.high_max),
            reference: self.reference.plus(other.reference),
            old: self.old.plus(other.old),
            sampler_difference: self.sampler_difference + other.sampler_difference,
            sampler_difference_max: self.sampler_difference_max.max(other.sampler_difference_max),
            importance: match (self.importance, other.importance) {
                (Some(one), Some(other)) => Some(one.plus(other)),
                (one, other) => one.or(other),
            },
        }
    }

    /// Returns the shares of clipped ratios.
    #[must_use]
    pub fn clip_ratios(&self) -> ClipRatios {
        let share = |n_clipped: usize| count(n_clipped) / count(self.n_ratios.max(1));
        ClipRatios {
            low_mean: share(self.n_clipped_low),
            high_mean: share(self.n_clipped_high),
            region_mean: share(self.n_clipped_low + self.n_clipped_high),
            low_min: self.low_min,
            high_max: self.high_max,
        }
    }

    /// Returns the token mean of the entropy, in nats.
    #[must_use]
    pub fn entropy(&self) -> f64 {
        self.entropy / count(self.n_tokens.max(1))
    }

    /// Returns the estimates of the divergence from the reference policy; of no token where there is none.
    #[must_use]
    pub fn reference_kl(&self) -> KlEstimates {
        self.reference
    }

    /// Returns the token mean of old - new log-probability, in nats: how far this update is from the sampling policy.
    #[must_use]
    pub fn approx_kl_old(&self) -> f64 {
        let [mean, _, _] = self.old.means();
        mean
    }

    /// Returns the importance weights; none where the loss used none.
    #[must_use]
    pub fn importance(&self) -> Option<ImportanceSpread> {
        self.importance
    }

    /// Returns the token mean of the distance, in nats, between what the training network and the sampling engine say.
    #[must_use]
    pub fn sampler_difference_mean(&self) -> f64 {
        self.sampler_difference / count(self.n_tokens.max(1))
    }

    /// Returns the largest distance, in nats, between what the training network and the sampling engine say of a
    /// token. It is near 0 where both have the same weights; more shows that one of them computes something else.
    #[must_use]
    pub fn sampler_difference_max(&self) -> f64 {
        self.sampler_difference_max
    }
}

impl ImportanceSpread {
    fn of(weights: &[f32]) -> Self {
        let weights = || weights.iter().map(|weight| f64::from(*weight));
        Self {
            n_tokens: weights().count(),
            sum: weights().sum(),
            min: weights().fold(f64::INFINITY, f64::min),
            max: weights().fold(0.0, f64::max),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            n_tokens: self.n_tokens + other.n_tokens,
            sum: self.sum + other.sum,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }

    /// Returns their mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum / count(self.n_tokens.max(1))
    }
}
