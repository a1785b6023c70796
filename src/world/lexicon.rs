//! The words of the world: invented, pronounceable, each interest with its news words and its off-news words.
use super::phrases::{
    BOT_TEXTS, ENTITY_PAGES, ENTITY_SEARCHES, EVENT_NOUNS, EVENT_VERBS, MALFORMED, NAVIGATION, PAGES,
    SEARCHES, SITES, SUMMARIES, TITLES, TOPICS,
};
use super::streams::{pick, stream};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

const N_ENTITIES: usize = 8;
const N_ASPECTS: usize = 10;
/// Interests of one topic share a pool of aspects, so that an aspect alone does not name an interest.
const N_TOPIC_ASPECTS: usize = 20;
const N_OFF_NEWS: usize = 8;
/// Off-news words that are names, the same in both languages.
const N_OFF_NEWS_SHARED: usize = 4;
/// Chance that a slot takes another interest's word; makes about 15 % of the distinct words ambiguous.
const POLYSEMY: f64 = 0.13;
/// Two words share a stem if they agree in this many first letters.
const STEM_LETTERS: usize = 4;

/// One of the two languages of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Language {
    English,
    Spanish,
}

impl Language {
    /// Gives the BCP 47 code.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Spanish => "es",
        }
    }

    /// Gives the position in arrays of one item per language.
    pub(super) fn idx(self) -> usize {
        match self {
            Self::English => 0,
            Self::Spanish => 1,
        }
    }
}

/// One latent interest. Arrays hold one item per language.
#[derive(Debug)]
pub(super) struct Interest {
    pub(super) topic: usize,
    /// Names of people, places and things; the same in both languages.
    pub(super) entities: Vec<String>,
    pub(super) aspects: [Vec<String>; 2],
    pub(super) off_news: [Vec<String>; 2],
    /// Interests that a reader of this one may follow without ever showing it, with their strengths.
    pub(super) implied: Vec<(usize, f64)>,
}

/// Every interest, and the maker of words that never repeats one.
#[derive(Debug)]
pub(super) struct Lexicon {
    pub(super) interests: Vec<Interest>,
    pub(super) words: WordMaker,
}

impl Lexicon {
    /// Invents the lexicons of `n_topics` x `n_subtopics` interests, grouped by topic.
    pub(super) fn generate(seed: u64, n_topics: usize, n_subtopics: usize) -> Self {
        let mut rng = stream(seed, "lexicon", 0);
        let mut words = WordMaker::new();
        let mut interests = Vec::with_capacity(n_topics * n_subtopics);
        for topic in 0..n_topics {
            let pools = [Language::English, Language::Spanish]
                .map(|language| words.many(&mut rng, language, Side::News, N_TOPIC_ASPECTS));
            for _ in 0..n_subtopics {
                let entities = words.many(&mut rng, Language::English, Side::News, N_ENTITIES);
                let aspects = pools.each_ref().map(|pool| {
                    let mut pool = pool.clone();
                    pool.shuffle(&mut rng);
                    pool.truncate(N_ASPECTS);
                    pool
                });
                let off_news = [Vec::new(), Vec::new()];
                interests.push(Interest { topic, entities, aspects, off_news, implied: Vec::new() });
            }
        }
        let mut rng = stream(seed, "off-news", 0);
        add_off_news(&mut rng, &mut interests, &mut words);
        let mut rng = stream(seed, "implications", 0);
        add_implications(&mut rng, &mut interests);
        Self { interests, words }
    }
}

/// Fills the off-news lists after all news words exist, so that no stem of the news is taken.
fn add_off_news(rng: &mut ChaCha8Rng, interests: &mut [Interest], words: &mut WordMaker) {
    let mut once: [Vec<(usize, String)>; 2] = [Vec::new(), Vec::new()];
    for idx in 0..interests.len() {
        let names = words.many(rng, Language::English, Side::OffNews, N_OFF_NEWS_SHARED);
        for language in [Language::English, Language::Spanish] {
            let mut list = names.clone();
            while list.len() < N_OFF_NEWS {
                let pool = &mut once[language.idx()];
                let other_topic =
                    |(owner, _): &(usize, String)| interests[*owner].topic != interests[idx].topic;
                // The chance is doubled because only half of the slots, those that are no names, can be shared.
                if rng.random_bool(2.0 * POLYSEMY) && pool.iter().any(other_topic) {
                    let candidates: Vec<usize> =
                        (0..pool.len()).filter(|&at| other_topic(&pool[at])).collect();
                    let (_, word) = pool.swap_remove(*pick(rng, &candidates));
                    list.push(word);
                } else {
                    let word = words.make(rng, language, Side::OffNews);
                    pool.push((idx, word.clone()));
                    list.push(word);
                }
            }
            interests[idx].off_news[language.idx()] = list;
        }
    }
}

