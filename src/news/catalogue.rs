//! Catalogues in and out: JSON lines and tab-separated values (always), and Parquet (feature `train`).
use super::{article::Article, tsv};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use thiserror::Error;

/// Why a catalogue could not be read or written.
#[derive(Debug, Error)]
pub enum CatalogueError {
    /// The file as a whole: missing, not Parquet, a column missing, the disk full.
    #[error("{file}: {reason}")]
    File {
        /// Path as given.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// One line of a JSONL or TSV file, or one row of a Parquet file.
    #[error("{file}: line {line}: {reason}")]
    Line {
        /// Path as given.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// Parses JSON lines; lines of white space only are skipped.
///
/// `file` is only used to name the file in errors.
/// # Errors
/// `Line` for the first line that is no article, has an empty id, expires before it is published, or repeats an id.
pub fn parse_jsonl(bytes: &[u8], file: &str) -> Result<Vec<Article>, CatalogueError> {
    let mut articles = Vec::new();
    for (line_idx, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let article = serde_json::from_slice(line).map_err(|error| CatalogueError::Line {
            file: file.to_owned(),
            line: line_idx + 1,
            reason: error.to_string(),
        })?;
        articles.push((line_idx + 1, article));
    }
    checked(articles, file)
}

/// Parses tab-separated values: a line that names the columns, then one line for each article; empty lines are skipped.
///
/// Columns are the fields of [`Article`], each once, in any order. In texts, tab, line feed, carriage return and backslash are
/// written `\t`, `\n`, `\r` and `\\`; quotes mean nothing. `file` is only used to name the file in errors.
/// # Errors
/// `File` if there is no line that names columns, or one column is unknown, missing or there twice; `Line` for the first line
/// that has another number of cells, a broken escape or time, bytes that are not UTF-8, or what [`parse_jsonl`] refuses.
pub fn parse_tsv(bytes: &[u8], file: &str) -> Result<Vec<Article>, CatalogueError> {
    checked(tsv::parse(bytes, file)?, file)
}

/// Reads a catalogue; the extension decides: `.jsonl`, `.tsv`, or `.parquet` with feature `train`.
/// # Errors
/// `File` if the file cannot be read or its kind is unknown, `File` and `Line` as in [`parse_jsonl`] and [`parse_tsv`].
pub fn read(path: &Path) -> Result<Vec<Article>, CatalogueError> {
    let file = path.display().to_string();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl") => {
            let bytes = std::fs::read(path).map_err(|error| file_error(path, &error))?;
            parse_jsonl(&bytes, &file)
        }
        Some("tsv") => {
            let bytes = std::fs::read(path).map_err(|error| file_error(path, &error))?;
            parse_tsv(&bytes, &file)
        }
        #[cfg(feature = "train")]
        Some("parquet") => {
            let articles = super::parquet_file::read(path)?;
            checked(
                articles.into_iter().enumerate().map(|(idx, article)| (idx + 1, article)).collect(),
                &file,
            )
        }
        _ => Err(unknown_kind(path)),
    }
}

/// Writes a catalogue; the extension decides, as in [`read`].
/// # Errors
/// `File` if the file cannot be written or its kind is unknown.
pub fn write(path: &Path, articles: &[Article]) -> Result<(), CatalogueError> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl") => write_jsonl(path, articles),
        Some("tsv") => write_tsv(path, articles),
        #[cfg(feature = "train")]
        Some("parquet") => write_parquet(path, articles),
        _ => Err(unknown_kind(path)),
    }
}

/// Writes one JSON object per line, keys in the order of the fields of [`Article`].
/// # Errors
/// `File` if the file cannot be written.
pub fn write_jsonl(path: &Path, articles: &[Article]) -> Result<(), CatalogueError> {
    let file = std::fs::File::create(path).map_err(|error| file_error(path, &error))?;
    let mut writer = std::io::BufWriter::new(file);
    lines_of_json(&mut writer, articles)
        .and_then(|()| writer.flush())
        .map_err(|error| file_error(path, &error))
}

/// Writes a line that names the columns, the fields of [`Article`] in that order, and one line for each article.
/// # Errors
/// `File` if the file cannot be written.
pub fn write_tsv(path: &Path, articles: &[Article]) -> Result<(), CatalogueError> {
    let file = std::fs::File::create(path).map_err(|error| file_error(path, &error))?;
    let mut writer = std::io::BufWriter::new(file);
    tsv::write(&mut writer, articles).and_then(|()| writer.flush()).map_err(|error| file_error(path, &error))
}

/// Writes a Parquet file (snappy) whose columns are the fields of [`Article`], in that order.
/// # Errors
/// `File` if the file cannot be written.
#[cfg(feature = "train")]
pub fn write_parquet(path: &Path, articles: &[Article]) -> Result<(), CatalogueError> {
    super::parquet_file::write(path, articles)
}

pub(super) fn lines_of_json(writer: &mut impl Write, articles: &[Article]) -> std::io::Result<()> {
    for article in articles {
        serde_json::to_writer(&mut *writer, article)?;
        writer.write_all(b"\n")?;
    }
    Ok(())
}

fn unknown_kind(path: &Path) -> CatalogueError {
    CatalogueError::File {
        file: path.display().to_string(),
        reason: "a catalogue's name must end in .jsonl or .tsv (or .parquet in builds that can train)"
            .to_owned(),
    }
}

pub(super) fn file_error(path: &Path, error: &dyn std::error::Error) -> CatalogueError {
    CatalogueError::File { file: path.display().to_string(), reason: error.to_string() }
}

/// Refuses articles that no index could tell apart or ever show; `numbered` pairs each with its line.
fn checked(numbered: Vec<(usize, Article)>, file: &str) -> Result<Vec<Article>, CatalogueError> {
    let mut ids = BTreeSet::new();
    for (line, article) in &numbered {
        let reason = if article.id.is_empty() {
            "id is empty".to_owned()
        } else if article.expires_unix_s <= article.published_unix_s {
            format!("article {} expires no later than it is published", article.id)
        } else if !ids.insert(article.id.as_str()) {
            format!("id {} is already taken by an earlier line", article.id)
        } else {
            continue;
        };
        return Err(CatalogueError::Line { file: file.to_owned(), line: *line, reason });
    }
    Ok(numbered.into_iter().map(|(_, article)| article).collect())
}
