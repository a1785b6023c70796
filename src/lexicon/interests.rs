//! What a reader's signals are about: clusters of their meanings, with weights.
use super::unit::Unit;

/// A signal counts half after this long. Of 3, 7 and 30 days the last found most.
pub const HALF_LIFE_S: f64 = 30.0 * 86_400.0;

/// Signals as near as this to the middle of a cluster join it.
const JOINS: f64 = 0.5;
/// A cluster with less than this share of all weight is noise: a single slip among thirty signals.
const NOISE_SHARE: f64 = 0.03;
/// Interests beyond this many are more than a list can meet.
const INTERESTS_MAX: usize = 8;

/// What one signal of a reader says.
#[derive(Clone, Debug)]
pub struct Said {
    /// When.
    pub time_unix_s: i64,
    /// How much it says of what she wants.
    pub weight: f64,
    /// What it is about.
    pub unit: Unit,
}

/// What a reader is interested in; the heaviest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interests {
    /// Centre and weight; weights sum to 1.
    pub clusters: Vec<(Unit, f64)>,
}

impl Interests {
    /// Clusters what signals said at or before a moment: leader clustering, the heaviest signals lead.
    pub fn of<'a>(signals: impl IntoIterator<Item = &'a Said>, at_unix_s: i64) -> Self {
        let past = signals.into_iter().filter(|said| said.time_unix_s <= at_unix_s);
        let mut weighted: Vec<(f64, &Unit)> =
            past.map(|said| (said.weight * freshness(at_unix_s - said.time_unix_s), &said.unit)).collect();
        weighted.sort_by(|a, b| b.0.total_cmp(&a.0));
        Self::cluster(&weighted)
    }

    /// Clusters weighted meanings in their order.
    fn cluster(signals: &[(f64, &Unit)]) -> Self {
        let mut clusters: Vec<(Unit, Vec<f32>, f64)> = Vec::new();
        for (weight, unit) in signals {
            let nearest = clusters
                .iter_mut()
                .map(|cluster| (cluster.0.cosine(unit), cluster))
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .filter(|(cosine, _)| *cosine >= JOINS);
            #[allow(clippy::cast_possible_truncation, reason = "a weight up to 1")]
            let scaled = || unit.0.iter().map(|value| value * *weight as f32);
            match nearest {
                Some((_, (leader, sum, total))) => {
                    sum.iter_mut().zip(scaled()).for_each(|(sum, value)| *sum += value);
                    *total += weight;
                    // The leader moves with its followers, so that a heavy cluster stands in its own middle.
                    if let Some(centre) = Unit::of(sum.clone()) {
                        *leader = centre;
                    }
                }
                None => clusters.push(((*unit).clone(), scaled().collect(), *weight)),
            }
        }
        let total: f64 = clusters.iter().map(|(_, _, weight)| weight).sum();
        let mut kept: Vec<(Unit, f64)> = clusters
            .into_iter()
            .filter(|(_, _, weight)| *weight >= NOISE_SHARE * total)
            .map(|(centre, _, weight)| (centre, weight))
            .collect();
        kept.sort_by(|a, b| b.1.total_cmp(&a.1));
        kept.truncate(INTERESTS_MAX);
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        kept.iter_mut().for_each(|(_, weight)| *weight /= total);
        Self { clusters: kept }
    }
}

#[allow(clippy::cast_precision_loss, reason = "seconds of some weeks")]
fn freshness(age_s: i64) -> f64 {
    (-(age_s as f64) / HALF_LIFE_S).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(x: f32, y: f32, z: f32) -> Unit {
        Unit::of(vec![x, y, z]).unwrap()
    }

    #[test]
    fn near_signals_share_a_cluster_and_a_slip_is_noise() {
        let units = [unit(1.0, 0.0, 0.0), unit(1.0, 0.2, 0.0), unit(0.0, 1.0, 0.0), unit(0.0, 0.0, 1.0)];
        let signals: Vec<(f64, &Unit)> = [1.0, 1.0, 1.0, 0.05].into_iter().zip(&units).collect();
        let Interests { clusters } = Interests::cluster(&signals);
        assert_eq!(clusters.len(), 2);
        assert!((clusters[0].1 - 2.0 / 3.0).abs() < 1e-9 && (clusters[1].1 - 1.0 / 3.0).abs() < 1e-9);
        assert!(clusters[0].0.cosine(&unit(1.0, 0.1, 0.0)) > 0.999, "the centre lies between");
    }

    #[test]
    fn no_signals_are_no_interests() {
        assert!(Interests::cluster(&[]).clusters.is_empty());
    }
}
