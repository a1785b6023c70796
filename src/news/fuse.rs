//! Reciprocal-rank fusion of the hits of a list's queries.
use std::collections::BTreeMap;

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
        let mut seen = std::collections::BTreeSet::new();
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
