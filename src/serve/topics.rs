//! Sensitive topics: what a platform neither tells the model of a reader nor searches for in her name, such as illness, faith or debts.
//!
//! A TOML file that may change while the server runs: under `[topics]` a list of words by topic, `health = ["chemotherapy", "panic attack",
//! "depress*"]`, in whatever languages readers write. A text is about a topic if it has one of its entries: word by word and in any case, the
//! last word by its beginning where a star follows. An entry in a script without spaces between words counts wherever it stands.
use crate::{
    queries::{Query, QueryList},
    serve::{
        candidate::Invalid,
        metrics::Metrics,
        settings::{Gates, TopicSettings},
        watched::{self, FileError, FilesDigest, Looked, Watched},
    },
    settings::Mistakes,
    signals::{Signal, UserSignals, characters::clean},
    text::parse,
};
use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};
use tracing::{info, warn};

/// Largest file: some fifty thousand words.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most topics: each is a label of a metric.
const TOPICS_MAX: usize = 32;
/// Longest name of a topic.
const NAME_BYTES_MAX: usize = 32;
/// Fewest characters before a star: with fewer an entry would take whole vocabularies with it.
const STEM_CHARS_MIN: usize = 3;
/// The file's name in metrics.
const FILE: &str = "topics";
/// How often the file is looked at: what people write for a day need not be there within a second.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(5);

/// The topics in force.
#[derive(Debug)]
pub struct Topics {
    current: Watched<Words>,
    settings: TopicSettings,
    metrics: Arc<Metrics>,
}

impl Topics {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// If it cannot be read or has mistakes.
    pub fn open(settings: TopicSettings, metrics: Arc<Metrics>) -> Result<Self, FileError> {
        let (first, contents) = match &settings.file {
            None => (Words::default(), FilesDigest::of([])),
            Some(path) => {
                let text = read(path)?;
                (words(&text, path)?, FilesDigest::of([&*text]))
            }
        };
        let topics = Self { current: Watched::new(first, contents), settings, metrics };
        if topics.settings.file.is_some() {
            topics.loaded();
        }
        Ok(topics)
    }

    /// Looks at the file again and again. Where there is none it returns.
    pub async fn watch(self: Arc<Self>) {
        let Some(path) = self.settings.file.clone() else { return };
        watched::watch(LOOKED_AT_EVERY, move || self.look(&path)).await;
    }

    /// Puts the file in force if it has changed and is right; otherwise says once what is wrong with it.
    fn look(&self, path: &Path) {
        let make = |text: Vec<u8>| Ok(words(&text, path)?);
        match self.current.look(read(path), |text| FilesDigest::of([&**text]), make) {
            Looked::Same => {}
            Looked::Back => self.metrics.access_refused_file(FILE, false),
            Looked::Loaded => self.loaded(),
            Looked::Refused(error) => {
                self.metrics.topics_read("refused");
                self.metrics.access_refused_file(FILE, true);
                let error = crate::telemetry::Chain(&error);
                warn!(%error, "file of topics is refused; the old words stay in force");
            }
        }
    }

    fn loaded(&self) {
        self.metrics.topics_read("loaded");
        self.metrics.access_refused_file(FILE, false);
        info!(n_topics = self.current.now().names.len(), "sensitive topics are in force");
    }

    /// Bytes that are equal exactly when the same is left out; none where nothing is. Answers made under other words are no answers now.
    pub fn canonical(&self) -> Vec<u8> {
        let words = self.current.now();
        if words.names.is_empty() {
            return Vec::new();
        }
        [&words.digest[..], self.settings.gates.word().as_bytes()].concat()
    }

    /// The signals that say nothing of a topic; none if there is none. News clicks count too.
    pub fn signals(&self, signals: UserSignals) -> Option<UserSignals> {
        let words = self.current.now();
        if words.names.is_empty() || self.settings.gates == Gates::Queries {
            return Some(signals);
        }
        let of = |signal: &Signal| {
            words.topic(signal.text()).or_else(|| signal.category().and_then(|text| words.topic(text)))
        };
        let topics: Vec<Option<&str>> = signals.as_slice().iter().map(of).collect();
        topics.iter().flatten().for_each(|topic| self.metrics.sensitive("signal", topic));
        if topics.iter().all(Option::is_none) {
            return Some(signals);
        }
        signals.kept(&topics.iter().map(Option::is_none).collect::<Vec<_>>())
    }

