//! Reciprocal-rank fusion of the hits of a list's queries, and one article per story.
use super::article::Article;
use std::collections::{BTreeMap, BTreeSet};

/// The constant of the source; it keeps one first rank from outweighing two good ones.
const RANK_OFFSET: f64 = 60.0;

/// Fuses ranked lists of article indices, best first; score = sum of 1 / (60 + rank), rank from 1, ties by lower index.
///
/// An index that one list repeats counts once there, at its best rank. At most `n_hits` are returned.
/// Source: Cormack, Clarke, Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods", SIGIR 2009.
pub fn reciprocal_rank(ranked: &[Vec<usize>], n_hits: usize) -> Vec<usize> {
    // The ranks each article was given, sorted before they are summed, so that equal sets of ranks tie exactly, whatever order the lists came in.
    let mut ranks: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for list in ranked {
        let mut seen = BTreeSet::new();
        for (rank, &article_idx) in (1_u32..).zip(list) {
            if seen.insert(article_idx) {
                ranks.entry(article_idx).or_default().push(rank);
            }
        }
    }
    let mut scored: Vec<(f64, usize)> = ranks
        .into_iter()
        .map(|(article_idx, mut given)| {
            given.sort_unstable();
            (given.iter().map(|&rank| 1.0 / (RANK_OFFSET + f64::from(rank))).sum(), article_idx)
        })
        .collect();
    scored.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1)));
    scored.truncate(n_hits);
    scored.into_iter().map(|(_, article_idx)| article_idx).collect()
}

/// Fuses as [`reciprocal_rank`] and keeps only the best article of each story, `n_hits` at most.
///
/// `ranked`: positions in `articles`. Stories are told apart after all hits are fused, so that a place that a second article of
/// a story gives up goes to the next one. An article without a story (its `story_id` is empty) is a story of its own.
pub fn reciprocal_rank_of_stories(ranked: &[Vec<usize>], articles: &[Article], n_hits: usize) -> Vec<usize> {
    let mut stories = BTreeSet::new();
    let story_of = |article_idx: usize| articles.get(article_idx).map_or("", |article| &article.story_id);
    let mut fused = reciprocal_rank(ranked, usize::MAX);
    fused.retain(|&article_idx| {
        let story = story_of(article_idx);
        story.is_empty() || stories.insert(story)
    });
    fused.truncate(n_hits);
    fused
}
