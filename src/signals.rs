//! What a platform knows of one reader: searches, page visits and news clicks, checked once when built.
pub mod characters;

use characters::clean;
use sha2::{Digest, Sha256};
use std::fmt;
use thiserror::Error;

/// Longest user key, in bytes. A longer one is refused: a key is an identifier, not a document.
pub const USER_KEY_BYTES_MAX: usize = 128;
/// Longest text of a signal, in characters. What follows is cut and counted: the head of a title says what it is about.
pub const TEXT_CHARS_MAX: usize = 256;
/// Longest category or source, in characters. What follows is cut.
pub const LABEL_CHARS_MAX: usize = 64;
/// Signals kept per stream. The oldest beyond it are dropped and counted: they say least of what the reader wants now.
pub const SIGNALS_PER_STREAM_MAX: usize = 24;
/// Drafts accepted in one request. More are refused before any is looked at.
pub const DRAFTS_MAX: usize = 512;
/// Largest weight of a signal.
pub const WEIGHT_MAX: f32 = 10.0;
/// First second of the year 2200, UTC. A later time is a mistake of unit (milliseconds) and is refused.
pub const TIME_UNIX_S_MAX: i64 = 7_258_118_400;

/// One reader's opaque key: 1 to 128 bytes without control characters. `Debug` shows a digest only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserKey(String);

impl UserKey {
    /// Checks and wraps a key.
    ///
    /// # Errors
    /// If the key is empty, too long, or holds a control or invisible character.
    pub fn new(key: &str) -> Result<Self, SignalViolation> {
        let field = || "user".to_owned();
        if key.is_empty() {
            return Err(SignalViolation::Required { field: field() });
        }
        if key.len() > USER_KEY_BYTES_MAX {
            return Err(SignalViolation::Length {
                field: field(),
                min: 1,
                max: USER_KEY_BYTES_MAX,
                got: key.len(),
            });
        }
        if key.chars().any(|c| c.is_control() || characters::is_invisible(c)) {
            return Err(SignalViolation::Control { field: field() });
        }
        Ok(Self(key.to_owned()))
    }

    /// The key itself. It is personal data: no log, no metric label, no error carries it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UserKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = Sha256::digest(self.0.as_bytes());
        out.write_str("UserKey(")?;
        digest.iter().take(4).try_for_each(|byte| write!(out, "{byte:02x}"))?;
        out.write_str(")")
    }
}

/// Where a signal was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// A query typed into a search box.
    Search,
    /// A page outside the news that was visited.
    Page,
    /// A news article that was opened.
    Click,
}

impl Stream {
    /// Every stream.
    pub const ALL: [Self; 3] = [Self::Search, Self::Page, Self::Click];

    /// Its word in prompts, files and commands.
    pub fn word(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Page => "page",
            Self::Click => "click",
        }
    }

    /// The stream of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.word() == word)
    }
}

/// One raw signal as it came from the wire or a file, before any check.
#[derive(Clone, Debug)]
pub struct SignalDraft {
    /// Where it was seen.
    pub stream: Stream,
    /// What was typed, or the title of what was opened.
    pub text: String,
    /// When, in seconds since 1970 (UTC).
    pub time_unix_s: i64,
    /// Topic as the platform names it.
    pub category: Option<String>,
    /// Site or product it came from.
    pub source: Option<String>,
    /// How long it was looked at.
    pub dwell_ms: Option<u32>,
    /// Importance in [0, 10]; 1 when absent.
    pub weight: Option<f32>,
}

/// One checked signal: text normalised (NFC), control, bidi and zero-width characters stripped, length capped.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    stream: Stream,
    text: String,
    time_unix_s: i64,
    category: Option<String>,
    source: Option<String>,
    dwell_ms: Option<u32>,
    weight: f32,
}

impl Signal {
    /// Where the signal was seen.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// What was typed or opened: one line, at most 256 characters, never empty.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// When, in seconds since 1970 (UTC).
    pub fn time_unix_s(&self) -> i64 {
        self.time_unix_s
    }

    /// Topic as the platform names it: one line, at most 64 characters.
    pub fn category(&self) -> Option<&str> {
        self.category.as_deref()
    }

