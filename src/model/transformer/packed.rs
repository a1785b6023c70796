//! Sequences behind one another, without padding; those that begin alike share their beginning.
use super::super::fused::Span;
use std::{ops::Range, sync::Arc};

/// Tokens of many sequences. What several of them begin with is computed once: its keys and values are seen by each.
///
/// Source of the idea: prefix sharing of serving engines, here with gradients; as in Prefix Grouper, arXiv 2506.05433.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    ids: Vec<u32>,
    positions: Vec<u32>,
    spans: Vec<Span>,
}

/// A beginning that others can continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning(Range<usize>);

impl Beginning {
    /// Where its tokens are among all.
    #[must_use]
    pub fn places(&self) -> Range<usize> {
        self.0.clone()
    }
}

impl Packed {
    /// Adds a sequence, which others may continue.
    pub fn begin(&mut self, ids: &[u32]) -> Beginning {
        Beginning(self.push(ids, 0..0))
    }

    /// Adds a sequence behind a beginning; returns where its own tokens are among all.
    pub fn behind(&mut self, beginning: &Beginning, ids: &[u32]) -> Range<usize> {
        self.push(ids, beginning.places())
    }

    fn push(&mut self, ids: &[u32], before: Range<usize>) -> Range<usize> {
        let queries = self.ids.len()..self.ids.len() + ids.len();
        self.ids.extend(ids);
        let positions = (before.len()..).map(|position| u32::try_from(position).unwrap_or(u32::MAX));
        self.positions.extend(positions.take(ids.len()));
        // A softmax over nothing would be no number.
        if !ids.is_empty() {
            self.spans.push(Span { queries: queries.clone(), before });
        }
        queries
    }

    /// Ids of all tokens.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Each token's place in its own sequence.
    pub(super) fn positions(&self) -> &[u32] {
        &self.positions
    }

    pub(super) fn spans(&self) -> Arc<[Span]> {
        self.spans.as_slice().into()
    }

    /// Tokens of the longest sequence.
    pub(super) fn longest(&self) -> usize {
        self.spans.iter().map(|span| span.before.len() + span.queries.len()).max().unwrap_or(0)
    }
}
