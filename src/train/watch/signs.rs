//! What a look saw, and which signs of it are an alarm.
use crate::train::journal::{Line, Moved};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A permutation gap below this share of the first means that lists suit anybody.
const GAP_FLOOR: f64 = 0.25;
/// And a first gap below this is no gap.
const GAP_MIN: f64 = 0.01;
/// Shares may grow to this multiple of the first.
const GROWTH: f64 = 3.0;
/// And shares below this are no sign, however small the first was.
const SHARE_FLOOR: f64 = 0.1;
/// Lists may be valid, or find, this share of what they did first.
const KEPT: f64 = 0.8;

/// Means over the lists of one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Signs {
    /// Optimiser steps before the look.
    pub step: u64,
    /// Share of lists that are valid.
    pub valid: f64,
    /// Recall@10 of what readers clicked after the cutoff.
    pub recall_10: f64,
    /// NDCG@10 of the same.
    pub ndcg_10: f64,
    /// Weighted composite reward.
    pub reward: f64,
    /// The reward less that of the same list for the next reader.
    pub permutation_gap: f64,
    /// Jaccard similarity of a list's words with the next reader's.
    pub overlap: f64,
    /// Share of queries that copy three words in a row of a signal.
    pub copy_rate: f64,
    /// Share of all queries that is the most frequent one.
    pub top_query_share: f64,
    /// Share of all three words in a row of queries that are the most frequent three.
    #[serde(default = "unknown_share")]
    pub top_trigram_share: f64,
    /// Share of all places among the first ten that the ten most found articles take.
    pub hub_rate: f64,
}

/// Of looks that were noted before there was such a share: nothing grows beyond a multiple of it.
fn unknown_share() -> f64 {
    1.0
}

/// A sign that a reward is raised at the reader's cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Fewer lists are valid.
    Format,
    /// Lists suit anybody.
    PermutationGap,
    /// Readers get the same words.
    Overlap,
    /// Queries are signals again.
    CopyRate,
    /// Readers get the same query.
    TopQuery,
    /// Readers get queries that say the same in part.
    TopTrigram,
    /// Readers get the same articles.
    Hub,
    /// The reward has risen, and lists find less of what is clicked.
    RewardAgainstHits,
}

impl Alarm {
    const ALL: [Self; 8] = [
        Self::Format,
        Self::PermutationGap,
        Self::Overlap,
        Self::CopyRate,
        Self::TopQuery,
        Self::TopTrigram,
        Self::Hub,
        Self::RewardAgainstHits,
    ];

    /// The first alarm that each of the last `patience` looks gives, compared with the first look of all.
    pub fn of(looks: &[Signs], patience: usize) -> Option<Self> {
        let (first, last) = (looks.first()?, looks.get(looks.len().checked_sub(patience)?..)?);
        Self::ALL.into_iter().find(|alarm| last.iter().all(|signs| alarm.is_given(first, signs)))
    }

    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::PermutationGap => "permutation gap",
            Self::Overlap => "overlap of readers",
            Self::CopyRate => "copy rate",
            Self::TopQuery => "most frequent query",
            Self::TopTrigram => "most frequent three words",
            Self::Hub => "hub articles",
            Self::RewardAgainstHits => "reward against hits",
        }
    }

    fn is_given(self, first: &Signs, signs: &Signs) -> bool {
        let has_grown = |of: fn(&Signs) -> f64| of(signs) > (GROWTH * of(first)).max(SHARE_FLOOR);
        match self {
            Self::Format => signs.valid < KEPT * first.valid,
            // Lists that suited anybody from the start say nothing.
            Self::PermutationGap => {
                first.permutation_gap > GAP_MIN && signs.permutation_gap < GAP_FLOOR * first.permutation_gap
            }
            Self::Overlap => has_grown(|signs| signs.overlap),
            Self::CopyRate => has_grown(|signs| signs.copy_rate),
            Self::TopQuery => has_grown(|signs| signs.top_query_share),
            Self::TopTrigram => has_grown(|signs| signs.top_trigram_share),
            Self::Hub => has_grown(|signs| signs.hub_rate),
            Self::RewardAgainstHits => {
                signs.reward > first.reward && signs.recall_10 < KEPT * first.recall_10
            }
        }
    }
}

