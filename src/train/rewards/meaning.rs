//! What texts mean: unit vectors in the space of the news.
//!
//! Words of the news get vectors by the company that they keep in articles (see `word_vectors`); a text is the mean of its
//! words, weighted by rarity. Signals that are no news, searches and pages, share no word with it: they are translated by
//! what training readers clicked who had typed the same words side by side (see `probe`). So a signal means what it has
//! led others to read; nothing is known of the reader's own later clicks.
use super::super::{
    events::{Event, Reader, World},
    probe::Probe,
    salient::COMMON_SHARE,
    word_vectors::word_vectors,
};
use crate::{
    cleaner::Verdict,
    lexicon::{
        CLICK_WEIGHT, Lexicon, NewsWord, fingerprint,
        interests::Said,
        translation::Features,
        unit::{Unit, WIDTH, dot},
    },
};
use std::{collections::HashSet, sync::Arc};

/// Seed of the word vectors.
const SEED: u64 = 11;
/// A word in fewer articles than this may be of one story alone.
const TELLING_ARTICLES_MIN: u32 = 8;

/// Vectors of words, and the translation of signals.
#[derive(Debug)]
pub struct Meaning {
    probe: Probe,
    lexicon: Lexicon,
    /// Words that tell one subject from others: in few articles, and not by chance in one story alone.
    telling: Vec<u32>,
}

impl Meaning {
    /// Learns from articles published before the cutoff and from some training readers.
    pub fn of<'a>(world: &World, readers: impl Iterator<Item = &'a Reader>) -> Self {
        let probe = Probe::of(world, readers, Features::Neighbours);
        let documents: Vec<Vec<u32>> = world
            .published()
            .map(|article| [probe.news_words(&article.title), probe.news_words(&article.summary)].concat())
            .collect();
        let vectors = word_vectors(&documents, probe.n_news_words(), WIDTH, SEED);
        #[allow(clippy::cast_precision_loss, reason = "a catalogue has far less than 2^52 articles")]
        let common = COMMON_SHARE * probe.n_published() as f64;
        let telling = (0..u32::try_from(probe.n_news_words()).unwrap_or(u32::MAX))
            .filter(|&id| {
                let n_with = probe.n_articles_with(id);
                n_with >= TELLING_ARTICLES_MIN && f64::from(n_with) < common
            })
            .collect();
        let news = (0..u32::try_from(probe.n_news_words()).unwrap_or(u32::MAX)).map(|id| NewsWord {
            fingerprint: fingerprint(probe.word(id)),
            rarity: probe.rarity_in_news(id),
        });
        let lexicon = Lexicon::new(news.collect(), vectors, Arc::clone(probe.translation()));
        Self { probe, lexicon, telling }
    }

    /// What was counted.
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// What can be carried elsewhere: words, vectors and the translation.
    pub fn lexicon(&self) -> &Lexicon {
        &self.lexicon
    }

    /// The meaning of a query or a title; none if no word of it is a word of the news.
    pub fn text(&self, text: &str) -> Option<Unit> {
        self.lexicon.text(text)
    }

    /// The mean of the meanings of texts; none if none of them has one.
    pub fn mean<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Option<Unit> {
        let mut sum = vec![0.0_f32; WIDTH];
        for Unit(unit) in texts.filter_map(|text| self.text(text)) {
            sum.iter_mut().zip(&unit).for_each(|(sum, value)| *sum += value);
        }
        Unit::of(sum)
    }

    /// The meaning of an article of the world, by its index.
    pub fn article(&self, article_idx: usize) -> Option<Unit> {
        self.lexicon.sum(self.probe.words_of(article_idx).iter().map(|&id| (id, 1.0)))
    }

    /// What a reader's traces say; noise and those that say nothing are left out.
    pub fn signals(&self, events: &[Event]) -> Vec<Said> {
        let kept = events.iter().filter(|event| event.verdict == Verdict::Keep);
        kept.filter_map(|event| self.signal(event)).collect()
    }

    /// What a signal says; none if it has led nobody anywhere.
    pub fn signal(&self, event: &Event) -> Option<Said> {
        let (weight, unit) = match event.article_idx {
            Some(article_idx) => (CLICK_WEIGHT, self.article(article_idx)?),
            None => (1.0, self.lexicon.typed(&event.text)?),
        };
        Some(Said { time_unix_s: event.time_unix_s, weight, unit })
    }

    /// The `n` telling words nearest to a meaning, the nearest first; words in `used` are passed over.
    pub fn nearest_words(&self, to: &Unit, n: usize, used: &HashSet<u32>) -> Vec<u32> {
        let cosine = |id: u32| dot(self.lexicon.vector(id), &to.0);
        let mut near: Vec<(f32, u32)> =
            self.telling.iter().filter(|id| !used.contains(id)).map(|&id| (cosine(id), id)).collect();
        let nearest_first = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if n < near.len() {
            near.select_nth_unstable_by(n, nearest_first);
            near.truncate(n);
        }
        near.sort_unstable_by(nearest_first);
        near.into_iter().map(|(_, id)| id).collect()
    }

    /// A word by its number.
    pub fn word(&self, id: u32) -> &str {
        self.probe.word(id)
    }

    /// Inverse frequency of a word among articles, nats; none of a word that the news does not have.
    pub fn rarity(&self, word: &str) -> Option<f64> {
        self.probe.news_words(word).first().map(|&id| f64::from(self.probe.rarity_in_news(id)))
    }
}
