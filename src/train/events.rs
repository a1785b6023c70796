//! What a platform would have of the world: articles and readers' traces. The world's hidden truth is never opened.
use super::error::TrainError;
use crate::{
    bundle::manifest::sha256_hex,
    cleaner::{Cleaner, CleanerError, Verdict},
    news::{article::Article, catalogue},
    signals::{DRAFTS_MAX, SIGNALS_PER_STREAM_MAX, SignalDraft, Stream, UserSignals},
    text::prompt,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::{BufRead, BufReader},
    ops::Range,
    path::Path,
};

/// What a reader may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Everything may be learned from.
    Train,
    /// For choices between runs.
    Valid,
    /// For the final figures only.
    Test,
}

impl Split {
    /// The split as files and tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

/// One trace of a reader.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Search, page visit or news click.
    pub stream: Stream,
    /// Query, page title or article title.
    pub text: String,
    /// Unix time, seconds.
    pub time_unix_s: i64,
    /// Topic, where the platform knows it.
    pub category: Option<String>,
    /// Index of the article that was clicked.
    pub article_idx: Option<usize>,
    /// What a cleaner takes it for; [`Verdict::Keep`] until one has judged ([`World::clean`]).
    pub verdict: Verdict,
}

impl Event {
    /// The trace as a line of text, as prompts write it.
    pub fn line(&self) -> String {
        prompt::line(self.stream, &self.text, self.category.as_deref())
    }

    fn draft(&self) -> SignalDraft {
        SignalDraft {
            stream: self.stream,
            text: self.text.clone(),
            time_unix_s: self.time_unix_s,
            category: self.category.clone(),
            source: None,
            dwell_ms: None,
            weight: None,
        }
    }
}

/// One reader.
#[derive(Clone, Debug, PartialEq)]
pub struct Reader {
    /// Opaque key.
    pub key: String,
    /// What the reader may be used for.
    pub split: Split,
    /// Traces before the cutoff, oldest first.
    pub events: Vec<Event>,
    /// Indices of articles clicked within a day after the cutoff; only evaluation has them, and of no training reader.
    ///
    /// A generated world's are of its uniform slice: whatever was alive was shown equally often.
    pub held_out: Vec<usize>,
}

impl Reader {
    /// Has the reader's traces judged.
    /// # Errors
    /// If the cleaner fails.
    pub fn clean(&mut self, cleaner: &Cleaner) -> Result<(), CleanerError> {
        let texts = self.events.iter().map(|event| (event.stream, event.text.as_str()));
        let verdicts = cleaner.verdicts(texts)?;
        self.events.iter_mut().zip(verdicts).for_each(|(event, verdict)| event.verdict = verdict);
        Ok(())
    }

    /// Returns the traces at or before a moment, oldest first.
    pub fn events_until(&self, time_unix_s: i64) -> &[Event] {
        &self.events[..self.n_until(time_unix_s)]
    }

    /// Returns the signals at or before a moment; none where there are none that stand the checks.
    pub fn signals_until(&self, time_unix_s: i64) -> Option<UserSignals> {
        let past: Vec<usize> = (0..self.n_until(time_unix_s)).collect();
        signals(self.readable(&past).into_iter().map(|idx| &self.events[idx]))
    }

    /// Of the traces at these places, oldest first, those that a prompt may show: the newest of each stream, without what a
    /// cleaner takes for noise. A reader with nothing but noise keeps it, personal data aside, as in the server.
    pub fn readable(&self, idxs: &[usize]) -> Vec<usize> {
        let mut n_of_stream = [0; Stream::ALL.len()];
        let mut newest: Vec<usize> = Vec::new();
        for &idx in idxs[idxs.len().saturating_sub(DRAFTS_MAX)..].iter().rev() {
            let n = &mut n_of_stream[self.events[idx].stream as usize];
            *n += 1;
            if *n <= SIGNALS_PER_STREAM_MAX {
                newest.push(idx);
            }
        }
        newest.reverse();
        let verdict = |idx: usize| self.events[idx].verdict;
        let keeps_some = newest.iter().any(|&idx| verdict(idx) == Verdict::Keep);
        newest.retain(|&idx| {
            if keeps_some { verdict(idx) == Verdict::Keep } else { verdict(idx) != Verdict::Personal }
        });
        newest
    }

    /// Cuts the traces into visits, as ranges of their places: a pause longer than `gap_s` ends one.
    pub fn sessions(&self, gap_s: i64) -> impl Iterator<Item = Range<usize>> {
        let goes_on = move |one: &Event, next: &Event| next.time_unix_s - one.time_unix_s <= gap_s;
        self.events.chunk_by(goes_on).scan(0, |start, visit| {
            let range = *start..*start + visit.len();
            *start = range.end;
            Some(range)
        })
    }

