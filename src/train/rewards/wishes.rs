//! The list that the judge itself would write: the words of the news nearest to each of a reader's heaviest interests.
use super::meaning::Meaning;
use crate::{
    lexicon::interests::Interests,
    queries::{QUERIES_MAX, QUERIES_MIN, QueryList},
    text::parse,
};
use std::collections::HashSet;

/// Queries about each interest, as far as its words reach.
pub const QUERIES_PER_INTEREST: usize = 2;
/// Words of a query: what people type.
pub const QUERY_WORDS: usize = 4;

/// Writes the list; none if the interests do not make a valid one. No word stands twice.
pub fn wishes(interests: &Interests, meaning: &Meaning) -> Option<QueryList> {
    let n_interests = interests.clusters.len().min(QUERIES_MAX / QUERIES_PER_INTEREST);
    let n_each = queries_each(n_interests);
    let mut used: HashSet<u32> = HashSet::new();
    let mut queries: Vec<String> = Vec::new();
    for (centre, _) in &interests.clusters[..n_interests] {
        let near = meaning.nearest_words(centre, n_each * QUERY_WORDS, &used);
        used.extend(&near);
        let words: Vec<&str> = near.iter().map(|&id| meaning.word(id)).collect();
        queries.extend(words.chunks_exact(QUERY_WORDS).map(|words| words.join(" ")));
    }
    parse::parse(&queries.join("\n")).ok()
}

/// Queries about each of so many interests: where two of each make no list, each gives more.
pub fn queries_each(n_interests: usize) -> usize {
    QUERIES_PER_INTEREST.max(QUERIES_MIN.div_ceil(n_interests.max(1)))
}
