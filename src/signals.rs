//! What a platform knows of one reader: searches, page visits and news clicks, checked once when built.
use thiserror::Error;

/// One reader's opaque key: 1 to 128 bytes, printable. `Debug` shows a digest only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserKey(String);

impl UserKey {
    /// Checks and wraps a key.
    pub fn new(key: &str) -> Result<Self, SignalViolation> { todo!() }
    pub fn as_str(&self) -> &str { &self.0 }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream { Search, Page, Click }

/// One raw signal as it came from the wire or a file, before any check.
#[derive(Clone, Debug)]
pub struct SignalDraft {
    pub stream: Stream,
    pub text: String,
    pub time_unix_s: i64,
    pub category: Option<String>,
    pub source: Option<String>,
    pub dwell_ms: Option<u32>,
    pub weight: Option<f32>,
}

/// One checked signal: text normalised (NFC), control, bidi and zero-width characters stripped, length capped.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal { /* private */ }

impl Signal {
    pub fn stream(&self) -> Stream { todo!() }
    pub fn text(&self) -> &str { todo!() }
    pub fn time_unix_s(&self) -> i64 { todo!() }
    pub fn category(&self) -> Option<&str> { todo!() }
    pub fn weight(&self) -> f32 { todo!() }
}

/// One reader's signals, oldest first, at least one, bounded per stream (the oldest are dropped and counted).
#[derive(Clone, Debug)]
pub struct UserSignals {}

impl UserSignals {
    /// Every violation of every draft is reported at once.
    pub fn new(drafts: Vec<SignalDraft>) -> Result<Self, Vec<SignalViolation>> { todo!() }
    pub fn as_slice(&self) -> &[Signal] { todo!() }
    pub fn truncated_count(&self) -> usize { todo!() }
    /// sha256 over a canonical encoding of every field that can change an answer.
    pub fn digest(&self) -> [u8; 32] { todo!() }
}

/// One broken field. `field` is a path such as `signals[3].text`.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SignalViolation {
    #[error("{field} must have {min} to {max} bytes, has {got}")]
    Length { field: String, min: usize, max: usize, got: usize },
}