    /// Site or product the signal came from: one line, at most 64 characters.
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// How long it was looked at, in milliseconds.
    pub fn dwell_ms(&self) -> Option<u32> {
        self.dwell_ms
    }

    /// Importance in [0, 10].
    pub fn weight(&self) -> f32 {
        self.weight
    }

    /// Oldest first. Every field takes part, so that the order never depends on the order of arrival.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        let key = |signal: &Self| (signal.time_unix_s, signal.stream);
        let rest = |signal: &Self| (signal.dwell_ms, signal.weight.to_bits());
        key(self)
            .cmp(&key(other))
            .then_with(|| self.text.cmp(&other.text))
            .then_with(|| self.category.cmp(&other.category))
            .then_with(|| self.source.cmp(&other.source))
            .then_with(|| rest(self).cmp(&rest(other)))
    }
}

/// One reader's signals, oldest first, bounded per stream (the oldest are dropped and counted); at least one, but for `none`.
#[derive(Clone, Debug)]
pub struct UserSignals {
    signals: Vec<Signal>,
    n_dropped: usize,
}

impl UserSignals {
    /// Checks every draft and keeps the newest of each stream.
    ///
    /// # Errors
    /// Every violation of every draft at once; an empty or far too long list of drafts is one violation of `signals`.
    pub fn new(drafts: Vec<SignalDraft>) -> Result<Self, Vec<SignalViolation>> {
        Self::check_count(drafts.len()).map_err(|violation| vec![violation])?;
        let mut violations = Vec::new();
        let mut signals = Vec::with_capacity(drafts.len());
        for (idx, draft) in drafts.into_iter().enumerate() {
            match checked(idx, draft) {
                Ok(signal) => signals.push(signal),
                Err(of_draft) => violations.extend(of_draft),
            }
        }
        if !violations.is_empty() {
            return Err(violations);
        }
        signals.sort_by(Signal::order);
        let n_checked = signals.len();
        let signals = newest_per_stream(signals);
        Ok(Self { n_dropped: n_checked - signals.len(), signals })
    }

    /// Those of a reader of whom nothing is known: nothing can be written from them.
    pub fn none() -> Self {
        Self { signals: Vec::new(), n_dropped: 0 }
    }

    /// Checks how many drafts there are, for callers who should not look at any of too many.
    ///
    /// # Errors
    /// If there is none, or more than the limit, which the violation names.
    pub fn check_count(got: usize) -> Result<(), SignalViolation> {
        let fits = (1..=DRAFTS_MAX).contains(&got);
        let refusal = || SignalViolation::Count { field: "signals".to_owned(), min: 1, max: DRAFTS_MAX, got };
        fits.then_some(()).ok_or_else(refusal)
    }

    /// The kept signals, oldest first, empty only where nothing is known of the reader.
    pub fn as_slice(&self) -> &[Signal] {
        &self.signals
    }

    /// Those of the kept signals for which `keeps`, in their order, is true; none if there is none.
    pub fn kept(&self, keeps: &[bool]) -> Option<Self> {
        let marked = self.signals.iter().zip(keeps).filter(|(_, keeps)| **keeps);
        let signals: Vec<Signal> = marked.map(|(signal, _)| signal.clone()).collect();
        (!signals.is_empty()).then_some(Self { signals, n_dropped: self.n_dropped })
    }

    /// Number of signals dropped because their stream held more than 24.
    pub fn truncated_count(&self) -> usize {
        self.n_dropped
    }

    /// sha256 over a canonical encoding of every field of every kept signal.
    ///
    /// The order of arrival plays no part. Texts are preceded by their length, so that no two lists share an encoding.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"newshound signals 1");
        for signal in &self.signals {
            let stream = match signal.stream {
                Stream::Search => 1u8,
                Stream::Page => 2,
                Stream::Click => 3,
            };
            hash.update([stream]);
            hash.update(signal.time_unix_s.to_le_bytes());
            hash.update(signal.weight.to_bits().to_le_bytes());
            feed(&mut hash, Some(signal.text.as_bytes()));
            feed(&mut hash, signal.category().map(str::as_bytes));
            feed(&mut hash, signal.source().map(str::as_bytes));
            feed(&mut hash, signal.dwell_ms.map(u32::to_le_bytes).as_ref().map(<[u8; 4]>::as_slice));
        }
        hash.finalize().into()
    }
}

