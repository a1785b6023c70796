//! Subjects: the few meanings that many signals share.
//!
//! A signal's own meaning is counted from the readers who typed its words, and hardly two signals have the same: lists written
//! for signals about one thing hold the same words in ever other orders, of which nothing can be learned. By their subject they
//! get the same list. A thousand subjects stand for signals as well as their own meanings do (`train/LOG.md`).
//! Sources: spherical k-means, Dhillon, Modha, Machine Learning 42, 2001; its start, k-means++, Arthur, Vassilvitskii, SODA 2007.
use crate::lexicon::unit::Unit;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Passes; after these the mean distance no longer falls by a hundredth.
const N_PASSES: usize = 10;

/// Meanings of length 1, each in the middle of those nearest to it.
#[derive(Clone, Debug)]
pub struct Subjects {
    centres: Vec<Unit>,
}

impl Subjects {
    /// Finds at most `n` subjects among meanings; the same meanings and seed give the same subjects on any number of threads.
    pub fn of(units: &[Unit], n: usize, seed: u64) -> Self {
        let mut subjects = Self { centres: far_apart(units, n, &mut ChaCha8Rng::seed_from_u64(seed)) };
        for _ in 0..N_PASSES {
            let members: Vec<Option<usize>> = units.par_iter().map(|unit| subjects.place(unit)).collect();
            let mut sums: Vec<Vec<f32>> =
                subjects.centres.iter().map(|Unit(unit)| vec![0.0; unit.len()]).collect();
            for (unit, place) in units.iter().zip(members) {
                let Some(place) = place else { continue };
                sums[place].iter_mut().zip(&unit.0).for_each(|(sum, value)| *sum += value);
            }
            for (centre, sum) in subjects.centres.iter_mut().zip(sums) {
                // One that nobody is nearest to stays where it is.
                if let Some(middle) = Unit::of(sum) {
                    *centre = middle;
                }
            }
        }
        subjects
    }

    /// The subjects' own meanings.
    pub fn centres(&self) -> &[Unit] {
        &self.centres
    }

    /// The place of the subject nearest to a meaning; none without subjects. The first of equals.
    pub fn place(&self, unit: &Unit) -> Option<usize> {
        let near = self.centres.iter().map(|centre| centre.cosine(unit)).enumerate();
        near.reduce(|best, other| if other.1 > best.1 { other } else { best }).map(|(place, _)| place)
    }
}

/// Draws centres one after the other, each in proportion to its distance from those before.
fn far_apart(units: &[Unit], n: usize, random: &mut ChaCha8Rng) -> Vec<Unit> {
    let mut centres: Vec<Unit> = Vec::new();
    let mut distances = vec![1.0_f64; units.len()];
    while centres.len() < n {
        let total: f64 = distances.iter().sum();
        if total <= f64::EPSILON {
            break;
        }
        let mut rest = random.random_range(0.0..total);
        let drawn = distances.iter().position(|distance| {
            rest -= distance;
            rest < 0.0
        });
        let Some(centre) = drawn.map(|place| units[place].clone()) else { break };
        distances.par_iter_mut().zip(units).for_each(|(distance, unit)| {
            *distance = distance.min(1.0 - centre.cosine(unit)).max(0.0);
        });
        centres.push(centre);
    }
    centres
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Around each axis of three some meanings, at random.
    fn around_axes() -> Vec<Unit> {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let unit = |place: usize| {
            let mut vector: Vec<f32> = (0..3).map(|_| random.random_range(-0.1..0.1)).collect();
            vector[place % 3] += 1.0;
            Unit::of(vector).unwrap()
        };
        (0..60).map(unit).collect()
    }

    #[test]
    fn meanings_about_one_thing_have_one_subject_and_it_lies_in_their_middle() {
        let units = around_axes();
        let subjects = Subjects::of(&units, 3, 7);
        assert_eq!(subjects.centres().len(), 3);
        for (place, unit) in units.iter().enumerate() {
            let subject = subjects.place(unit).unwrap();
            assert_eq!(subject, subjects.place(&units[place % 3]).unwrap());
            assert!(subjects.centres()[subject].0[place % 3] > 0.99);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_subjects_and_there_are_no_more_than_meanings() {
        let units = around_axes();
        let two = || Subjects::of(&units, 2, 5);
        assert_eq!(two().centres, two().centres);
        assert!(Subjects::of(&units[..2], 9, 5).centres().len() <= 2);
        assert!(Subjects::of(&[], 9, 5).centres().is_empty());
        assert_eq!(Subjects::of(&units, 0, 5).place(&units[0]), None);
    }
}
