//! What everything downstream of the model exchanges: queries, lists of them, and lists with scores.

/// Fewest queries of a list.
pub const QUERIES_MIN: usize = 3;
/// Most queries of a list.
pub const QUERIES_MAX: usize = 8;

/// One news search query: 2 to 12 words, single spaces, no URL, no control character. Built by `text::parse` only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Query(String);

impl Query {
    /// Wraps text that `text::parse` has checked.
    pub(crate) fn new_checked(text: String) -> Self {
        Self(text)
    }

    /// The query as a search box would take it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// 3 to 8 distinct queries in the order the model wrote them. Built by `text::parse` only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryList(Vec<Query>);

impl QueryList {
    /// Wraps queries that `text::parse` has checked.
    pub(crate) fn new_checked(queries: Vec<Query>) -> Self {
        Self(queries)
    }

    /// The queries, in the order the model wrote them.
    pub fn as_slice(&self) -> &[Query] {
        &self.0
    }

    /// The list as the model writes it: one query a line, no line feed at the end. `text::parse` reads it back unchanged.
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(self.0.iter().map(|query| query.0.len() + 1).sum());
        for (idx, query) in self.0.iter().enumerate() {
            if idx > 0 {
                text.push('\n');
            }
            text.push_str(&query.0);
        }
        text
    }
}

/// A list with what the reward head said of it.
#[derive(Clone, Debug)]
pub struct ScoredList {
    /// The list.
    pub list: QueryList,
    /// Predicted composite reward, mean.
    pub list_score: f32,
    /// Predicted reward of each query, in the order of the list.
    pub query_scores: Vec<f32>,
    /// Mean log-probability per token in nats, at temperature 1, the stop token included.
    pub mean_logprob: f32,
}
