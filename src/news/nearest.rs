//! Articles by their vectors: exact or approximate search behind one face, with a filter by lifetime.
use super::{
    article::Article,
    graph::{Graph, LOOKED_AT},
    vectors::{Near, VectorIndex},
};
use crate::lexicon::unit::dot;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How much longer or shorter than 1 a vector of an article may be; rounding in f32 is far below.
const LENGTH_TOLERANCE: f32 = 1e-3;
/// A look at a vector somewhere in memory takes as long as comparing this many in a row, measured at 51,000 vectors of 128 numbers.
const LOOK_COST: usize = 16;

/// Why vectors are refused or could not be searched.
#[derive(Debug, Error)]
pub enum VectorsError {
    /// A vector or a query of another width.
    #[error("vector has {got} numbers, expected {expected}")]
    Width {
        /// Numbers found.
        got: usize,
        /// Numbers of every vector.
        expected: usize,
    },
    /// A vector that has not length 1, so that scalar products would not be cosines.
    #[error("vector of article {article_idx} has length {length}, expected 1")]
    Length {
        /// Position in the catalogue.
        article_idx: usize,
        /// Its length; not a number if one of its numbers is not.
        length: f32,
    },
    /// A vector of an article that is not in the catalogue, or that has one already.
    #[error("article {article_idx} of {n_articles} is unknown or has a vector already")]
    Article {
        /// Position given.
        article_idx: usize,
        /// Articles of the catalogue.
        n_articles: usize,
    },
    /// A query that has a direction in no sense: infinite or not a number.
    #[error("query is not finite")]
    Query,
    /// The library of the graph refused: out of memory, too many searches at once, or bytes that are no graph.
    #[error("graph could not {doing}: {reason}")]
    Graph {
        /// What it was to do.
        doing: &'static str,
        /// What the library said.
        reason: String,
    },
}

/// How vectors are searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// All are compared: the truth, in a time that grows with their number.
    Exact,
    /// A graph leads to most of the nearest; how many, [`ArticleVectors::recall`] says. Its time hardly grows with their number:
    /// it begins to pay at some 50,000.
    Hnsw,
}

/// Unit vectors of articles with their lifetimes.
#[derive(Debug)]
pub struct ArticleVectors {
    exact: VectorIndex,
    graph: Option<Graph>,
    /// (published, expires) of each article of the catalogue.
    lifetimes: Vec<(i64, i64)>,
    /// Times of publication and of expiry of articles that have a vector, each in order.
    published: Vec<i64>,
    expires: Vec<i64>,
}

impl ArticleVectors {
    /// Stores one vector of `width` numbers and length 1 for some articles, by their position in `articles`.
    ///
    /// An article without a vector is not found. Building the graph takes one thread about 0.3 ms for each vector of 128 numbers.
    /// # Errors
    /// If a vector has another width or length, or an article is unknown or there twice.
    pub fn build<'a>(
        articles: &[Article],
        width: usize,
        vectors: impl Iterator<Item = (usize, &'a [f32])>,
        method: Method,
    ) -> Result<Self, VectorsError> {
        let rows: Vec<(usize, &[f32])> = vectors.collect();
        check(&rows, width, articles.len())?;
        let exact = VectorIndex::build(width, rows.into_iter());
        let graph = match method {
            Method::Hnsw if exact.n_articles() > 0 => Some(Graph::build(width, exact.vectors())?),
            Method::Exact | Method::Hnsw => None,
        };
        Ok(Self::of(articles, exact, graph))
    }

    fn of(articles: &[Article], exact: VectorIndex, graph: Option<Graph>) -> Self {
        let lifetime = |article: &Article| (article.published_unix_s, article.expires_unix_s);
        let lifetimes: Vec<(i64, i64)> = articles.iter().map(lifetime).collect();
        let with_vector = || {
            let of_rows = exact.article_idxs().iter().map(|&article_idx| lifetimes[article_idx]);
            // The others are never alive, and would count as expired only.
            of_rows.filter(|(published, expires)| published < expires)
        };
        let mut published: Vec<i64> = with_vector().map(|(published, _)| published).collect();
        let mut expires: Vec<i64> = with_vector().map(|(_, expires)| expires).collect();
        published.sort_unstable();
        expires.sort_unstable();
        Self { exact, graph, lifetimes, published, expires }
    }

