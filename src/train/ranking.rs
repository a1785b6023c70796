//! Measures of a ranking against graded documents, as trec_eval and ranx compute them.
//!
//! A document is relevant if its grade is above 0. The first rank is 1. A ranking holds no document twice. Where nothing is
//! relevant every measure is 0.
#![allow(clippy::cast_precision_loss, reason = "ranks and grades are far below 2^52")]
use std::collections::BTreeMap;

/// Grades by document.
pub type Grades<D> = BTreeMap<D, u32>;

/// The same grade for documents that are relevant alike, such as clicked articles.
pub fn alike<D: Ord>(relevant: impl IntoIterator<Item = D>) -> Grades<D> {
    relevant.into_iter().map(|document| (document, 1)).collect()
}

/// What a document of a grade is worth in NDCG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gain {
    /// The grade. Source: Järvelin and Kekäläinen, 2002; trec_eval's `ndcg_cut`.
    Linear,
    /// 2^grade - 1. Source: Burges et al., 2005.
    Exponential,
}

impl Gain {
    fn of(self, grade: u32) -> f64 {
        match self {
            Self::Linear => f64::from(grade),
            Self::Exponential => f64::from(grade).exp2() - 1.0,
        }
    }
}

/// Share of the relevant documents that stand among the first k.
pub fn recall<D: Ord>(ranking: &[D], grades: &Grades<D>, k: usize) -> f64 {
    over(n_found(ranking, grades, k), n_relevant(grades))
}

/// Share of the first k ranks that hold a relevant document; ranks that the ranking lacks count as misses.
pub fn precision<D: Ord>(ranking: &[D], grades: &Grades<D>, k: usize) -> f64 {
    over(n_found(ranking, grades, k), k)
}

/// 1 if a relevant document stands among the first k, else 0.
pub fn hit_rate<D: Ord>(ranking: &[D], grades: &Grades<D>, k: usize) -> f64 {
    f64::from(u8::from(n_found(ranking, grades, k) > 0))
}

/// 1 / rank of the first relevant document among the first k; 0 without one.
pub fn reciprocal_rank<D: Ord>(ranking: &[D], grades: &Grades<D>, k: usize) -> f64 {
    let first = ranking.iter().take(k).position(|document| grade(grades, document) > 0);
    first.map_or(0.0, |idx| 1.0 / (idx + 1) as f64)
}

/// Sum of the precisions at the ranks of relevant documents among the first k, over the number of relevant documents.
pub fn average_precision<D: Ord>(ranking: &[D], grades: &Grades<D>, k: usize) -> f64 {
    let ranks = (1..).zip(ranking.iter().take(k)).filter(|(_, document)| grade(grades, document) > 0);
    let sum: f64 =
        (1..).zip(ranks).map(|(n_found, (rank, _)): (usize, (usize, _))| over(n_found, rank)).sum();
    if n_relevant(grades) == 0 { 0.0 } else { sum / n_relevant(grades) as f64 }
}

/// Discounted cumulative gain of the first k, over that of the best possible ranking; the discount is 1 / log2(rank + 1).
pub fn ndcg<D: Ord>(ranking: &[D], grades: &Grades<D>, k: usize, gain: Gain) -> f64 {
    let discounted = |grades: &mut dyn Iterator<Item = u32>| -> f64 {
        let gains =
            (2_u32..).zip(grades.take(k)).map(|(rank, grade)| gain.of(grade) / f64::from(rank).log2());
        // The sum of nothing is -0 in Rust.
        gains.fold(0.0, |sum, gain| sum + gain)
    };
    let mut best: Vec<u32> = grades.values().copied().collect();
    best.sort_unstable_by(|a, b| b.cmp(a));
    let ideal = discounted(&mut best.into_iter());
    let got = discounted(&mut ranking.iter().map(|document| grade(grades, document)));
    if ideal > 0.0 { got / ideal } else { 0.0 }
}

fn grade<D: Ord>(grades: &Grades<D>, document: &D) -> u32 {
    grades.get(document).copied().unwrap_or(0)
}

fn n_found<D: Ord>(ranking: &[D], grades: &Grades<D>, k: usize) -> usize {
    ranking.iter().take(k).filter(|document| grade(grades, document) > 0).count()
}

fn n_relevant<D>(grades: &Grades<D>) -> usize {
    grades.values().filter(|grade| **grade > 0).count()
}

fn over(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_relevant_is_worth_nothing() {
        for grades in [Grades::new(), Grades::from([(1, 0)])] {
            let ranking = [1, 2];
            assert_eq!(recall(&ranking, &grades, 10), 0.0);
            assert_eq!(average_precision(&ranking, &grades, 10), 0.0);
            assert_eq!(reciprocal_rank(&ranking, &grades, 10), 0.0);
            assert_eq!(ndcg(&ranking, &grades, 10, Gain::Linear), 0.0);
            assert_eq!(precision(&ranking, &grades, 0), 0.0);
            assert!(ndcg(&[], &Grades::from([(1, 1)]), 10, Gain::Linear).is_sign_positive());
        }
    }

    #[test]
    fn a_perfect_ranking_is_worth_one() {
        let grades = Grades::from([(7, 3), (8, 1)]);
        for gain in [Gain::Linear, Gain::Exponential] {
            assert_eq!(ndcg(&[7, 8, 9], &grades, 10, gain), 1.0);
            assert!(ndcg(&[8, 7, 9], &grades, 10, gain) < 1.0);
        }
        assert_eq!((recall(&[9, 7, 8], &grades, 2), recall(&[9, 7, 8], &grades, 3)), (0.5, 1.0));
        assert_eq!(average_precision(&[9, 7, 8], &grades, 3), (0.5 + 2.0 / 3.0) / 2.0);
        assert_eq!(reciprocal_rank(&[9, 7, 8], &grades, 1), 0.0);
    }
}
