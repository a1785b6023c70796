//! Exact search among unit vectors: every cosine is computed.

/// Sums that are added up side by side: what one vector register holds.
const LANES: usize = 8;

/// Scalar product of two vectors of one length.
///
/// The order of the sum is fixed: the same numbers on every machine.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_lanes.remainder().iter().zip(b_lanes.remainder()).map(|(a, b)| a * b).sum();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a_lanes.zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

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
        Self { width, article_idxs, vectors }
    }

    /// Finds the `k` nearest articles, nearest first; ties by `article_idx`.
    pub fn search(&self, query: &[f32], k: usize) -> Vec<Near> {
        let rows = self.vectors.chunks_exact(self.width.max(1)).map(|row| dot(row, query));
        let mut near: Vec<Near> = self
            .article_idxs
            .iter()
            .zip(rows)
            .map(|(&article_idx, cosine)| Near { article_idx, cosine })
            .collect();
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
