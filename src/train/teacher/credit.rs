//! What each token of a list earns: the list's advantage in its group, and on top of it that of the query it stands in.
use super::groups::{Group, Worth};
use crate::train::{
    error::TrainError,
    losses::{
        advantages::{AdvantageSettings, Scale, group_advantages, weighted_sums},
        best_of::added_to_best,
    },
    rewards::{self, Aggregation},
    settings::{
        grpo::{Advantage, GrpoSettings},
        rewards::RewardWeights,
    },
};

/// How lists are told apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit<'a> {
    pub(super) grpo: &'a GrpoSettings,
    /// How much each reward counts.
    pub(super) weights: &'a RewardWeights,
    /// How much the judge elsewhere counts, where there is one.
    pub(super) judge_weight: Option<f64>,
}

impl Credit<'_> {
    /// What each row of [`Self::rows`] counts.
    pub(super) fn weights(self) -> Vec<f64> {
        let own = match self.grpo.advantage {
            Advantage::Sum | Advantage::Decoupled => self.weights.of_five().to_vec(),
            Advantage::Gated => vec![1.0],
        };
        let further = self.weights.of_further().into_iter().filter(|weight| *weight > 0.0);
        own.into_iter().chain(further).chain(self.judge_weight).collect()
    }

    /// The rewards of each list of a group, as advantages are made of them.
    pub(super) fn rows(self, group: &Group) -> Vec<Vec<Option<f32>>> {
        let judged = self.judge_weight.is_some().then(|| judged(group));
        let row = |(row_idx, worth): (usize, &Worth)| {
            let mut row = match self.grpo.advantage {
                Advantage::Sum | Advantage::Decoupled => components(worth),
                Advantage::Gated => gated(worth),
            };
            row.extend(self.further(worth));
            row.extend(judged.as_ref().map(|judged| judged[row_idx]));
            row
        };
        group.worths.iter().enumerate().map(row).collect()
    }

    /// What a list has beside the five, of what counts; nothing where it does not pass and rewards are gated.
    #[allow(clippy::cast_possible_truncation, reason = "rewards are from 0 to 1")]
    fn further(self, worth: &Worth) -> impl Iterator<Item = Option<f32>> {
        let counts = self.grpo.advantage != Advantage::Gated || worth.rewards.passes();
        let further = worth.further.into_iter().zip(self.weights.of_further());
        let of_weight = further.filter(|(_, weight)| *weight > 0.0);
        of_weight.map(move |(reward, _)| reward.map(|reward| if counts { reward as f32 } else { 0.0 }))
    }

    /// Whether no token of a group would earn anything: it teaches nothing.
    /// # Errors
    /// If a reward is not finite.
    pub(super) fn is_flat(self, group: &Group) -> Result<bool, TrainError> {
        let tokens = of_tokens(self, std::slice::from_ref(group))?;
        // A smaller advantage is the rounding of f32 rewards and of their mean.
        Ok(tokens.iter().flatten().all(|advantage| advantage.abs() < 1e-6))
    }
}

/// Returns the advantage of every token of every row, groups after one another.
/// # Errors
/// If groups are not of one size.
pub(super) fn of_tokens(credit: Credit<'_>, groups: &[Group]) -> Result<Vec<Vec<f32>>, TrainError> {
    let Credit { grpo, .. } = credit;
    let lists = of_lists(credit, groups)?;
    let mut lists = lists.into_iter();
    let mut tokens = Vec::new();
    for group in groups {
        let first = tokens.len();
        let of_list = group.rows.iter().zip(&mut lists);
        tokens.extend(of_list.map(|(row, advantage)| vec![advantage; row.ids.len()]));
        if grpo.query_credit > 0.0 {
            add_queries(grpo.query_credit, group, &mut tokens[first..]);
        }
    }
    Ok(tokens)
}

