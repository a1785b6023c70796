//! Does a list find what the reader clicked within a day after it was asked for? Optional: `rewards.weights.hit` is 0 unless it is set.
//!
//! z of a query = 1 if one of the fifty articles that it finds first, of those alive when the list was asked for, was clicked in the 24
//! hours after, else 0. R = the largest z of the list's queries. A reader who clicked nothing then that was alive has no such reward:
//! it is missing, and not 0.
//!
//! Clicks are those of training readers before the cutoff, never held-out ones: of a list asked for within a day of it, those of a shorter time. A platform's policy chose what they were shown, so what is
//! popular pays: a list for everybody does well.
use super::super::{
    error::TrainError,
    events::{Reader, Split, World},
    retrieval::Retrieval,
};
use crate::{news::article::Article, queries::QueryList};
use std::collections::BTreeSet;

/// Its name in figures and samples.
pub const HIT: &str = "hit";

/// Clicks count for a day: as long as evaluation looks, and as most articles live.
const WITHIN_S: i64 = 24 * 3600;

/// Says which queries find what was clicked.
#[derive(Debug)]
pub struct Hits<'a> {
    articles: &'a [Article],
    /// Of all that was published by the cutoff; what was not alive at a moment is left out of its searches.
    retrieval: Retrieval,
}

/// What a reader clicked after a moment.
#[derive(Clone, Debug)]
pub struct Clicked {
    articles: BTreeSet<usize>,
    at_unix_s: i64,
}

impl<'a> Hits<'a> {
    /// Indexes what was published by the cutoff.
    /// # Errors
    /// If it cannot be indexed.
    pub fn of(world: &'a World) -> Result<Self, TrainError> {
        let published = |article: &Article| article.published_unix_s <= world.cutoff_unix_s;
        Ok(Self { articles: &world.articles, retrieval: Retrieval::of(&world.articles, published)? })
    }

    /// What a training reader clicked within a day after a moment, of what was alive then; none where there is nothing.
    pub fn clicked(&self, reader: &Reader, at_unix_s: i64) -> Option<Clicked> {
        let clicks = reader.clicks_between(at_unix_s, at_unix_s + WITHIN_S);
        let alive = |idx: &usize| self.articles[*idx].is_alive_at(at_unix_s);
        let articles: BTreeSet<usize> = clicks.filter_map(|click| click.article_idx).filter(alive).collect();
        (reader.split == Split::Train && !articles.is_empty()).then_some(Clicked { articles, at_unix_s })
    }

    /// z of each query of a list.
    /// # Errors
    /// If the search fails.
    pub fn of_queries(&self, list: &QueryList, clicked: &Clicked) -> Result<Vec<f64>, TrainError> {
        let z =
            |found: Vec<usize>| f64::from(u8::from(found.iter().any(|idx| clicked.articles.contains(idx))));
        let queries = list.as_slice().iter();
        queries.map(|query| Ok(z(self.retrieval.hits(query.as_str(), clicked.at_unix_s)?))).collect()
    }
}
