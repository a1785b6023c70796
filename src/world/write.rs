//! The files of a world: each table as JSON lines and as Parquet (snappy), the same rows in the same order.
//!
//! What a platform would have (JSONL keys in this order; `?` may be null):
//!
//! | file | columns |
//! |---|---|
//! | `articles` | id, story_id, title, summary, category, language: text; published_unix_s, expires_unix_s: i64 |
//! | `events` | user_key, split (`train`, `valid`, `test`), stream (`search`, `page`, `click`), text: text; time_unix_s: i64; category?: text (clicks: the topic); source: text; dwell_ms?: u32 (pages, clicks); article_id?: text (clicks); position?: u32 (clicks: the slot, from 1); propensity?: f64 (clicks: expected examinations of the article in one slate) |
//! | `held_out` | user_key, split, article_id: text; time_unix_s: i64; policy (`uniform`, `logged`): text; propensity: f64 |
//!
//! What only the truth has, under `truth/`:
//!
//! | file | columns |
//! |---|---|
//! | `users` | one row per reader and interest: user_key, split, tier, languages (codes joined by `+`), care (`long_term`, `burst`, `household`): text; interest: u32; weight: f64; from_unix_s, until_unix_s?: i64 |
//! | `events_truth` | row i is about row i of `events`: user_key, tag (`interest`, `navigational`, `malformed`, `household`, `bot`): text; interest?: u32 |
//! | `interests.jsonl` | interest, topic, entities, aspects and off_news by language, rival (its number among the interests that share its off-news words), implied: pairs of interest and strength |
//! | `stories.jsonl` | story_id, interest, entities, coined, born_unix_s, expires_unix_s |
//!
//! Events are sorted by reader, then time. A click's text is the article's title.
use super::users::{Concern, User};
use super::{Split, WorldError};
use crate::signals::Stream;
use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow_schema::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows kept in memory before they are written.
const ROWS_PER_BATCH: usize = 8192;
/// Batches of one Parquet row group; bounds the memory of the writer.
const ROWS_PER_GROUP: usize = 8 * ROWS_PER_BATCH;

/// A row that knows its columns.
pub(super) trait Row: Serialize {
    /// Turns rows into columns, the same names and order as the JSON keys.
    fn batch(rows: &[Self]) -> Result<RecordBatch, ArrowError>
    where
        Self: Sized;
}

/// One table, written to `NAME.jsonl` and `NAME.parquet` as rows come.
#[derive(Debug)]
pub(super) struct Table<R: Row> {
    jsonl: Lines,
    parquet: ArrowWriter<File>,
    parquet_path: PathBuf,
    pending: Vec<R>,
}

impl<R: Row> Table<R> {
    /// Opens both files; `stem` is their path without extension.
    pub(super) fn create(stem: &Path) -> Result<Self, WorldError> {
        let jsonl = Lines::create(&stem.with_extension("jsonl"))?;
        let parquet_path = stem.with_extension("parquet");
        let file = File::create(&parquet_path).map_err(|error| WorldError::io(&parquet_path, error))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
            .build();
        let parquet = R::batch(&[])
            .map_err(parquet::errors::ParquetError::from)
            .and_then(|empty| ArrowWriter::try_new(file, empty.schema(), Some(properties)))
            .map_err(|source| WorldError::Parquet { file: parquet_path.clone(), source })?;
        Ok(Self { jsonl, parquet, parquet_path, pending: Vec::with_capacity(ROWS_PER_BATCH) })
    }

    pub(super) fn push(&mut self, row: R) -> Result<(), WorldError> {
        self.jsonl.push(&row)?;
        self.pending.push(row);
        if self.pending.len() == ROWS_PER_BATCH { self.flush() } else { Ok(()) }
    }

    /// Completes both files.
    pub(super) fn close(mut self) -> Result<(), WorldError> {
        self.flush()?;
        self.jsonl.close()?;
        let closed = self.parquet.close().map(drop);
        closed.map_err(|source| WorldError::Parquet { file: self.parquet_path, source })
    }

