//! Rewards of a list that a platform can compute: valid, diverse, near to what the reader clicked later, and finding it.
use super::{
    super::{
        error::TrainError,
        ranking::{self, Grades},
        retrieval::{RECALL_K, Retrieval},
        salient::{fold, words},
    },
    mean,
};
use crate::{news::article::Article, queries::QueryList};
use std::collections::{BTreeSet, HashSet};

/// Weights of the composite; they sum to one. Finding later clicks is what lists are for, but most lists find none or
/// all of the few there are: nearness to their titles tells the rest apart. The other two keep lists well-formed.
const WEIGHTS: LaterRewards = LaterRewards { valid: 0.1, diversity: 0.1, overlap: 0.3, recall: 0.5 };
/// A query is rewarded for what it finds within this many hits.
const QUERY_HITS: usize = 10;

/// The parts of a list's reward, each from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LaterRewards {
    /// 1 if the parser takes it.
    pub valid: f64,
    /// 1 minus the mean Jaccard similarity of its queries' words, over pairs.
    pub diversity: f64,
    /// Mean over later clicks of the best query's share of words that stand in the title.
    pub overlap: f64,
    /// Recall@10 on later clicks, of the articles that were alive when the list was asked for: no list finds the others.
    pub recall: f64,
}

/// Rewards of one list and of each of its queries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListReward {
    /// The list's parts.
    pub parts: LaterRewards,
    /// Per query: half for finding a later click, half for the best share of words in a later title.
    pub queries: Vec<f64>,
}

impl LaterRewards {
    /// The weighted mean that the reward head predicts. A malformed list has 0.
    pub fn composite(&self) -> f64 {
        WEIGHTS.valid * self.valid
            + WEIGHTS.diversity * self.diversity
            + WEIGHTS.overlap * self.overlap
            + WEIGHTS.recall * self.recall
    }
}

/// Later clicks of one reader and the moment at which the lists were asked for.
#[derive(Debug)]
pub struct Later<'a> {
    /// Place of the reader among those that were asked.
    pub reader_idx: usize,
    /// Articles were alive, or not, at this moment.
    pub at_unix_s: i64,
    /// Indices of the articles clicked.
    pub clicked: BTreeSet<usize>,
    /// The whole catalogue.
    pub articles: &'a [Article],
}

impl Later<'_> {
    fn findable(&self) -> Grades<usize> {
        let alive = |idx: &usize| self.articles[*idx].is_alive_at(self.at_unix_s);
        ranking::alike(self.clicked.iter().copied().filter(alive))
    }
}

/// Rewards one list.
/// # Errors
/// If the search fails.
pub fn reward(
    list: Option<&QueryList>,
    later: &Later<'_>,
    retrieval: &Retrieval,
) -> Result<ListReward, TrainError> {
    let Some(list) = list else { return Ok(ListReward::default()) };
    let titles: Vec<HashSet<String>> =
        later.clicked.iter().map(|&idx| word_set(&later.articles[idx].title)).collect();
    let queries: Vec<HashSet<String>> =
        list.as_slice().iter().map(|query| word_set(query.as_str())).collect();
    let best = |query: &HashSet<String>| titles.iter().map(|title| share(query, title)).fold(0.0, f64::max);
    let overlap =
        mean(titles.iter().map(|title| queries.iter().map(|query| share(query, title)).fold(0.0, f64::max)));
    let found = retrieval.list_ranking(list, later.at_unix_s)?;
    let parts = LaterRewards {
        valid: 1.0,
        diversity: diversity(&queries),
        overlap,
        recall: ranking::recall(&found, &later.findable(), RECALL_K),
    };
    let per_query = list
        .as_slice()
        .iter()
        .zip(&queries)
        .map(|(query, words)| {
            let hits = retrieval.hits(query.as_str(), later.at_unix_s)?;
            let found = hits.iter().take(QUERY_HITS).any(|idx| later.clicked.contains(idx));
            Ok(0.5 * f64::from(u8::from(found)) + 0.5 * best(words))
        })
        .collect::<Result<_, TrainError>>()?;
    Ok(ListReward { parts, queries: per_query })
}

fn diversity(queries: &[HashSet<String>]) -> f64 {
    let pairs =
        queries.iter().enumerate().flat_map(|(idx, a)| queries[idx + 1..].iter().map(move |b| (a, b)));
    1.0 - mean(pairs.map(|(a, b)| count(a.intersection(b)) / count(a.union(b)).max(1.0)))
}

/// Share of a query's words that stand in a title.
fn share(query: &HashSet<String>, title: &HashSet<String>) -> f64 {
    count(query.intersection(title)) / count(query.iter()).max(1.0)
}

fn word_set(text: &str) -> HashSet<String> {
    words(text).map(fold).collect()
}

#[allow(clippy::cast_precision_loss, reason = "counts of words")]
fn count<T>(items: impl Iterator<Item = T>) -> f64 {
    items.count() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_the_composite_sum_to_one() {
        let all = LaterRewards { valid: 1.0, diversity: 1.0, overlap: 1.0, recall: 1.0 };
        assert!((all.composite() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn diversity_is_one_for_disjoint_queries_and_zero_for_the_same_words() {
        let a = word_set("alpha beta");
        let b = word_set("gamma delta");
        assert!((diversity(&[a.clone(), b]) - 1.0).abs() < 1e-12);
        assert!(diversity(&[a.clone(), a]).abs() < 1e-12);
    }
}
