//! The demo that is compiled into the server: a bundle, a catalogue that can be searched, and three readers.
use crate::{
    bundle::load::{self, Bundle, BundleError, BundleSource},
    model::precision::Precision,
    news::{
        article::Article,
        catalogue::{self, CatalogueError},
        fuse::reciprocal_rank,
        index::{IndexError, NewsIndex},
    },
    signals::{SignalDraft, Stream},
};
use candle_core::Device;
use serde::Deserialize;
use std::{collections::HashSet, fmt};
use thiserror::Error;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

include!(concat!(env!("OUT_DIR"), "/demo_files.rs"));

const ARTICLES_FILE: &str = "articles.jsonl";
const USERS_FILE: &str = "users.jsonl";

/// Why there is no demo.
#[derive(Debug, Error)]
pub enum DemoError {
    /// It was not there when the server was compiled.
    #[error(
        "this server was compiled without {file}; build it with the demo in deploy/demo, or use `serve --bundle`"
    )]
    Absent {
        /// What was missing.
        file: &'static str,
    },
    /// The bundle is refused.
    #[error("demo bundle could not be loaded")]
    Bundle(#[from] BundleError),
    /// The catalogue is refused.
    #[error("demo catalogue could not be read")]
    Catalogue(#[from] CatalogueError),
    /// The catalogue cannot be searched. Boxed, because every error of a command has room for this one.
    #[error("demo catalogue cannot be searched")]
    Index(#[source] Box<IndexError>),
    /// A reader is refused.
    #[error("{USERS_FILE}: line {line}: {source}")]
    User {
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// One reader of the demo.
#[derive(Clone, Debug)]
pub struct DemoUser {
    /// Key of the reader.
    pub user_key: String,
    /// When the reader asks; articles are looked up as of then.
    pub as_of_unix_s: i64,
    /// What is known of the reader.
    pub signals: Vec<SignalDraft>,
}

/// Hits per query that are fused, and articles that are found.
const HITS_PER_QUERY: usize = 20;
const ARTICLES_SHOWN: usize = 5;

/// The demo's articles and readers.
pub struct Shelf {
    /// The catalogue.
    pub articles: Vec<Article>,
    index: NewsIndex,
    /// The readers.
    pub users: Vec<DemoUser>,
}

impl fmt::Debug for Shelf {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Shelf").field("articles", &self.articles.len()).finish_non_exhaustive()
    }
}

impl Shelf {
    /// Reads and indexes.
    ///
    /// # Errors
    /// If articles or readers are absent or refused.
    pub fn load() -> Result<Self, DemoError> {
        let articles = articles()?;
        let index = NewsIndex::build(&articles).map_err(|error| DemoError::Index(Box::new(error)))?;
        Ok(Self { articles, index, users: users()? })
    }

    /// Articles that queries find, best first; where a reader asks, those that she could have read then and did not click already.
    ///
    /// # Errors
    /// If the index fails.
    pub fn retrieved<'a>(
        &self,
        queries: impl IntoIterator<Item = &'a str>,
        user: Option<&DemoUser>,
    ) -> Result<Vec<&Article>, IndexError> {
        let signals = user.map_or(&[][..], |user| &user.signals);
        let is_click = |draft: &&SignalDraft| draft.stream == Stream::Click;
        let clicked: HashSet<&str> =
            signals.iter().filter(is_click).map(|draft| draft.text.as_str()).collect();
        let is_new = |idx: &usize| !clicked.contains(self.articles[*idx].title.as_str());
        let as_of_unix_s = user.map(|user| user.as_of_unix_s);
        let mut ranked = Vec::new();
        for query in queries {
            let hits = self.index.search(query, as_of_unix_s, HITS_PER_QUERY)?;
            ranked.push(hits.iter().map(|hit| hit.article_idx).filter(is_new).collect());
        }
        let best = reciprocal_rank(&ranked, ARTICLES_SHOWN);
        Ok(best.iter().filter_map(|&idx| self.articles.get(idx)).collect())
    }
}

/// A UTC time as JSON writes it; the first second of 1970 for a time beyond the calendar.
pub fn rfc3339(time_unix_s: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(time_unix_s).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

/// Loads the bundle, in f32.
///
/// # Errors
/// If it is absent or refused.
pub fn bundle(device: &Device) -> Result<Bundle, DemoError> {
    bundle_in(Precision::F32, device)
}

/// Loads the bundle, its network in `precision`.
///
/// # Errors
/// If it is absent or refused.
pub fn bundle_in(precision: Precision, device: &Device) -> Result<Bundle, DemoError> {
    if BUNDLE.is_empty() {
        return Err(DemoError::Absent { file: "the demo bundle" });
    }
    Ok(load::load(source(), precision, device)?)
}

/// The bundle's files; none where it is absent.
pub fn source() -> BundleSource<'static> {
    BundleSource::Embedded(BUNDLE)
}

/// Reads the catalogue.
///
/// # Errors
/// If it is absent or refused.
pub fn articles() -> Result<Vec<Article>, DemoError> {
    Ok(catalogue::parse_jsonl(file(ARTICLES_FILE)?, ARTICLES_FILE)?)
}

/// Reads the readers.
///
/// # Errors
/// If they are absent or refused.
pub fn users() -> Result<Vec<DemoUser>, DemoError> {
    let lines = file(USERS_FILE)?.split(|&byte| byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace))
        .map(|(idx, line)| user(line).map_err(|source| DemoError::User { line: idx + 1, source }))
        .collect()
}

fn file(name: &'static str) -> Result<&'static [u8], DemoError> {
    let mut files = BUNDLE.iter().chain(DATA);
    files.find(|(other, _)| *other == name).map(|(_, bytes)| *bytes).ok_or(DemoError::Absent { file: name })
}

/// The file's own shapes: signals themselves are never read from files.
#[derive(Deserialize)]
struct UserLine {
    user_key: String,
    as_of_unix_s: i64,
    signals: Vec<SignalLine>,
}

#[derive(Deserialize)]
struct SignalLine {
    stream: StreamWord,
    text: String,
    time_unix_s: i64,
    category: Option<String>,
    source: Option<String>,
    dwell_ms: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum StreamWord {
    Search,
    Page,
    Click,
}

fn user(line: &[u8]) -> Result<DemoUser, serde_json::Error> {
    let UserLine { user_key, as_of_unix_s, signals } = serde_json::from_slice(line)?;
    let signals = signals.into_iter().map(|line| {
        let stream = match line.stream {
            StreamWord::Search => Stream::Search,
            StreamWord::Page => Stream::Page,
            StreamWord::Click => Stream::Click,
        };
        let SignalLine { text, time_unix_s, category, source, dwell_ms, .. } = line;
        SignalDraft { stream, text, time_unix_s, category, source, dwell_ms, weight: None }
    });
    Ok(DemoUser { user_key, as_of_unix_s, signals: signals.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_read_from_its_line() {
        let line = br#"{"user_key": "u1", "as_of_unix_s": 9, "signals": [
            {"stream": "page", "text": "t", "time_unix_s": 5, "category": null, "source": "shop", "dwell_ms": 70}]}"#;
        let user = user(line).unwrap();
        assert_eq!((user.user_key.as_str(), user.as_of_unix_s, user.signals.len()), ("u1", 9, 1));
        let signal = &user.signals[0];
        assert_eq!((signal.stream, signal.text.as_str(), signal.dwell_ms), (Stream::Page, "t", Some(70)));
    }

    #[test]
    fn an_unknown_stream_is_refused() {
        let line = br#"{"user_key": "u", "as_of_unix_s": 9, "signals": [{"stream": "x", "text": "t", "time_unix_s": 5}]}"#;
        assert!(user(line).is_err());
    }
}
