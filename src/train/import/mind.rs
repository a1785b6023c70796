//! Folders in the format of MIND: `news.tsv` and `behaviors.tsv`. Source: Wu et al., "MIND: A Large-scale Dataset for News
//! Recommendation", ACL 2020, and its published file format.
//!
//! Each reader's history becomes news clicks. MIND tells the order of a history and not its times: its clicks stand an hour
//! apart, the newest an hour before the reader's first impression. An article is alive from the first to the last impression
//! that shows it; one that none shows was read before the log began. So what is alive at the cutoff is known from the future too:
//! an article that the platform no longer shows is no distractor, and figures on such a log are higher for it.
use super::{
    ImportSettings,
    log::{ImportSummary, Log, Trace},
};
use crate::{
    news::article::Article,
    signals::{Stream, TIME_UNIX_S_MAX, characters::clean},
    train::error::TrainError,
};
use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};
use time::{PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description};

const NEWS_FILE: &str = "news.tsv";
const BEHAVIORS_FILE: &str = "behaviors.tsv";
/// Columns that are read: id, category, subcategory, title, abstract; url and entities may follow.
const NEWS_COLUMNS: usize = 5;
/// Impression id, user, time, history, impressions.
const BEHAVIOR_COLUMNS: usize = 5;
/// Clicks of a history are put this far apart.
const HISTORY_STEP_S: i64 = 3600;
/// Such as 11/15/2019 8:55:22 AM.
const TIME: &[BorrowedFormatItem<'_>] = format_description!(
    "[month padding:none]/[day padding:none]/[year] [hour repr:12 padding:none]:[minute padding:none]:[second padding:none] [period]"
);

/// Imports folders of one log, such as those of its training and validation days.
///
/// # Errors
/// If a file cannot be read, nothing is in it, or the import is strict and has bad rows.
pub fn import(folders: &[PathBuf], settings: &ImportSettings) -> Result<ImportSummary, TrainError> {
    let mut log = Log::default();
    for folder in folders {
        read_news(&folder.join(NEWS_FILE), &mut log)?;
    }
    let mut seen = Seen { shown: vec![None; log.articles.len()], histories: HashMap::new() };
    for folder in folders {
        read_behaviors(&folder.join(BEHAVIORS_FILE), &mut log, &mut seen)?;
    }
    seen.finish(&mut log);
    log.write("MIND log", settings)
}

/// What is known only once every row was read.
struct Seen {
    /// Per article: when it was first and last shown.
    shown: Vec<Option<(i64, i64)>>,
    /// Per reader: the time of the first row, and its history, oldest first.
    histories: HashMap<String, (i64, Vec<usize>)>,
}

impl Seen {
    fn show(&mut self, article_idx: usize, time_unix_s: i64) {
        let (first, last) = self.shown[article_idx].unwrap_or((time_unix_s, time_unix_s));
        self.shown[article_idx] = Some((first.min(time_unix_s), last.max(time_unix_s)));
    }

    fn finish(self, log: &mut Log) {
        let begin = self.shown.iter().flatten().map(|(first, _)| *first).min().unwrap_or_default();
        for (article, shown) in log.articles.iter_mut().zip(&self.shown) {
            let (first, last) = shown.unwrap_or((begin - 2, begin - 2));
            (article.published_unix_s, article.expires_unix_s) = (first, last + 1);
        }
        for (user, (first_unix_s, history)) in self.histories {
            let traces = log.readers.entry(user).or_default();
            let times = (1..).map(|n_before: i64| first_unix_s - n_before * HISTORY_STEP_S);
            traces.extend(history.into_iter().rev().zip(times).map(|(idx, time)| click(idx, time)));
        }
    }
}

fn click(article_idx: usize, time_unix_s: i64) -> Trace {
    Trace {
        stream: Stream::Click,
        text: None,
        time_unix_s,
        category: None,
        source: None,
        dwell_ms: None,
        article_idx: Some(article_idx),
    }
}

