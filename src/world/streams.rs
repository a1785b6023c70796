//! Random streams: one per (seed, purpose, index), so that one part of the world never shifts another.
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// Opens the stream of one purpose and index.
pub(super) fn stream(seed: u64, purpose: &str, index: u64) -> ChaCha8Rng {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_le_bytes());
    hasher.update(index.to_le_bytes());
    hasher.update(purpose.as_bytes());
    ChaCha8Rng::from_seed(hasher.finalize().into())
}

/// Draws a position with probability proportional to its weight; `None` if no weight is above 0.
pub(super) fn weighted(rng: &mut ChaCha8Rng, weights: impl Iterator<Item = f64> + Clone) -> Option<usize> {
    let total: f64 = weights.clone().sum();
    if total <= 0.0 {
        return None;
    }
    let mut left = rand::Rng::random::<f64>(rng) * total;
    let mut last = None;
    for (idx, weight) in weights.enumerate() {
        if weight > 0.0 {
            last = Some(idx);
            left -= weight;
            if left <= 0.0 {
                break;
            }
        }
    }
    last
}

/// Draws one item of a slice that is known not to be empty.
pub(super) fn pick<'items, T>(rng: &mut ChaCha8Rng, items: &'items [T]) -> &'items T {
    &items[rand::Rng::random_range(rng, 0..items.len())]
}
