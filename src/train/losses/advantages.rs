//! Advantages of a group: what each completion is worth beside the others sampled for its prompt.
use super::count;
use crate::train::error::TrainError;

/// Added to a standard deviation before it divides. Source: trl's `GRPOTrainer`.
const STD_EPS: f64 = 1e-4;

/// What a row's reward is compared with and divided by. Standard deviations are those of samples (n - 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Reward minus group mean, undivided: a group of equal rewards and one of nearly equal rewards stay unlike.
    /// Source: Dr.GRPO, arXiv 2503.20783.
    None,
    /// Divided by the standard deviation of the group. Source: GRPO, arXiv 2402.03300.
    Group,
    /// Divided by the standard deviation of all rows of the step. Source: arXiv 2508.08221.
    Batch,
    /// `normalize_then_sum`: each component is centred and divided within its group first, then the weighted sum is
    /// centred and divided over all rows. Lists with other mixes of components, but one sum, then differ.
    /// Source: GDPO, arXiv 2601.05242.
    Components,
}

/// How rewards become advantages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdvantageSettings<'a> {
    /// Completions of one prompt; rows of a group stand together.
    pub group_size: usize,
    /// Weight of each component.
    pub weights: &'a [f64],
    /// The divisor.
    pub scale: Scale,
}

/// What the rewards of a step look like before they become advantages.
#[derive(Clone, Debug, PartialEq)]
pub struct RewardMetrics {
    /// Mean and standard deviation of each component over the rows that have it.
    pub components: Vec<Spread>,
    /// Mean and standard deviation of the weighted sums.
    pub reward: Spread,
    /// Share of groups whose rows have equal rewards: they teach nothing.
    pub frac_zero_std: f64,
}

/// Mean and sample standard deviation (n - 1; 0 of fewer than two values).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Mean; 0 of no value.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
}

/// Returns the advantage of each row, in the unit of the rewards or in standard deviations.
///
/// `rewards` (rows, components): None where a component gave no value. It is left out of sums and means and never
/// counts as 0. A row without any value is left out of its group's mean and gets advantage 0.
/// # Errors
/// If rows are no whole groups, components do not fit the weights, or a reward is not finite.
pub fn group_advantages(
    settings: &AdvantageSettings<'_>,
    rewards: &[Vec<Option<f32>>],
) -> Result<Vec<f32>, TrainError> {
    check(settings, rewards)?;
    let advantages = match settings.scale {
        Scale::Components => {
            let columns: Vec<Vec<Option<f64>>> = (0..settings.weights.len())
                .map(|idx| {
                    let column: Vec<_> = rewards.iter().map(|row| row[idx].map(f64::from)).collect();
                    column.chunks(settings.group_size).flat_map(|group| normalized(group, None)).collect()
                })
                .collect();
            let sums: Vec<_> = (0..rewards.len())
                .map(|row_idx| weighted(settings.weights, columns.iter().map(|column| column[row_idx])))
                .collect();
            normalized(&sums, None)
        }
        Scale::None | Scale::Group | Scale::Batch => {
            let sums = sums(settings, rewards);
            let divisor = match settings.scale {
                Scale::None => Some(1.0),
                Scale::Batch => Some(spread(&sums).std + STD_EPS),
                Scale::Group | Scale::Components => None,
            };
            sums.chunks(settings.group_size).flat_map(|group| normalized(group, divisor)).collect()
        }
    };
    #[allow(clippy::cast_possible_truncation, reason = "advantages are f32 as the losses that use them")]
    Ok(advantages.into_iter().map(|advantage| advantage.unwrap_or(0.0) as f32).collect())
}

/// Returns means and standard deviations of the rewards (rows, components) of a step.
///
/// # Errors
/// As `group_advantages`.
pub fn reward_metrics(
    settings: &AdvantageSettings<'_>,
    rewards: &[Vec<Option<f32>>],
) -> Result<RewardMetrics, TrainError> {
    check(settings, rewards)?;
    let component = |idx: usize| {
        let column: Vec<_> = rewards.iter().map(|row| row[idx].map(f64::from)).collect();
        spread(&column)
    };
    let sums = sums(settings, rewards);
    let groups = sums.chunks(settings.group_size);
    // Rewards are sums of a few f32 values: a smaller deviation is rounding.
    let n_flat = groups.clone().filter(|group| spread(group).std < 1e-8).count();
    Ok(RewardMetrics {
        components: (0..settings.weights.len()).map(component).collect(),
        reward: spread(&sums),
        frac_zero_std: count(n_flat) / count(groups.len().max(1)),
    })
}

/// Returns the weighted sum of the rewards of each row; of a row without any, 0.
///
/// # Errors
/// As `group_advantages`.
pub fn weighted_sums(
    settings: &AdvantageSettings<'_>,
    rewards: &[Vec<Option<f32>>],
) -> Result<Vec<f64>, TrainError> {
    check(settings, rewards)?;
    Ok(sums(settings, rewards).into_iter().map(|sum| sum.unwrap_or(0.0)).collect())
}

fn check(settings: &AdvantageSettings<'_>, rewards: &[Vec<Option<f32>>]) -> Result<(), TrainError> {
    let refuse = |reason: String| Err(TrainError::Settings { reason });
    let (n_rows, group_size) = (rewards.len(), settings.group_size);
    if group_size == 0 || !n_rows.is_multiple_of(group_size) {
        return refuse(format!("{n_rows} rows are no whole groups of {group_size}"));
    }
    let n_weights = settings.weights.len();
    for row in rewards {
        if row.len() != n_weights {
            return refuse(format!("{} reward components were given {n_weights} weights", row.len()));
        }
        if let Some(reward) = row.iter().flatten().find(|reward| !reward.is_finite()) {
            return refuse(format!("a reward is {reward}"));
        }
    }
    Ok(())
}

/// Weighted sum of the components of each row; None where there is none.
fn sums(settings: &AdvantageSettings<'_>, rewards: &[Vec<Option<f32>>]) -> Vec<Option<f64>> {
    let components =
        |row: &Vec<Option<f32>>| weighted(settings.weights, row.iter().map(|reward| reward.map(f64::from)));
    rewards.iter().map(components).collect()
}

fn weighted(weights: &[f64], values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let parts = weights.iter().zip(values).filter_map(|(weight, value)| Some(weight * value?));
    parts.fold(None, |sum: Option<f64>, part| Some(sum.unwrap_or(0.0) + part))
}

/// Values minus their mean, divided by `divisor`, or by their own standard deviation.
fn normalized(values: &[Option<f64>], divisor: Option<f64>) -> Vec<Option<f64>> {
    let Spread { mean, std } = spread(values);
    let divisor = divisor.unwrap_or(std + STD_EPS);
    values.iter().map(|value| value.map(|value| (value - mean) / divisor)).collect()
}

/// Returns mean and standard deviation of the values that are there.
#[must_use]
pub fn spread(values: &[Option<f64>]) -> Spread {
    let n_values = values.iter().flatten().count();
    let mean = values.iter().flatten().sum::<f64>() / count(n_values.max(1));
    let squares: f64 = values.iter().flatten().map(|value| (value - mean) * (value - mean)).sum();
    Spread { mean, std: (squares / count(n_values.saturating_sub(1).max(1))).sqrt() }
}
