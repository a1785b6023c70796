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
    sampler_difference_max: f64,
}

/// Values of each token (n) that the loss computed on its way.
pub(super) struct Measured<'a> {
    pub(super) logprobs: &'a [f32],
    pub(super) ratios: &'a [f32],
    pub(super) entropies: &'a [f32],
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
        let differences = |sampler: &[f32]| {
            let pairs = batch.old_logprobs.iter().zip(sampler);
            pairs.map(|(old, sampler)| f64::from((old - sampler).abs())).fold(0.0, f64::max)
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
            sampler_difference_max: batch.sampler_logprobs.map_or(0.0, differences),
        };
        metrics.count_clipped(settings, batch, measured.ratios);
        metrics
    }

    fn count_clipped(&mut self, settings: &PolicySettings, batch: &PolicyBatch<'_>, ratios: &[f32]) {
        let (low, high) = (1.0 - settings.epsilon_low, 1.0 + settings.epsilon_high);
        let mut rest = ratios;
        for (&length, &advantage) in batch.row_lengths.iter().zip(batch.advantages) {
            let (row, after) = rest.split_at(length);
            rest = after;
            // An empty row has no share; tokens of a row have one and the same sequence ratio.
            let ratios = match settings.ratio {
                RatioLevel::Token => row,
                RatioLevel::Sequence => &row[..length.min(1)],
            };
            if ratios.is_empty() {
                continue;
            }
            let clipped = |is_clipped: &dyn Fn(f64) -> bool| {
                ratios.iter().filter(|ratio| is_clipped(f64::from(**ratio))).count()
            };
            let n_low = clipped(&|ratio| ratio < low && advantage < 0.0);
            let n_high = clipped(&|ratio| ratio > high && advantage > 0.0);
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
            sampler_difference_max: self.sampler_difference_max.max(other.sampler_difference_max),
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

    /// Returns the largest distance, in nats, between what the training network and the sampling engine say of a
    /// token. It is near 0 where both have the same weights; more shows that one of them computes something else.
    #[must_use]
    pub fn sampler_difference_max(&self) -> f64 {
        self.sampler_difference_max
    }
}
