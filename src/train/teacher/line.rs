//! What a run notes of each step, under the names that users of TRL know.
use super::{Rollout, update::Updated};
use crate::train::{
    journal::Line,
    losses::advantages::{RewardMetrics, Spread},
    rewards::Rewards,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// One optimiser step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyLine {
    /// Optimiser step, from 0.
    pub step: u64,
    /// Figures by name: `reward`, `rewards/coverage/mean`, `entropy`, `clip_ratio/region_mean` and others.
    #[serde(flatten)]
    pub figures: BTreeMap<String, f64>,
}

/// Seconds of a step.
const STEP_TIME: &str = "step_time";
/// Sampled tokens of a step.
const NUM_TOKENS: &str = "num_tokens";
/// Mean composite reward.
const REWARD: &str = "reward";

impl PolicyLine {
    #[allow(clippy::cast_precision_loss, reason = "counts of rows and tokens of a step")]
    pub(super) fn of(
        (step, learning_rate, grad_norm): (u64, f64, f64),
        updated: &Updated,
        rewards: &RewardMetrics,
        rollout: &Rollout,
    ) -> Self {
        let n_rows = rollout.rows.len().max(1) as f64;
        let mut figures = BTreeMap::from([
            ("loss".to_owned(), updated.loss),
            ("learning_rate".to_owned(), learning_rate),
            ("grad_norm".to_owned(), grad_norm),
            (REWARD.to_owned(), rewards.reward.mean),
            ("reward_std".to_owned(), rewards.reward.std),
            ("frac_reward_zero_std".to_owned(), rewards.frac_zero_std),
            (NUM_TOKENS.to_owned(), rollout.n_tokens() as f64),
            ("completions/mean_length".to_owned(), rollout.n_tokens() as f64 / n_rows),
            ("completions/clipped_ratio".to_owned(), rollout.n_cut() as f64 / n_rows),
            ("completions/valid_ratio".to_owned(), rollout.n_valid as f64 / n_rows),
        ]);
        for (name, Spread { mean, std }) in Rewards::NAMES.iter().zip(&rewards.components) {
            figures.insert(format!("rewards/{name}/mean"), *mean);
            figures.insert(format!("rewards/{name}/std"), *std);
        }
        if let Some(policy) = &updated.metrics {
            figures.insert("entropy".to_owned(), policy.entropy());
            figures.insert("clip_ratio/region_mean".to_owned(), policy.clip_ratios().region_mean);
            // Sampling and training are one network in two numerics: this says how far apart they compute.
            let name = "sampling/sampling_logp_difference/max";
            figures.insert(name.to_owned(), policy.sampler_difference_max());
        }
        Self { step, figures }
    }

    /// With the time that the step took.
    pub(super) fn timed(mut self, took: Duration) -> Self {
        self.figures.insert(STEP_TIME.to_owned(), took.as_secs_f64());
        self
    }

    fn figure(&self, name: &str) -> f64 {
        self.figures.get(name).copied().unwrap_or(0.0)
    }
}

impl Line for PolicyLine {
    fn step(&self) -> u64 {
        self.step
    }

    fn headline(&self) -> (&'static str, f64) {
        (REWARD, self.figure(REWARD))
    }

    fn pace(&self) -> (usize, f64) {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count that was made a float"
        )]
        let tokens = self.figure(NUM_TOKENS) as usize;
        (tokens, self.figure(STEP_TIME))
    }
}
