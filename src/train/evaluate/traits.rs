//! What else tells ways apart: stories, what nobody else finds, how personal they are, and whether queries find anything.
//!
//! Per reader, for the ten articles shown first; with several seeds, of the first of them:
//! - story recall: share of the clicked stories among the first ten distinct stories of the ranking;
//! - exclusive recall: share of the clicks that are found here and neither by popularity nor by the mean of signals;
//! - own part: Recall@10 - Recall@10 of the same ranking on the next reader's clicks (the permutation gap);
//! - overlap: Jaccard similarity with what the next reader is shown;
//! - no supply: share of a list's queries that find no living article;
//! - distance: mean over pairs of a list's queries of 1 - Jaccard similarity of the ten articles that each finds first. By
//!   words (BM25), not by the vectors that rewards are made of.
use super::{
    EvaluateSettings, Question,
    ways::{Outcome, Way},
};
use crate::train::error::TrainError;
use crate::{
    news::article::Article,
    train::{
        ranking::{self, Grades},
        retrieval::RECALL_K,
        statistics::{Estimate, bootstrap, jaccard},
    },
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Names of the traits that every ranking has, in the order of tables.
pub const OF_RANKINGS: [&str; 4] = ["story recall@10", "exclusive recall@10", "own part", "overlap"];
/// Names of all traits, in the order of tables: those of rankings, and those of lists of queries.
pub const TRAITS: [&str; 6] =
    [OF_RANKINGS[0], OF_RANKINGS[1], OF_RANKINGS[2], OF_RANKINGS[3], "no supply", "distance"];

/// Traits of one way: means over the readers that have them.
#[derive(Clone, Debug, Serialize)]
pub struct TraitRow {
    /// Name of the way.
    pub name: String,
    /// By the names of traits; a way without queries has no supply and no distance.
    pub traits: BTreeMap<&'static str, Estimate>,
}

/// How a list's queries do in the index.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Supply {
    /// Share of queries that find nothing.
    pub none: f64,
    /// Mean distance between what they find; none of a single query.
    pub distance: Option<f64>,
}

impl Supply {
    /// Searches every query by `hits`, which gives what one finds, best first. None without queries.
    /// # Errors
    /// If the search fails.
    pub fn of(
        queries: &[&str],
        hits: impl Fn(&str) -> Result<Vec<usize>, TrainError>,
    ) -> Result<Option<Self>, TrainError> {
        let found: Vec<BTreeSet<usize>> = queries
            .iter()
            .map(|query| Ok(hits(query)?.into_iter().take(RECALL_K).collect()))
            .collect::<Result<_, TrainError>>()?;
        let pairs = (0..found.len()).flat_map(|a| (a + 1..found.len()).map(move |b| (a, b)));
        let distances: Vec<f64> =
            pairs.map(|(a, b)| 1.0 - jaccard(&found[a], &found[b]).unwrap_or(0.0)).collect();
        let none = found.iter().filter(|found| found.is_empty()).count();
        let supply = Self {
            none: share(none, found.len()),
            distance: (!distances.is_empty()).then(|| mean(&distances)),
        };
        Ok((!queries.is_empty()).then_some(supply))
    }
}

/// One row per way that shows a ranking. The next reader of the last is the first.
pub(super) fn rows(
    questions: &[Question<'_>],
    outcomes: &[Outcome],
    articles: &[Article],
    settings: EvaluateSettings,
) -> Vec<TraitRow> {
    let known = |way: &Way| outcomes.iter().all(|outcome| outcome.of(*way).is_some());
    Way::RANKED
        .into_iter()
        .filter(known)
        .map(|way| {
            let mut columns: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
            for idx in 0..outcomes.len() {
                let next = (idx + 1) % outcomes.len();
                let [own, next] = [idx, next].map(|idx| (&questions[idx].clicked, &outcomes[idx]));
                for (name, value) in TRAITS.iter().zip(traits(own, way, next, articles)) {
                    columns.entry(name).or_default().extend(value);
                }
            }
            let traits = columns
                .into_iter()
                .filter(|(_, values)| !values.is_empty())
                .map(|(name, values)| (name, bootstrap(&values, settings.seed)))
                .collect();
            TraitRow { name: way.name(settings.n_lists), traits }
        })
        .collect()
}

/// What a reader is shown, and what she clicked.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Articles, best first.
    pub ranking: &'a [usize],
    /// Her held-out clicks.
    pub clicked: &'a Grades<usize>,
}