    /// Returns the clicks after a moment and not after another, oldest first.
    pub fn clicks_between(
        &self,
        after_unix_s: i64,
        until_unix_s: i64,
    ) -> impl DoubleEndedIterator<Item = &Event> {
        let range = self.n_until(after_unix_s)..self.n_until(until_unix_s.max(after_unix_s));
        self.events[range].iter().filter(|event| event.stream == Stream::Click && event.article_idx.is_some())
    }

    fn n_until(&self, time_unix_s: i64) -> usize {
        self.events.partition_point(|event| event.time_unix_s <= time_unix_s)
    }
}

/// Traces as signals, [`DRAFTS_MAX`] at most; none where there are none that stand the checks.
pub fn signals<'a>(events: impl Iterator<Item = &'a Event>) -> Option<UserSignals> {
    UserSignals::new(events.map(Event::draft).collect()).ok()
}

/// Articles and readers of one world.
#[derive(Clone, Debug)]
pub struct World {
    /// Size, seed and generator of a generated world; source and importer of an imported one.
    pub name: String,
    /// Digest of its files as `world.json` has them, eight hexadecimal digits; empty for an imported one.
    pub digest: String,
    /// The world's own seed; 0 for an imported one.
    pub seed: u64,
    /// The moment that parts the past from what is held out.
    pub cutoff_unix_s: i64,
    /// The whole catalogue, by the order of the file.
    pub articles: Vec<Article>,
    /// All readers, by the order of the file.
    pub readers: Vec<Reader>,
}

/// How much of a world a command opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Training readers only, nothing held out: what most training commands see.
    Training,
    /// Validation readers too, with their held-out clicks: for stages that choose between their checkpoints.
    Validation,
    /// All readers and the held-out clicks, for the final figures.
    Evaluation,
}

impl Scope {
    fn holds(self, split: Split) -> bool {
        match self {
            Self::Training => split == Split::Train,
            Self::Validation => split != Split::Test,
            Self::Evaluation => true,
        }
    }
}

impl World {
    /// Reads the tables of a world folder.
    /// # Errors
    /// If a table is missing, or a line is broken or names an unknown article.
    pub fn read(dir: &Path, scope: Scope) -> Result<Self, TrainError> {
        let about: About = read_json(&dir.join("world.json"))?;
        let articles = catalogue::read(&dir.join("articles.jsonl"))?;
        let by_id: HashMap<String, usize> =
            articles.iter().enumerate().map(|(idx, article)| (article.id.clone(), idx)).collect();
        let mut readers: Vec<Reader> = Vec::new();
        let mut position: HashMap<String, usize> = HashMap::new();
        let mut place = |readers: &mut Vec<Reader>, key: String, split: Split| {
            *position.entry(key.clone()).or_insert_with(|| {
                readers.push(Reader { key, split, events: Vec::new(), held_out: Vec::new() });
                readers.len() - 1
            })
        };
        let path = dir.join("events.jsonl");
        for_each_line(&path, |row: EventRow| {
            if !scope.holds(row.split) {
                return Ok(());
            }
            let article_idx =
                row.article_id.as_ref().map(|id| by_id.get(id).copied().ok_or_else(|| unknown(id)));
            let idx = place(&mut readers, row.user_key, row.split);
            readers[idx].events.push(Event {
                stream: Stream::of_word(&row.stream).ok_or_else(|| format!("{} is no stream", row.stream))?,
                text: row.text,
                time_unix_s: row.time_unix_s,
                category: row.category,
                article_idx: article_idx.transpose()?,
                verdict: Verdict::Keep,
            });
            Ok(())
        })?;
        if scope != Scope::Training {
            for_each_line(&dir.join("held_out.jsonl"), |row: HeldOutRow| {
                if !scope.holds(row.split) {
                    return Ok(());
                }
                let article_idx = *by_id.get(&row.article_id).ok_or_else(|| unknown(&row.article_id))?;
                let idx = place(&mut readers, row.user_key, row.split);
                if row.policy == HeldOutPolicy::Uniform {
                    readers[idx].held_out.push(article_idx);
                }
                Ok(())
            })?;
        }
        for reader in &mut readers {
            reader.events.sort_by_key(|event| event.time_unix_s);
        }
        let (name, seed, digest) = match about.origin {
            Origin::Generated { generator_version, size, seed, files } => {
                let digests: String = files.into_iter().map(|(_, digest)| digest).collect();
                let name = format!("{size} world, seed {seed}, generator {generator_version}");
                (name, seed, sha256_hex(digests.as_bytes())[..8].to_owned())
            }
            Origin::Imported { imported, importer_version } => {
                (format!("{imported}, importer {importer_version}"), 0, String::new())
            }
        };
        Ok(Self { name, digest, seed, cutoff_unix_s: about.cutoff_unix_s, articles, readers })
    }