    fn flush(&mut self) -> Result<(), WorldError> {
        let written = R::batch(&self.pending)
            .map_err(parquet::errors::ParquetError::from)
            .and_then(|batch| self.parquet.write(&batch));
        self.pending.clear();
        written.map_err(|source| WorldError::Parquet { file: self.parquet_path.clone(), source })
    }
}

/// A file of JSON lines.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    writer: BufWriter<File>,
}

impl Lines {
    pub(super) fn create(path: &Path) -> Result<Self, WorldError> {
        let file = File::create(path).map_err(|error| WorldError::io(path, error))?;
        Ok(Self { path: path.to_owned(), writer: BufWriter::new(file) })
    }

    pub(super) fn push(&mut self, row: &impl Serialize) -> Result<(), WorldError> {
        serde_json::to_writer(&mut self.writer, row)
            .map_err(std::io::Error::from)
            .and_then(|()| self.writer.write_all(b"\n"))
            .map_err(|error| WorldError::io(&self.path, error))
    }

    pub(super) fn close(mut self) -> Result<(), WorldError> {
        self.writer.flush().map_err(|error| WorldError::io(&self.path, error))
    }
}

/// One row of `events`.
#[derive(Debug, Serialize)]
pub(super) struct EventRow {
    pub(super) user_key: String,
    pub(super) split: &'static str,
    pub(super) stream: &'static str,
    pub(super) text: String,
    pub(super) time_unix_s: i64,
    pub(super) category: Option<String>,
    pub(super) source: String,
    pub(super) dwell_ms: Option<u32>,
    pub(super) article_id: Option<String>,
    pub(super) position: Option<u32>,
    pub(super) propensity: Option<f64>,
}

impl EventRow {
    /// Starts a row; what only pages or clicks have is left null.
    pub(super) fn new(user: &User, stream: Stream, text: String, time_unix_s: i64) -> Self {
        let source = match stream {
            Stream::Search => "search",
            Stream::Page => "web",
            Stream::Click => "news",
        };
        Self {
            user_key: user.key.clone(),
            split: user.split.name(),
            stream: stream.word(),
            text,
            time_unix_s,
            category: None,
            source: source.to_owned(),
            dwell_ms: None,
            article_id: None,
            position: None,
            propensity: None,
        }
    }
}

impl Row for EventRow {
    fn batch(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_from_iter_with_nullable([
            ("user_key", text(rows, |row| Some(&row.user_key)), false),
            ("split", text(rows, |row| Some(row.split)), false),
            ("stream", text(rows, |row| Some(row.stream)), false),
            ("text", text(rows, |row| Some(&row.text)), false),
            ("time_unix_s", time(rows, |row| Some(row.time_unix_s)), false),
            ("category", text(rows, |row| row.category.as_deref()), true),
            ("source", text(rows, |row| Some(&row.source)), false),
            ("dwell_ms", count(rows, |row| row.dwell_ms), true),
            ("article_id", text(rows, |row| row.article_id.as_deref()), true),
            ("position", count(rows, |row| row.position), true),
            ("propensity", real(rows, |row| row.propensity), true),
        ])
    }
}

/// One row of `held_out`.
#[derive(Debug, Serialize)]
pub(super) struct HeldOutRow {
    pub(super) user_key: String,
    pub(super) split: &'static str,
    pub(super) article_id: String,
    pub(super) time_unix_s: i64,
    pub(super) policy: &'static str,
    pub(super) propensity: f64,
}

impl Row for HeldOutRow {
    fn batch(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_from_iter_with_nullable([
            ("user_key", text(rows, |row| Some(&row.user_key)), false),
            ("split", text(rows, |row| Some(row.split)), false),
            ("article_id", text(rows, |row| Some(&row.article_id)), false),
            ("time_unix_s", time(rows, |row| Some(row.time_unix_s)), false),
            ("policy", text(rows, |row| Some(row.policy)), false),
            ("propensity", real(rows, |row| Some(row.propensity)), false),
        ])
    }
}

