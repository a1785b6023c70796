//! One reader as the rewards see her: interests, and how much each living article is wanted.
use crate::lexicon::{asked::served, interests::Interests, unit::Unit};
use std::collections::HashMap;

/// What a reader wants of the news at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// What her signals are about.
    pub interests: Interests,
    /// By article: sum of the weights of the interests that it serves.
    wants: HashMap<usize, f64>,
    /// The same, the largest first.
    sorted: Vec<f64>,
}

impl View {
    /// Compares living articles with a reader's interests.
    pub(super) fn of(interests: Interests, articles: &[(usize, Unit)]) -> Self {
        let wants: HashMap<usize, f64> =
            articles.iter().map(|(idx, unit)| (*idx, served(unit, &interests))).collect();
        let mut sorted: Vec<f64> = wants.values().copied().collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        Self { interests, wants, sorted }
    }

    /// How much an article is wanted, from 0 to 1; 0 if it is not alive.
    pub(super) fn want(&self, article_idx: usize) -> f64 {
        self.wants.get(&article_idx).copied().unwrap_or(0.0)
    }

    /// Sum of the `n` largest wants.
    pub(super) fn best(&self, n: usize) -> f64 {
        self.sorted.iter().take(n).sum()
    }
}
