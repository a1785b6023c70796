//! An event log in memory, and how it becomes a folder.
use super::{ImportSettings, rejects::Rejects};
use crate::{
    bundle::save::Staged,
    news::{article::Article, catalogue},
    signals::Stream,
    train::{error::TrainError, events::Split, examples},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

/// Changes whenever the same log would give another folder.
const IMPORTER_VERSION: u32 = 1;
/// What tells a world's folder from others.
const WORLD_FILE: &str = "world.json";
/// Held-out clicks happen within this long after the cutoff.
const HELD_OUT_S: i64 = 24 * 3600;
/// Of 100 readers, those that train, and those that train or validate; the rest tests.
const TRAIN_READERS: u64 = 80;
const TRAIN_AND_VALID_READERS: u64 = 85;

/// One trace of a reader.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Search, page visit or news click.
    pub stream: Stream,
    /// Query or title; a click without one takes its article's title.
    pub text: Option<String>,
    /// Unix time, seconds.
    pub time_unix_s: i64,
    /// Topic; a click without one takes its article's.
    pub category: Option<String>,
    /// Site or product.
    pub source: Option<String>,
    /// How long the reader stayed, milliseconds.
    pub dwell_ms: Option<u32>,
    /// Position of the article that was clicked.
    pub article_idx: Option<usize>,
}

/// Articles and readers of one platform.
#[derive(Debug, Default)]
pub struct Log {
    /// The catalogue.
    pub articles: Vec<Article>,
    /// Position of each article.
    pub by_id: HashMap<String, usize>,
    /// Traces of every reader, in any order.
    pub readers: BTreeMap<String, Vec<Trace>>,
    /// What could not be used.
    pub rejects: Rejects,
}

/// What was imported; `world.json` holds the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImportSummary {
    /// Where the log came from.
    pub imported: String,
    /// Version of the importer.
    pub importer_version: u32,
    /// The moment that parts the past from what is held out.
    pub cutoff_unix_s: i64,
    /// Articles in the catalogue.
    pub n_articles: usize,
    /// Articles alive at the cutoff.
    pub n_articles_alive_at_cutoff: usize,
    /// Readers of train, valid and test.
    pub n_users: [usize; 3],
    /// Traces until the cutoff.
    pub n_events: usize,
    /// Clicks held out.
    pub n_held_out: usize,
    /// Clicks within the day after the cutoff whose article was not alive at the cutoff.
    pub n_held_out_not_alive: usize,
    /// Rows that could not be used.
    pub rejects: Rejects,
}

impl fmt::Display for ImportSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [train, valid, test] = self.n_users;
        writeln!(
            formatter,
            "{}: {} articles, {} alive at the cutoff {}",
            self.imported, self.n_articles, self.n_articles_alive_at_cutoff, self.cutoff_unix_s
        )?;
        writeln!(
            formatter,
            "{train} readers to train, {valid} to validate, {test} to test; {} events",
            self.n_events
        )?;
        writeln!(
            formatter,
            "{} clicks held out; {} more on articles that were not alive at the cutoff",
            self.n_held_out, self.n_held_out_not_alive
        )?;
        write!(formatter, "{} bad rows\n{}", self.rejects.count(), self.rejects)
    }
}

#[derive(Serialize)]
struct EventRow<'a> {
    user_key: &'a str,
    split: Split,
    stream: &'static str,
    text: &'a str,
    time_unix_s: i64,
    category: Option<&'a str>,
    source: Option<&'a str>,
    dwell_ms: Option<u32>,
    article_id: Option<&'a str>,
}

#[derive(Serialize)]
struct HeldOutRow<'a> {
    user_key: &'a str,
    split: Split,
    article_id: &'a str,
    time_unix_s: i64,
}

