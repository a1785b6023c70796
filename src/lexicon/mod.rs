//! What signals ask for, in the words of the news: counted, and so known without a network.
//!
//! Words of the news have vectors; a text of the news is their mean, weighted by rarity. Searches and pages share no word with it: they are
//! translated by what readers clicked who had typed the same words side by side. Both together say how far a list of queries asks for
//! what a reader is interested in (`asked`, and in more numbers `affinity`). The rewards of training read it, and a bundle may carry it for its reward head, which knows then
//! what thousands of readers have shown and a small network has not learned.
//! Source of the idea: Berger, Lafferty, "Information retrieval as statistical translation", SIGIR 1999.
pub mod affinity;
pub mod asked;
pub mod file;
pub mod interests;
pub mod meets;
pub mod translation;
pub mod unit;

use crate::{
    signals::{Signal, Stream},
    text::words::{fold, words},
};
use interests::Said;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, sync::Arc};
use translation::Translation;
use unit::{Unit, WIDTH};

/// What a click counts next to a search or page, which count 1: the platform chose what could be clicked, and it shows what it
/// has found out already.
pub const CLICK_WEIGHT: f64 = 0.25;
/// News words that a signal is translated into: as many as name one subject. Of 4, 8, 20 and 60 eight ranks lists best.
const TRANSLATED_WORDS: usize = 8;

/// A word by which it is looked up. It hides no word: whoever has a list of words finds it again. Only what at least five readers typed is counted.
pub type Fingerprint = u64;

/// The fingerprint of a folded word, or of two with a space between.
pub fn fingerprint(word: &str) -> Fingerprint {
    let digest = Sha256::digest(word.as_bytes());
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A word of the news.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NewsWord {
    /// What it is looked up by.
    pub fingerprint: Fingerprint,
    /// Inverse frequency among articles, nats.
    pub rarity: f32,
}

/// Words of the news with their vectors, and the translation of signals into them.
#[derive(Debug)]
pub struct Lexicon {
    ids: HashMap<Fingerprint, u32>,
    news: Vec<NewsWord>,
    /// Row after row (words of the news x [`WIDTH`]).
    vectors: Vec<f32>,
    translation: Arc<Translation>,
}

impl Lexicon {
    /// Of words of the news by their numbers, with a vector for each, and a translation into these numbers.
    pub fn new(news: Vec<NewsWord>, vectors: Vec<f32>, translation: Arc<Translation>) -> Self {
        let ids = (0..).zip(&news).map(|(id, word)| (word.fingerprint, id)).collect();
        Self { ids, news, vectors, translation }
    }

    /// The vector of a word of the news.
    pub fn vector(&self, id: u32) -> &[f32] {
        &self.vectors[id as usize * WIDTH..][..WIDTH]
    }

    /// Of each word of a text its number; none of one that the news does not have.
    pub fn word_ids(&self, text: &str) -> impl Iterator<Item = Option<u32>> {
        words(text).map(|word| self.ids.get(&fingerprint(&fold(word))).copied())
    }

    /// Inverse frequency of a word among articles, nats.
    pub fn rarity(&self, id: u32) -> f32 {
        self.news[id as usize].rarity
    }

    /// The meaning of a query or a title; none if no word of it is a word of the news.
    pub fn text(&self, text: &str) -> Option<Unit> {
        self.sum(self.word_ids(text).flatten().map(|id| (id, 1.0)))
    }

    /// The meaning of a search or page, by what its readers clicked.
    pub fn typed(&self, text: &str) -> Option<Unit> {
        let mut translated = self.translation.of(text);
        let heaviest_first = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if TRANSLATED_WORDS < translated.len() {
            translated.select_nth_unstable_by(TRANSLATED_WORDS, heaviest_first);
            translated.truncate(TRANSLATED_WORDS);
        }
        translated.sort_unstable_by(heaviest_first);
        self.sum(translated.into_iter())
    }

    /// What a signal says; none if it has led nobody anywhere.
    pub fn signal(&self, signal: &Signal) -> Option<Said> {
        let (weight, unit) = match signal.stream() {
            Stream::Click => (CLICK_WEIGHT, self.text(signal.text())?),
            Stream::Search | Stream::Page => (1.0, self.typed(signal.text())?),
        };
        Some(Said { time_unix_s: signal.time_unix_s(), weight, unit })
    }

    /// The mean of words of the news, weighted by rarity; none of none.
    pub fn sum(&self, weighted: impl Iterator<Item = (u32, f32)>) -> Option<Unit> {
        let mut sum = vec![0.0_f32; WIDTH];
        for (id, weight) in weighted {
            let weight = weight * self.news[id as usize].rarity;
            sum.iter_mut().zip(self.vector(id)).for_each(|(sum, value)| *sum += weight * value);
        }
        Unit::of(sum)
    }
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