fn read_news(path: &Path, log: &mut Log) -> Result<(), TrainError> {
    // Folders of one log repeat articles; within a file an id stands once.
    let mut of_file = std::collections::HashSet::new();
    for_each_row(path, log, |log, place, columns| {
        let [id, category, _, title, summary, ..] = columns[..] else {
            let detail = format!("{} columns, at least {NEWS_COLUMNS} are read", columns.len());
            return log.rejects.add(place, "article with too few columns", detail);
        };
        if id.is_empty() || clean(title, 1).is_empty() {
            return log.rejects.add(place, "article without id or title", id);
        }
        if !of_file.insert(id.to_owned()) {
            return log.rejects.add(place, "article that stands twice", id);
        }
        if !log.by_id.contains_key(id) {
            log.by_id.insert(id.to_owned(), log.articles.len());
            log.articles.push(Article {
                id: id.to_owned(),
                // MIND knows no stories: each article is its own.
                story_id: id.to_owned(),
                title: title.to_owned(),
                summary: summary.to_owned(),
                category: category.to_owned(),
                language: "en".to_owned(),
                published_unix_s: 0,
                expires_unix_s: 1,
            });
        }
    })
}

fn read_behaviors(path: &Path, log: &mut Log, seen: &mut Seen) -> Result<(), TrainError> {
    for_each_row(path, log, |log, place, columns| {
        let &[_, user, time, history, impressions] = columns else {
            let detail = format!("{} columns instead of {BEHAVIOR_COLUMNS}", columns.len());
            return log.rejects.add(place, "behaviour with other columns", detail);
        };
        let Ok(time) = PrimitiveDateTime::parse(time, TIME) else {
            return log.rejects.add(place, "behaviour at no time", time);
        };
        if user.is_empty() {
            return log.rejects.add(place, "behaviour without a user", "");
        }
        let time = time.assume_utc().unix_timestamp();
        if !(0..TIME_UNIX_S_MAX).contains(&time) {
            return log.rejects.add(place, "behaviour at a time out of range", time);
        }
        let find = |log: &mut Log, id: &str| {
            let idx = log.by_id.get(id).copied();
            if idx.is_none() {
                log.rejects.add(place, "unknown article in a behaviour", id);
            }
            idx
        };
        let history: Vec<usize> = history.split_whitespace().filter_map(|id| find(log, id)).collect();
        let earliest = seen.histories.entry(user.to_owned()).or_insert((i64::MAX, Vec::new()));
        if time < earliest.0 {
            *earliest = (time, history);
        }
        for shown in impressions.split_whitespace() {
            // Logs that are to be predicted carry no labels: what they show was shown, and nobody knows what was clicked.
            let (id, label) = shown.rsplit_once('-').unwrap_or((shown, "0"));
            if !matches!(label, "0" | "1") {
                log.rejects.add(place, "impression with another label than 0 or 1", shown);
                continue;
            }
            let Some(idx) = find(log, id) else { continue };
            seen.show(idx, time);
            if label == "1" {
                log.readers.entry(user.to_owned()).or_default().push(click(idx, time));
            }
        }
    })
}

/// Hands over the columns of every row, with its place for messages.
fn for_each_row(
    path: &Path,
    log: &mut Log,
    mut each: impl FnMut(&mut Log, (&str, usize), &[&str]),
) -> Result<(), TrainError> {
    let mut reader = BufReader::new(File::open(path).map_err(TrainError::disk(path, "open"))?);
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(TrainError::disk(path, "read"))? == 0 {
            break;
        }
        let row = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let row = row.strip_suffix(b"\r").unwrap_or(row);
        match std::str::from_utf8(row) {
            Ok("") => {}
            Ok(row) => each(log, (&file, line), &row.split('\t').collect::<Vec<_>>()),
            Err(error) => log.rejects.add((&file, line), "row that is no UTF-8", error),
        }
    }
    Ok(())
}