    /// A list without the queries about a topic, which is counted.
    ///
    /// # Errors
    /// `Sensitive` if too few are left for a list.
    pub fn queries(&self, list: QueryList) -> Result<QueryList, Invalid> {
        let gate = self.gate();
        list.as_slice()
            .iter()
            .filter_map(|query| gate.words.as_ref()?.topic(query.as_str()))
            .for_each(|topic| self.metrics.sensitive("query", topic));
        gate.queries(list)
    }

    /// What lets queries pass now, for whoever asks often and counts nothing.
    pub fn gate(&self) -> Gate {
        let words = self.current.now();
        let is_open = words.names.is_empty() || self.settings.gates == Gates::Signals;
        Gate { words: (!is_open).then_some(words) }
    }
}

/// What lets queries pass.
#[derive(Clone, Debug)]
pub struct Gate {
    /// None where all pass.
    words: Option<Arc<Words>>,
}

impl Gate {
    /// Whether a query is about no topic.
    pub fn passes(&self, query: &Query) -> bool {
        self.words.as_ref().is_none_or(|words| words.topic(query.as_str()).is_none())
    }

    /// A list without the queries about a topic.
    ///
    /// # Errors
    /// `Sensitive` if too few are left for a list.
    pub fn queries(&self, list: QueryList) -> Result<QueryList, Invalid> {
        let passing = list.as_slice().iter().filter(|query| self.passes(query));
        let left: Vec<&str> = passing.map(Query::as_str).collect();
        if left.len() == list.as_slice().len() {
            return Ok(list);
        }
        parse::parse(&left.join("\n")).map_err(|_| Invalid::Sensitive)
    }
}

/// The words of all topics.
#[derive(Debug, Default)]
struct Words {
    digest: [u8; 32],
    names: Vec<String>,
    /// By its first word, and a stem by its beginning.
    entries: HashMap<String, Vec<Entry>>,
    stems: HashMap<String, usize>,
    /// Those in scripts without spaces, by their first character.
    unspaced: HashMap<char, Vec<(String, usize)>>,
}

/// An entry of several words, or of one.
#[derive(Debug)]
struct Entry {
    /// The words after the first.
    rest: Vec<String>,
    /// Whether more may follow the last letter.
    is_stem: bool,
    topic_idx: usize,
}

impl Words {
    /// The first topic that a text is about.
    fn topic(&self, text: &str) -> Option<&str> {
        let text = text.to_lowercase();
        let words: Vec<&str> = split(&text).collect();
        let found = (0..words.len()).find_map(|at| self.at(&words[at..]));
        let found =
            found.or_else(|| text.char_indices().find_map(|(at, c)| self.unspaced_at(&text[at..], c)));
        found.map(|idx| self.names[idx].as_str())
    }

    /// The topic of an entry in a script without spaces with which this text begins, whose first character is `first`.
    fn unspaced_at(&self, text: &str, first: char) -> Option<usize> {
        let entries = self.unspaced.get(&first)?;
        entries.iter().find(|(entry, _)| text.starts_with(entry.as_str())).map(|(_, idx)| *idx)
    }

    /// The topic of a stem with which a word begins.
    fn stem_of(&self, word: &str) -> Option<usize> {
        let ends = word.char_indices().map(|(at, c)| at + c.len_utf8());
        ends.skip(STEM_CHARS_MIN - 1).find_map(|end| self.stems.get(&word[..end]).copied())
    }

    /// The topic of an entry that begins with the first of these words.
    fn at(&self, words: &[&str]) -> Option<usize> {
        let (first, after) = words.split_first()?;
        let ends = |entry: &&Entry| {
            let n_rest = entry.rest.len();
            let Some((last, between)) = entry.rest.split_last() else { return true };
            let Some((last_here, between_here)) = after.get(..n_rest).and_then(<[&str]>::split_last) else {
                return false;
            };
            let is_last =
                if entry.is_stem { last_here.starts_with(last.as_str()) } else { last == last_here };
            is_last && between.iter().zip(between_here).all(|(one, other)| one == other)
        };
        let entry = self.entries.get(*first).and_then(|entries| entries.iter().find(ends));
        entry.map(|entry| entry.topic_idx).or_else(|| self.stem_of(first))
    }

