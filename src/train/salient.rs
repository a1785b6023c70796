//! The words that tell one article from others.
use crate::{
    news::article::Article,
    text::words::{fold, words},
};
use std::collections::{HashMap, HashSet};

/// A word that stands in this share of all articles or more tells nothing: it is a word of an event or a topic.
pub const COMMON_SHARE: f64 = 0.02;

/// How rare each word is among titles and summaries.
#[derive(Debug)]
pub struct Salience {
    n_articles: f64,
    n_with: HashMap<String, u32>,
}

impl Salience {
    /// Counts in how many articles each word stands.
    #[allow(clippy::cast_precision_loss, reason = "a catalogue has far less than 2^52 articles")]
    pub fn of<'a>(articles: impl Iterator<Item = &'a Article>) -> Self {
        let (mut n_articles, mut n_with) = (0_usize, HashMap::new());
        for article in articles {
            n_articles += 1;
            let words: HashSet<String> =
                words(&article.title).chain(words(&article.summary)).map(fold).collect();
            for word in words {
                *n_with.entry(word).or_insert(0) += 1;
            }
        }
        Self { n_articles: n_articles as f64, n_with }
    }

    /// Whether a word stands in few articles.
    pub fn is_rare(&self, word: &str) -> bool {
        self.n_with(word) < (COMMON_SHARE * self.n_articles).max(2.0)
    }

    /// Inverse document frequency, nats: 0 for a word that stands in every article.
    pub fn rarity(&self, word: &str) -> f64 {
        (self.n_articles.max(1.0) / self.n_with(word).max(1.0)).ln()
    }

    fn n_with(&self, word: &str) -> f64 {
        f64::from(self.n_with.get(&fold(word)).copied().unwrap_or(0))
    }
}