    /// Finds the `k` nearest articles, nearest first, ties by `article_idx`; with [`Method::Hnsw`] most of them.
    ///
    /// `query`: `width` numbers, best of length 1. `alive_at`: only articles with published <= time < expires; `k` are found
    /// wherever `k` are alive. Few living articles are compared one by one with either method, which is then exact and faster.
    /// # Errors
    /// If the query has another width or is not finite, or the graph fails.
    pub fn search(&self, query: &[f32], alive_at: Option<i64>, k: usize) -> Result<Vec<Near>, VectorsError> {
        match &self.graph {
            Some(graph) if alive_at.is_none_or(|time| self.graph_pays(self.n_alive(time))) => {
                self.search_graph(graph, query, alive_at, k)
            }
            Some(_) | None => self.search_exact(query, alive_at, k),
        }
    }

    /// Finds the `k` nearest articles by comparing all of them, whatever the method: the truth that others are measured by.
    /// # Errors
    /// If the query has another width or is not finite.
    pub fn search_exact(
        &self,
        query: &[f32],
        alive_at: Option<i64>,
        k: usize,
    ) -> Result<Vec<Near>, VectorsError> {
        self.check_query(query)?;
        Ok(match alive_at {
            None => self.exact.search(query, k),
            Some(time) => self.exact.search_among(query, k, |idx| self.is_alive(idx, time)),
        })
    }

    /// Measures the mean recall at `k` of [`ArticleVectors::search`] over queries, by [`recall`]; 1 without queries.
    /// # Errors
    /// If a search fails.
    pub fn recall<'a>(
        &self,
        queries: impl Iterator<Item = &'a [f32]>,
        alive_at: Option<i64>,
        k: usize,
    ) -> Result<f64, VectorsError> {
        let of_query =
            |query| Ok(recall(&self.search_exact(query, alive_at, k)?, &self.search(query, alive_at, k)?));
        let recalls = queries.map(of_query).collect::<Result<Vec<f64>, VectorsError>>()?;
        #[allow(clippy::cast_precision_loss, reason = "nobody asks 2^52 queries")]
        let n_queries = recalls.len() as f64;
        Ok(if recalls.is_empty() { 1.0 } else { recalls.iter().sum::<f64>() / n_queries })
    }

    /// How vectors are searched; without any vector there is no graph either.
    pub fn method(&self) -> Method {
        if self.graph.is_some() { Method::Hnsw } else { Method::Exact }
    }

    /// How many articles have a vector.
    pub fn n_vectors(&self) -> usize {
        self.exact.n_articles()
    }

    /// How many numbers a vector has.
    pub fn width(&self) -> usize {
        self.exact.width()
    }

    /// The position in the catalogue of each row, and all rows (vectors x width).
    pub(super) fn rows(&self) -> (&[usize], &[f32]) {
        (self.exact.article_idxs(), self.exact.vectors())
    }

    /// The graph's bytes, where there is a graph.
    pub(super) fn graph_bytes(&self) -> Result<Option<Vec<u8>>, VectorsError> {
        self.graph.as_ref().map(Graph::to_bytes).transpose()
    }

    /// As [`ArticleVectors::build`], with a graph that was built before.
    pub(super) fn with_graph<'a>(
        articles: &[Article],
        width: usize,
        vectors: impl Iterator<Item = (usize, &'a [f32])>,
        graph: &[u8],
    ) -> Result<Self, VectorsError> {
        let mut built = Self::build(articles, width, vectors, Method::Exact)?;
        built.graph = Some(Graph::from_bytes(graph, width, built.n_vectors())?);
        Ok(built)
    }

    fn search_graph(
        &self,
        graph: &Graph,
        query: &[f32],
        alive_at: Option<i64>,
        k: usize,
    ) -> Result<Vec<Near>, VectorsError> {
        self.check_query(query)?;
        let article_idxs = self.exact.article_idxs();
        let keep = alive_at.map(|time| {
            move |row_idx: usize| article_idxs.get(row_idx).is_some_and(|&idx| self.is_alive(idx, time))
        });
        let mut row_idxs = graph.search(query, k, keep)?;
        row_idxs.retain(|&row_idx| row_idx < article_idxs.len());
        // A graph may have places that no way leads to.
        if row_idxs.len() < k.min(alive_at.map_or(self.n_vectors(), |time| self.n_alive(time))) {
            return self.search_exact(query, alive_at, k);
        }
        Ok(self.exact.nearest(query, k, row_idxs.into_iter()))
    }

    fn is_alive(&self, article_idx: usize, time: i64) -> bool {
        self.lifetimes
            .get(article_idx)
            .is_some_and(|&(published, expires)| published <= time && time < expires)
    }

    /// How many articles with a vector are alive: those published less those expired, as every article is published first.
    fn n_alive(&self, time: i64) -> usize {
        let until_now = |times: &[i64]| times.partition_point(|&then| then <= time);
        until_now(&self.published).saturating_sub(until_now(&self.expires))
    }

    /// Whether the graph is faster than comparing the living: it looks at the more vectors the fewer of those it meets are alive.
    fn graph_pays(&self, n_alive: usize) -> bool {
        let looks = LOOKED_AT.saturating_mul(LOOK_COST).saturating_mul(self.n_vectors());
        n_alive.saturating_mul(n_alive) > looks
    }

    fn check_query(&self, query: &[f32]) -> Result<(), VectorsError> {
        if query.len() != self.width() {
            return Err(VectorsError::Width { got: query.len(), expected: self.width() });
        }
        if query.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(VectorsError::Query) }
    }
}

