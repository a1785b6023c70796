//! Adaptive N: a group writes a few lists first, and its other lists only where those disagree.
//!
//! Rows of one prompt that agree say what the model is sure of: a further one would say it again, and to choose among them gains little.
use super::{batch::FinishedRow, features::list_features, pruning::IsList};
use std::fmt;

/// Rows that are written in any case: the fewest that can disagree.
const FIRST: usize = 2;
/// Mean share of a list's tokens that the other lists hold, from which on they agree; tests/bench/LOG.md has what other shares cost and save.
const AGREEMENT_MIN: f32 = 0.5;

/// How it is found out whether a group's first rows agree.
#[derive(Clone)]
pub struct Adaptive {
    /// A row that could not be chosen agrees with none.
    pub is_list: IsList,
}

impl fmt::Debug for Adaptive {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Adaptive").finish_non_exhaustive()
    }
}

impl Adaptive {
    /// How many of N rows wait until the first have ended.
    #[must_use]
    pub fn n_held(n_rows: usize) -> usize {
        n_rows.saturating_sub(FIRST)
    }

    /// Whether rows of one prompt, all of which have ended, disagree.
    #[must_use]
    pub fn disagree(&self, rows: &[FinishedRow]) -> bool {
        let lists: Vec<&FinishedRow> = rows.iter().filter(|row| (self.is_list)(row)).collect();
        let agreements = list_features(&lists).into_iter().filter_map(|read| read.consensus);
        let agreement: f32 = agreements.map(|consensus| consensus.list).sum();
        #[allow(clippy::cast_precision_loss, reason = "a handful of lists")]
        let enough = AGREEMENT_MIN * rows.len() as f32;
        lists.len() < rows.len() || agreement < enough
    }

    /// The rows of one prompt, of which all are there, that would have been written.
    #[must_use]
    pub fn replay<'a>(&self, rows: &'a [FinishedRow]) -> &'a [FinishedRow] {
        let first = &rows[..rows.len() - Self::n_held(rows.len())];
        if self.disagree(first) { rows } else { first }
    }
}