/// The traits of a reader's ranking, in the order of [`OF_RANKINGS`]. `usual`: what popularity and the mean of signals show her
/// first.
pub fn of_ranking(
    own: Seen<'_>,
    next: Seen<'_>,
    usual: &BTreeSet<usize>,
    articles: &[Article],
) -> [f64; OF_RANKINGS.len()] {
    let recall = |shown: &[usize], clicked: &Grades<usize>| ranking::recall(shown, clicked, RECALL_K);
    let shown = first(own.ranking);
    let exclusive: Vec<usize> = shown.iter().copied().filter(|idx| !usual.contains(idx)).collect();
    let sets = [shown, first(next.ranking)].map(|shown| shown.iter().copied().collect::<BTreeSet<usize>>());
    [
        story_recall(own.ranking, own.clicked, articles),
        recall(&exclusive, own.clicked),
        recall(shown, own.clicked) - recall(shown, next.clicked),
        // Two who are shown nothing are shown nothing alike.
        jaccard(&sets[0], &sets[1]).unwrap_or(0.0),
    ]
}

/// What several rankings show first.
pub fn usual<'a>(rankings: impl IntoIterator<Item = &'a [usize]>) -> BTreeSet<usize> {
    rankings.into_iter().flat_map(first).copied().collect()
}

fn first(ranking: &[usize]) -> &[usize] {
    &ranking[..ranking.len().min(RECALL_K)]
}

fn traits(
    (clicked, outcome): (&Grades<usize>, &Outcome),
    way: Way,
    (next_clicked, next): (&Grades<usize>, &Outcome),
    articles: &[Article],
) -> [Option<f64>; TRAITS.len()] {
    fn ranking(of: &Outcome, way: Way) -> &[usize] {
        of.of(way).map_or(&[], |served| &served.ranking)
    }
    let usual = usual([Way::Popularity, Way::Vector].map(|way| ranking(outcome, way)));
    let own = Seen { ranking: ranking(outcome, way), clicked };
    let next = Seen { ranking: ranking(next, way), clicked: next_clicked };
    let [story, exclusive, own_part, overlap] = of_ranking(own, next, &usual, articles).map(Some);
    let supply = outcome.of(way).and_then(|served| served.supply);
    let none = supply.map(|supply| supply.none);
    [story, exclusive, own_part, overlap, none, supply.and_then(|supply| supply.distance)]
}

fn story_recall(shown: &[usize], clicked: &Grades<usize>, articles: &[Article]) -> f64 {
    let story = |idx: &usize| articles[*idx].story_id.as_str();
    let mut stories: Vec<&str> = Vec::new();
    for name in shown.iter().map(story) {
        if !stories.contains(&name) {
            stories.push(name);
        }
    }
    ranking::recall(&stories, &ranking::alike(clicked.keys().map(story)), RECALL_K)
}

#[allow(clippy::cast_precision_loss, reason = "counts of articles and queries")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[allow(clippy::cast_precision_loss, reason = "a handful of pairs")]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::retrieval::Retrieval;

    fn article(story_id: &str) -> Article {
        Article {
            id: String::new(),
            story_id: story_id.to_owned(),
            title: String::new(),
            summary: String::new(),
            category: String::new(),
            language: "en".to_owned(),
            published_unix_s: 0,
            expires_unix_s: 1,
        }
    }

    #[test]
    fn a_story_is_found_by_any_of_its_articles_and_counts_once() {
        let articles: Vec<Article> = ["a", "a", "b", "c"].into_iter().map(article).collect();
        let clicked = ranking::alike([0, 3]);
        assert_eq!(story_recall(&[1, 0, 2], &clicked, &articles), 0.5);
        assert_eq!(story_recall(&[1, 3], &clicked, &articles), 1.0);
    }

    #[test]
    fn supply_counts_queries_that_find_nothing_and_how_far_the_others_are_apart() {
        let mut catalogue = [article("a"), article("b")];
        catalogue[0].title = "port strike".to_owned();
        catalogue[1].title = "bus fares".to_owned();
        let retrieval = Retrieval::of(&catalogue, |_| true).unwrap();
        let of = |queries: &[&str]| Supply::of(queries, |query| retrieval.hits(query, 0)).unwrap();
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["port", "strike"]), Some(Supply { none: 0.0, distance: Some(0.0) }));
        assert_eq!(of(&["port", "fares"]), Some(Supply { none: 0.0, distance: Some(1.0) }));
        assert_eq!(of(&["port", "moon"]), Some(Supply { none: 0.5, distance: Some(1.0) }));
        assert_eq!(of(&["port"]), Some(Supply { none: 0.0, distance: None }));
    }
}
