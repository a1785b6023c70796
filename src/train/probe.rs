//! The linear probe: what counting alone finds. No model, no list, no query.
//!
//! Words of searches and pages are translated into words of the news by how much more often readers who typed the one clicked the
//! other than chance says (positive pointwise mutual information over training readers); an article scores the sum over its words.
//! If this finds what a reader's true interests find, a world needs no language model, and no figure made in it says that one helps.
//!
//! With [`Features::Neighbours`] it counts pairs of neighbouring words too: what is to be found by whoever reads words in company.
use super::events::{Reader, World};
use crate::{
    cleaner::Verdict,
    lexicon::{
        fingerprint,
        interests::HALF_LIFE_S,
        translation::{Features, Translation, Weights},
    },
    signals::Stream,
    text::words::{fold, words},
};
use rayon::prelude::*;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// Readers who typed the one word and clicked the other; fewer are chance.
const READERS_MIN: u32 = 5;
/// What was counted.
#[derive(Debug)]
pub struct Probe {
    ids: HashMap<String, u32>,
    names: Vec<String>,
    /// Distinct words of every article of the world.
    articles: Vec<BTreeSet<u32>>,
    /// Per word or pair of signals: words of the news with their mutual information, nats, times its rarity among readers.
    translation: Arc<Translation>,
    /// Inverse frequency of a word among articles, nats.
    rarity_in_news: Vec<f32>,
    n_news_words: usize,
    /// Articles that have the word, of those published before the cutoff.
    n_articles_with: Vec<u32>,
    n_published: usize,
}

/// An article as the probe sees it.
#[derive(Debug)]
pub struct Bag {
    article_idx: usize,
    /// Its distinct words, weighted by rarity, of length 1 together.
    weights: Vec<(u32, f32)>,
}

