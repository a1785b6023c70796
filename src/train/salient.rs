//! The words of a title that tell it from others.
use crate::news::article::Article;
use std::collections::{HashMap, HashSet};

/// Fewest words taken from a title.
const WORDS_MIN: usize = 3;
/// Most words taken: what people type.
const WORDS_MAX: usize = 5;

/// Beyond the fewest, a word is taken only if it stands in less than this share of all articles: words of an event
/// or a topic find everything.
const COMMON_SHARE: f64 = 0.02;

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

    /// Returns a query made of the title's 3 to 5 rarest distinct words, in the order of the title; none if it has
    /// fewer. Common words are only taken to make three.
    pub fn query(&self, title: &str) -> Option<String> {
        let mut seen = HashSet::new();
        let mut found: Vec<(usize, &str)> =
            words(title).enumerate().filter(|(_, word)| seen.insert(fold(word))).collect();
        if found.len() < WORDS_MIN {
            return None;
        }
        found
            .sort_by(|(a_idx, a), (b_idx, b)| self.share(a).total_cmp(&self.share(b)).then(a_idx.cmp(b_idx)));
        let n_rare = found.iter().filter(|(_, word)| self.share(word) < COMMON_SHARE).count();
        found.truncate(n_rare.clamp(WORDS_MIN, WORDS_MAX));
        found.sort_unstable();
        Some(found.into_iter().map(|(_, word)| word).collect::<Vec<_>>().join(" "))
    }

    /// Share of all articles in which a word stands; its inverse is the rarity that orders words.
    fn share(&self, word: &str) -> f64 {
        f64::from(self.n_with.get(&fold(word)).copied().unwrap_or(0)) / self.n_articles.max(1.0)
    }
}

/// Runs of letters and digits.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// A word in the form in which it is compared.
pub fn fold(word: &str) -> String {
    word.to_lowercase()
}
