//! What a step of the teacher notes, under the names that users of TRL know.
use super::{
    credit::{self, Credit},
    groups::{Rollout, Worth},
    update::Updated,
};
use crate::{
    decode::batch::FinishedRow,
    train::{
        error::TrainError,
        figures::{Figures, REWARD},
        losses::{
            advantages::{AdvantageSettings, Scale, Spread, reward_metrics, spread},
            policy_metrics::PolicyMetrics,
        },
        rewards::{Rewards, composite::FURTHER, mean},
    },
};

/// The figures of a step: rewards by component, and what the policy was like.
#[allow(clippy::cast_precision_loss, reason = "counts of lists and groups")]
pub(super) fn figures(
    step: u64,
    updated: &Updated,
    rollout: &Rollout,
    rows: &[(Vec<u32>, FinishedRow)],
    credit: Credit<'_>,
) -> Result<Figures, TrainError> {
    let worths: Vec<&Worth> = rollout.groups.iter().flat_map(|group| &group.worths).collect();
    let n_valid = worths.iter().filter(|worth| worth.is_list).count();
    let mut figures = Figures::of(step, updated.loss, rows, n_valid);
    let group_size = rollout.groups.first().map_or(1, |group| group.rows.len());
    let settings = AdvantageSettings { group_size, weights: &credit.weights.of_five(), scale: Scale::None };
    let components: Vec<_> = worths.iter().map(|worth| credit::components(worth)).collect();
    let parts = reward_metrics(&settings, &components)?.components;
    // The reward is what the network learns from, gates and the judge elsewhere included.
    let settings = AdvantageSettings { weights: &credit.weights(), ..settings };
    let learned: Vec<_> = rollout.groups.iter().flat_map(|group| credit.rows(group)).collect();
    let rewards = reward_metrics(&settings, &learned)?;
    figures.add(REWARD, rewards.reward.mean);
    figures.add("reward_std", rewards.reward.std);
    figures.add("frac_reward_zero_std", rewards.frac_zero_std);
    for (name, Spread { mean, std }) in Rewards::NAMES.iter().zip(&parts) {
        figures.add(format!("rewards/{name}/mean"), *mean);
        figures.add(format!("rewards/{name}/std"), *std);
    }
    // Of lists alone: a text that is none says nothing.
    let raw = |idx: usize| mean(worths.iter().filter(|worth| worth.is_list).map(|worth| worth.raw[idx]));
    figures.add("rewards/alignment/raw_mean", raw(0));
    figures.add("rewards/diversity/raw_mean", raw(1));
    let n_rewarded = (rollout.n_drawn * group_size).max(1) as f64;
    figures.add("rewards/lookup/seconds", rollout.seconds.lookup / n_rewarded);
    for (name, seconds) in Rewards::NAMES.iter().zip(rollout.seconds.parts) {
        figures.add(format!("rewards/{name}/seconds"), seconds / n_rewarded);
    }
    for (idx, name) in FURTHER.into_iter().enumerate() {
        if credit.weights.of_further()[idx] > 0.0 {
            // Of texts that are no lists too: they count as 0.
            add_optional(&mut figures, name, worths.iter().map(|worth| worth.further[idx]).collect());
            figures.add(format!("rewards/{name}/seconds"), rollout.seconds.further[idx] / n_rewarded);
        }
    }
    if credit.judge_weight.is_some() {
        // Of texts that are no lists it was not asked.
        let lists = worths.iter().filter(|worth| worth.is_list);
        add_optional(&mut figures, "http_judge", lists.map(|worth| worth.judged).collect());
        figures.add("rewards/http_judge/seconds", rollout.seconds.judge / n_rewarded);
    }
    if credit.grpo.refills > 0 {
        // Groups that teach something, of all that were drawn.
        figures
            .add("dynamic_filtering_pass_rate", n_teaching(rollout, credit)? as f64 / rollout.n_drawn as f64);
    }
    if let Some(policy) = &updated.metrics {
        add_policy(&mut figures, policy);
    }
    Ok(figures)
}

/// What the policy was like.
fn add_policy(figures: &mut Figures, policy: &PolicyMetrics) {
    let clipped = policy.clip_ratios();
    figures.add("entropy", policy.entropy());
    // verl's name: how far the update is from the policy that sampled.
    figures.add("ppo_kl", policy.approx_kl_old());
    figures.add("clip_ratio/low_mean", clipped.low_mean);
    figures.add("clip_ratio/low_min", clipped.low_min);
    figures.add("clip_ratio/high_mean", clipped.high_mean);
    figures.add("clip_ratio/high_max", clipped.high_max);
    figures.add("clip_ratio/region_mean", clipped.region_mean);
    // Sampling and training are one network in two numerics: this says how far apart they compute.
    figures.add("sampling/sampling_logp_difference/mean", policy.sampler_difference_mean());
    figures.add("sampling/sampling_logp_difference/max", policy.sampler_difference_max());
    if let Some(weights) = policy.importance() {
        figures.add("sampling/importance_sampling_ratio/min", weights.min);
        figures.add("sampling/importance_sampling_ratio/mean", weights.mean());
        figures.add("sampling/importance_sampling_ratio/max", weights.max);
    }
}

/// A reward that is not always known.
#[allow(clippy::cast_precision_loss, reason = "counts of lists")]
fn add_optional(figures: &mut Figures, name: &str, rewards: Vec<Option<f64>>) {
    let Spread { mean, std } = spread(&rewards);
    figures.add(format!("rewards/{name}/mean"), mean);
    figures.add(format!("rewards/{name}/std"), std);
    let n_missing = rewards.iter().filter(|reward| reward.is_none()).count();
    figures.add(format!("rewards/{name}/missing_ratio"), n_missing as f64 / rewards.len().max(1) as f64);
}

/// Groups of a step that teach something.
fn n_teaching(rollout: &Rollout, credit: Credit<'_>) -> Result<usize, TrainError> {
    let mut n_teaching = 0;
    for group in &rollout.groups {
        n_teaching += usize::from(!credit.is_flat(group)?);
    }
    Ok(n_teaching)
}
