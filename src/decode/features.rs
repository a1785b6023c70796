//! What the reward head reads of finished rows: one definition for the server and for the trainer.
use super::batch::FinishedRow;
use crate::model::reward_head::{Affinity, Consensus, ListFeatures};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// Says of a row how far it asks for what its reader's signals ask for.
pub type Meets = Arc<dyn Fn(&FinishedRow) -> Affinity + Send + Sync>;

/// Gathers the features of rows of one prompt, in their order.
///
/// A query's log-probability is the mean over its own tokens in nats, without the boundary; the list's is the mean over
/// every sampled token, boundaries and stop included, and 0 for a row without tokens. Consensus counts a query's own
/// tokens. `meets`: what the head reads of the reader's interests, where it does; else affinity is absent.
pub fn list_features(rows: &[&FinishedRow], meets: Option<&Meets>) -> Vec<ListFeatures> {
    let mut n_holders: HashMap<u32, usize> = HashMap::new();
    for row in rows {
        let ids: BTreeSet<u32> = queries(row).flat_map(|(_, ids, _)| ids).copied().collect();
        ids.into_iter().for_each(|id| *n_holders.entry(id).or_default() += 1);
    }
    // The row itself is among the holders of its tokens.
    let n_others = rows.len().saturating_sub(1);
    let share = |id: &u32| ratio(n_holders[id] - 1, n_others);
    let read = |row: &&FinishedRow| ListFeatures {
        affinity: meets.map(|meets| meets(row)),
        ..features(row, (n_others > 0).then_some(&share))
    };
    rows.iter().map(read).collect()
}

/// What a row had written when it had `n_ids` ids.
pub fn so_far(row: &FinishedRow, n_ids: usize) -> FinishedRow {
    let n_ids = n_ids.min(row.ids.len());
    FinishedRow {
        ids: row.ids[..n_ids].to_vec(),
        logprobs: row.logprobs[..n_ids].to_vec(),
        // A query has ended once its boundary is written.
        query_ends: row.query_ends.iter().filter(|end| end.n_ids < n_ids).cloned().collect(),
        ..*row
    }
}

fn features(row: &FinishedRow, share: Option<&dyn Fn(&u32) -> f32>) -> ListFeatures {
    let (mut query_hidden, mut query_logprob) = (Vec::new(), Vec::new());
    let (mut of_queries, mut of_tokens) = (Vec::new(), Vec::new());
    for (hidden, ids, logprobs) in queries(row) {
        query_hidden.push(hidden.to_vec());
        query_logprob.push(mean(logprobs));
        if let Some(share) = share {
            let shares: Vec<f32> = ids.iter().map(share).collect();
            of_queries.push(mean(&shares));
            of_tokens.extend(shares);
        }
    }
    let consensus = share.map(|_| Consensus { list: mean(&of_tokens), queries: of_queries });
    let mean_logprob = row.mean_logprob();
    ListFeatures { query_hidden, query_logprob, mean_logprob, consensus, affinity: None }
}

/// Hidden state, ids and log-probabilities of every query.
fn queries(row: &FinishedRow) -> impl Iterator<Item = (&[f32], &[u32], &[f32])> {
    row.query_ends.iter().map(|end| {
        let own = end.start..end.n_ids;
        (end.hidden.as_slice(), &row.ids[own.clone()], &row.logprobs[own])
    })
}

/// Mean of values; 0 of none.
#[allow(clippy::cast_precision_loss, reason = "a row has some hundred tokens")]
fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len().max(1) as f32
}

#[allow(clippy::cast_precision_loss, reason = "counts of rows")]
fn ratio(part: usize, whole: usize) -> f32 {
    part as f32 / whole as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::batch::{Finish, GroupId, QueryEnd};

    /// A row whose queries stand at `ranges`.
    fn row(ids: &[u32], logprobs: &[f32], ranges: &[(usize, usize)]) -> FinishedRow {
        let end = |&(start, n_ids): &(usize, usize)| QueryEnd { start, n_ids, hidden: vec![n_ids as f32] };
        FinishedRow {
            group: GroupId(1),
            row_idx: 0,
            ids: ids.to_vec(),
            logprobs: logprobs.to_vec(),
            finish: Finish::Stop,
            query_ends: ranges.iter().map(end).collect(),
        }
    }

    fn alone(row: &FinishedRow) -> ListFeatures {
        list_features(&[row], None).remove(0)
    }

    #[test]
    fn each_query_is_averaged_over_its_own_tokens() {
        let features = alone(&row(&[7; 5], &[-1.0, -3.0, -9.0, -4.0, -3.0], &[(0, 2), (3, 4)]));
        assert_eq!(features.query_logprob, [-2.0, -4.0]);
        assert_eq!(features.query_hidden, [[2.0], [4.0]]);
        assert_eq!(features.mean_logprob, -4.0);
        assert_eq!(features.consensus, None, "there is no other list");
    }

    #[test]
    fn what_a_row_had_written_holds_the_queries_whose_boundary_was_there() {
        let whole = row(&[7, 7, 0, 8, 0], &[-1.0; 5], &[(0, 2), (3, 4)]);
        let ends = |n_ids| so_far(&whole, n_ids).query_ends.len();
        assert_eq!([ends(0), ends(2), ends(3), ends(4), ends(5), ends(9)], [0, 0, 1, 1, 2, 2]);
        assert_eq!((so_far(&whole, 3).ids, so_far(&whole, 9)), (vec![7, 7, 0], whole.clone()));
    }

    #[test]
    fn an_empty_row_has_no_queries() {
        let features = alone(&row(&[], &[], &[]));
        assert!(features.query_hidden.is_empty());
        assert_eq!(features.mean_logprob, 0.0);
    }

    #[test]
    fn consensus_is_the_share_of_other_lists_that_hold_a_token() {
        const END: u32 = 0;
        let zeros = [0.0; 5];
        // Its own repetition of 5 does not count, nor do boundaries.
        let first = row(&[5, 6, END, 5, END], &zeros, &[(0, 2), (3, 4)]);
        let second = row(&[5, 8, END, 8, END], &zeros, &[(0, 2), (3, 4)]);
        let third = row(&[6, 5, END, 9, END], &zeros, &[(0, 2), (3, 4)]);
        let of_first = list_features(&[&first, &second, &third], None).remove(0).consensus.unwrap();
        assert_eq!(of_first.queries, [0.75, 1.0]);
        assert!((of_first.list - 2.5 / 3.0).abs() < 1e-6);
        let stranger = list_features(&[&row(&[1, END], &zeros[..2], &[(0, 1)]), &first], None).remove(0);
        assert_eq!(stranger.consensus, Some(Consensus { queries: vec![0.0], list: 0.0 }));
    }
}
