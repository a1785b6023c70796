//! Does the list meet the reader's interests, in what it asks and in what it finds?
//!
//! R = half asked, half found.
//!
//! Asked: as `lexicon::asked` says, which a head can read too.
//!
//! Found: the list is searched as it would be served, BM25 for each query, fused by reciprocal rank. Sum of what the ten
//! articles found first are wanted ([`View::want`]) / the largest such sum that ten living articles have. Words that mean the
//! right thing but find nothing do not pay.
use super::{super::retrieval::RECALL_K, Asked, view::View};
use crate::{
    lexicon::{asked::asked, unit::Unit},
    news::fuse,
};

/// Coverage of a reader's interests by a list; 0 for a reader without any.
pub(super) fn coverage(queries: &[Asked], view: &View) -> f64 {
    let units: Vec<Option<&Unit>> = queries.iter().map(|asked| asked.unit.as_ref()).collect();
    0.5 * asked(&units, &view.interests) + 0.5 * found(queries, view)
}

/// The part of what the best ten articles are wanted that the first ten found are.
pub(super) fn found(queries: &[Asked], view: &View) -> f64 {
    let ranked: Vec<Vec<usize>> =
        queries.iter().map(|asked| asked.found.iter().map(|&(idx, _)| idx).collect()).collect();
    let first = fuse::reciprocal_rank(&ranked, RECALL_K);
    let wanted: f64 = first.iter().map(|&idx| view.want(idx)).sum();
    wanted / view.best(RECALL_K).max(f64::MIN_POSITIVE)
}
