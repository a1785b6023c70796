//! Estimators of the KL divergence from samples: how far a policy is from another one on the tokens it sampled.
use super::{count, ratio_of};
use candle_core::{Result, Tensor};

/// Sums over tokens of the three estimators of KL(policy ‖ other), in nats.
///
/// With d = log p - log q of the sampled token: k1 = d is unbiased and may be negative, k2 = d² / 2 is biased and never
/// negative, k3 = exp(-d) - 1 + d is unbiased and never negative. Source: Schulman, "Approximating KL divergence" (2020).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KlEstimates {
    /// Tokens summed over.
    pub n_tokens: usize,
    /// Sum of k1.
    pub k1: f64,
    /// Sum of k2.
    pub k2: f64,
    /// Sum of k3.
    pub k3: f64,
}

impl KlEstimates {
    /// Sums over tokens: `policy` and `other` are their log-probabilities, in nats, one each per token.
    #[must_use]
    pub fn of(policy: &[f32], other: &[f32]) -> Self {
        let tokens = policy.iter().zip(other);
        tokens.fold(Self::default(), |sum, (policy, other)| {
            let difference = f64::from(*policy) - f64::from(*other);
            sum.plus(Self {
                n_tokens: 1,
                k1: difference,
                k2: difference * difference / 2.0,
                k3: (-difference).exp_m1() + difference,
            })
        })
    }

    /// Joins the sums of two micro-batches.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            n_tokens: self.n_tokens + other.n_tokens,
            k1: self.k1 + other.k1,
            k2: self.k2 + other.k2,
            k3: self.k3 + other.k3,
        }
    }

    /// Returns the token means of k1, k2 and k3, in nats per token; zeros where there is no token.
    #[must_use]
    pub fn means(self) -> [f64; 3] {
        [self.k1, self.k2, self.k3].map(|sum| sum / count(self.n_tokens.max(1)))
    }
}

/// Returns k3 of each token (n), differentiable in `policy` (n); `other` (n) are log-probabilities, in nats.
pub(super) fn k3(policy: &Tensor, other: &Tensor) -> Result<Tensor> {
    let difference = (policy - other)?;
    (ratio_of(&difference.neg()?)? - 1.0)? + difference
}