/// Returns the advantage of every list.
fn of_lists(credit: Credit<'_>, groups: &[Group]) -> Result<Vec<f32>, TrainError> {
    let group_size = groups.first().map_or(1, |group| group.rows.len());
    let scale = match credit.grpo.advantage {
        Advantage::Sum | Advantage::Gated => Scale::None,
        Advantage::Decoupled => Scale::Components,
    };
    let weights = credit.weights();
    let rewards: Vec<_> = groups.iter().flat_map(|group| credit.rows(group)).collect();
    let settings = AdvantageSettings { group_size, weights: &weights, scale };
    if credit.grpo.best_of == 1 {
        return group_advantages(&settings, &rewards);
    }
    let worth = weighted_sums(&settings, &rewards)?;
    let added = worth.chunks(group_size).flat_map(|group| added_to_best(group, credit.grpo.best_of));
    #[allow(clippy::cast_possible_truncation, reason = "rewards are f32 as the losses that use them")]
    let added: Vec<_> = added.map(|worth| vec![Some(worth as f32)]).collect();
    group_advantages(&AdvantageSettings { weights: &[1.0], ..settings }, &added)
}

/// What the judge elsewhere said of each list of a group. In a sum, a list without its word would be worth less than the others by all
/// that the judge may say: it gets the mean of the lists that have one, and is told from them by what else is known. Texts that are no
/// lists do not count: their 0 is no word of the judge.
#[allow(clippy::cast_possible_truncation, reason = "rewards are from 0 to 1")]
fn judged(group: &Group) -> Vec<Option<f32>> {
    let lists = || group.worths.iter().filter(|worth| worth.is_list);
    let said = || lists().filter_map(|worth| worth.judged);
    let mean = said().next().map(|_| rewards::mean(said()));
    group.worths.iter().map(|worth| worth.judged.or(mean).map(|reward| reward as f32)).collect()
}

/// The rewards of a row by component; a text that is no list gets 0 of each.
#[allow(clippy::cast_possible_truncation, reason = "rewards are from 0 to 1")]
pub(super) fn components(worth: &Worth) -> Vec<Option<f32>> {
    worth.rewards.parts().iter().map(|part| Some(*part as f32)).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "rewards are from 0 to 1")]
fn gated(worth: &Worth) -> Vec<Option<f32>> {
    vec![Some(worth.rewards.composite(Aggregation::Gated) as f32)]
}

