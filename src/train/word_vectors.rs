//! Where a fresh student's embeddings start: tokens that keep the same company start close together.
//!
//! A student of a few million parameters learns from gradients what stands beside what, and on a CPU that is most of its
//! training. Counting the same tells it at once: positive pointwise mutual information of neighbours, factorised.
//! Source: Levy, Goldberg, Dagan, "Improving Distributional Similarity with Lessons Learned from Word Embeddings", TACL 2015.
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::collections::HashMap;

/// Tokens within this distance are neighbours: two or three signals of a reader, or an article.
const WINDOW: usize = 24;
/// Counts of contexts are raised to this power, so that rare ones do not dominate (the source's setting).
const CONTEXT_SMOOTHING: f64 = 0.75;
/// Passes of subspace iteration; after these the directions that matter no longer turn.
const N_PASSES: usize = 8;

/// Returns one vector per token, row after row (vocabulary x width), each of length 1; tokens without any telling
/// neighbour get none: a row of zeros.
///
/// The rows span the directions of the `width` largest eigenvalues of the matrix of mutual information, unweighted.
/// The same documents and seed give the same numbers on any number of threads.
pub fn word_vectors(documents: &[Vec<u32>], vocab_size: usize, width: usize, seed: u64) -> Vec<f32> {
    let rows = mutual_information(documents, vocab_size);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut basis: Vec<f32> = (0..vocab_size * width).map(|_| rng.random_range(-1.0..1.0)).collect();
    for _ in 0..N_PASSES {
        basis = product(&rows, &basis, width);
        orthonormalise(&mut basis, width);
    }
    basis.par_chunks_mut(width).for_each(|row| {
        let length = norm(row);
        scale(row, length);
    });
    basis
}

/// A sparse symmetric matrix: for each token its neighbours with their positive pointwise mutual information.
fn mutual_information(documents: &[Vec<u32>], vocab_size: usize) -> Vec<Vec<(u32, f32)>> {
    let mut counts: Vec<HashMap<u32, u32>> = vec![HashMap::new(); vocab_size];
    for document in documents {
        for (idx, &token) in document.iter().enumerate() {
            for &neighbour in document[idx + 1..].iter().take(WINDOW).filter(|&&other| other != token) {
                *counts[token as usize].entry(neighbour).or_default() += 1;
                *counts[neighbour as usize].entry(token).or_default() += 1;
            }
        }
    }
    let n_of: Vec<f64> = counts.iter().map(|row| row.values().map(|&n| f64::from(n)).sum()).collect();
    let total: f64 = n_of.iter().map(|n| n.powf(CONTEXT_SMOOTHING)).sum();
    let one_row = |(token, row): (usize, HashMap<u32, u32>)| {
        let mut row: Vec<(u32, f32)> = row
            .into_iter()
            .filter_map(|(other, n)| {
                // Smoothed on both sides and averaged, so that the matrix stays symmetric.
                let side = |of: usize, context: usize| {
                    (f64::from(n) * total / (n_of[of] * n_of[context].powf(CONTEXT_SMOOTHING))).ln()
                };
                let other_idx = other as usize;
                let information = 0.5 * (side(token, other_idx) + side(other_idx, token));
                #[allow(clippy::cast_possible_truncation, reason = "a logarithm of counts")]
                (information > 0.0).then_some((other, information as f32))
            })
            .collect();
        row.sort_unstable_by_key(|&(other, _)| other);
        row
    };
    counts.into_par_iter().enumerate().map(one_row).collect()
}

/// Multiplies a sparse square matrix by a dense one of `width` columns.
fn product(rows: &[Vec<(u32, f32)>], dense: &[f32], width: usize) -> Vec<f32> {
    let mut result = vec![0.0; rows.len() * width];
    result.par_chunks_mut(width).zip(rows).for_each(|(sum, row)| {
        for &(idx, weight) in row {
            let other = &dense[idx as usize * width..][..width];
            sum.iter_mut().zip(other).for_each(|(sum, value)| *sum += weight * value);
        }
    });
    result
}

/// Makes columns orthogonal and of length 1 (modified Gram-Schmidt); a column that depends on those before becomes 0.
fn orthonormalise(matrix: &mut [f32], width: usize) {
    let n_rows = matrix.len() / width.max(1);
    let mut columns: Vec<Vec<f32>> =
        (0..width).map(|column| (0..n_rows).map(|row| matrix[row * width + column]).collect()).collect();
    for idx in 0..width {
        let (done, rest) = columns.split_at_mut(idx + 1);
        let Some(column) = done.last_mut() else { return };
        let length = norm(column);
        scale(column, length);
        let column = &*column;
        rest.par_iter_mut().for_each(|other| {
            let along: f32 = column.iter().zip(&*other).map(|(a, b)| a * b).sum();
            other.iter_mut().zip(column).for_each(|(value, unit)| *value -= along * unit);
        });
    }
    for (row_idx, row) in matrix.chunks_mut(width).enumerate() {
        row.iter_mut().zip(&columns).for_each(|(value, column)| *value = column[row_idx]);
    }
}

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|value| value * value).sum::<f32>().sqrt()
}

fn scale(values: &mut [f32], norm: f32) {
    let factor = if norm > 1e-12 { norm.recip() } else { 0.0 };
    values.iter_mut().for_each(|value| *value *= factor);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two topics of three words that never meet, and a word (0) that stands in every document.
    #[test]
    fn words_of_one_topic_are_closer_than_words_of_two() {
        let documents: Vec<Vec<u32>> =
            (0..60).map(|idx| if idx % 2 == 0 { vec![1, 0, 2, 3] } else { vec![4, 5, 0, 6] }).collect();
        // As many directions as topics: what remains would only tell the words of one topic apart.
        let vectors = word_vectors(&documents, 8, 2, 1);
        let row = |token: usize| &vectors[token * 2..][..2];
        let cosine = |a: usize, b: usize| row(a).iter().zip(row(b)).map(|(a, b)| a * b).sum::<f32>();
        for (a, same, other) in [(1, 2, 5), (2, 3, 4), (4, 6, 1)] {
            assert!(cosine(a, same) > cosine(a, other) + 0.5, "{a}: {vectors:?}");
        }
        assert!(row(7).iter().all(|value| *value == 0.0), "a word that never stands has no vector");
        assert_eq!(vectors, word_vectors(&documents, 8, 2, 1));
    }
}