    /// Has every search and page of the readers of some splits judged.
    /// # Errors
    /// If the cleaner fails.
    pub fn clean(&mut self, cleaner: &Cleaner, splits: &[Split]) -> Result<(), CleanerError> {
        let mut asked: Vec<&mut Reader> =
            self.readers.iter_mut().filter(|reader| splits.contains(&reader.split)).collect();
        asked.par_iter_mut().try_for_each(|reader| reader.clean(cleaner))
    }

    /// Takes every other stream away from readers who are asked; what training readers did stays.
    pub fn keep_stream(&mut self, stream: Stream) {
        for reader in self.readers.iter_mut().filter(|reader| reader.split != Split::Train) {
            reader.events.retain(|event| event.stream == stream);
        }
    }

    /// Its name and digest, as tables give them.
    pub fn title(&self) -> String {
        if self.digest.is_empty() { self.name.clone() } else { format!("{} ({})", self.name, self.digest) }
    }

    /// Digests of title and catalogue, by which a run knows its world.
    pub fn digests(&self) -> [String; 2] {
        [self.title(), self.articles_digest()].map(|text| sha256_hex(text.as_bytes()))
    }

    /// Digest of the catalogue: an imported world has no other.
    pub fn articles_digest(&self) -> String {
        let text = |article: &Article| [article.id.as_str(), &article.title, &article.summary].join("\n");
        sha256_hex(self.articles.iter().map(text).collect::<Vec<_>>().join("\n").as_bytes())
    }

    /// Digest of all that was read, with what a cleaner says of it.
    pub fn content_digest(&self) -> String {
        fn digests<T: fmt::Debug + Sync>(of: &[T]) -> String {
            of.par_iter().map(|part| sha256_hex(format!("{part:?}").as_bytes())).collect()
        }
        let moment = format!("{} {}", self.seed, self.cutoff_unix_s);
        let parts = [moment, digests(&self.articles), digests(&self.readers)];
        sha256_hex(parts.join("\n").as_bytes())
    }

    /// Articles published at or before the cutoff.
    pub fn published(&self) -> impl Iterator<Item = &Article> {
        self.articles.iter().filter(|article| article.published_unix_s <= self.cutoff_unix_s)
    }

    /// Readers of the training split.
    pub fn training_readers(&self) -> impl Iterator<Item = &Reader> {
        self.readers.iter().filter(|reader| reader.split == Split::Train)
    }
}

/// `world.json`, as far as training needs it.
#[derive(Deserialize)]
struct About {
    cutoff_unix_s: i64,
    #[serde(flatten)]
    origin: Origin,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Origin {
    Generated { generator_version: u32, size: String, seed: u64, files: Vec<(String, String)> },
    Imported { imported: String, importer_version: u32 },
}

#[derive(Deserialize)]
struct EventRow {
    user_key: String,
    split: Split,
    stream: String,
    text: String,
    time_unix_s: i64,
    category: Option<String>,
    article_id: Option<String>,
}

#[derive(Deserialize)]
struct HeldOutRow {
    user_key: String,
    split: Split,
    article_id: String,
    #[serde(default)]
    policy: HeldOutPolicy,
}

/// Who decided what was shown when a click was held out; an imported world does not say, and all its clicks are taken.
#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum HeldOutPolicy {
    #[default]
    Uniform,
    Logged,
}

fn unknown(article_id: &str) -> String {
    format!("article {article_id} is not in the catalogue")
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, TrainError> {
    let json = std::fs::read(path).map_err(TrainError::disk(path, "read"))?;
    serde_json::from_slice(&json).map_err(|error| TrainError::file(path, error))
}

fn for_each_line<T: DeserializeOwned>(
    path: &Path,
    mut each: impl FnMut(T) -> Result<(), String>,
) -> Result<(), TrainError> {
    let file = File::open(path).map_err(TrainError::disk(path, "open"))?;
    for (idx, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(TrainError::disk(path, "read"))?;
        let wrong =
            |reason: String| TrainError::Line { file: path.display().to_string(), line: idx + 1, reason };
        let row = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
        each(row).map_err(wrong)?;
    }
    Ok(())
}
