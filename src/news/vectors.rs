//! Exact search among unit vectors: nothing nearer is ever missed.
use super::sketch::Sketch;
use crate::lexicon::unit::dot;

/// Where more than one in this many vectors is wanted, all are compared in full: narrowing down would not pay.
const NARROWED_MIN: usize = 16;

/// One article found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near {
    /// As it was given when the index was built.
    pub article_idx: usize,
    /// Cosine of the angle to the query.
    pub cosine: f32,
}

/// Unit vectors of articles.
#[derive(Clone, Debug)]
pub struct VectorIndex {
    width: usize,
    article_idxs: Vec<usize>,
    /// Row after row (articles x width).
    vectors: Vec<f32>,
    /// Says in half the memory which rows need to be compared; none where a row is longer than a unit vector.
    sketch: Option<Sketch>,
}

impl VectorIndex {
    /// Stores unit vectors of `width` numbers.
    pub fn build<'a>(width: usize, articles: impl Iterator<Item = (usize, &'a [f32])>) -> Self {
        let (mut article_idxs, mut vectors) = (Vec::new(), Vec::new());
        for (article_idx, vector) in articles {
            debug_assert_eq!(vector.len(), width);
            article_idxs.push(article_idx);
            vectors.extend_from_slice(vector);
        }
        let sketch = Sketch::of(width, &vectors);
        Self { width, article_idxs, vectors, sketch }
    }

    /// Finds the `k` nearest articles, nearest first; ties by `article_idx`.
    pub fn search(&self, query: &[f32], k: usize) -> Vec<Near> {
        self.search_among(query, k, |_| true)
    }

    /// As [`VectorIndex::search`], of those articles that `keep` takes by their `article_idx`.
    pub fn search_among(&self, query: &[f32], k: usize, keep: impl Fn(usize) -> bool) -> Vec<Near> {
        if k == 0 {
            return Vec::new();
        }
        let keep_row = |row_idx: usize| keep(self.article_idxs[row_idx]);
        let narrowed = match &self.sketch {
            Some(sketch) if k <= self.n_articles() / NARROWED_MIN => sketch.candidates(query, k, keep_row),
            Some(_) | None => None,
        };
        match narrowed {
            Some(row_idxs) => self.nearest(query, k, row_idxs.into_iter()),
            None => self.nearest(query, k, (0..self.n_articles()).filter(|&row_idx| keep_row(row_idx))),
        }
    }

    /// How many vectors there are.
    pub fn n_articles(&self) -> usize {
        self.article_idxs.len()
    }

    /// How many numbers a vector has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The article of each row, as it was given.
    pub(super) fn article_idxs(&self) -> &[usize] {
        &self.article_idxs
    }

    /// All vectors, row after row (articles x width).
    pub(super) fn vectors(&self) -> &[f32] {
        &self.vectors
    }

    /// The `k` nearest of some rows, nearest first; ties by `article_idx`.
    pub(super) fn nearest(
        &self,
        query: &[f32],
        k: usize,
        row_idxs: impl Iterator<Item = usize>,
    ) -> Vec<Near> {
        let near = |row_idx: usize| {
            let row = &self.vectors[row_idx * self.width..][..self.width];
            Near { article_idx: self.article_idxs[row_idx], cosine: dot(row, query) }
        };
        let mut near: Vec<Near> = row_idxs.map(near).collect();
        let nearest_first =
            |a: &Near, b: &Near| b.cosine.total_cmp(&a.cosine).then(a.article_idx.cmp(&b.article_idx));
        if k < near.len() {
            near.select_nth_unstable_by(k, nearest_first);
            near.truncate(k);
        }
        near.sort_unstable_by(nearest_first);
        near
    }
}
