//! The only definition of a valid list. The server, the rewards and the evaluation all ask here.
use crate::{
    queries::{QUERIES_MAX, QUERIES_MIN, Query, QueryList},
    signals::characters::is_invisible,
};
use std::collections::HashSet;
use thiserror::Error;
use unicode_normalization::UnicodeNormalization;

/// Fewest words of a query: one word is a topic, not a query.
pub const WORDS_MIN: usize = 2;
/// Most words of a query: a longer one is a sentence, which no search engine matches well.
pub const WORDS_MAX: usize = 12;
/// Most characters of a query.
pub const QUERY_CHARS_MAX: usize = 160;

/// Endings that make a bare `name.ending` an address. `Node.js` and `St.Petersburg` are words.
const ADDRESS_ENDINGS: [&str; 36] = [
    "com", "org", "net", "edu", "gov", "mil", "int", "info", "biz", "io", "co", "ai", "app", "dev", "me",
    "tv", "news", "xyz", "online", "site", "shop", "blog", "example", "uk", "de", "fr", "no", "ru", "cn",
    "jp", "in", "eu", "us", "ch", "nl", "se",
];

/// Why a generation is not a list. A malformed generation is data, not an error: it is counted and scored.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// Too few or too many lines.
    #[error("list has {got} queries")]
    QueryCount {
        /// Lines found.
        got: usize,
    },
    /// A line holds nothing but white space.
    #[error("query {idx} is blank")]
    Blank {
        /// Line, from 0.
        idx: usize,
    },
    /// A line starts with a bullet or a number: the model must write bare queries.
    #[error("query {idx} starts with a list marker")]
    Marker {
        /// Line, from 0.
        idx: usize,
    },
    /// Too few or too many words. A word holds a letter or a digit.
    #[error("query {idx} has {got} words")]
    WordCount {
        /// Line, from 0.
        idx: usize,
        /// Words found.
        got: usize,
    },
    /// Too many characters.
    #[error("query {idx} has {got} characters")]
    Length {
        /// Line, from 0.
        idx: usize,
        /// Characters found.
        got: usize,
    },
    /// The same words as an earlier query, but for case and punctuation.
    #[error("query {idx} repeats an earlier one")]
    Duplicate {
        /// Line, from 0.
        idx: usize,
    },
    /// A web or mail address.
    #[error("query {idx} holds a URL")]
    Url {
        /// Line, from 0.
        idx: usize,
    },
    /// A control or invisible character, or U+FFFD, which stands for broken bytes.
    #[error("query {idx} holds a control character")]
    Control {
        /// Line, from 0.
        idx: usize,
    },
}

impl Malformed {
    /// The reason as a metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::QueryCount { .. } => "query_count",
            Self::Blank { .. } => "blank",
            Self::Marker { .. } => "marker",
            Self::WordCount { .. } => "word_count",
            Self::Length { .. } => "length",
            Self::Duplicate { .. } => "duplicate",
            Self::Url { .. } => "url",
            Self::Control { .. } => "control",
        }
    }
}

/// Reads a list as the model wrote it: 3 to 8 queries, one a line, 2 to 12 words each.
///
/// One line feed at the end and spaces around a query are tolerated; runs of white space become one space. Words are
/// what white space separates, so that languages written without it are out of scope.
///
/// # Errors
/// The first rule that the text breaks, line by line: no blank lines, bullets, numbering, repetitions (compared in lower
/// case, NFKC, without punctuation at the edges of words), addresses, control or invisible characters.
pub fn parse(generated: &str) -> Result<QueryList, Malformed> {
    let text = generated.strip_suffix('\n').unwrap_or(generated);
    let n_lines = if text.is_empty() { 0 } else { text.split('\n').count() };
    if !(QUERIES_MIN..=QUERIES_MAX).contains(&n_lines) {
        return Err(Malformed::QueryCount { got: n_lines });
    }
    let mut seen = HashSet::new();
    let mut queries = Vec::with_capacity(n_lines);
    for (idx, line) in text.split('\n').enumerate() {
        let query = parse_line(idx, line)?;
        if !seen.insert(comparable(&query)) {
            return Err(Malformed::Duplicate { idx });
        }
        queries.push(Query::new_checked(query));
    }
    Ok(QueryList::new_checked(queries))
}

