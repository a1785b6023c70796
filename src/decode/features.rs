//! What the reward head reads of a finished row: one definition for the server and for the trainer.
use super::batch::FinishedRow;
use crate::model::reward_head::ListFeatures;

/// Gathers a row's features: one entry per query that has at least one token (blank lines have none).
///
/// A query's log-probability is the mean over its own tokens in nats, without the boundary; the list's is the mean over
/// every sampled token, boundaries and stop included, and 0 for a row without tokens.
pub fn list_features(row: &FinishedRow) -> ListFeatures {
    let mut features = ListFeatures {
        query_hidden: Vec::with_capacity(row.query_ends.len()),
        query_logprob: Vec::with_capacity(row.query_ends.len()),
        mean_logprob: mean(&row.logprobs).unwrap_or(0.0),
    };
    let mut start = 0;
    for end in &row.query_ends {
        if let Some(logprob) = row.logprobs.get(start..end.n_ids).and_then(mean) {
            features.query_hidden.push(end.hidden.clone());
            features.query_logprob.push(logprob);
        }
        start = end.n_ids + 1;
    }
    features
}

#[allow(clippy::cast_precision_loss, reason = "a row has some hundred tokens")]
fn mean(values: &[f32]) -> Option<f32> {
    (!values.is_empty()).then(|| values.iter().sum::<f32>() / values.len() as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::batch::{Finish, GroupId, QueryEnd};

    fn row(logprobs: &[f32], ends: &[usize]) -> FinishedRow {
        FinishedRow {
            group: GroupId(1),
            row_idx: 0,
            ids: vec![7; logprobs.len()],
            logprobs: logprobs.to_vec(),
            finish: Finish::Stop,
            query_ends: ends.iter().map(|&n_ids| QueryEnd { n_ids, hidden: vec![n_ids as f32] }).collect(),
        }
    }

    #[test]
    fn each_query_is_averaged_over_its_own_tokens() {
        let features = list_features(&row(&[-1.0, -3.0, -9.0, -4.0, -3.0], &[2, 4]));
        assert_eq!(features.query_logprob, [-2.0, -4.0]);
        assert_eq!(features.query_hidden, [[2.0], [4.0]]);
        assert_eq!(features.mean_logprob, -4.0);
    }

    #[test]
    fn blank_lines_are_no_queries() {
        let features = list_features(&row(&[-1.0, -9.0, -9.0], &[1, 2]));
        assert_eq!(features.query_logprob, [-1.0]);
    }

    #[test]
    fn an_empty_row_has_no_queries() {
        let features = list_features(&row(&[], &[0]));
        assert!(features.query_hidden.is_empty());
        assert_eq!(features.mean_logprob, 0.0);
    }
}
