//! Reward-only search: hill climbing on a reward, without any model. What it finds is what the reward asks for.
use super::{
    super::{
        error::TrainError,
        rewards::{Asked, Judge, N_REWARDS, view::View, weighted},
    },
    N_QUERIES,
    lists::Makings,
};
use crate::{queries::QueryList, text::parse::parse};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Changes that are tried.
const STEPS: usize = 250;
/// Chance that a change is a whole new query; else one word of a query is replaced.
const NEW_QUERY: f64 = 0.5;

/// Searches of one reader: on all five rewards, then without each of them in the order of their names.
pub(super) struct Climbs {
    /// Recall@10 of copying the last signals.
    pub(super) copy: f64,
    /// Recall@10 of what each search ends with.
    pub(super) own: [f64; N_SEARCHES],
    /// The same lists on another reader's clicks.
    pub(super) permuted: [f64; N_SEARCHES],
}

/// All five, and one less five times.
pub(super) const N_SEARCHES: usize = N_REWARDS + 1;

/// Weights of the rewards in each search.
pub(super) fn ablations() -> [[f64; N_REWARDS]; N_SEARCHES] {
    let mut weights = [[1.0; N_REWARDS]; N_SEARCHES];
    (0..N_REWARDS).for_each(|without| weights[without + 1][without] = 0.0);
    weights
}

/// Climbs from a random list; the parts of the reward are weighted by `weights`.
///
/// Proposals know nothing of the reader: they are titles of living articles and words of them. None if no start is valid.
pub(super) fn climb(
    judge: &Judge<'_>,
    makings: &Makings<'_>,
    (view, weights, seed): (&View, &[f64; N_REWARDS], u64),
) -> Result<Option<QueryList>, TrainError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut queries: Vec<String> = (0..N_QUERIES).map(|_| makings.title_query(&mut rng)).collect();
    let mut asked: Vec<Asked> = queries.iter().map(|query| judge.asked(query)).collect::<Result<_, _>>()?;
    let mut best: Option<(f64, QueryList)> = None;
    for _ in 0..STEPS {
        let idx = rng.random_range(0..N_QUERIES);
        let query = if best.is_none() || rng.random_bool(NEW_QUERY) {
            makings.title_query(&mut rng)
        } else {
            with_another_word(&mut rng, &queries[idx], makings)
        };
        let (old, old_asked) = (queries[idx].clone(), asked[idx].clone());
        asked[idx] = judge.asked(&query)?;
        queries[idx] = query;
        let changed = parse(&queries.join("\n"))
            .ok()
            .map(|list| (weighted(&judge.rewards_of(&list, &asked, view).parts(), weights), list));
        match changed {
            Some(changed) if best.as_ref().is_none_or(|(highest, _)| changed.0 >= *highest) => {
                best = Some(changed);
            }
            _ => (queries[idx], asked[idx]) = (old, old_asked),
        }
    }
    Ok(best.map(|(_, list)| list))
}

fn with_another_word(rng: &mut ChaCha8Rng, query: &str, makings: &Makings<'_>) -> String {
    let mut words: Vec<&str> = query.split(' ').collect();
    let idx = rng.random_range(0..words.len());
    words[idx] = makings.title_word(rng);
    words.join(" ")
}
