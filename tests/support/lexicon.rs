//! A lexicon of a few words.
use newshound::lexicon::{
    Lexicon, NewsWord, fingerprint,
    translation::{Features, Translation},
    unit::WIDTH,
};
use std::sync::Arc;

/// Each word of the news has a direction of its own; each pair that is typed, news words with weights.
pub fn lexicon(news: &[&str], typed: &[(&str, &[(u32, f32)])]) -> Lexicon {
    let mut vectors = vec![0.0; news.len() * WIDTH];
    (0..news.len()).for_each(|id| vectors[id * WIDTH + id] = 1.0);
    let word = |word: &&str| NewsWord { fingerprint: fingerprint(word), rarity: 1.0 };
    let by_feature = typed.iter().map(|(feature, weights)| (fingerprint(feature), weights.to_vec()));
    let translation = Translation::new(Features::Neighbours, by_feature.collect());
    Lexicon::new(news.iter().map(word).collect(), vectors, Arc::new(translation))
}
