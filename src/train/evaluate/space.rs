//! The vectors by which evaluation compares texts and living articles: those of the rewards, or a sentence embedder's.
//!
//! An embedder of its own, trained with another seed on other data, says whether what lists find is only near in the eyes of the rewards
//! that they were trained on.
use super::super::{error::TrainError, events::World, retrieval::RANKING_LENGTH, rewards::meaning::Meaning};
use crate::{
    lexicon::unit::{Unit, WIDTH},
    model::encoder::embedder::Embedder,
    news::{article::Article, embed, vectors::VectorIndex},
    text::tokens::encoder::EncoderTokens,
};
use candle_core::Device;
use std::path::Path;

/// Living articles by their vectors.
#[derive(Debug)]
pub struct Space {
    living: VectorIndex,
    embedder: Option<(Embedder, EncoderTokens)>,
}

impl Space {
    /// Indexes what is alive at the cutoff. `embedder`: a sentence-transformers folder instead of the rewards' vectors.
    /// # Errors
    /// If the folder cannot be read, or embedding fails.
    pub fn of(world: &World, meaning: &Meaning, embedder: Option<&Path>) -> Result<Self, TrainError> {
        let alive: Vec<usize> = (0..world.articles.len())
            .filter(|&idx| world.articles[idx].is_alive_at(world.cutoff_unix_s))
            .collect();
        let Some(folder) = embedder else {
            let units: Vec<(usize, Unit)> =
                alive.into_iter().filter_map(|idx| Some((idx, meaning.article(idx)?))).collect();
            let rows = units.iter().map(|(idx, unit)| (*idx, &unit.0[..]));
            return Ok(Self { living: VectorIndex::build(WIDTH, rows), embedder: None });
        };
        let embedder = Embedder::open(folder, &Device::Cpu)?;
        let config = embedder.encoder().config();
        let tokens = EncoderTokens::open(folder, config.tokens_max())?;
        let width = config.hidden_size;
        let articles: Vec<Article> = alive.iter().map(|&idx| world.articles[idx].clone()).collect();
        let rows = embed::embed(&articles, &tokens, &embedder)?;
        let rows = rows.iter().map(|(place, vector)| (alive[*place], &vector[..]));
        Ok(Self { living: VectorIndex::build(width, rows), embedder: Some((embedder, tokens)) })
    }

    /// The articles nearest to the mean of the vectors of texts, the nearest first; none if no text has one.
    /// # Errors
    /// If embedding fails.
    pub fn nearest(&self, meaning: &Meaning, texts: &[&str]) -> Result<Vec<usize>, TrainError> {
        let mean = match &self.embedder {
            None => meaning.mean(texts.iter().copied()),
            Some((embedder, tokens)) => {
                let rows: Vec<Vec<u32>> = texts.iter().map(|text| tokens.encode(text)).collect();
                let rows: Vec<Vec<u32>> = rows.into_iter().filter(|row| !row.is_empty()).collect();
                match rows.is_empty() {
                    true => None,
                    false => Unit::of(embedder.embed(&rows)?.mean(0)?.to_vec1()?),
                }
            }
        };
        let near = mean.map(|mean| self.living.search(&mean.0, RANKING_LENGTH)).unwrap_or_default();
        Ok(near.into_iter().map(|near| near.article_idx).collect())
    }
}
