//! What each reward of a list counts.
use crate::{
    bundle::manifest::sha256_hex_of,
    train::{
        error::TrainError,
        rewards::{
            N_REWARDS, Rewards, WEIGHTS,
            composite::{Further, N_FURTHER},
        },
    },
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How the rewards of a list become one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default = "RewardSettings::usual")]
pub struct RewardSettings {
    /// What each counts.
    pub weights: RewardWeights,
    /// File that the stage `rubric` wrote, where the rubric counts; from the working directory, where it is no whole path. Empty: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rubric: String,
}

/// What each reward counts, from 0. The five are 1 together by default, which learning rates suit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default = "RewardWeights::usual")]
pub struct RewardWeights {
    /// There is living news about the queries.
    pub alignment: f64,
    /// Interests are asked for and found.
    pub coverage: f64,
    /// Queries are telling.
    pub specificity: f64,
    /// Queries differ.
    pub diversity: f64,
    /// Queries keep the form.
    pub structure: f64,
    /// A query finds what the reader clicked within a day. 0, and not computed: clicks are of what a platform chose to show.
    pub hit: f64,
    /// The list keeps the rules of the rubric, and looks whole to its network. 0, and not computed: its network is fitted by a stage of its own.
    #[serde(skip_serializing_if = "is_zero")]
    pub rubric: f64,
}

// What stands at its default is not written: settings of runs from before it keep their digest.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(weight: &f64) -> bool {
    *weight == 0.0
}

impl RewardSettings {
    /// Those of [`WEIGHTS`].
    pub fn usual() -> Self {
        Self { weights: RewardWeights::usual(), rubric: String::new() }
    }

    /// Looks for weights that mean nothing, and for a rubric that counts and is not named.
    /// # Errors
    /// If there is one.
    pub fn check(&self) -> Result<(), TrainError> {
        self.weights.check()?;
        if (self.weights.rubric > 0.0) == self.rubric.is_empty() {
            let reason = format!(
                "rewards.weights.rubric is {} and rewards.rubric {:?}, expected a weight above 0 and a file, or neither",
                self.weights.rubric, self.rubric
            );
            return Err(TrainError::Settings { reason });
        }
        Ok(())
    }

    /// Whether nothing is other than usual. Settings of such a run are those of runs from before weights could be set.
    pub fn is_usual(&self) -> bool {
        *self == Self::usual()
    }

    /// Digest of the rubric's file, where there is one.
    /// # Errors
    /// If it cannot be read.
    pub fn rubric_digest(&self) -> Result<Option<String>, TrainError> {
        let path = PathBuf::from(&self.rubric);
        let named = (!self.rubric.is_empty()).then(|| sha256_hex_of(std::slice::from_ref(&path)));
        named.transpose().map_err(TrainError::disk(&path, "read"))
    }
}

impl RewardWeights {
    /// Those of [`WEIGHTS`], and nothing beside them.
    pub fn usual() -> Self {
        let [alignment, coverage, specificity, diversity, structure] = WEIGHTS;
        Self { alignment, coverage, specificity, diversity, structure, hit: 0.0, rubric: 0.0 }
    }

    /// Of the five, in the order of [`Rewards::parts`].
    pub fn of_five(&self) -> [f64; N_REWARDS] {
        [self.alignment, self.coverage, self.specificity, self.diversity, self.structure]
    }

    /// Of those beside the five, in the order of [`Further`].
    pub fn of_further(&self) -> [f64; N_FURTHER] {
        [self.hit, self.rubric]
    }

    /// Weighted mean of the five and of what is known of those beside them, from 0 to 1.
    pub fn mean(&self, rewards: &Rewards, further: Further) -> f64 {
        let five = rewards.parts().into_iter().zip(self.of_five());
        let further = further.into_iter().zip(self.of_further());
        weighted_mean(five.chain(further.filter_map(|(reward, weight)| Some((reward?, weight)))))
    }

    /// What a query is worth by itself: what it finds of what is wanted, and whether it finds what was clicked, as coverage and hits count.
    pub fn of_query(&self, found: f64, z: Option<f64>) -> f64 {
        weighted_mean([(found, self.coverage)].into_iter().chain(z.map(|z| (z, self.hit))))
    }

    /// Looks for weights that mean nothing.
    /// # Errors
    /// If there is one.
    pub fn check(&self) -> Result<(), TrainError> {
        let weights = [&self.of_five()[..], &self.of_further()].concat();
        if weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0)
            && weights.iter().any(|w| *w > 0.0)
        {
            return Ok(());
        }
        let reason = format!("rewards.weights are {weights:?}, expected 0 or more, and not all of them 0");
        Err(TrainError::Settings { reason })
    }
}

/// Mean of values with their weights; 0 where all weights are.
fn weighted_mean(parts: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (sum, total) =
        parts.fold((0.0, 0.0), |(sum, total), (value, weight)| (sum + value * weight, total + weight));
    sum / f64::max(total, f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::rewards::Aggregation;

    #[test]
    fn usual_weights_give_the_composite_and_what_is_not_known_does_not_count() {
        let rewards =
            Rewards { alignment: 0.9, coverage: 0.2, specificity: 0.4, diversity: 0.6, structure: 1.0 };
        let usual = RewardWeights::usual();
        let composite = rewards.composite(Aggregation::Weighted);
        assert!((usual.mean(&rewards, [None; 2]) - composite).abs() < 1e-12);
        let with_hits = RewardWeights { hit: 1.0, ..usual };
        assert!((with_hits.mean(&rewards, [None; 2]) - composite).abs() < 1e-12);
        assert!((with_hits.mean(&rewards, [Some(1.0), None]) - (composite + 1.0) / 2.0).abs() < 1e-12);
        let with_both = RewardWeights { rubric: 2.0, ..with_hits };
        assert!((with_both.mean(&rewards, [None, Some(0.5)]) - (composite + 1.0) / 3.0).abs() < 1e-12);
        assert!((usual.of_query(0.3, None) - 0.3).abs() < 1e-12);
        let alike = RewardWeights { hit: usual.coverage, ..usual };
        assert!((alike.of_query(0.3, Some(1.0)) - 0.65).abs() < 1e-12);
    }

    #[test]
    fn weights_below_zero_and_none_at_all_are_refused() {
        let none = RewardWeights {
            alignment: 0.0,
            specificity: 0.0,
            diversity: 0.0,
            structure: 0.0,
            ..RewardWeights::usual()
        };
        assert!(none.check().is_ok(), "coverage is left");
        assert!(RewardWeights { coverage: 0.0, ..none }.check().is_err());
        assert!(RewardWeights { coverage: -0.1, ..RewardWeights::usual() }.check().is_err());
        assert!(RewardWeights { hit: f64::NAN, ..RewardWeights::usual() }.check().is_err());
    }

    #[test]
    fn a_rubric_that_counts_has_a_file_and_a_file_counts() {
        let of = |rubric: f64, file: &str| RewardSettings {
            weights: RewardWeights { rubric, ..RewardWeights::usual() },
            rubric: file.to_owned(),
        };
        assert!(of(0.0, "").check().is_ok() && of(0.2, "rubric.safetensors").check().is_ok());
        for wrong in [of(0.2, ""), of(0.0, "rubric.safetensors")] {
            assert!(wrong.check().unwrap_err().to_string().contains("rewards.rubric"));
        }
    }
}