/// The queries of a list that is not written to its end: one a line, without lines that are none and without repetitions.
pub fn queries_so_far(written: &str) -> Vec<Query> {
    let mut seen = HashSet::new();
    let queries = written.split('\n').enumerate().filter_map(|(idx, line)| parse_line(idx, line).ok());
    queries.filter(|query| seen.insert(comparable(query))).map(Query::new_checked).collect()
}

/// A query in the form in which repetitions are found: lower case, NFKC, no punctuation at the edges of words, single spaces.
pub fn comparable(query: &str) -> String {
    let folded = query.nfkc().collect::<String>().to_lowercase();
    let words = folded.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn parse_line(idx: usize, line: &str) -> Result<String, Malformed> {
    // A tab is white space to a reader and a control character to a terminal; it is refused like the others.
    if line.chars().any(|c| c.is_control() || is_invisible(c) || c == '\u{fffd}') {
        return Err(Malformed::Control { idx });
    }
    let line: String = line.nfc().collect();
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some(first) = words.first() else { return Err(Malformed::Blank { idx }) };
    if is_marker(first) {
        return Err(Malformed::Marker { idx });
    }
    let n_words = words.iter().filter(|word| word.chars().any(char::is_alphanumeric)).count();
    if !(WORDS_MIN..=WORDS_MAX).contains(&n_words) {
        return Err(Malformed::WordCount { idx, got: n_words });
    }
    let query = words.join(" ");
    let n_chars = query.chars().count();
    if n_chars > QUERY_CHARS_MAX {
        return Err(Malformed::Length { idx, got: n_chars });
    }
    if words.iter().any(|word| is_address(word)) {
        return Err(Malformed::Url { idx });
    }
    Ok(query)
}

/// Whether a line's first word numbers or bullets it: `-`, `* `, `-word`, `1.`, `2)word`. Not `-5` or `1.5`.
fn is_marker(first: &str) -> bool {
    if let Some(rest) = first.strip_prefix(['-', '*', '•', '·', '–', '—', '#', '>', '‣', '▪', '◦', '●'])
    {
        return !rest.starts_with(|c: char| c.is_ascii_digit());
    }
    let rest = first.trim_start_matches(|c: char| c.is_ascii_digit());
    let n_digits = first.len() - rest.len();
    (1..=3).contains(&n_digits)
        && rest
            .strip_prefix(['.', ')', ':'])
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Whether a word is a web or mail address. Look-alike letters are folded (NFKC) first.
fn is_address(word: &str) -> bool {
    let word = word.nfkc().collect::<String>().to_lowercase();
    if word.contains("://") || word.contains("www.") {
        return true;
    }
    let word = word.trim_matches(|c: char| !c.is_alphanumeric());
    if let Some((name, host)) = word.split_once('@') {
        return !name.is_empty() && host_ending(host).is_some();
    }
    let host = word.split(['/', ':', '?', '#']).next().unwrap_or_default();
    match host_ending(host) {
        Some(_) if host.len() < word.len() => true,
        Some(ending) => ADDRESS_ENDINGS.contains(&ending),
        None => false,
    }
}

/// The last label of something shaped like a host name: at least two labels, the last of two or more ASCII letters.
fn host_ending(host: &str) -> Option<&str> {
    let (front, ending) = host.rsplit_once('.')?;
    let is_label = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-');
    let is_ending = ending.len() >= 2 && ending.bytes().all(|byte| byte.is_ascii_lowercase());
    (is_ending && front.split('.').all(is_label)).then_some(ending)
}
