//! Early stopping: lists that cannot become the best any more are ended, and their places are free for others.
//!
//! The reward head scores what every list of a group has written so far, and says from that how good the whole will be and how
//! sure it is (`RewardHead::foresee`). A list stops when some other is better beyond doubt.
use super::{
    batch::{Finish, FinishedRow},
    features::{Meets, list_features, so_far},
};
use crate::model::{perceptron::Score, reward_head::RewardHead, weights::ModelError};
use std::{fmt, sync::Arc};

/// Steps between two looks at a group: a query has some eight tokens, and to look costs more than to decode a token of one row.
const STEPS_BETWEEN_LOOKS: usize = 8;
/// Lists that are never stopped, however weak: a list that looks best can still end malformed.
const LISTS_MIN: usize = 2;

/// Says whether a row that has ended is a list that could be chosen.
pub type IsList = Arc<dyn Fn(&FinishedRow) -> bool + Send + Sync>;

/// How weak lists of a group are found.
#[derive(Clone)]
pub struct Pruning {
    /// What scores lists; it has learned to foresee.
    pub head: Arc<RewardHead>,
    /// Standard deviations by which another list must be better: the more, the surer.
    pub confidence: f32,
    /// A row that ended malformed stops no other.
    pub is_list: IsList,
    /// What the head reads of the reader's interests, where it does.
    pub meets: Option<Meets>,
}

impl fmt::Debug for Pruning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Pruning").field("confidence", &self.confidence).finish_non_exhaustive()
    }
}

impl Pruning {
    /// A confidence that errs with one stopped list in forty, if what the head foresees errs as a normal distribution does.
    pub const SAFE: f32 = 2.0;
    /// One in six.
    pub const AGGRESSIVE: f32 = 1.0;

    /// Whether a group that has made so many steps is to be looked at.
    pub(super) fn is_due(n_steps: usize) -> bool {
        n_steps.is_multiple_of(STEPS_BETWEEN_LOOKS)
    }

    /// What would have been written of rows of one prompt that have ended, had weak ones been stopped.
    ///
    /// # Errors
    /// If the head fails.
    pub fn replay(&self, rows: &[FinishedRow]) -> Result<Vec<FinishedRow>, ModelError> {
        let mut written = rows.to_vec();
        let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        // The first id comes with the prompt, each step brings one more; a row that has ended is no longer looked at.
        for n_ids in (STEPS_BETWEEN_LOOKS + 1..longest).step_by(STEPS_BETWEEN_LOOKS) {
            let going_on = |place: &usize| written[*place].finish != Finish::Pruned;
            let (ended, live): (Vec<usize>, Vec<usize>) =
                (0..rows.len()).filter(going_on).partition(|&place| rows[place].ids.len() <= n_ids);
            let ended: Vec<usize> = ended.into_iter().filter(|&place| (self.is_list)(&rows[place])).collect();
            let places = [ended.as_slice(), &live].concat();
            let seen: Vec<FinishedRow> = places.iter().map(|&place| so_far(&rows[place], n_ids)).collect();
            for weak in self.weak(&seen.iter().collect::<Vec<_>>(), ended.len())? {
                written[places[weak]] = FinishedRow { finish: Finish::Pruned, ..seen[weak].clone() };
            }
        }
        Ok(written)
    }

    /// Places of rows that stop: among `rows` of one prompt, of which the first `n_ended` have ended and are lists.
    ///
    /// # Errors
    /// If the head fails.
    pub(super) fn weak(&self, rows: &[&FinishedRow], n_ended: usize) -> Result<Vec<usize>, ModelError> {
        let features = list_features(rows, self.meets.as_ref());
        let has_ended: Vec<bool> = (0..rows.len()).map(|at| at < n_ended).collect();
        let foreseen = self.head.foresee(&features, &has_ended)?;
        Ok(hopeless(&foreseen, &has_ended, self.confidence))
    }
}

/// Places of lists that another one beats by `confidence` standard deviations of their difference, the weakest first, as long as
/// `LISTS_MIN` are left. What has ended cannot stop; what cannot be foreseen neither stops nor beats.
fn hopeless(foreseen: &[Option<Score>], has_ended: &[bool], confidence: f32) -> Vec<usize> {
    let mut weak: Vec<(usize, f32)> = Vec::new();
    for (at, score) in foreseen.iter().enumerate() {
        let Some(score) = score.filter(|_| !has_ended[at]) else { continue };
        let margin = |other: &Score| {
            (other.mean - score.mean) / (other.variance + score.variance).sqrt().max(f32::MIN_POSITIVE)
        };
        let margin = foreseen.iter().flatten().map(margin).fold(f32::NEG_INFINITY, f32::max);
        if margin > confidence {
            weak.push((at, margin));
        }
    }
    weak.sort_by(|one, other| other.1.total_cmp(&one.1));
    weak.truncate(foreseen.len().saturating_sub(LISTS_MIN));
    weak.into_iter().map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(mean: f32, variance: f32) -> Option<Score> {
        Some(Score { mean, variance })
    }

    #[test]
    fn a_list_stops_when_another_is_better_by_more_than_the_confidence() {
        let ended = [false; 4];
        let close = [score(0.5, 0.01), score(0.21, 0.01), score(0.5, 0.01), score(0.5, 0.01)];
        assert!(hopeless(&close, &ended, 2.1).is_empty(), "0.29 are 2.05 deviations");
        assert_eq!(hopeless(&close, &ended, 2.0), [1]);
        let sure = [score(0.5, 0.0001), score(0.21, 0.01), score(0.5, 0.01), score(0.5, 0.01)];
        assert_eq!(hopeless(&sure, &ended, 2.1), [1], "the surer the other, the sooner");
    }

    #[test]
    fn what_has_ended_or_cannot_be_foreseen_does_not_stop() {
        let foreseen = [score(0.9, 0.0), score(0.1, 0.0), None, score(0.2, 0.0)];
        assert_eq!(hopeless(&foreseen, &[true, true, false, false], 1.0), [3]);
        assert!(hopeless(&[None, None, None], &[false; 3], 1.0).is_empty());
    }

    #[test]
    fn two_lists_are_left_whatever_they_promise_and_the_weakest_go_first() {
        let foreseen = [score(0.9, 0.0), score(0.1, 0.0), score(0.3, 0.0), score(0.2, 0.0)];
        assert_eq!(hopeless(&foreseen, &[false; 4], 1.0), [1, 3]);
        assert!(hopeless(&foreseen[..2], &[false; 2], 1.0).is_empty());
    }
}
