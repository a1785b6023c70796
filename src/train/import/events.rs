//! Event files of a platform: JSON lines or Parquet, one row per trace, beside a catalogue of its articles.
//!
//! | column | type | meaning |
//! |---|---|---|
//! | `user_key` | text | Opaque key of the reader, not empty |
//! | `stream` | text | `search`, `page` or `click` |
//! | `time_unix_s` | whole number | When it happened, Unix seconds; in JSON `time` may stand instead, RFC 3339 |
//! | `text` | text? | The query or the page's title; a click may leave it to its article's title |
//! | `category`, `source` | text? | Topic; site or product |
//! | `dwell_ms` | whole number? | How long the reader stayed, milliseconds |
//! | `article_id` | text? | A click's article, as the catalogue names it; a click needs it |
//!
//! `?` may be absent or null. Other columns are ignored.
use super::{
    ImportSettings, columns,
    log::{ImportSummary, Log, Trace},
};
use crate::{
    news::catalogue,
    signals::{Stream, TIME_UNIX_S_MAX, characters::clean},
    train::error::TrainError,
};
use serde::Deserialize;
use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// One row as files hold it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct EventRow {
    pub(super) user_key: Option<String>,
    pub(super) stream: Option<String>,
    pub(super) time_unix_s: Option<i64>,
    pub(super) time: Option<String>,
    pub(super) text: Option<String>,
    pub(super) category: Option<String>,
    pub(super) source: Option<String>,
    pub(super) dwell_ms: Option<i64>,
    pub(super) article_id: Option<String>,
}

/// Imports event files (`.jsonl` or `.parquet`) of one platform with its catalogue.
///
/// # Errors
/// If a file cannot be read, nothing is in it, or the import is strict and has bad rows.
pub fn import(
    files: &[PathBuf],
    catalogue_at: &Path,
    settings: &ImportSettings,
) -> Result<ImportSummary, TrainError> {
    let articles = catalogue::read(catalogue_at)?;
    let by_id = articles.iter().enumerate().map(|(idx, article)| (article.id.clone(), idx)).collect();
    let mut log = Log { articles, by_id, ..Log::default() };
    for path in files {
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl") => read_lines(path, &file, &mut log)?,
            Some("parquet") => columns::for_each_row(path, |line, row| take(&mut log, (&file, line), row))?,
            _ => return Err(TrainError::file(path, "an event file's name must end in .jsonl or .parquet")),
        }
    }
    log.write("event log", settings)
}

fn read_lines(path: &Path, file: &str, log: &mut Log) -> Result<(), TrainError> {
    let mut reader = BufReader::new(File::open(path).map_err(TrainError::disk(path, "open"))?);
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(TrainError::disk(path, "read"))? == 0 {
            break;
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(&bytes) {
            Ok(row) => take(log, (file, line), row),
            Err(error) => log.rejects.add((file, line), "line that is no event", error),
        }
    }
    Ok(())
}

fn take(log: &mut Log, place: (&str, usize), row: EventRow) {
    match trace(log, row) {
        Ok((user, trace)) => log.readers.entry(user).or_default().push(trace),
        Err((reason, detail)) => log.rejects.add(place, reason, detail),
    }
}

/// A row in our words, or why it cannot be used.
fn trace(log: &Log, row: EventRow) -> Result<(String, Trace), (&'static str, String)> {
    let user = row.user_key.filter(|key| !key.is_empty()).ok_or(("event without a user", String::new()))?;
    let word = row.stream.unwrap_or_default();
    let stream = Stream::of_word(&word).ok_or(("event of no known stream", word))?;
    let written =
        |time: &String| OffsetDateTime::parse(time, &Rfc3339).map(OffsetDateTime::unix_timestamp).ok();
    let time_unix_s = row.time_unix_s.or_else(|| row.time.as_ref().and_then(written));
    let time_unix_s = time_unix_s.ok_or_else(|| ("event at no time", row.time.unwrap_or_default()))?;
    if !(0..TIME_UNIX_S_MAX).contains(&time_unix_s) {
        return Err(("event at a time out of range", time_unix_s.to_string()));
    }
    let article_idx = match (stream, row.article_id) {
        (Stream::Click, None) => return Err(("click on no article", String::new())),
        (Stream::Click, Some(id)) => match log.by_id.get(&id) {
            Some(idx) => Some(*idx),
            None => return Err(("click on an article that the catalogue lacks", id)),
        },
        (Stream::Search | Stream::Page, _) => None,
    };
    let text = row.text.filter(|text| !clean(text, 1).is_empty());
    if text.is_none() && article_idx.is_none() {
        return Err(("search or page without text", String::new()));
    }
    let dwell_ms = row.dwell_ms.map(u32::try_from).transpose();
    let dwell_ms =
        dwell_ms.map_err(|_| ("dwell time out of range", row.dwell_ms.unwrap_or_default().to_string()))?;
    Ok((
        user,
        Trace {
            stream,
            text,
            time_unix_s,
            category: row.category,
            source: row.source,
            dwell_ms,
            article_idx,
        },
    ))
}