/// One row of `truth/events_truth`.
#[derive(Debug, Serialize)]
pub(super) struct EventTruthRow {
    user_key: String,
    tag: &'static str,
    interest: Option<u32>,
}

impl EventTruthRow {
    pub(super) fn new(user: &User, tag: super::signals::Tag, interest: Option<usize>) -> Self {
        let interest = interest.and_then(|interest| u32::try_from(interest).ok());
        Self { user_key: user.key.clone(), tag: tag.name(), interest }
    }
}

impl Row for EventTruthRow {
    fn batch(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_from_iter_with_nullable([
            ("user_key", text(rows, |row| Some(&row.user_key)), false),
            ("tag", text(rows, |row| Some(row.tag)), false),
            ("interest", count(rows, |row| row.interest), true),
        ])
    }
}

/// One row of `truth/users`.
#[derive(Debug, Serialize)]
pub(super) struct ConcernRow {
    user_key: String,
    split: &'static str,
    tier: &'static str,
    languages: String,
    care: &'static str,
    interest: u32,
    weight: f64,
    known_to_platform: bool,
    from_unix_s: i64,
    until_unix_s: Option<i64>,
}

impl ConcernRow {
    pub(super) fn new(user: &User, concern: &Concern) -> Self {
        Self {
            user_key: user.key.clone(),
            split: user.split.name(),
            tier: user.tier.name(),
            languages: user.languages.iter().map(|language| language.code()).collect::<Vec<_>>().join("+"),
            care: concern.care.name(),
            interest: u32::try_from(concern.interest).unwrap_or(u32::MAX),
            weight: concern.weight,
            known_to_platform: concern.known_to_platform,
            from_unix_s: concern.from_unix_s,
            until_unix_s: (concern.until_unix_s < i64::MAX).then_some(concern.until_unix_s),
        }
    }
}

impl Row for ConcernRow {
    fn batch(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_from_iter_with_nullable([
            ("user_key", text(rows, |row| Some(&row.user_key)), false),
            ("split", text(rows, |row| Some(row.split)), false),
            ("tier", text(rows, |row| Some(row.tier)), false),
            ("languages", text(rows, |row| Some(&row.languages)), false),
            ("care", text(rows, |row| Some(row.care)), false),
            ("interest", count(rows, |row| Some(row.interest)), false),
            ("weight", real(rows, |row| Some(row.weight)), false),
            ("known_to_platform", flag(rows, |row| row.known_to_platform), false),
            ("from_unix_s", time(rows, |row| Some(row.from_unix_s)), false),
            ("until_unix_s", time(rows, |row| row.until_unix_s), true),
        ])
    }
}

fn text<R>(rows: &[R], field: impl Fn(&R) -> Option<&str>) -> ArrayRef {
    Arc::new(rows.iter().map(field).collect::<StringArray>())
}

fn flag<R>(rows: &[R], field: impl Fn(&R) -> bool) -> ArrayRef {
    Arc::new(rows.iter().map(|row| Some(field(row))).collect::<BooleanArray>())
}

fn time<R>(rows: &[R], field: impl Fn(&R) -> Option<i64>) -> ArrayRef {
    Arc::new(rows.iter().map(field).collect::<Int64Array>())
}

fn count<R>(rows: &[R], field: impl Fn(&R) -> Option<u32>) -> ArrayRef {
    Arc::new(rows.iter().map(field).collect::<UInt32Array>())
}

fn real<R>(rows: &[R], field: impl Fn(&R) -> Option<f64>) -> ArrayRef {
    Arc::new(rows.iter().map(field).collect::<Float64Array>())
}

impl Split {
    /// Gives the word that the files use.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}
