//! What is measured of every ranking; `ranking` has the formulas.
use crate::train::ranking::{Gain, Grades, hit_rate, ndcg, recall, reciprocal_rank};

/// A measure of a ranking of articles against clicks.
pub type Measure = fn(&[usize], &Grades<usize>) -> f64;

/// Every measure with its name. A clicked article has grade 1. MRR looks as deep as rankings go.
pub const MEASURES: [(&str, Measure); 7] = [
    ("Recall@5", |ranking, clicked| recall(ranking, clicked, 5)),
    ("Recall@10", |ranking, clicked| recall(ranking, clicked, 10)),
    ("Recall@50", |ranking, clicked| recall(ranking, clicked, 50)),
    ("NDCG@5", |ranking, clicked| ndcg(ranking, clicked, 5, Gain::Linear)),
    ("NDCG@10", |ranking, clicked| ndcg(ranking, clicked, 10, Gain::Linear)),
    ("MRR", |ranking, clicked| reciprocal_rank(ranking, clicked, usize::MAX)),
    ("hit@100", |ranking, clicked| hit_rate(ranking, clicked, 100)),
];

/// Place of the measure by which lists are chosen and ways compared.
pub const RECALL_10: usize = 1;
/// Place of the measure that tells lists apart which find as much.
pub const MRR: usize = 5;

/// One value per measure.
pub type Figures = [f64; MEASURES.len()];

/// Measures one ranking.
pub fn figures(ranking: &[usize], clicked: &Grades<usize>) -> Figures {
    MEASURES.map(|(_, measure)| measure(ranking, clicked))
}

/// Mean of each measure; zeros of none.
#[allow(clippy::cast_precision_loss, reason = "a handful of lists")]
pub fn mean(all: &[Figures]) -> Figures {
    std::array::from_fn(|idx| all.iter().map(|figures| figures[idx]).sum::<f64>() / all.len().max(1) as f64)
}
