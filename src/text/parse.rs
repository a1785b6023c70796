//! The only definition of a valid list.
use crate::queries::QueryList;
use thiserror::Error;

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    #[error("list has {got} queries")]
    QueryCount { got: usize },
    #[error("query {idx} has {got} words")]
    WordCount { idx: usize, got: usize },
    #[error("query {idx} repeats an earlier one")]
    Duplicate { idx: usize },
    #[error("query {idx} holds a URL")]
    Url { idx: usize },
    #[error("query {idx} holds a control character")]
    Control { idx: usize },
}

/// 3..8 queries, one per line, 2..12 words each, no duplicates after normalisation, no URL, no control characters.
pub fn parse(generated: &str) -> Result<QueryList, Malformed> { todo!() }
