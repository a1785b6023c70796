//! Co-click walks: what others clicked who clicked what she clicked.
//!
//! Source: the random walks with restart by which PinSage finds a node's neighbours (arXiv 1806.01973, section 3.2), as Pixie ranks
//! with them (arXiv 1711.07601). Departs from PinSage: no convolutions over visual and text features; visits alone rank.
use super::{Recommender, sequences::clicked};
use crate::train::{
    error::TrainError,
    events::{Reader, World},
    examples::digest,
    retrieval::RANKING_LENGTH,
};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

/// Clicks of a reader that walks start from.
const STARTS: usize = 10;
/// Steps from an article to another; visits of an article that is alive are a hundredth of them and more.
const STEPS: usize = 10_000;
/// Chance that a walk begins anew; Pixie's.
const RESTART: f64 = 0.5;

/// Who clicked what.
#[derive(Debug)]
pub struct CoClicks {
    readers_of: Vec<Vec<u32>>,
    articles_of: Vec<Vec<u32>>,
    seed: u64,
}

impl Recommender for CoClicks {
    const NAME: &'static str = "co-click walk (PinSage)";
    const WORD: &'static str = "pinsage";

    /// Reads the clicks of every reader before the cutoff: a platform has them all.
    fn fit(world: &World, seed: u64) -> Result<Self, TrainError> {
        let mut readers_of = vec![Vec::new(); world.articles.len()];
        let mut articles_of = Vec::new();
        for (reader_idx, reader) in (0_u32..).zip(&world.readers) {
            let articles = clicked(reader, world.cutoff_unix_s, usize::MAX);
            articles.iter().for_each(|&article| readers_of[article as usize].push(reader_idx));
            articles_of.push(articles);
        }
        Ok(Self { readers_of, articles_of, seed })
    }

    fn ranking(
        &self,
        reader: &Reader,
        at_unix_s: i64,
        candidates: &[usize],
    ) -> Result<Option<Vec<usize>>, TrainError> {
        let starts = clicked(reader, at_unix_s, STARTS);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ digest(&reader.key));
        // What she has read already is not recommended again.
        let known: Vec<usize> =
            clicked(reader, at_unix_s, usize::MAX).iter().map(|&idx| idx as usize).collect();
        let mut n_visits = vec![0_u32; self.readers_of.len()];
        let Some(mut at) = starts.choose(&mut rng).copied() else { return Ok(None) };
        for _ in 0..STEPS {
            let next = self.readers_of[at as usize]
                .choose(&mut rng)
                .and_then(|&reader_idx| self.articles_of[reader_idx as usize].choose(&mut rng))
                .filter(|_| !rng.random_bool(RESTART));
            match next {
                Some(next) => {
                    at = *next;
                    n_visits[at as usize] += 1;
                }
                // Where a walk begins says nothing but what she clicked.
                None => at = starts.choose(&mut rng).copied().unwrap_or(at),
            }
        }
        let mut ranked: Vec<usize> = candidates
            .iter()
            .copied()
            .filter(|&article| n_visits[article] > 0)
            .filter(|article| !known.contains(article))
            .collect();
        ranked.sort_by_key(|&article| (std::cmp::Reverse(n_visits[article]), article));
        ranked.truncate(RANKING_LENGTH);
        Ok((!ranked.is_empty()).then_some(ranked))
    }
}
