//! How far queries ask for what a reader is interested in.
//!
//! Queries and interests are matched one to one, the best pair first. Sum over interests c of
//! w_c x logistic((cos(c, q of c) - 0.6) / 0.08) - 0.3 x share of queries that are near to no interest, at least 0. Without
//! one-to-one matching a query in the middle of everything would meet all interests at once.
//!
//! An interest is served by news of the subject itself: sum over interests c of w_c x logistic((cos(c, text) - 0.75) / 0.05).
use super::{interests::Interests, logistic, unit::Unit};

/// Half of an interest is met at this cosine: where words of the same subject stand among each other.
pub const MET: f64 = 0.6;
/// How soon more nearness is worth more.
const SOFTNESS: f64 = 0.08;
/// Half of an interest is served at this cosine: nearer to it stands what is about the subject itself.
const SERVED: f64 = 0.75;
/// How soon more nearness serves more.
const SERVED_SOFTNESS: f64 = 0.05;
/// A query further than this from every interest is about nothing the reader did.
pub const STRAYS: f64 = 0.45;
/// What a list of strays only loses.
const STRAY_COST: f64 = 0.3;

/// How much of a reader's interests queries ask for, from 0 to 1; a query that means nothing strays. 0 for a reader without any.
#[allow(clippy::cast_precision_loss, reason = "a handful of queries")]
pub fn asked(queries: &[Option<&Unit>], reader: &Interests) -> f64 {
    if reader.clusters.is_empty() || queries.is_empty() {
        return 0.0;
    }
    let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
    let mut n_strays = 0;
    for (query_idx, unit) in queries.iter().enumerate() {
        let cosines: Vec<f64> = match unit {
            Some(unit) => reader.clusters.iter().map(|(centre, _)| centre.cosine(unit)).collect(),
            None => Vec::new(),
        };
        n_strays += usize::from(cosines.iter().all(|cosine| *cosine < STRAYS));
        pairs.extend(cosines.into_iter().enumerate().map(|(idx, cosine)| (cosine, idx, query_idx)));
    }
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut met, mut used) = (vec![false; reader.clusters.len()], vec![false; queries.len()]);
    let mut covered = 0.0;
    for (cosine, interest_idx, query_idx) in pairs {
        if !met[interest_idx] && !used[query_idx] {
            (met[interest_idx], used[query_idx]) = (true, true);
            covered += reader.clusters[interest_idx].1 * logistic((cosine - MET) / SOFTNESS);
        }
    }
    (covered - STRAY_COST * n_strays as f64 / queries.len() as f64).max(0.0)
}

/// How much of a reader's interests one query meets by itself, from 0 to 1.
pub fn met(query: &Unit, reader: &Interests) -> f64 {
    let meets = |(centre, weight): &(Unit, f64)| weight * logistic((centre.cosine(query) - MET) / SOFTNESS);
    reader.clusters.iter().map(meets).sum()
}

/// Sum of the weights of the interests that a text serves, an article, a query or a word, from 0 to 1.
pub fn served(text: &Unit, reader: &Interests) -> f64 {
    reader.clusters.iter().map(|(centre, weight)| weight * serves(centre.cosine(text))).sum()
}

/// The same of texts that serve together: each interest counts by the text that serves it best.
pub fn served_together(texts: &[Option<&Unit>], reader: &Interests) -> f64 {
    let nearest = |centre: &Unit| texts.iter().flatten().map(|text| centre.cosine(text)).reduce(f64::max);
    reader.clusters.iter().map(|(centre, weight)| weight * nearest(centre).map_or(0.0, serves)).sum()
}

fn serves(cosine: f64) -> f64 {
    logistic((cosine - SERVED) / SERVED_SOFTNESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(x: f32, y: f32, z: f32) -> Unit {
        Unit::of(vec![x, y, z]).unwrap()
    }

    fn reader() -> Interests {
        Interests { clusters: vec![(unit(1.0, 0.0, 0.0), 0.7), (unit(0.0, 1.0, 0.0), 0.3)] }
    }

    #[test]
    fn every_interest_met_is_nearly_one_and_the_heavier_one_alone_its_weight() {
        let (x, y) = (unit(1.0, 0.0, 0.0), unit(0.0, 1.0, 0.0));
        assert!(asked(&[Some(&x), Some(&y)], &reader()) > 0.98);
        let alone = asked(&[Some(&x)], &reader());
        assert!((0.68..0.71).contains(&alone), "{alone}");
    }

    #[test]
    fn one_query_between_two_interests_meets_one_of_them() {
        let between = unit(1.0, 1.0, 0.0);
        let both = asked(&[Some(&between)], &reader());
        let apart = asked(&[Some(&unit(1.0, 0.0, 0.0)), Some(&unit(0.0, 1.0, 0.0))], &reader());
        assert!(both < 0.6 && both < apart - 0.3, "{both} {apart}");
    }

    #[test]
    fn strays_cost_and_never_below_zero() {
        let (x, stray) = (unit(1.0, 0.0, 0.0), unit(0.0, 0.0, 1.0));
        let without = asked(&[Some(&x)], &reader());
        let with = asked(&[Some(&x), Some(&stray)], &reader());
        assert!((without - with - 0.15).abs() < 1e-3, "{without} {with}");
        assert_eq!(asked(&[Some(&stray), None], &reader()), 0.0);
    }

    #[test]
    fn an_interest_is_served_by_the_subject_itself_and_once() {
        let (x, near) = (unit(1.0, 0.0, 0.0), unit(1.0, 1.0, 0.0));
        assert!((served(&x, &reader()) - 0.7).abs() < 0.01, "as much as it weighs");
        assert!(served(&near, &reader()) < 0.4, "half way to another is neither");
        assert!((served_together(&[Some(&x), Some(&x), None], &reader()) - 0.7).abs() < 0.01);
        let y = unit(0.0, 1.0, 0.0);
        assert!(served_together(&[Some(&x), Some(&y)], &reader()) > 0.98);
        assert_eq!(served_together(&[None], &reader()), 0.0);
    }

    #[test]
    fn readers_without_interests_have_nothing_to_cover() {
        let (x, nobody) = (unit(1.0, 0.0, 0.0), Interests::default());
        assert_eq!(asked(&[Some(&x)], &nobody), 0.0);
        assert_eq!((served(&x, &nobody), served_together(&[Some(&x)], &nobody)), (0.0, 0.0));
    }
}
