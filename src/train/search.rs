//! A news index from a catalogue, and what queries find in it: the platform's side, to be tried without a platform.
use super::{error::TrainError, fit::Workers};
use crate::{
    model::encoder::embedder::{Embedder, unit},
    news::{
        article::Article,
        catalogue, embed, folder,
        fuse::reciprocal_rank_of_stories,
        nearest::{ArticleVectors, Method},
    },
    text::tokens::encoder::EncoderTokens,
};
use candle_core::Device;
use serde::Serialize;
use std::{path::Path, time::Instant};

/// Articles that one worker embeds at a time.
const PART: usize = 512;
/// Hits of one query and one way that fusion reads, for each hit that is wanted.
const READ_PER_HIT: usize = 5;

/// What was built.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct IndexSummary {
    /// Articles of the catalogue.
    pub n_articles: usize,
    /// Articles that have a vector.
    pub n_vectors: usize,
    /// Numbers of a vector.
    pub width: usize,
    /// How vectors are searched.
    pub method: Method,
    /// Seconds that embedding took.
    pub embed_s: f64,
    /// Seconds of everything, reading and saving included.
    pub total_s: f64,
}

/// One article found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// The article.
    pub article_id: String,
    /// Its story.
    pub story_id: String,
    /// Its title.
    pub title: String,
}

/// Embeds a catalogue (.tsv, .jsonl, .parquet) and saves the index of it, whole or not at all.
/// # Errors
/// If catalogue or embedder cannot be read, or the disk refuses.
pub fn build(
    catalogue_at: &Path,
    embedder_at: &Path,
    method: Method,
    out: &Path,
) -> Result<IndexSummary, TrainError> {
    let started = Instant::now();
    let articles = catalogue::read(catalogue_at)?;
    let (embedder, tokens) = open(embedder_at)?;
    let embedding = Instant::now();
    let vectors = embedded(&articles, &embedder, &tokens)?;
    let embed_s = embedding.elapsed().as_secs_f64();
    let width = embedder.encoder().config().hidden_size;
    let rows = vectors.iter().map(|(article_idx, vector)| (*article_idx, &vector[..]));
    let vectors = ArticleVectors::build(&articles, width, rows, method)?;
    folder::save(out, &articles, &vectors)?;
    Ok(IndexSummary {
        n_articles: articles.len(),
        n_vectors: vectors.n_vectors(),
        width,
        method: vectors.method(),
        embed_s,
        total_s: started.elapsed().as_secs_f64(),
    })
}

/// Searches an index for a list of queries as a platform would: each by words and by vector, fused by reciprocal rank, one
/// article a story. `alive_at`: only articles alive at that time.
/// # Errors
/// If index or embedder cannot be read, or they do not fit each other.
pub fn search(
    index_at: &Path,
    embedder_at: &Path,
    queries: &[String],
    (alive_at, k): (Option<i64>, usize),
) -> Result<Vec<Hit>, TrainError> {
    let index = folder::load(index_at)?;
    let (embedder, tokens) = open(embedder_at)?;
    let n_read = k.saturating_mul(READ_PER_HIT);
    let mut rankings: Vec<Vec<usize>> = Vec::new();
    for query in queries {
        let by_words = index.words.search(query, alive_at, n_read)?;
        rankings.push(by_words.into_iter().map(|hit| hit.article_idx).collect());
        let ids = tokens.encode(query);
        if ids.is_empty() {
            continue;
        }
        let vector: Vec<f32> = unit(&embedder.embed(&[ids])?)?.squeeze(0)?.to_vec1()?;
        let near = index.vectors.search(&vector, alive_at, n_read)?;
        rankings.push(near.into_iter().map(|near| near.article_idx).collect());
    }
    let found = reciprocal_rank_of_stories(&rankings, &index.articles, k);
    let hit = |idx: usize| {
        let Article { id, story_id, title, .. } = &index.articles[idx];
        Hit { article_id: id.clone(), story_id: story_id.clone(), title: title.clone() }
    };
    Ok(found.into_iter().map(hit).collect())
}

fn open(folder: &Path) -> Result<(Embedder, EncoderTokens), TrainError> {
    let embedder = Embedder::open(folder, &Device::Cpu)?;
    let tokens = EncoderTokens::open(folder, embedder.encoder().config().tokens_max())?;
    Ok((embedder, tokens))
}

/// Vectors of articles, computed part by part on every core; they do not depend on the number of cores.
fn embedded(
    articles: &[Article],
    embedder: &Embedder,
    tokens: &EncoderTokens,
) -> Result<Vec<(usize, Vec<f32>)>, TrainError> {
    let parts: Vec<(usize, &[Article])> =
        articles.chunks(PART).enumerate().map(|(idx, part)| (idx * PART, part)).collect();
    let mut all = Vec::with_capacity(articles.len());
    let of_part = |&(first, part): &(usize, &[Article])| {
        let vectors = embed::embed(part, tokens, embedder)?;
        Ok(vectors.into_iter().map(|(place, vector)| (first + place, vector)).collect::<Vec<_>>())
    };
    Workers::new(&Device::Cpu)?.side_by_side(&parts, of_part, |vectors| all.extend(vectors))?;
    Ok(all)
}
