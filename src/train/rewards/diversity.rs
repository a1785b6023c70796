//! Do queries say and find different things?
//!
//! R = half the mean over pairs of min(1 - cosine, 0.6) / 0.6, half the mean over pairs of 1 - Jaccard similarity of the
//! stories among their first 20 articles. Distance beyond 0.6 earns nothing: unrelated queries are no better than
//! different ones. A list of one query has no pair and gets 0.
use super::{super::statistics::jaccard, Asked, mean};
use crate::{
    lexicon::unit::{APART_ENOUGH, Unit, mean_distance, pairs},
    news::article::Article,
};
use std::collections::BTreeSet;

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
    let said = mean_distance(&units, APART_ENOUGH).unwrap_or(0.0) / APART_ENOUGH;
    // Two queries that find nothing find the same.
    let alike = |a: usize, b: usize| jaccard(&stories[a], &stories[b]).unwrap_or(1.0);
    let found = mean(pairs(queries.len()).map(|(a, b)| 1.0 - alike(a, b)));
    0.5 * said + 0.5 * found
}