/// Returns the share of exact hits that an approximate search of the same query found; 1 where there is nothing to find.
///
/// A hit counts by its cosine, so one of several articles as near as the last exact one is as good as another.
pub fn recall(exact: &[Near], found: &[Near]) -> f64 {
    let Some(last) = exact.last() else { return 1.0 };
    let n_found = found.iter().filter(|near| near.cosine >= last.cosine).count().min(exact.len());
    #[allow(clippy::cast_precision_loss, reason = "a search has far fewer than 2^52 hits")]
    let share = n_found as f64 / exact.len() as f64;
    share
}

fn check(rows: &[(usize, &[f32])], width: usize, n_articles: usize) -> Result<(), VectorsError> {
    let mut has_vector = vec![false; n_articles];
    for &(article_idx, vector) in rows {
        if vector.len() != width {
            return Err(VectorsError::Width { got: vector.len(), expected: width });
        }
        let length = dot(vector, vector).sqrt();
        if length.is_nan() || (length - 1.0).abs() > LENGTH_TOLERANCE {
            return Err(VectorsError::Length { article_idx, length });
        }
        match has_vector.get_mut(article_idx) {
            Some(has) if !*has => *has = true,
            Some(_) | None => return Err(VectorsError::Article { article_idx, n_articles }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Articles around a circle, of which every third is alive at 5.
    fn circle(n: usize) -> (Vec<Article>, Vec<[f32; 2]>) {
        let article = |idx: usize| Article {
            id: idx.to_string(),
            story_id: String::new(),
            title: String::new(),
            summary: String::new(),
            category: String::new(),
            language: String::new(),
            published_unix_s: if idx.is_multiple_of(3) { 0 } else { 10 },
            expires_unix_s: 20,
        };
        let at = |idx: usize| std::f32::consts::TAU * idx as f32 / n as f32;
        ((0..n).map(article).collect(), (0..n).map(|idx| [at(idx).cos(), at(idx).sin()]).collect())
    }

    #[test]
    fn the_graph_itself_passes_over_the_dead_and_still_finds_k() {
        let (articles, vectors) = circle(900);
        let rows = || vectors.iter().map(|vector| &vector[..]).enumerate();
        let index = ArticleVectors::build(&articles, 2, rows(), Method::Hnsw).unwrap();
        let graph = index.graph.as_ref().unwrap();
        assert!(!index.graph_pays(index.n_alive(5)), "so few are searched exactly by default");
        for query in vectors.iter().step_by(45) {
            for k in [1, 10, 300, 400] {
                let found = index.search_graph(graph, query, Some(5), k).unwrap();
                assert_eq!(found.len(), k.min(300));
                assert!(found.iter().all(|near| near.article_idx.is_multiple_of(3)));
                assert!(recall(&index.search_exact(query, Some(5), k).unwrap(), &found) > 0.9);
            }
        }
    }

    #[test]
    fn the_graph_pays_for_many_vectors_most_of_which_are_alive() {
        let (articles, vectors) = circle(6);
        let rows = vectors.iter().map(|vector| &vector[..]).enumerate();
        let index = ArticleVectors::build(&articles, 2, rows, Method::Exact).unwrap();
        let n_looks = LOOKED_AT * LOOK_COST * 6;
        assert!(!index.graph_pays(n_looks.isqrt()));
        assert!(index.graph_pays(n_looks.isqrt() + 1));
        assert_eq!([-1, 0, 9, 10, 19, 20].map(|time| index.n_alive(time)), [0, 2, 2, 6, 6, 0]);
    }
}