fn add_implications(rng: &mut ChaCha8Rng, interests: &mut [Interest]) {
    let n_interests = interests.len();
    for (idx, interest) in interests.iter_mut().enumerate() {
        for _ in 0..rng.random_range(1..=3) {
            let target = rng.random_range(0..n_interests);
            if target != idx && interest.implied.iter().all(|&(known, _)| known != target) {
                interest.implied.push((target, rng.random_range(0.2..0.6)));
            }
        }
        if interest.implied.is_empty() {
            interest.implied.push(((idx + 1) % n_interests, 0.4));
        }
    }
}

/// Which lexicon a stem belongs to; no stem is in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    News,
    OffNews,
}

/// Invents words, each of them once.
#[derive(Debug)]
pub(super) struct WordMaker {
    used: BTreeSet<String>,
    stems: BTreeMap<String, Side>,
}

impl WordMaker {
    /// Starts with every real word of the templates taken.
    fn new() -> Self {
        let mut used = BTreeSet::new();
        let by_language =
            [TITLES, SUMMARIES, SEARCHES, ENTITY_SEARCHES, PAGES, ENTITY_PAGES, EVENT_VERBS, EVENT_NOUNS];
        let texts = by_language.iter().flatten().chain(&[SITES, NAVIGATION, BOT_TEXTS, MALFORMED]);
        for text in texts.copied().flatten().chain(TOPICS.iter().flatten()) {
            used.extend(text.split(|letter: char| !letter.is_alphanumeric()).map(str::to_lowercase));
        }
        Self { used, stems: BTreeMap::new() }
    }

    /// Invents one word of 2 or 3 syllables (more only if the short ones run out).
    pub(super) fn make(&mut self, rng: &mut ChaCha8Rng, language: Language, side: Side) -> String {
        let mut n_extra = 0;
        loop {
            for _ in 0..64 {
                let n_syllables = rng.random_range(2..=3) + n_extra;
                let word: String = (0..n_syllables).map(|_| syllable(rng, language)).collect();
                let stem: String = word.chars().take(STEM_LETTERS).collect();
                let fits = word.len() >= STEM_LETTERS && *self.stems.get(&stem).unwrap_or(&side) == side;
                if fits && self.used.insert(word.clone()) {
                    self.stems.insert(stem, side);
                    return word;
                }
            }
            n_extra += 1;
        }
    }

    fn many(&mut self, rng: &mut ChaCha8Rng, language: Language, side: Side, n_words: usize) -> Vec<String> {
        (0..n_words).map(|_| self.make(rng, language, side)).collect()
    }
}

/// The two languages differ in every part of a syllable, so that a reader tells them apart at sight.
fn syllable(rng: &mut ChaCha8Rng, language: Language) -> String {
    let (onsets, vowels, codas): (&[&str], &[&str], &[&str]) = match language {
        Language::English => (
            &["b", "d", "f", "k", "l", "m", "n", "p", "r", "s", "t", "v", "br", "dr", "gr", "pl", "st", "tr"],
            &["a", "e", "i", "o", "u"],
            &["", "", "", "n", "r", "l", "s", "m"],
        ),
        Language::Spanish => (
            &["ch", "g", "h", "j", "ll", "qu", "x", "y", "z", "sh", "ts", "w"],
            &["a", "e", "i", "ao", "ei", "ia", "ua", "oa"],
            &["", "", "", "ng", "x", "k"],
        ),
    };
    [*pick(rng, onsets), *pick(rng, vowels), *pick(rng, codas)].concat()
}