    /// Adds an entry, or says what is wrong with it.
    fn add(&mut self, entry: &str, topic_idx: usize) -> Result<(), &'static str> {
        // In the form that signals and queries have.
        let entry = clean(entry, usize::MAX).to_lowercase();
        let (text, is_stem) = entry.strip_suffix('*').map_or((&*entry, false), |text| (text, true));
        if let Some(first) = text.chars().next().filter(|_| text.chars().any(is_unspaced)) {
            self.unspaced.entry(first).or_default().push((text.to_owned(), topic_idx));
            return Ok(());
        }
        let mut words = split(text).map(str::to_owned);
        let Some(first) = words.next() else { return Err("has no word") };
        let rest: Vec<String> = words.collect();
        let last = rest.last().unwrap_or(&first);
        if is_stem && last.chars().count() < STEM_CHARS_MIN {
            return Err("has too few letters before its star");
        }
        if is_stem && rest.is_empty() {
            self.stems.entry(first).or_insert(topic_idx);
        } else {
            self.entries.entry(first).or_default().push(Entry { rest, is_stem, topic_idx });
        }
        Ok(())
    }
}

/// The words of a text.
fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// Whether words of the script have no spaces between them: Han, Japanese, Thai, Lao, Khmer, Burmese. Source: Unicode 16, Blocks.txt.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3134f}')
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    watched::read_named("topics.file", path, FILE_BYTES_MAX)
}

/// Every topic of a file, or everything that is wrong with it.
fn words(text: &[u8], path: &Path) -> Result<Words, Mistakes> {
    let mut mistakes = Vec::new();
    let mut words = Words { digest: FilesDigest::of([text]).digest(), ..Words::default() };
    match toml::from_slice::<toml::Table>(text) {
        Err(error) => mistakes.push(format!("is not TOML: {}", error.message())),
        Ok(mut table) => {
            let topics = table.remove("topics").and_then(|topics| topics.as_table().cloned());
            mistakes
                .extend(table.keys().map(|key| format!("{key} is not known; words stand under [topics]")));
            let topics = topics.unwrap_or_default();
            if !(1..=TOPICS_MAX).contains(&topics.len()) {
                mistakes.push(format!(
                    "has {} topics under [topics], and should have 1 to {TOPICS_MAX}",
                    topics.len()
                ));
            }
            for (topic_idx, (name, entries)) in topics.into_iter().enumerate() {
                mistakes.extend(add(&mut words, (topic_idx, &name), &entries));
                words.names.push(name);
            }
        }
    }
    if mistakes.is_empty() {
        return Ok(words);
    }
    Err(Mistakes { file: path.display().to_string(), mistakes })
}