/// Adds `credit` · (what a query is worth - mean of the queries at its place in the group's lists) to the tokens of each query, the
/// one that ends it included. What a query is worth by itself then moves its own words and no others.
fn add_queries(credit: f64, group: &Group, tokens: &mut [Vec<f32>]) {
    let places = group.worths.iter().map(|worth| worth.queries.len()).max().unwrap_or(0);
    let means: Vec<f64> = (0..places)
        .map(|place| rewards::mean(group.worths.iter().filter_map(|worth| worth.queries.get(place).copied())))
        .collect();
    for ((row, worth), tokens) in group.rows.iter().zip(&group.worths).zip(tokens) {
        // Where a token ends two lines at once, it is not known whose it is.
        if row.query_ends.len() != worth.queries.len() {
            continue;
        }
        for ((end, query), mean) in row.query_ends.iter().zip(&worth.queries).zip(&means) {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "advantages are f32 as the losses that use them"
            )]
            let advantage = (credit * (query - mean)) as f32;
            tokens.iter_mut().take(end.n_ids + 1).skip(end.start).for_each(|token| *token += advantage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decode::batch::{Finish, FinishedRow, GroupId, QueryEnd},
        train::{rewards::Rewards, teacher::groups::RewardSeconds},
    };

    static USUAL: std::sync::LazyLock<RewardWeights> = std::sync::LazyLock::new(RewardWeights::usual);

    /// A row of two queries of two tokens each and a stop token.
    fn row() -> FinishedRow {
        let end = |start, n_ids| QueryEnd { start, n_ids, hidden: Vec::new() };
        FinishedRow {
            group: GroupId(0),
            row_idx: 0,
            ids: vec![1, 2, 9, 3, 4, 8],
            logprobs: vec![-1.0; 6],
            finish: Finish::Stop,
            query_ends: vec![end(0, 2), end(3, 5)],
        }
    }

    fn group(rewards: [Rewards; 2], queries: [Vec<f64>; 2]) -> Group {
        let worth = |(rewards, queries)| Worth {
            rewards,
            is_list: true,
            judged: None,
            further: [None; 2],
            queries,
            raw: [0.0; 2],
        };
        let worths = rewards.into_iter().zip(queries).map(worth).collect();
        Group { asker_idx: 0, rows: vec![row(), row()], worths, seconds: RewardSeconds::default() }
    }

    fn good(coverage: f64) -> Rewards {
        Rewards { alignment: 0.5, coverage, specificity: 0.5, diversity: 0.5, structure: 1.0 }
    }

    fn of(grpo: &GrpoSettings) -> Credit<'_> {
        Credit { grpo, weights: &USUAL, judge_weight: None }
    }

    #[track_caller]
    fn check(grpo: GrpoSettings, group: &Group, expected: [[f32; 6]; 2]) {
        let got = of_tokens(of(&grpo), std::slice::from_ref(group)).unwrap();
        for (got, expected) in got.iter().zip(expected) {
            let close = got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-5);
            assert!(close, "{got:?}, expected {expected:?}");
        }
    }

    #[test]
    fn plain_advantages_are_the_weighted_sums_less_their_mean() {
        let group = group([good(0.8), good(0.4)], [vec![], vec![]]);
        check(GrpoSettings::plain(), &group, [[0.12; 6], [-0.12; 6]]);
    }

    #[test]
    fn the_best_of_two_is_moved_by_what_the_better_list_adds_to_the_other() {
        let group = group([good(0.8), good(0.4)], [vec![], vec![]]);
        // The better list adds 0.6 * 0.4 to the best of two, twice since two count; the other nothing.
        let best = GrpoSettings { best_of: 2, ..GrpoSettings::plain() };
        check(best, &group, [[0.24; 6], [-0.24; 6]]);
    }

    #[test]
    fn a_query_moves_its_own_tokens_and_no_others() {
        let group = group([good(0.5), good(0.5)], [vec![0.9, 0.2], vec![0.3, 0.2]]);
        let credit = GrpoSettings { query_credit: 0.5, ..GrpoSettings::plain() };
        let up = [0.15, 0.15, 0.15, 0.0, 0.0, 0.0];
        check(credit, &group, [up, up.map(|value: f32| -value)]);
        check(GrpoSettings::plain(), &group, [[0.0; 6], [0.0; 6]]);
    }

    #[test]
    fn a_row_whose_queries_cannot_be_told_apart_gets_the_advantage_of_its_list() {
        let group = group([good(0.5), good(0.5)], [vec![0.9, 0.2, 0.1], vec![0.3, 0.2]]);
        let credit = GrpoSettings { query_credit: 0.5, ..GrpoSettings::plain() };
        check(credit, &group, [[0.0; 6], [-0.15, -0.15, -0.15, 0.0, 0.0, 0.0]]);
    }

    /// Two lists that trade one reward for another are alike in sum; each reward divided by itself tells them apart only where
    /// one of the two spreads more, as all are standardised.
    #[test]
    fn decoupled_rewards_count_in_their_own_deviations() {
        let wide = Rewards { alignment: 0.9, ..good(0.50) };
        let narrow = Rewards { alignment: 0.3, ..good(0.60) };
        let group = group([wide, narrow], [vec![], vec![]]);
        check(GrpoSettings::plain(), &group, [[0.0; 6], [0.0; 6]]);
        // Standardised, coverage counts six times as much as alignment however little it varies.
        let decoupled = GrpoSettings { advantage: Advantage::Decoupled, ..GrpoSettings::plain() };
        let got = of_tokens(of(&decoupled), std::slice::from_ref(&group)).unwrap();
        assert!(got[0][0] < -0.6 && got[1][0] > 0.6, "{got:?}");
    }

    #[test]
    fn a_list_below_a_floor_is_worth_nothing_where_rewards_are_gated() {
        let below = Rewards { diversity: 0.1, ..good(1.0) };
        let group = group([good(0.5), below], [vec![], vec![]]);
        let gated = GrpoSettings { advantage: Advantage::Gated, ..GrpoSettings::plain() };
        check(gated, &group, [[0.25; 6], [-0.25; 6]]);
    }

    #[test]
    fn a_list_that_the_judge_did_not_rate_is_worth_what_else_is_known() {
        let mut group = group([good(0.5), good(0.5)], [vec![], vec![]]);
        let plain = GrpoSettings::plain();
        let advantages = |group: &Group| {
            let credit = Credit { judge_weight: Some(0.5), ..of(&plain) };
            let tokens = of_tokens(credit, std::slice::from_ref(group)).unwrap();
            [tokens[0][0], tokens[1][0]]
        };
        assert_eq!(advantages(&group), [0.0, 0.0], "nobody was rated");
        group.worths[0].judged = Some(0.9);
        assert_eq!(advantages(&group), [0.0, 0.0], "only one was rated");
        group.worths[1].judged = Some(0.5);
        let [first, second] = advantages(&group);
        assert!((first - 0.1).abs() < 1e-6 && (second + 0.1).abs() < 1e-6, "{first} {second}");
    }

    /// The mean held the 0 of the text that is no list, and the list without a rating got 0.45 for it.
    #[test]
    fn a_missing_rating_is_the_mean_of_lists_and_not_of_texts_that_are_none() {
        let mut group = group([good(0.5), good(0.5)], [vec![], vec![]]);
        group.worths[0].judged = Some(0.9);
        group.worths.push(Worth { judged: Some(0.0), ..Worth::default() });
        assert_eq!(judged(&group), [Some(0.9), Some(0.9), Some(0.0)]);
    }

    #[test]
    fn a_group_is_flat_where_no_token_earns_anything_in_the_way_that_is_asked() {
        let is_flat = |advantage: Advantage, query_credit: f64, group: &Group| {
            let grpo = GrpoSettings { advantage, query_credit, ..GrpoSettings::plain() };
            of(&grpo).is_flat(group).unwrap()
        };
        // One sum, other parts.
        let traded = group(
            [Rewards { alignment: 0.9, ..good(0.5) }, Rewards { alignment: 0.3, ..good(0.6) }],
            [vec![], vec![]],
        );
        assert!(is_flat(Advantage::Sum, 0.0, &traded));
        assert!(!is_flat(Advantage::Decoupled, 0.0, &traded));
        // Both below a floor.
        let below = |coverage| Rewards { diversity: 0.1, ..good(coverage) };
        let gated = group([below(0.9), below(0.2)], [vec![], vec![]]);
        assert!(is_flat(Advantage::Gated, 0.0, &gated) && !is_flat(Advantage::Sum, 0.0, &gated));
        let queries = group([good(0.5), good(0.5)], [vec![0.9, 0.2], vec![0.3, 0.2]]);
        assert!(is_flat(Advantage::Sum, 0.0, &queries) && !is_flat(Advantage::Sum, 0.5, &queries));
    }

    #[test]
    fn what_hits_is_worth_more_by_its_weight_and_nothing_where_the_list_does_not_pass() {
        let advantages = |advantage: Advantage, hits: [Option<f64>; 2], second: Rewards| {
            let mut group = group([good(0.5), second], [vec![], vec![]]);
            group.worths.iter_mut().zip(hits).for_each(|(worth, hit)| worth.further[0] = hit);
            let grpo = GrpoSettings { advantage, ..GrpoSettings::plain() };
            let weights = RewardWeights { hit: 0.5, ..RewardWeights::usual() };
            let credit = Credit { weights: &weights, ..of(&grpo) };
            let tokens = of_tokens(credit, std::slice::from_ref(&group)).unwrap();
            assert!((tokens[0][0] + tokens[1][0]).abs() < 1e-6);
            tokens[1][0]
        };
        let hits = [Some(0.0), Some(1.0)];
        assert!((advantages(Advantage::Sum, hits, good(0.5)) - 0.25).abs() < 1e-6);
        assert_eq!(advantages(Advantage::Sum, [None, None], good(0.5)), 0.0, "nothing was clicked");
        assert!((advantages(Advantage::Gated, hits, good(0.5)) - 0.25).abs() < 1e-6);
        let below = Rewards { diversity: 0.1, ..good(0.5) };
        assert!((advantages(Advantage::Gated, hits, below) + 0.25).abs() < 1e-6, "it has no reward at all");
    }
}
