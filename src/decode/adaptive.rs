//! Adaptive N: a group writes half of its lists first, and the others only where those disagree.
//!
//! Rows of one prompt that agree say what the model is sure of: a further one would say it again, and to choose among them gains little.
use super::{
    batch::{Finish, FinishedRow},
    features::list_features,
    pruning::IsList,
};
use std::fmt;

/// Rows that are written in any case: the fewest that can disagree.
const FIRST_MIN: usize = 2;
/// Mean share of a list's tokens that the other lists hold, from which on they agree; tests/bench/LOG.md has what other shares cost and save.
const AGREEMENT_MIN: f32 = 0.6;

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
        n_rows.saturating_sub(n_rows.div_ceil(2).max(FIRST_MIN))
    }

    /// Whether rows of one prompt, all of which have ended, disagree. Rows that were stopped early say nothing: they were given up for others.
    #[must_use]
    pub fn disagree(&self, rows: &[FinishedRow]) -> bool {
        let rows: Vec<&FinishedRow> = rows.iter().filter(|row| row.finish != Finish::Pruned).collect();
        let lists: Vec<&FinishedRow> = rows.iter().copied().filter(|row| (self.is_list)(row)).collect();
        let agreements = list_features(&lists, None).into_iter().filter_map(|read| read.consensus);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::batch::{GroupId, QueryEnd};
    use std::sync::Arc;

    /// A row of one query of these ids.
    fn row(ids: &[u32]) -> FinishedRow {
        FinishedRow {
            group: GroupId(1),
            row_idx: 0,
            ids: ids.to_vec(),
            logprobs: vec![-1.0; ids.len()],
            finish: Finish::Stop,
            query_ends: vec![QueryEnd { start: 0, n_ids: ids.len(), hidden: vec![0.0] }],
        }
    }

    #[test]
    fn half_of_the_rows_and_at_least_two_are_written_first() {
        let first = |n_rows| n_rows - Adaptive::n_held(n_rows);
        assert_eq!([1, 2, 3, 4, 5, 8].map(first), [1, 2, 2, 2, 3, 4]);
    }

    #[test]
    fn others_are_written_where_the_first_share_too_little_or_one_is_no_list() {
        let adaptive = Adaptive { is_list: Arc::new(|row| row.ids[0] != 9) };
        let of = |first: &[u32], second: &[u32]| {
            let rows = [row(first), row(second), row(&[1]), row(&[1])];
            adaptive.replay(&rows).len()
        };
        assert_eq!(of(&[1, 2, 3, 4, 5], &[1, 2, 3, 6, 7]), 2, "three of five are enough");
        assert_eq!(of(&[1, 2, 3, 4, 5], &[1, 2, 8, 6, 7]), 4);
        assert_eq!(of(&[9, 2, 3], &[9, 2, 3]), 4);
    }

    #[test]
    fn a_row_that_was_stopped_early_says_nothing() {
        let adaptive = Adaptive { is_list: Arc::new(|row| row.finish == Finish::Stop) };
        let stopped = |finish| FinishedRow { finish, ..row(&[7]) };
        let first = |finish| [row(&[1, 2]), row(&[1, 2]), stopped(finish)];
        assert!(!adaptive.disagree(&first(Finish::Pruned)));
        assert!(adaptive.disagree(&first(Finish::Length)));
    }
}
