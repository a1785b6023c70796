//! What a list will be worth when it ends, learned from lists that have ended: for early stopping.
use super::error::TrainError;
use crate::{
    decode::{
        batch::FinishedRow,
        features::{Meets, list_features, so_far},
    },
    model::reward_head::{FORESIGHT_ROWS, RewardHead},
};

/// Tokens between two moments at which the beginnings of lists are scored.
const TOKENS_APART: usize = 8;
/// Moments with so many queries that a line is drawn through: fewer say nothing of the deviation.
const MOMENTS_MIN: usize = 100;

/// Sums for a line through pairs of (what a list seemed to be worth, what it was worth).
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

impl Line {
    fn add(&mut self, x: f64, y: f64) {
        self.n += 1.0;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;
        self.yy += y * y;
    }

    /// Intercept, slope, and the deviation of what was from what the line says; zeros where too little was seen.
    #[allow(clippy::cast_possible_truncation, reason = "the head computes in f32")]
    fn fitted(&self) -> [f32; 3] {
        if self.n < MOMENTS_MIN as f64 {
            return [0.0; 3];
        }
        let (mean_x, mean_y) = (self.x / self.n, self.y / self.n);
        let variance = (self.xx / self.n - mean_x * mean_x).max(0.0);
        let covariance = self.xy / self.n - mean_x * mean_y;
        let slope = if variance > 0.0 { covariance / variance } else { 0.0 };
        let rest = (self.yy / self.n - mean_y * mean_y - slope * covariance).max(0.0);
        // Never quite sure: a deviation of 0 would mean that nothing was learned.
        [(mean_y - slope * mean_x) as f32, slope as f32, rest.sqrt().max(1e-4) as f32]
    }
}

/// Draws, for lists that have ended and for those with 1, 2, .. queries, the line from the head's score of the beginning to its score
/// of the whole among all lists of the prompt. `groups`: valid rows of one prompt each, with what they meet of its reader's interests.
/// # Errors
/// If the head fails.
pub fn fit(
    head: &RewardHead,
    groups: &[(Vec<&FinishedRow>, Option<Meets>)],
) -> Result<Vec<[f32; 3]>, TrainError> {
    let mut lines = [Line::default(); FORESIGHT_ROWS];
    for (rows, meets) in groups {
        let whole = head.score(&list_features(rows, meets.as_ref()))?;
        let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        for n_ids in (TOKENS_APART + 1..longest).step_by(TOKENS_APART) {
            let beginnings: Vec<FinishedRow> = rows.iter().map(|row| so_far(row, n_ids)).collect();
            let scored =
                head.score(&list_features(&beginnings.iter().collect::<Vec<_>>(), meets.as_ref()))?;
            for (((row, beginning), now), whole) in rows.iter().zip(&beginnings).zip(scored).zip(&whole) {
                let has_ended = row.ids.len() <= n_ids;
                if let Some(place) = RewardHead::foresight_place(beginning.query_ends.len(), has_ended) {
                    lines[place].add(f64::from(now.list.mean), f64::from(whole.list.mean));
                }
            }
        }
    }
    Ok(lines.iter().map(Line::fitted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_through_exact_pairs_has_no_deviation_and_one_through_noise_has_that_of_the_noise() {
        let mut exact = Line::default();
        let mut noisy = Line::default();
        for step in 0..1_000 {
            let x = f64::from(step % 50) / 50.0;
            exact.add(x, 0.25 + 0.5 * x);
            noisy.add(x, 0.25 + 0.5 * x + if step % 100 < 50 { 0.1 } else { -0.1 });
        }
        let check = |got: [f32; 3], deviation: f32| {
            let expected = [0.25, 0.5, deviation];
            assert!(got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-4), "{got:?}");
        };
        check(exact.fitted(), 1e-4);
        check(noisy.fitted(), 0.1);
    }

    #[test]
    fn too_few_moments_make_no_line() {
        let mut line = Line::default();
        (0..MOMENTS_MIN - 1).for_each(|_| line.add(1.0, 1.0));
        assert_eq!(line.fitted(), [0.0; 3]);
        line.add(1.0, 1.0);
        assert!(line.fitted()[2] > 0.0);
    }
}