/// One broken field. `field` is a path such as `signals[3].text`. No variant carries what the user wrote.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SignalViolation {
    /// A field that must be present is empty, or holds nothing visible.
    #[error("{field} is required")]
    Required {
        /// Path of the field.
        field: String,
    },
    /// A field is too long.
    #[error("{field} must have {min} to {max} bytes, has {got}")]
    Length {
        /// Path of the field.
        field: String,
        /// Fewest bytes.
        min: usize,
        /// Most bytes.
        max: usize,
        /// Bytes found.
        got: usize,
    },
    /// A field where they have no business holds a control or invisible character.
    #[error("{field} holds a control character")]
    Control {
        /// Path of the field.
        field: String,
    },
    /// A number is outside its range, or not a number.
    #[error("{field} must be from {min} to {max}, is {got}")]
    Range {
        /// Path of the field.
        field: String,
        /// Smallest value.
        min: f32,
        /// Largest value.
        max: f32,
        /// Value found.
        got: f32,
    },
    /// A time is outside the years 1970 to 2199.
    #[error("{field} must be from {min} to {max} seconds since 1970, is {got}")]
    Time {
        /// Path of the field.
        field: String,
        /// Earliest second.
        min: i64,
        /// Latest second.
        max: i64,
        /// Second found.
        got: i64,
    },
    /// A list has too few or too many items.
    #[error("{field} must have {min} to {max} items, has {got}")]
    Count {
        /// Path of the field.
        field: String,
        /// Fewest items.
        min: usize,
        /// Most items.
        max: usize,
        /// Items found.
        got: usize,
    },
}

impl SignalViolation {
    /// Path of the broken field.
    pub fn field(&self) -> &str {
        match self {
            Self::Required { field }
            | Self::Length { field, .. }
            | Self::Control { field }
            | Self::Range { field, .. }
            | Self::Time { field, .. }
            | Self::Count { field, .. } => field,
        }
    }
}

/// A checked signal, or everything that is wrong with the draft.
fn checked(idx: usize, draft: SignalDraft) -> Result<Signal, Vec<SignalViolation>> {
    let path = |name: &str| format!("signals[{idx}].{name}");
    let mut violations = Vec::new();
    let text = clean(&draft.text, TEXT_CHARS_MAX);
    if text.is_empty() {
        violations.push(SignalViolation::Required { field: path("text") });
    }
    if !(0..TIME_UNIX_S_MAX).contains(&draft.time_unix_s) {
        let (min, max) = (0, TIME_UNIX_S_MAX - 1);
        violations.push(SignalViolation::Time { field: path("time"), min, max, got: draft.time_unix_s });
    }
    let weight = draft.weight.unwrap_or(1.0);
    if !(0.0..=WEIGHT_MAX).contains(&weight) {
        let (min, max) = (0.0, WEIGHT_MAX);
        violations.push(SignalViolation::Range { field: path("weight"), min, max, got: weight });
    }
    if !violations.is_empty() {
        return Err(violations);
    }
    let label =
        |raw: Option<String>| raw.map(|raw| clean(&raw, LABEL_CHARS_MAX)).filter(|kept| !kept.is_empty());
    Ok(Signal {
        stream: draft.stream,
        text,
        time_unix_s: draft.time_unix_s,
        category: label(draft.category),
        source: label(draft.source),
        dwell_ms: draft.dwell_ms,
        // Adding zero turns -0 into 0, so that equal weights have equal bits in the digest.
        weight: weight + 0.0,
    })
}

/// Of signals in order, the newest of each stream, still in order.
fn newest_per_stream(signals: Vec<Signal>) -> Vec<Signal> {
    let mut n_kept = [0usize; 3];
    let mut kept: Vec<Signal> = signals
        .into_iter()
        .rev()
        .filter(|signal| {
            let n = &mut n_kept[signal.stream as usize];
            *n += 1;
            *n <= SIGNALS_PER_STREAM_MAX
        })
        .collect();
    kept.reverse();
    kept
}

/// Absent is 0; present is 1, the length, the bytes.
fn feed(hash: &mut Sha256, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else { return hash.update([0]) };
    hash.update([1]);
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}