impl Log {
    /// Writes the folder, whole or not at all. `imported`: where the log came from, for the tables made of it.
    ///
    /// # Errors
    /// If there is no event until the cutoff, the log is to be strict and has bad rows, or the disk refuses.
    pub fn write(mut self, imported: &str, settings: &ImportSettings) -> Result<ImportSummary, TrainError> {
        if settings.strict && self.rejects.count() > 0 {
            let reason = format!("{} bad rows\n{}", self.rejects.count(), self.rejects);
            return Err(TrainError::Settings { reason });
        }
        let last = self.readers.values().flatten().map(|trace| trace.time_unix_s).max();
        let last =
            last.ok_or_else(|| TrainError::TooLittleData { reason: "the log has no event".to_owned() })?;
        let cutoff = settings.cutoff_unix_s.unwrap_or(last.saturating_sub(HELD_OUT_S));
        if !self.readers.values().flatten().any(|trace| trace.time_unix_s <= cutoff) {
            let reason = format!("no event until the cutoff {cutoff}");
            return Err(TrainError::TooLittleData { reason });
        }
        let staged = Staged::write(&settings.out, &Vec::new(), WORLD_FILE)?;
        catalogue::write_jsonl(&staged.path().join("articles.jsonl"), &self.articles)?;
        let alive = self.articles.iter().filter(|article| article.is_alive_at(cutoff)).count();
        let mut summary = ImportSummary {
            imported: imported.to_owned(),
            importer_version: IMPORTER_VERSION,
            cutoff_unix_s: cutoff,
            n_articles: self.articles.len(),
            n_articles_alive_at_cutoff: alive,
            n_users: [0; 3],
            n_events: 0,
            n_held_out: 0,
            n_held_out_not_alive: 0,
            rejects: std::mem::take(&mut self.rejects),
        };
        self.write_readers(staged.path(), &mut summary)?;
        let path = staged.path().join(WORLD_FILE);
        let json = serde_json::to_vec_pretty(&summary).map_err(|error| TrainError::file(&path, error))?;
        std::fs::write(&path, json).map_err(TrainError::disk(&path, "write"))?;
        staged.publish()?;
        Ok(summary)
    }

    fn write_readers(&mut self, folder: &Path, summary: &mut ImportSummary) -> Result<(), TrainError> {
        let mut events = Lines::create(&folder.join("events.jsonl"))?;
        let mut held_out = Lines::create(&folder.join("held_out.jsonl"))?;
        let cutoff = summary.cutoff_unix_s;
        for (key, traces) in &mut self.readers {
            traces.sort_by_key(|trace| trace.time_unix_s);
            let (past, future) = traces.split_at(traces.partition_point(|trace| trace.time_unix_s <= cutoff));
            let split = split_of(key);
            if past.is_empty() {
                continue;
            }
            summary.n_users[split as usize] += 1;
            summary.n_events += past.len();
            past.iter().try_for_each(|trace| events.push(&row(key, split, trace, &self.articles)))?;
            if split == Split::Train {
                continue;
            }
            for trace in
                future.iter().take_while(|trace| trace.time_unix_s <= cutoff.saturating_add(HELD_OUT_S))
            {
                let Some(article) = trace.article_idx.map(|idx| &self.articles[idx]) else { continue };
                if !article.is_alive_at(cutoff) {
                    summary.n_held_out_not_alive += 1;
                    continue;
                }
                summary.n_held_out += 1;
                held_out.push(&HeldOutRow {
                    user_key: key,
                    split,
                    article_id: &article.id,
                    time_unix_s: trace.time_unix_s,
                })?;
            }
        }
        events.close()?;
        held_out.close()
    }
}

fn split_of(key: &str) -> Split {
    match examples::digest(key) % 100 {
        0..TRAIN_READERS => Split::Train,
        TRAIN_READERS..TRAIN_AND_VALID_READERS => Split::Valid,
        _ => Split::Test,
    }
}

fn row<'a>(user_key: &'a str, split: Split, trace: &'a Trace, articles: &'a [Article]) -> EventRow<'a> {
    let article = trace.article_idx.map(|idx| &articles[idx]);
    let of_article = |field: fn(&Article) -> &String| article.map(field).map(String::as_str);
    EventRow {
        user_key,
        split,
        stream: trace.stream.word(),
        text: trace.text.as_deref().or(of_article(|article| &article.title)).unwrap_or_default(),
        time_unix_s: trace.time_unix_s,
        category: trace.category.as_deref().or(of_article(|article| &article.category)),
        source: trace.source.as_deref(),
        dwell_ms: trace.dwell_ms,
        article_id: of_article(|article| &article.id),
    }
}

/// A file of JSON lines.
struct Lines {
    path: PathBuf,
    writer: BufWriter<File>,
}

impl Lines {
    fn create(path: &Path) -> Result<Self, TrainError> {
        let file = File::create(path).map_err(TrainError::disk(path, "create"))?;
        Ok(Self { path: path.to_owned(), writer: BufWriter::new(file) })
    }

    fn push(&mut self, row: &impl Serialize) -> Result<(), TrainError> {
        let written = serde_json::to_writer(&mut self.writer, row).map_err(std::io::Error::from);
        written.and_then(|()| self.writer.write_all(b"\n")).map_err(TrainError::disk(&self.path, "write"))
    }

    fn close(mut self) -> Result<(), TrainError> {
        self.writer.flush().map_err(TrainError::disk(&self.path, "write"))
    }
}
