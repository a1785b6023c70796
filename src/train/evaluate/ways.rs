//! Every way to serve one reader, with what it finds.
use super::{
    Question,
    measures::{Figures, RECALL_10, figures, mean},
};
use crate::{
    model::reward_head::{ListFeatures, RewardHead},
    train::{error::TrainError, retrieval::Retrieval, rollout::Sample},
};
use serde::Serialize;

/// Signals that the copying baseline takes as queries.
const COPIED_SIGNALS: usize = 5;
/// Most clicks of a cold and of a cool reader.
const COLD_CLICKS_MAX: usize = 5;
const COOL_CLICKS_MAX: usize = 20;

/// A way to choose what a reader is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The articles most clicked in the last day.
    Popularity,
    /// The last signals as queries.
    Copy,
    /// The student's first list.
    First,
    /// The mean over the student's lists.
    Random,
    /// The student's likeliest list.
    LogProb,
    /// The list that the others agree with most.
    Consensus,
    /// The list that the reward head likes best.
    Head,
    /// The list with the highest Recall@10: an upper bound of that measure.
    Oracle,
}

impl Way {
    /// Those that show one ranking.
    pub const RANKED: [Self; 7] =
        [Self::Popularity, Self::Copy, Self::First, Self::LogProb, Self::Consensus, Self::Head, Self::Oracle];

    /// Its name in files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Popularity => "popularity",
            Self::Copy => "copy",
            Self::First => "first",
            Self::Random => "random",
            Self::LogProb => "logprob",
            Self::Consensus => "consensus",
            Self::Head => "head",
            Self::Oracle => "oracle",
        }
    }

    /// Its name in a table of `n` lists per reader.
    pub fn name(self, n: usize) -> String {
        match self {
            Self::Popularity => "popularity, last 24 h".to_owned(),
            Self::Copy => format!("copy the last {COPIED_SIGNALS} signals"),
            Self::First => "student, N=1".to_owned(),
            Self::Random => format!("student, random of N={n}"),
            Self::LogProb => format!("student, best of N={n} by log-probability"),
            Self::Consensus => format!("student, best of N={n} by consensus"),
            Self::Head => format!("student, best of N={n} by head"),
            Self::Oracle => format!("student, best of N={n} by held-out clicks (upper bound of Recall@10)"),
        }
    }
}

/// How much a reader has clicked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// At most 5 clicks.
    Cold,
    /// At most 20.
    Cool,
    /// More.
    Warm,
}

impl Tier {
    /// Every tier, from the coldest.
    pub const ALL: [Self; 3] = [Self::Cold, Self::Cool, Self::Warm];

    /// The tier of so many clicks.
    pub fn of(n_clicks: usize) -> Self {
        if n_clicks <= COLD_CLICKS_MAX {
            Self::Cold
        } else if n_clicks <= COOL_CLICKS_MAX {
            Self::Cool
        } else {
            Self::Warm
        }
    }
}

/// What one way shows a reader.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// Articles, best first; empty where a mean over lists is measured.
    pub ranking: Vec<usize>,
    /// What the ranking is worth.
    pub figures: Figures,
}

/// What every way finds for one reader.
#[derive(Debug)]
pub struct Outcome {
    /// The reader's tier.
    pub tier: Tier,
    /// Share of lists that are valid.
    pub valid: f64,
    /// Ways in the order of tables; without a head, not by head.
    pub found: Vec<(Way, Served)>,
}

impl Outcome {
    /// What one way shows.
    pub fn of(&self, way: Way) -> Option<&Served> {
        self.found.iter().find(|(other, _)| *other == way).map(|(_, served)| served)
    }
}

/// Serves one reader in every way. `popular`: what everybody is shown.
///
/// # Errors
/// If the search or the head fails.
pub fn outcome(
    question: &Question<'_>,
    samples: &[Sample],
    (retrieval, head, popular): (&Retrieval, Option<&RewardHead>, &[usize]),
    at_unix_s: i64,
) -> Result<Outcome, TrainError> {
    let served = |ranking: Vec<usize>| Served { figures: figures(&ranking, &question.clicked), ranking };
    let lists = samples
        .iter()
        .map(|sample| match sample {
            Ok((list, _)) => Ok(served(retrieval.list_ranking(list, at_unix_s)?)),
            // A reader who gets no list is shown nothing.
            Err(_) => Ok(Served::default()),
        })
        .collect::<Result<Vec<Served>, TrainError>>()?;
    let valid: Vec<usize> = (0..samples.len()).filter(|&idx| samples[idx].is_ok()).collect();
    let features: Vec<ListFeatures> = samples.iter().flatten().map(|(_, read)| read.clone()).collect();
    // One score per valid list. On a tie the earlier list wins: max_by would take the last.
    let best_by = |scores: &[f32]| {
        let best = (0..valid.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        best.map_or_else(Served::default, |idx| lists[valid[idx]].clone())
    };
    let by_logprob: Vec<f32> = features.iter().map(|read| read.mean_logprob).collect();
    let by_consensus: Vec<f32> =
        features.iter().map(|read| read.consensus.as_ref().map_or(0.0, |found| found.list)).collect();
    let newest = question.reader.events.iter().rev().take(COPIED_SIGNALS).map(|event| event.text.as_str());
    let most = lists.iter().rev().max_by(|a, b| a.figures[RECALL_10].total_cmp(&b.figures[RECALL_10]));
    let of_lists: Vec<Figures> = lists.iter().map(|list| list.figures).collect();
    let mut found = vec![
        (Way::Popularity, served(popular.to_vec())),
        (Way::Copy, served(retrieval.ranking(newest, at_unix_s)?)),
        (Way::First, lists.first().cloned().unwrap_or_default()),
        (Way::Random, Served { ranking: Vec::new(), figures: mean(&of_lists) }),
        (Way::LogProb, best_by(&by_logprob)),
        (Way::Consensus, best_by(&by_consensus)),
    ];
    if let Some(head) = head {
        let scores: Vec<f32> = head.score(&features)?.iter().map(|scores| scores.list.mean).collect();
        found.push((Way::Head, best_by(&scores)));
    }
    found.push((Way::Oracle, most.cloned().unwrap_or_default()));
    let n_clicks = question.reader.events.iter().filter(|event| event.article_idx.is_some()).count();
    #[allow(clippy::cast_precision_loss, reason = "a handful of lists")]
    let share = valid.len() as f64 / samples.len().max(1) as f64;
    Ok(Outcome { tier: Tier::of(n_clicks), valid: share, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_end_at_5_and_20_clicks() {
        let tiers: Vec<Tier> = [0, 5, 6, 20, 21].into_iter().map(Tier::of).collect();
        assert_eq!(tiers, [Tier::Cold, Tier::Cold, Tier::Cool, Tier::Cool, Tier::Warm]);
    }
}
