//! Is there living news about each query?
//!
//! R = mean over queries of min(1, n / 3), where n counts those of the query's ten nearest living articles whose cosine to it is
//! 0.5 or more beyond its hub, the mean cosine of the query to random articles: a query near to everything is about
//! nothing.
//!
//! The paper's reward is the mean cosine to the ten nearest ([`nearest_mean`]). It is highest for words of the day's titles, whoever
//! reads, and goes on rising where supply is enough: within a reader it ranks lists against what they find (`train/LOG.md`).
//! So it is capped where a query has found its subject.
use super::{calibration::Calibration, mean};
use crate::{
    lexicon::unit::{Unit, dot},
    news::vectors::VectorIndex,
};

/// Articles that a query should be near to; the paper's ten.
pub(super) const NEAREST: usize = 10;
/// An article as near as this beyond the hub is about the query.
const ABOUT: f64 = 0.5;
/// Articles about a query that are enough: fewer are thin supply.
const ENOUGH: f64 = 3.0;

/// Alignment of a list; queries without a known word have none.
pub(super) fn alignment(queries: &[Option<&Unit>], living: &VectorIndex, scales: &Calibration) -> f64 {
    let of_query = |unit: &Option<&Unit>| {
        let Some(unit) = unit else { return 0.0 };
        let about = ABOUT + f64::from(dot(&unit.0, &scales.hub));
        let nearest = living.search(&unit.0, NEAREST);
        let n_about = nearest.iter().map(|near| f64::from(u8::from(f64::from(near.cosine) >= about)));
        (n_about.sum::<f64>() / ENOUGH).min(1.0)
    };
    mean(queries.iter().map(of_query))
}

/// Mean cosine of a query to its `k` nearest articles: the paper's retrieval alignment, before any mapping.
pub fn nearest_mean(query: &Unit, living: &VectorIndex, k: usize) -> f64 {
    mean(living.search(&query.0, k).iter().map(|near| f64::from(near.cosine)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(x: f32, y: f32) -> Unit {
        Unit::of(vec![x, y]).unwrap()
    }

    #[test]
    fn three_articles_about_a_query_are_enough_and_a_hub_is_about_nothing() {
        let rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]];
        let living = VectorIndex::build(2, rows.iter().enumerate().map(|(idx, row)| (idx, &row[..])));
        let scales = |hub: [f32; 2]| Calibration { hub: hub.to_vec(), rarity: (0.0, 1.0) };
        let (x, y) = (unit(1.0, 0.0), unit(0.0, 1.0));
        assert!((alignment(&[Some(&x)], &living, &scales([0.0, 0.0])) - 2.0 / 3.0).abs() < 1e-12);
        assert!((alignment(&[Some(&y), None], &living, &scales([0.0, 0.0])) - 0.5).abs() < 1e-12);
        assert_eq!(alignment(&[Some(&y)], &living, &scales([0.0, 0.6])), 0.0);
    }
}
