//! One dated article.
use serde::{Deserialize, Serialize};

/// One article of a catalogue, as its files hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Article {
    /// Unique in its catalogue.
    pub id: String,
    /// Shared by all articles about one event.
    pub story_id: String,
    /// What a reader sees and a click's signal repeats.
    pub title: String,
    /// One or two sentences; may be empty.
    pub summary: String,
    /// Topic name.
    pub category: String,
    /// BCP 47 code such as `en`.
    pub language: String,
    /// From when the article is alive, inclusive.
    pub published_unix_s: i64,
    /// Until when the article is alive (shown by the platform), exclusive.
    pub expires_unix_s: i64,
}

impl Article {
    /// Says whether the platform shows the article at a time.
    pub fn is_alive_at(&self, time_unix_s: i64) -> bool {
        self.published_unix_s <= time_unix_s && time_unix_s < self.expires_unix_s
    }
}
