//! Vectors of articles by a sentence encoder.
use super::article::Article;
use crate::{
    model::{
        encoder::embedder::{Embedder, unit},
        weights::ModelError,
    },
    text::tokens::encoder::EncoderTokens,
};

/// Articles that are encoded at once: enough to fill the cores, few enough that their hidden states stay small.
const BATCH_ARTICLES: usize = 64;

/// Embeds title and summary of articles: pairs of a position in `articles`, in order, and a vector of length 1, f32.
///
/// `tokens` must be those of `embedder`; longer texts lose their end. A text without tokens, or whose vector has no direction,
/// has no pair. A text is encoded beside others of like length, which changes its vector by rounding at most.
/// # Errors
/// If the encoder refuses the ids or fails.
pub fn embed(
    articles: &[Article],
    tokens: &EncoderTokens,
    embedder: &Embedder,
) -> Result<Vec<(usize, Vec<f32>)>, ModelError> {
    let ids_of = |article: &Article| tokens.encode(&format!("{} {}", article.title, article.summary));
    let mut texts: Vec<(usize, Vec<u32>)> = articles.iter().map(ids_of).enumerate().collect();
    texts.retain(|(_, ids)| !ids.is_empty());
    // Rows are padded to the longest of their batch.
    texts.sort_by_key(|(article_idx, ids)| (ids.len(), *article_idx));
    let mut embedded = Vec::with_capacity(texts.len());
    for batch in texts.chunks(BATCH_ARTICLES) {
        let (article_idxs, rows): (Vec<usize>, Vec<Vec<u32>>) = batch.iter().cloned().unzip();
        // Not every encoder's folder asks for length 1.
        let vectors = unit(&embedder.embed(&rows)?)?.to_vec2::<f32>()?; // (B, D)
        let with_direction = |(_, vector): &(usize, Vec<f32>)| vector.iter().any(|&value| value != 0.0);
        embedded.extend(article_idxs.into_iter().zip(vectors).filter(with_direction));
    }
    embedded.sort_by_key(|&(article_idx, _)| article_idx);
    Ok(embedded)
}
