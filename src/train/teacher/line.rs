//! What a step of the teacher notes.
use super::{Rollout, update::Updated};
use crate::train::{
    figures::{Figures, REWARD},
    losses::advantages::{RewardMetrics, Spread},
    rewards::Rewards,
};

/// The figures of a step: rewards by component, and what the policy was like.
pub(super) fn figures(step: u64, updated: &Updated, rewards: &RewardMetrics, rollout: &Rollout) -> Figures {
    let mut figures = Figures::of(step, updated.loss, &rollout.rows, rollout.n_valid);
    figures.add(REWARD, rewards.reward.mean);
    figures.add("reward_std", rewards.reward.std);
    figures.add("frac_reward_zero_std", rewards.frac_zero_std);
    for (name, Spread { mean, std }) in Rewards::NAMES.iter().zip(&rewards.components) {
        figures.add(format!("rewards/{name}/mean"), *mean);
        figures.add(format!("rewards/{name}/std"), *std);
    }
    if let Some(policy) = &updated.metrics {
        figures.add("entropy", policy.entropy());
        figures.add("clip_ratio/region_mean", policy.clip_ratios().region_mean);
        // Sampling and training are one network in two numerics: this says how far apart they compute.
        figures.add("sampling/sampling_logp_difference/max", policy.sampler_difference_max());
    }
    figures
}
