//! Do the rewards rank lists of one reader by what they find?
use super::{
    super::{
        error::TrainError,
        ranking::{self, Grades},
        retrieval::{RECALL_K, Retrieval},
        rewards::{Aggregation, Judge, N_REWARDS, view::View},
        statistics::spearman,
    },
    lists::{Makings, Own},
};

/// Lists of a reader that are ranked.
const LISTS: usize = 32;

/// Rank correlation within one reader's lists between rewards and Recall@10: of the composite, and of each reward; a reward
/// that is the same for all lists has none.
pub(super) struct Ranks {
    pub(super) composites: [f64; Aggregation::ALL.len()],
    pub(super) parts: [Option<f64>; N_REWARDS],
    /// Of what the ten articles found first are truly worth to the reader: no judge can know more before the clicks.
    pub(super) truth: Option<f64>,
}

/// Ranks varied lists of a reader; none if all of them find the same.
pub(super) fn ranks(
    (judge, retrieval): (&Judge<'_>, &Retrieval),
    (makings, own, seed): (&Makings<'_>, Own<'_>, u64),
    (view, clicked, at_unix_s): (&View, &Grades<usize>, i64),
    care: &dyn Fn(usize) -> f64,
) -> Result<Option<Ranks>, TrainError> {
    let lists = makings.varied(own, LISTS, seed);
    let (mut recalls, mut cared) = (Vec::new(), Vec::new());
    let mut composites: [Vec<f64>; Aggregation::ALL.len()] = Default::default();
    let mut parts: [Vec<f64>; N_REWARDS] = Default::default();
    for list in &lists {
        let found = retrieval.list_ranking(list, at_unix_s)?;
        recalls.push(ranking::recall(&found, clicked, RECALL_K));
        cared.push(found.iter().take(RECALL_K).map(|&idx| care(idx)).sum());
        let rewards = judge.rewards(Some(list), view)?;
        for (column, (aggregation, _)) in composites.iter_mut().zip(Aggregation::ALL) {
            column.push(rewards.composite(aggregation));
        }
        parts.iter_mut().zip(rewards.parts()).for_each(|(column, part)| column.push(part));
    }
    let of = |column: &[f64]| spearman(column, &recalls);
    if recalls.iter().all(|recall| *recall == recalls[0]) {
        return Ok(None);
    }
    Ok(Some(Ranks {
        // Lists that all get the same are not ranked at all.
        composites: composites.each_ref().map(|column| of(column).unwrap_or(0.0)),
        parts: parts.each_ref().map(|part| of(part)),
        truth: of(&cared),
    }))
}
