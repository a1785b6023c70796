//! The order in which a run sees its data: a pure function of seed and position, so that a resumed run goes on where it stopped.
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Endless passes over `n_items`, each in another order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    seed: u64,
    n_items: usize,
}

impl Order {
    /// An order of at least one item.
    pub fn new(seed: u64, n_items: usize) -> Self {
        Self { seed, n_items: n_items.max(1) }
    }

    /// Returns `n` items from position `start` on, counted over all passes.
    pub fn items(&self, start: u64, n: usize) -> Vec<usize> {
        let mut items = Vec::with_capacity(n);
        let (mut pass, mut skip) = (start / self.n_items as u64, start % self.n_items as u64);
        while items.len() < n {
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX);
            items.extend(self.pass(pass).into_iter().skip(skipped).take(n - items.len()));
            (pass, skip) = (pass + 1, 0);
        }
        items
    }

    /// One pass: every item once.
    fn pass(&self, pass: u64) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        // One stream per pass: passes are drawn without drawing those before.
        rng.set_stream(pass);
        let mut items: Vec<usize> = (0..self.n_items).collect();
        items.shuffle(&mut rng);
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_start_continues_the_same_sequence() {
        let order = Order::new(3, 5);
        let all = order.items(0, 17);
        for start in 0..17_usize {
            assert_eq!(order.items(start as u64, 17 - start), all[start..]);
        }
    }

    #[test]
    fn every_pass_holds_every_item_once() {
        let items = Order::new(3, 5).items(0, 10);
        for pass in items.chunks(5) {
            let mut pass = pass.to_vec();
            pass.sort_unstable();
            assert_eq!(pass, [0, 1, 2, 3, 4]);
        }
        assert_ne!(items[..5], items[5..], "passes differ");
    }
}
