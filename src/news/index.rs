//! BM25 over titles and summaries (tantivy in memory; term queries only, never its query language).
use super::article::Article;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum IndexError {
    #[error("index could not be built or searched")]
    Tantivy(#[from] tantivy::TantivyError),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit { pub article_idx: usize, pub score: f32 }

#[derive(Debug)]
pub struct NewsIndex {}

impl NewsIndex {
    pub fn build(articles: &[Article]) -> Result<Self, IndexError> { todo!() }
    /// Best articles for a query, best first; ties by article_idx. `alive_at`: only articles published before and not yet expired.
    pub fn search(&self, query: &str, alive_at: Option<i64>, n_hits: usize) -> Result<Vec<Hit>, IndexError> { todo!() }
}
