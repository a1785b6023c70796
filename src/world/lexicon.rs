//! The words of the world: invented, pronounceable, each interest with its news words and its off-news words.
use super::phrases::{
    BOT_TEXTS, CONTEXTS, ENTITY_PAGES, ENTITY_SEARCHES, EVENT_NOUNS, EVENT_VERBS, MALFORMED, NAVIGATION,
    PAGES, SEARCHES, SITES, SUMMARIES, TITLES, TOPICS,
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
/// Interests that share their off-news words. Six: with three or four, counting words one by one finds the interest too often.
const N_RIVALS: usize = CONTEXTS[0].len();
/// As many as contexts, so that each interest meets every context equally often.
const N_OFF_NEWS: usize = N_RIVALS;
/// Off-news words that are names, the same in both languages.
const N_OFF_NEWS_SHARED: usize = N_OFF_NEWS / 2;
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
    /// Shared with the rivals: interests of other topics that are typed in the same words.
    pub(super) off_news: [Vec<String>; 2],
    /// Its number among the rivals.
    pub(super) rival: usize,
    /// Interests that a reader of this one may follow without ever showing it, with their strengths.
    pub(super) implied: Vec<(usize, f64)>,
}

impl Interest {
    /// Gives the word that stands beside an off-news word where this interest is meant.
    ///
    /// Words, contexts and rivals form a Latin square: no word and no context alone tells which rival is meant, and
    /// neither do many of them, counted one by one; a word and its context together do.
    pub(super) fn context(&self, off_news_idx: usize, language: Language) -> &'static str {
        CONTEXTS[language.idx()][(off_news_idx + self.rival) % N_RIVALS]
    }
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
                interests.push(Interest {
                    topic,
                    entities,
                    aspects,
                    off_news,
                    rival: 0,
                    implied: Vec::new(),
                });
            }
        }
        let mut rng = stream(seed, "off-news", 0);
        add_off_news(&mut rng, &mut interests, &mut words);
        let mut rng = stream(seed, "implications", 0);
        add_implications(&mut rng, &mut interests);
        Self { interests, words }
    }
}

/// Gives each group of rivals its off-news words, after all news words exist, so that no stem of the news is taken.
///
/// Interests come sorted by topic; rivals are of different topics, or a topic's words would tell them apart.
fn add_off_news(rng: &mut ChaCha8Rng, interests: &mut [Interest], words: &mut WordMaker) {
    let n_subtopics = interests.iter().filter(|interest| interest.topic == 0).count();
    let mut by_topic: Vec<Vec<usize>> =
        (0..interests.len()).collect::<Vec<_>>().chunks(n_subtopics).map(<[usize]>::to_vec).collect();
    by_topic.iter_mut().for_each(|topic| topic.shuffle(rng));
    for topics in by_topic.chunks(N_RIVALS) {
        for subtopic in 0..n_subtopics {
            let names = words.many(rng, Language::English, Side::OffNews, N_OFF_NEWS_SHARED);
            let off_news = [Language::English, Language::Spanish].map(|language| {
                let own = words.many(rng, language, Side::OffNews, N_OFF_NEWS - N_OFF_NEWS_SHARED);
                [names.clone(), own].concat()
            });
            let mut rivals: Vec<usize> = topics.iter().map(|topic| topic[subtopic]).collect();
            rivals.shuffle(rng);
            for (rival, idx) in rivals.into_iter().enumerate() {
                interests[idx].off_news.clone_from(&off_news);
                interests[idx].rival = rival;
            }
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
        let real = texts.copied().flatten().chain(TOPICS.iter().flatten()).chain(CONTEXTS.iter().flatten());
        for text in real {
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