/// Adds a topic; returns what is wrong with it. Entries are named by number: the file may be nobody's business.
fn add(words: &mut Words, (topic_idx, name): (usize, &str), entries: &toml::Value) -> Vec<String> {
    let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let mut mistakes = Vec::new();
    if !is_name {
        mistakes.push(format!("topics.{name:?} should be named by 1 to {NAME_BYTES_MAX} of a-z, 0-9 and _"));
    }
    let texts: Option<Vec<&str>> =
        entries.as_array().and_then(|entries| entries.iter().map(toml::Value::as_str).collect());
    let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
        mistakes.push(format!("topics.{name} should be a list of words"));
        return mistakes;
    };
    let wrong = texts.iter().enumerate().filter_map(|(idx, text)| {
        let mistake = words.add(text, topic_idx).err()?;
        Some(format!("topics.{name} entry {idx} {mistake}"))
    });
    mistakes.extend(wrong);
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::{SignalDraft, Stream};

    const FILE: &str = r#"
        [topics]
        health = ["chemotherapy", "panic attack", "depress*", "Krebs", "抗癌", "side effect*"]
        debts = ["payday loan", "sur\u0065\u0301ndettement"]
    "#;

    fn open(text: &str, gates: Gates) -> Result<(tempfile::TempDir, Topics), FileError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("topics.toml");
        std::fs::write(&file, text).unwrap();
        let settings = TopicSettings { file: Some(file), gates };
        Topics::open(settings, Arc::new(Metrics::new().unwrap())).map(|topics| (dir, topics))
    }

    #[test]
    fn a_text_is_about_a_topic_by_whole_words_stems_and_entries_without_spaces() {
        let (_dir, topics) = open(FILE, Gates::Both).unwrap();
        let words = topics.current.now();
        for (text, topic) in [
            ("Chemotherapy, how long", Some("health")),
            ("a PANIC  attack at night", Some("health")),
            ("panic in the city: attack", None),
            ("signs of depression", Some("health")),
            ("side effects of rain", Some("health")),
            ("krebsrot", None),
            ("Krebs was tun", Some("health")),
            ("最新抗癌新聞", Some("health")),
            ("payday loan near me", Some("debts")),
            // The entry has its accent as a character of its own.
            ("commission de sur\u{e9}ndettement", Some("debts")),
            ("payday", None),
            ("", None),
        ] {
            assert_eq!(words.topic(text), topic, "{text}");
        }
    }

    #[test]
    fn the_sample_file_is_right() {
        let sample = include_bytes!("../../deploy/topics.toml");
        let words = words(sample, Path::new("deploy/topics.toml")).unwrap();
        assert_eq!(words.topic("Hilfe bei Depressionen"), Some("health"));
        assert_eq!(words.topic("storm warning coast"), None);
    }

    fn list(text: &str) -> QueryList {
        parse::parse(text).unwrap()
    }

    fn signals(texts: &[&str]) -> UserSignals {
        let draft = |text: &&str| SignalDraft {
            stream: Stream::Search,
            text: (*text).to_owned(),
            time_unix_s: 1,
            category: None,
            source: None,
            dwell_ms: None,
            weight: None,
        };
        UserSignals::new(texts.iter().map(draft).collect()).unwrap()
    }

    #[test]
    fn what_is_about_a_topic_is_left_out_and_counted_where_the_gate_stands() {
        let of_four = "solar storm tonight\ntrain strike talks\ncity council vote\nchemotherapy side effects";
        let of_three = "solar storm tonight\ntrain strike talks\nchemotherapy side effects";
        for (gates, leaves_signals, leaves_queries) in
            [(Gates::Both, true, true), (Gates::Signals, true, false), (Gates::Queries, false, true)]
        {
            let (_dir, topics) = open(FILE, gates).unwrap();
            let left = topics.signals(signals(&["rain jacket", "payday loan"])).unwrap();
            assert_eq!(left.as_slice().len(), if leaves_signals { 1 } else { 2 }, "{gates:?}");
            assert_eq!(topics.signals(signals(&["payday loan"])).is_none(), leaves_signals);
            let left = topics.queries(list(of_four)).unwrap();
            assert_eq!(left.as_slice().len(), if leaves_queries { 3 } else { 4 }, "{gates:?}");
            let too_few = topics.queries(list(of_three));
            assert_eq!(too_few.err(), leaves_queries.then_some(Invalid::Sensitive), "{gates:?}");
            let text = topics.metrics.render();
            let counted = |series: &str| text.contains(&format!("newshound_sensitive_total{{{series}}} 2"));
            assert_eq!(counted("what=\"signal\",topic=\"debts\""), leaves_signals, "{text}");
            assert_eq!(counted("what=\"query\",topic=\"health\""), leaves_queries, "{text}");
        }
    }

    #[test]
    fn without_a_file_all_passes_and_answers_are_what_they_were() {
        let settings = TopicSettings { file: None, gates: Gates::Both };
        let topics = Topics::open(settings, Arc::new(Metrics::new().unwrap())).unwrap();
        assert!(topics.canonical().is_empty());
        assert!(topics.signals(signals(&["payday loan"])).is_some());
    }

    #[test]
    fn all_mistakes_of_a_file_are_told_and_the_old_words_stay() {
        let error = open("more = 1\n[topics]\nHealth = [\"a\"]\nb = 7\nc = [\"ab*\", \"!\"]", Gates::Both)
            .unwrap_err();
        let FileError::Mistakes(Mistakes { mistakes, .. }) = &error else { panic!("{error}") };
        assert_eq!(mistakes.len(), 5, "{mistakes:?}");
        let (dir, topics) = open(FILE, Gates::Both).unwrap();
        let (file, before) = (dir.path().join("topics.toml"), topics.canonical());
        std::fs::write(&file, "[topics]").unwrap();
        topics.look(&file);
        assert_eq!(topics.canonical(), before);
        std::fs::write(&file, FILE.replace("payday", "instant")).unwrap();
        topics.look(&file);
        assert_ne!(topics.canonical(), before, "answers made before are no answers now");
        assert!(topics.metrics.render().contains("newshound_topic_reads_total{result=\"refused\"} 1"));
    }
}
