//! What everything downstream of the model exchanges: queries, lists of them, and lists with scores.

/// One news search query: 2 to 12 words, normalised white space, no URL, no control character. Built by `text::parse` only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Query(String);

impl Query {
    pub(crate) fn new_checked(text: String) -> Self { Self(text) }
    pub fn as_str(&self) -> &str { &self.0 }
}

/// 3 to 8 distinct queries in the order the model wrote them. Built by `text::parse` only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryList(Vec<Query>);

impl QueryList {
    pub(crate) fn new_checked(queries: Vec<Query>) -> Self { Self(queries) }
    pub fn as_slice(&self) -> &[Query] { &self.0 }
}

/// A list with what the reward head said of it.
#[derive(Clone, Debug)]
pub struct ScoredList {
    pub list: QueryList,
    /// Predicted composite reward, mean.
    pub list_score: f32,
    /// One per query.
    pub query_scores: Vec<f32>,
    /// Mean log-probability per token in nats, at temperature 1, the stop token included.
    pub mean_logprob: f32,
}
