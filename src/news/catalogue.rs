//! Catalogues in and out: JSON lines (always) and Parquet (feature `train`).
use super::article::Article;
use std::path::Path;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum CatalogueError {
    #[error("{file}: {reason}")]
    File { file: String, reason: String },
    #[error("{file}: line {line}: {reason}")]
    Line { file: String, line: usize, reason: String },
}

/// Reads JSON lines.
pub fn parse_jsonl(bytes: &[u8], file: &str) -> Result<Vec<Article>, CatalogueError> { todo!() }
pub fn read(path: &Path) -> Result<Vec<Article>, CatalogueError> { todo!() }
