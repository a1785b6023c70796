//! One dated article.
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Article {
    pub id: String,
    pub story_id: String,
    pub title: String,
    pub summary: String,
    pub category: String,
    pub language: String,
    pub published_unix_s: i64,
    /// Until when the article is alive (shown by the platform).
    pub expires_unix_s: i64,
}
