//! What an article is about, in the words of the articles most like it: a title names one event, its like name the subject.
//!
//! Pseudo-relevance feedback: the title's rare words are searched for, and the words of what is found are weighed. Source:
//! Lavrenko, Croft, "Relevance-Based Language Models", SIGIR 2001. Departs from it in the weight of a word, which is the
//! sum of the scores of the articles it stands in times its squared rarity: a query of few words needs telling ones.
use super::{error::TrainError, events::World, salient::Salience};
use crate::{
    news::{article::Article, index::NewsIndex},
    text::words::{fold, words},
};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Articles whose words are weighed: several stories of one subject, and few of its neighbours.
const FEEDBACK_ARTICLES: usize = 20;
/// Words kept of an article: eight queries of four.
const WORDS_MAX: usize = 32;

/// The subject words of articles.
#[derive(Debug)]
pub struct Expansions {
    by_article: HashMap<usize, Vec<String>>,
}

impl Expansions {
    /// Finds the subject words of the articles of these indices, searching among those published before the cutoff.
    /// # Errors
    /// If the index cannot be built or searched.
    pub fn of(world: &World, article_idxs: BTreeSet<usize>) -> Result<Self, TrainError> {
        let published: Vec<Article> = world.published().cloned().collect();
        let feedback = Feedback {
            index: NewsIndex::build(&published)?,
            salience: Salience::of(published.iter()),
            published: &published,
        };
        let by_article = article_idxs
            .into_par_iter()
            .map(|idx| Ok((idx, feedback.words_like(&world.articles[idx])?)))
            .collect::<Result<_, TrainError>>()?;
        Ok(Self { by_article })
    }

    /// Returns the words that tell an article's subject, the most telling first; none of an article not asked about.
    pub fn words(&self, article_idx: usize) -> &[String] {
        self.by_article.get(&article_idx).map_or(&[], Vec::as_slice)
    }
}

struct Feedback<'a> {
    index: NewsIndex,
    salience: Salience,
    published: &'a [Article],
}

impl Feedback<'_> {
    fn words_like(&self, article: &Article) -> Result<Vec<String>, TrainError> {
        let query =
            words(&article.title).filter(|word| self.salience.is_rare(word)).collect::<Vec<_>>().join(" ");
        let mut weights: BTreeMap<String, f64> = BTreeMap::new();
        for hit in self.index.search(&query, None, FEEDBACK_ARTICLES)? {
            let found = &self.published[hit.article_idx];
            let distinct: HashSet<String> =
                words(&found.title).chain(words(&found.summary)).map(fold).collect();
            for word in distinct.into_iter().filter(|word| self.salience.is_rare(word)) {
                *weights.entry(word).or_default() += f64::from(hit.score);
            }
        }
        let mut weighed: Vec<(f64, String)> = weights
            .into_iter()
            .map(|(word, scores)| (scores * self.salience.rarity(&word).powi(2), word))
            .collect();
        // Equal weights stay in the order of the alphabet, which the map gave.
        weighed.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        Ok(weighed.into_iter().take(WORDS_MAX).map(|(_, word)| word).collect())
    }
}
