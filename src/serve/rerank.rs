//! Which candidate is the best, and which of its queries are kept: pure.
use std::cmp::Ordering;

/// How lists are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// By the reward that the head predicts for the list.
    RewardHead,
    /// By how far the other lists agree with it.
    Consensus,
    /// By the mean log-probability per token.
    LogProb,
    /// Not at all: the lowest index wins.
    None,
    /// Not lists but queries are chosen, the best of all lists; lists are compared by the head, or where there is none by consensus.
    Stitch,
}

/// What is compared of one valid list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Number of the candidate.
    pub row_idx: usize,
    /// Predicted reward; absent without a head.
    pub list_score: Option<f32>,
    /// Mean share of the other lists that hold a token of this one.
    pub consensus: f32,
    /// Mean log-probability per token in nats.
    pub mean_logprob: f32,
}

/// Says whether `one` beats `other`. Equal scores go to the lower index, so the winner never depends on the order of arrival;
/// a score that is absent or not a number loses against every number.
fn beats(method: Method, one: &Standing, other: &Standing) -> bool {
    let score = |standing: &Standing| match method {
        Method::RewardHead => standing.list_score.unwrap_or(f32::NEG_INFINITY),
        Method::Consensus => standing.consensus,
        Method::LogProb => standing.mean_logprob,
        Method::None => 0.0,
        Method::Stitch => standing.list_score.unwrap_or(standing.consensus),
    };
    let number = |score: f32| if score.is_nan() { f32::NEG_INFINITY } else { score };
    match number(score(one)).total_cmp(&number(score(other))) {
        Ordering::Greater => true,
        Ordering::Equal => one.row_idx < other.row_idx,
        Ordering::Less => false,
    }
}

/// Says of each standing whether it beats every one before it. The last that does is the best of all.
pub fn leaders(method: Method, standings: &[Standing]) -> Vec<bool> {
    let mut champion: Option<&Standing> = None;
    let mut leads = |challenger| {
        let leads = champion.is_none_or(|champion| beats(method, challenger, champion));
        if leads {
            champion = Some(challenger);
        }
        leads
    };
    standings.iter().map(&mut leads).collect()
}

/// Positions of the queries that a reader who wants at most `n_max` gets: those with the highest scores (the first ones
/// without scores), in the order of the list.
pub fn keep(n_queries: usize, scores: Option<&[f32]>, n_max: usize) -> Vec<usize> {
    let mut kept = by_rank(n_queries, scores);
    kept.truncate(n_max);
    kept.sort_unstable();
    kept
}

/// 1-based rank of every query by score, or by position without scores.
pub fn ranks(n_queries: usize, scores: Option<&[f32]>) -> Vec<usize> {
    let mut ranks = vec![0; n_queries];
    for (rank, idx) in by_rank(n_queries, scores).into_iter().enumerate() {
        ranks[idx] = rank + 1;
    }
    ranks
}

fn by_rank(n_queries: usize, scores: Option<&[f32]>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n_queries).collect();
    if let Some(scores) = scores.filter(|scores| scores.len() == n_queries) {
        order.sort_by(|&one, &other| scores[other].total_cmp(&scores[one]));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(row_idx: usize, list_score: Option<f32>, mean_logprob: f32) -> Standing {
        Standing { row_idx, list_score, consensus: 1.0 / (row_idx + 1) as f32, mean_logprob }
    }

    fn best(method: Method, standings: &[Standing]) -> Option<usize> {
        leaders(method, standings).iter().rposition(|leads| *leads)
    }

    fn check(method: Method, standings: &[(usize, Option<f32>, f32)], expected: Option<usize>) {
        let standings: Vec<_> =
            standings.iter().map(|&(idx, score, logprob)| standing(idx, score, logprob)).collect();
        assert_eq!(best(method, &standings), expected);
        let mut reversed = standings.clone();
        reversed.reverse();
        let winner =
            |position: Option<usize>, from: &[Standing]| position.map(|position| from[position].row_idx);
        assert_eq!(winner(best(method, &reversed), &reversed), winner(expected, &standings), "order matters");
    }

    #[test]
    fn each_method_reads_its_own_score() {
        let standings = [(0, Some(0.1), -3.0), (1, Some(0.9), -2.0), (2, Some(0.5), -1.0)];
        check(Method::RewardHead, &standings, Some(1));
        check(Method::Consensus, &standings, Some(0));
        check(Method::LogProb, &standings, Some(2));
        check(Method::None, &standings, Some(0));
    }

    #[test]
    fn equal_scores_go_to_the_lower_index() {
        check(Method::RewardHead, &[(4, Some(0.5), 0.0), (2, Some(0.5), 0.0)], Some(1));
    }

    #[test]
    fn what_is_not_a_number_loses() {
        check(Method::RewardHead, &[(0, Some(f32::NAN), 0.0), (1, Some(-5.0), 0.0), (2, None, 0.0)], Some(1));
    }

    #[test]
    fn leaders_are_those_that_beat_everything_before_them() {
        let standings =
            [standing(3, Some(0.2), 0.0), standing(0, Some(0.1), 0.0), standing(1, Some(0.9), 0.0)];
        assert_eq!(leaders(Method::RewardHead, &standings), [true, false, true]);
        assert_eq!(leaders(Method::None, &standings), [true, true, false]);
    }

    #[test]
    fn no_list_has_no_best() {
        check(Method::LogProb, &[], None);
    }

    #[test]
    fn the_best_queries_are_kept_in_the_order_of_the_list() {
        assert_eq!(keep(4, Some(&[0.1, 0.9, 0.2, 0.8]), 2), [1, 3]);
        assert_eq!(keep(4, Some(&[0.1, 0.9, 0.2, 0.8]), 3), [1, 2, 3]);
        assert_eq!(keep(4, None, 3), [0, 1, 2]);
        assert_eq!(keep(3, None, 8), [0, 1, 2]);
    }

    #[test]
    fn ranks_follow_scores_or_positions() {
        assert_eq!(ranks(3, Some(&[0.1, 0.9, 0.5])), [3, 1, 2]);
        assert_eq!(ranks(3, None), [1, 2, 3]);
        assert_eq!(ranks(3, Some(&[0.5, 0.5, 0.9])), [2, 3, 1]);
    }
}