impl Probe {
    /// Counts the events of some training readers of a world.
    #[allow(clippy::cast_precision_loss, reason = "counts of readers and articles")]
    pub fn of<'a>(world: &World, readers: impl Iterator<Item = &'a Reader>, features: Features) -> Self {
        let mut ids = HashMap::new();
        let mut id_of = |word: String| {
            let next = u32::try_from(ids.len()).unwrap_or(u32::MAX);
            *ids.entry(word).or_insert(next)
        };
        let articles: Vec<BTreeSet<u32>> = world
            .articles
            .iter()
            .map(|article| {
                words(&article.title).chain(words(&article.summary)).map(fold).map(&mut id_of).collect()
            })
            .collect();
        let n_news_words = articles.iter().flatten().max().map_or(0, |last| *last as usize + 1);
        let (mut typed, mut clicked) = (Vec::new(), Vec::new());
        for reader in readers {
            let of_stream =
                |is_click| reader.events.iter().filter(move |e| (e.stream == Stream::Click) == is_click);
            // What is counted may be carried in a bundle.
            let shown = of_stream(false).filter(|event| event.verdict != Verdict::Personal);
            typed.push(shown.flat_map(|event| features.of(&event.text)).map(&mut id_of).collect());
            let idxs = of_stream(true).filter_map(|event| event.article_idx);
            clicked.push(idxs.flat_map(|idx| &articles[idx]).copied().collect::<BTreeSet<u32>>());
        }
        let n_words = ids.len();
        // Nothing is known of how often words will stand in articles of the day that is held out.
        let is_published = |idx: &usize| world.articles[*idx].published_unix_s <= world.cutoff_unix_s;
        let published: Vec<&BTreeSet<u32>> =
            (0..articles.len()).filter(is_published).map(|idx| &articles[idx]).collect();
        let n_articles_with = n_holders(n_words, published.iter().copied());
        let rarity = |n: &[u32], of: usize| -> Vec<f32> {
            n.iter().map(|n| (of.max(1) as f32 / (*n).max(1) as f32).ln()).collect()
        };
        let rarity_in_signals = rarity(&n_holders(n_words, typed.iter()), typed.len());
        let mut names = vec![String::new(); n_words];
        ids.iter().for_each(|(name, &id): (&String, &u32)| names[id as usize].clone_from(name));
        let led = translations(n_words, &typed, &clicked).into_iter().zip(&names).zip(rarity_in_signals);
        let by_feature =
            led.filter(|((weights, _), _)| !weights.is_empty()).map(|((weights, name), rarity)| {
                let weights =
                    weights.into_iter().map(|(news, information)| (news, rarity * information)).collect();
                (fingerprint(name), weights)
            });
        let translation = Arc::new(Translation::new(features, by_feature.collect()));
        Self {
            names,
            n_news_words,
            translation,
            rarity_in_news: rarity(&n_articles_with, published.len()),
            n_published: published.len(),
            n_articles_with,
            ids,
            articles,
        }
    }

    /// The bags of some articles of the world, by their indices.
    pub fn bags(&self, article_idxs: impl Iterator<Item = usize>) -> Vec<Bag> {
        let bag = |article_idx: usize| {
            let weight = |id: u32| self.rarity_in_news[id as usize];
            let distinct = &self.articles[article_idx];
            let length =
                distinct.iter().map(|&id| weight(id).powi(2)).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            Bag { article_idx, weights: distinct.iter().map(|&id| (id, weight(id) / length)).collect() }
        };
        article_idxs.map(bag).collect()
    }

    /// The `n` best bags' articles for what a reader did until a moment, best first; ties by the order of bags.
    pub fn ranking(&self, reader: &Reader, at_unix_s: i64, bags: &[Bag], n: usize) -> Vec<usize> {
        let wanted = self.wanted(reader, at_unix_s);
        let score =
            |bag: &Bag| bag.weights.iter().map(|&(id, weight)| weight * wanted[id as usize]).sum::<f32>();
        let mut ranked: Vec<(f32, usize)> = bags.iter().map(|bag| (score(bag), bag.article_idx)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        ranked.into_iter().take(n).map(|(_, article_idx)| article_idx).collect()
    }

    /// Words of the news. Their numbers are the lowest.
    pub fn n_news_words(&self) -> usize {
        self.n_news_words
    }

    /// Those words of a text that stand in an article, by number, in their order.
    pub fn news_words(&self, text: &str) -> Vec<u32> {
        let known = words(text).filter_map(|word| self.ids.get(&fold(word)).copied());
        known.filter(|&id| (id as usize) < self.n_news_words).collect()
    }

    /// A word or pair by its number.
    pub fn word(&self, id: u32) -> &str {
        &self.names[id as usize]
    }

    /// Articles published before the cutoff that have a word.
    pub fn n_articles_with(&self, id: u32) -> u32 {
        self.n_articles_with[id as usize]
    }

    /// Articles published before the cutoff.
    pub fn n_published(&self) -> usize {
        self.n_published
    }

    /// The distinct words of an article of the world.
    pub fn words_of(&self, article_idx: usize) -> &BTreeSet<u32> {
        &self.articles[article_idx]
    }

    /// Inverse frequency of a word among articles, nats.
    pub fn rarity_in_news(&self, id: u32) -> f32 {
        self.rarity_in_news[id as usize]
    }

    /// From words and pairs of signals to words of the news.
    pub fn translation(&self) -> &Arc<Translation> {
        &self.translation
    }

    /// How much each word of the news is wanted.
    fn wanted(&self, reader: &Reader, at_unix_s: i64) -> Vec<f32> {
        let mut wanted = vec![0.0_f32; self.ids.len()];
        for event in reader.events.iter().take_while(|event| event.time_unix_s <= at_unix_s) {
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                reason = "seconds of some weeks"
            )]
            let weight = (-((at_unix_s - event.time_unix_s) as f64) / HALF_LIFE_S).exp2() as f32;
            if let Some(article_idx) = event.article_idx {
                for &id in &self.articles[article_idx] {
                    wanted[id as usize] += weight * self.rarity_in_news[id as usize];
                }
                continue;
            }
            for (news, translated) in self.translation.of(&event.text) {
                wanted[news as usize] += weight * translated;
            }
        }
        wanted
    }
}

/// In how many sets each word stands.
fn n_holders<'a>(n_words: usize, sets: impl Iterator<Item = &'a BTreeSet<u32>>) -> Vec<u32> {
    let mut n = vec![0; n_words];
    sets.flatten().for_each(|&id| n[id as usize] += 1);
    n
}

/// Positive mutual information of words that readers typed with words that they clicked.
#[allow(clippy::cast_precision_loss, reason = "counts of readers")]
fn translations(n_words: usize, typed: &[BTreeSet<u32>], clicked: &[BTreeSet<u32>]) -> Vec<Weights> {
    let mut typed_by: Vec<Vec<usize>> = vec![Vec::new(); n_words];
    for (reader_idx, set) in typed.iter().enumerate() {
        set.iter().for_each(|&id| typed_by[id as usize].push(reader_idx));
    }
    let n_clicked = n_holders(n_words, clicked.iter());
    let of_word = |readers: &Vec<usize>| {
        // Most words are of the news only, or were typed by too few.
        if readers.len() < READERS_MIN as usize {
            return Vec::new();
        }
        let mut n_both = vec![0_u32; n_words];
        for &reader_idx in readers {
            clicked[reader_idx].iter().for_each(|&id| n_both[id as usize] += 1);
        }
        let known = (0_u32..).zip(&n_both).filter(|(_, n)| **n >= READERS_MIN);
        let information = |(id, &n): (u32, &u32)| {
            let by_chance = readers.len() as f32 * n_clicked[id as usize] as f32 / typed.len() as f32;
            (id, (n as f32 / by_chance).ln())
        };
        known.map(information).filter(|(_, information)| *information > 0.0).collect()
    };
    typed_by.par_iter().map(of_word).collect()
}