/// The share of all items that the `n` most frequent ones are; 0 of none.
#[allow(clippy::cast_precision_loss, reason = "counts of queries and articles")]
pub(super) fn top_share<T: Ord>(items: impl Iterator<Item = T>, n: usize) -> f64 {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    items.for_each(|item| *counts.entry(item).or_default() += 1);
    let total: usize = counts.values().sum();
    let mut counts: Vec<usize> = counts.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts.iter().take(n).sum::<usize>() as f64 / total.max(1) as f64
}

impl Line for Signs {
    fn step(&self) -> u64 {
        self.step
    }

    /// A look moves nothing.
    fn moved(self, _moved: Moved) -> Self {
        self
    }

    fn headline(&self) -> (&'static str, f64) {
        ("NDCG@10", self.ndcg_10)
    }

    fn pace(&self) -> (usize, f64) {
        (0, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Signs = Signs {
        step: 0,
        valid: 0.9,
        recall_10: 0.2,
        ndcg_10: 0.1,
        reward: 0.4,
        permutation_gap: 0.2,
        overlap: 0.1,
        copy_rate: 0.0,
        top_query_share: 0.01,
        top_trigram_share: 0.01,
        hub_rate: 0.1,
    };

    #[track_caller]
    fn check(changed: Signs, expected: Option<Alarm>) {
        assert_eq!(Alarm::of(&[FIRST, changed, changed, changed], 3), expected);
        assert_eq!(Alarm::of(&[FIRST, changed, FIRST, changed], 3), None, "it did not hold");
        assert_eq!(Alarm::of(&[FIRST, changed], 3), None, "too few looks");
    }

    #[test]
    fn a_sign_that_holds_for_three_looks_is_an_alarm() {
        check(FIRST, None);
        check(Signs { valid: 0.7, ..FIRST }, Some(Alarm::Format));
        check(Signs { permutation_gap: 0.04, ..FIRST }, Some(Alarm::PermutationGap));
        check(Signs { permutation_gap: 0.06, ..FIRST }, None);
        let none = Signs { permutation_gap: -0.005, ..FIRST };
        assert_eq!(Alarm::of(&[none, none, none, none], 3), None, "there was no gap to lose");
        check(Signs { overlap: 0.31, ..FIRST }, Some(Alarm::Overlap));
        check(Signs { copy_rate: 0.09, ..FIRST }, None);
        check(Signs { copy_rate: 0.11, ..FIRST }, Some(Alarm::CopyRate));
        check(Signs { top_query_share: 0.2, ..FIRST }, Some(Alarm::TopQuery));
        check(Signs { top_trigram_share: 0.2, ..FIRST }, Some(Alarm::TopTrigram));
        check(Signs { hub_rate: 0.4, ..FIRST }, Some(Alarm::Hub));
        check(Signs { reward: 0.5, recall_10: 0.15, ..FIRST }, Some(Alarm::RewardAgainstHits));
        check(Signs { reward: 0.3, recall_10: 0.15, ..FIRST }, None);
    }

    #[test]
    fn a_look_that_was_noted_before_there_were_trigrams_gives_no_alarm_of_them() {
        let mut line = serde_json::to_value(FIRST).unwrap();
        line.as_object_mut().unwrap().remove("top_trigram_share");
        let first: Signs = serde_json::from_value(line).unwrap();
        let now = Signs { top_trigram_share: 0.2, ..FIRST };
        assert_eq!(Alarm::of(&[first, now, now, now], 3), None);
    }

    #[test]
    fn the_top_share_is_that_of_the_most_frequent() {
        assert_eq!(top_share(["a", "b", "a", "c"].into_iter(), 1), 0.5);
        assert_eq!(top_share(["a", "b", "a", "c"].into_iter(), 2), 0.75);
        assert_eq!(top_share(std::iter::empty::<u8>(), 1), 0.0);
    }
}
