//! Reciprocal-rank fusion of the hits of a list's queries.

/// Fuses ranked lists of article indices; best first; score = sum of 1 / (60 + rank), ties by lower index. Source: Cormack et al., SIGIR 2009.
pub fn reciprocal_rank(ranked: &[Vec<usize>], n_hits: usize) -> Vec<usize> { todo!() }
