//! Do queries say and find different things?
//!
//! R = half the mean over pairs of min(1 - cosine, 0.6) / 0.6, half the mean over pairs of 1 - Jaccard similarity of the
//! stories among their first 20 articles. Distance beyond 0.6 earns nothing: unrelated queries are no better than
//! different ones. A list of one query has no pair and gets 0.
use super::{super::statistics::jaccard, Asked, mean};
use crate::{lexicon::unit::Unit, news::article::Article};
use std::collections::BTreeSet;

/// Distance that is enough.
const ENOUGH: f64 = 0.6;
/// Articles whose stories are compared.
const DEPTH: usize = 20;

/// Diversity of a list.
pub(super) fn diversity(queries: &[Asked], articles: &[Article]) -> f64 {
    let stories: Vec<BTreeSet<&str>> = queries
        .iter()
        .map(|asked| {
            asked.found.iter().take(DEPTH).map(|&(idx, _)| articles[idx].story_id.as_str()).collect()
        })
        .collect();
    let units: Vec<Option<&Unit>> = queries.iter().map(|asked| asked.unit.as_ref()).collect();
    let said = mean_distance(&units, ENOUGH).unwrap_or(0.0) / ENOUGH;
    // Two queries that find nothing find the same.
    let alike = |a: usize, b: usize| jaccard(&stories[a], &stories[b]).unwrap_or(1.0);
    let found = mean(pairs(queries.len()).map(|(a, b)| 1.0 - alike(a, b)));
    0.5 * said + 0.5 * found
}

/// Mean over pairs of the cosine distance, from 0 to 2, each at most `cap`; none of less than two queries.
///
/// With a cap of 2 this is the paper's reward, before any mapping. Words that mean nothing say nothing different.
pub fn mean_distance(queries: &[Option<&Unit>], cap: f64) -> Option<f64> {
    let distance = |(a, b): (usize, usize)| match (queries[a], queries[b]) {
        (Some(a), Some(b)) => (1.0 - a.cosine(b)).min(cap),
        _ => 0.0,
    };
    (queries.len() > 1).then(|| mean(pairs(queries.len()).map(distance)))
}

pub(super) fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |a| (a + 1..n).map(move |b| (a, b)))
}
