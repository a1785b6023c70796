//! From words that readers type to words of the news that they click.
use super::{Fingerprint, fingerprint};
use crate::text::words::{fold, words};
use std::collections::{BTreeSet, HashMap};

/// What of a signal is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Features {
    /// Each word by itself.
    Words,
    /// Words, and pairs of neighbouring words.
    Neighbours,
}

impl Features {
    /// Those of a text, folded; pairs with a space between.
    pub fn of(self, text: &str) -> Vec<String> {
        let words: Vec<String> = words(text).map(fold).collect();
        let pairs: Vec<String> = match self {
            Self::Words => Vec::new(),
            Self::Neighbours => words.windows(2).map(|pair| pair.join(" ")).collect(),
        };
        [words, pairs].concat()
    }
}

/// Numbers of words of the news, with weights.
pub type Weights = Vec<(u32, f32)>;

/// What readers clicked who had typed a word or a pair.
#[derive(Debug)]
pub struct Translation {
    features: Features,
    by_feature: HashMap<Fingerprint, Weights>,
}

impl Translation {
    /// Of what was counted; a weight is how telling the word or pair is, times how much more often than by chance its readers click the word.
    pub fn new(features: Features, by_feature: HashMap<Fingerprint, Weights>) -> Self {
        Self { features, by_feature }
    }

    /// Every word or pair that has led somewhere, in no order.
    pub fn by_feature(&self) -> impl Iterator<Item = (Fingerprint, &Weights)> {
        self.by_feature.iter().map(|(feature, weights)| (*feature, weights))
    }

    /// What a text says in words of the news; each once, by number.
    pub fn of(&self, text: &str) -> Weights {
        let features: BTreeSet<Fingerprint> =
            self.features.of(text).iter().map(|feature| fingerprint(feature)).collect();
        let found = features.iter().filter_map(|feature| self.by_feature.get(feature));
        let mut weights: Weights = found.flatten().copied().collect();
        // Weights of one word keep their order, so that their sum is the same on every machine.
        weights.sort_by_key(|(news, _)| *news);
        weights.dedup_by(|(news, weight), (first, sum)| {
            let is_same = news == first;
            if is_same {
                *sum += *weight;
            }
            is_same
        });
        weights.retain(|(_, weight)| *weight > 0.0);
        weights
    }
}
