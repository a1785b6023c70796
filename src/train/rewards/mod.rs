//! What a list is worth before anybody clicks: five rewards, each from 0 to 1, computed from a reader's signals and the
//! news that is alive, never from later clicks and never from a world's truth. Two more are off by default; one of them reads later
//! clicks of training readers.
//!
//! | reward | what it asks | what it must not pay for |
//! |---|---|---|
//! | alignment | is there living news about each query? | words near to everything |
//! | coverage | does the list ask for the reader's interests, one by one, and find them? | one query for all; queries about nothing she did |
//! | specificity | are the words telling, and does a query find few stories? | words that find nothing |
//! | diversity | do the queries say and find different things? | distance beyond what is needed |
//! | structure | do the queries keep the form? | - |
//! | hit (optional) | does a query find what the reader clicked within a day? | what everybody clicks |
//! | rubric (optional) | does the list keep six rules, and look like a whole list to a network that knows corrupted ones? | - |
//!
//! Definitions follow the five rewards of arXiv 2602.15005, without its judge: what a judge model reads off a prompt is
//! counted here from training readers ([`meaning`]). Formulas stand in each file.
pub mod alignment;
pub mod calibration;
pub mod composite;
mod coverage;
mod diversity;
pub mod hit;
pub mod meaning;
pub mod rubric;
mod specificity;
mod structure;
pub mod subjects;
pub mod view;
pub mod wishes;

use super::{
    error::TrainError,
    events::{Event, Reader, World},
    retrieval::Retrieval,
};
use crate::{
    lexicon::{
        interests::Interests,
        unit::{Unit, WIDTH, mean_distance},
    },
    news::{article::Article, vectors::VectorIndex},
    queries::QueryList,
    text::words::{fold, words},
};
use alignment::nearest_mean;
use calibration::Calibration;
use meaning::Meaning;
use std::time::Instant;
use view::View;

/// The five rewards of a list, each from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rewards {
    /// There is living news about the queries.
    pub alignment: f64,
    /// Interests are asked for and found.
    pub coverage: f64,
    /// Queries are telling.
    pub specificity: f64,
    /// Queries differ.
    pub diversity: f64,
    /// Queries keep the form; 0 for a text that is no list.
    pub structure: f64,
}

/// How many rewards there are.
pub const N_REWARDS: usize = 5;

impl Rewards {
    /// Names in the order of [`Rewards::parts`].
    pub const NAMES: [&str; N_REWARDS] = ["alignment", "coverage", "specificity", "diversity", "structure"];

    /// The five numbers.
    pub fn parts(&self) -> [f64; N_REWARDS] {
        [self.alignment, self.coverage, self.specificity, self.diversity, self.structure]
    }

    /// One number, from 0 to 1.
    pub fn composite(&self, aggregation: Aggregation) -> f64 {
        match aggregation {
            Aggregation::Sum => weighted(&self.parts(), &[1.0; N_REWARDS]),
            Aggregation::Weighted => weighted(&self.parts(), &WEIGHTS),
            Aggregation::Gated if self.passes() => 0.5 * (self.alignment + self.coverage),
            Aggregation::Gated => 0.0,
        }
    }

    /// Whether no reward is below its floor.
    pub fn passes(&self) -> bool {
        self.parts().iter().zip(&FLOORS).all(|(part, floor)| part >= floor)
    }
}

/// How five rewards become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// Their mean: the paper's sum up to a factor.
    Sum,
    /// Their mean weighted by what they are for: coverage is what is wanted, the others keep a list from cheating.
    Weighted,
    /// The mean of alignment and coverage, if the other three reach their floors; else 0.
    Gated,
}

impl Aggregation {
    /// All of them, with their names in tables.
    pub const ALL: [(Self, &str); 3] = [
        (Self::Sum, "composite, sum"),
        (Self::Weighted, "composite, weighted"),
        (Self::Gated, "composite, gated"),
    ];
}

/// Weights of [`Aggregation::Weighted`]. Coverage alone knows the reader and is most related to what her list finds; with equal
/// weights the other four drown it (`train/LOG.md`).
pub const WEIGHTS: [f64; N_REWARDS] = [0.1, 0.6, 0.1, 0.1, 0.1];
/// Floors of [`Aggregation::Gated`]: lists below one of them would be refused by any editor.
const FLOORS: [f64; N_REWARDS] = [0.0, 0.0, 0.1, 0.3, 0.6];

/// Weighted mean of parts; 0 if all weights are.
pub fn weighted(parts: &[f64; N_REWARDS], weights: &[f64; N_REWARDS]) -> f64 {
    let total: f64 = weights.iter().sum();
    parts.iter().zip(weights).map(|(part, weight)| part * weight).sum::<f64>() / total.max(f64::MIN_POSITIVE)
}

/// Gives rewards in one world at one moment.
#[derive(Debug)]
pub struct Judge<'a> {
    /// What words and signals mean.
    pub meaning: Meaning,
    articles: &'a [Article],
    at_unix_s: i64,
    /// Living articles that have a meaning.
    units: Vec<(usize, Unit)>,
    living: VectorIndex,
    retrieval: Retrieval,
    calibration: Calibration,
}

/// One query as the rewards see it.
#[derive(Clone, Debug)]
pub struct Asked {
    words: Vec<String>,
    /// None if no word of it is known.
    unit: Option<Unit>,
    /// Indices of living articles that its words find, best first, with the scores of the search.
    found: Vec<(usize, f32)>,
}

impl<'a> Judge<'a> {
    /// Prepares the judge for lists asked for at a moment: living articles are those alive then. What signals mean is
    /// learned from `readers`.
    /// # Errors
    /// If the articles cannot be indexed, or the world has too few to calibrate by.
    pub fn of<'r>(
        world: &'a World,
        readers: impl Iterator<Item = &'r Reader>,
        at_unix_s: i64,
    ) -> Result<Self, TrainError> {
        let meaning = Meaning::of(world, readers);
        let alive = |article: &Article| article.is_alive_at(at_unix_s);
        let retrieval = Retrieval::of(&world.articles, alive)?;
        let units: Vec<(usize, Unit)> = (0..world.articles.len())
            .filter(|&idx| alive(&world.articles[idx]))
            .filter_map(|idx| Some((idx, meaning.article(idx)?)))
            .collect();
        let calibration = Calibration::fit(world, &meaning)?;
        let living = VectorIndex::build(WIDTH, units.iter().map(|(idx, unit)| (*idx, &unit.0[..])));
        Ok(Self { meaning, articles: &world.articles, at_unix_s, units, living, retrieval, calibration })
    }

    /// Reads a reader's signals until the judge's moment.
    pub fn view(&self, reader: &Reader) -> View {
        View::of(Interests::of(&self.meaning.signals(&reader.events), self.at_unix_s), &self.units)
    }

    /// Reads some traces, those that a prompt shows, as of a moment.
    pub fn view_of<'e>(&self, events: impl Iterator<Item = &'e Event>, at_unix_s: i64) -> View {
        View::of(self.interests_of(events, at_unix_s), &self.units)
    }

    /// The interests of some traces as of a moment.
    pub fn interests_of<'e>(&self, events: impl Iterator<Item = &'e Event>, at_unix_s: i64) -> Interests {
        let said: Vec<_> = events.filter_map(|event| self.meaning.signal(event)).collect();
        Interests::of(&said, at_unix_s)
    }

    /// The moment at which lists are asked for.
    pub fn at_unix_s(&self) -> i64 {
        self.at_unix_s
    }

    /// Living articles that queries find together, best first.
    /// # Errors
    /// If the search fails.
    pub fn ranking<'q>(&self, queries: impl Iterator<Item = &'q str>) -> Result<Vec<usize>, TrainError> {
        self.retrieval.ranking(queries, self.at_unix_s)
    }

    /// Living articles that one query finds, best first.
    /// # Errors
    /// If the search fails.
    pub fn hits(&self, query: &str) -> Result<Vec<usize>, TrainError> {
        self.retrieval.hits(query, self.at_unix_s)
    }

    /// Rewards a list for a reader; a text that is no list gets nothing.
    /// # Errors
    /// If the search fails.
    pub fn rewards(&self, list: Option<&QueryList>, reader: &View) -> Result<Rewards, TrainError> {
        let Some(list) = list else { return Ok(Rewards::default()) };
        Ok(self.rewards_of(list, &self.all_asked(list)?, reader))
    }

    /// As [`Judge::rewards`], for queries that were looked up already.
    pub fn rewards_of(&self, list: &QueryList, asked: &[Asked], reader: &View) -> Rewards {
        self.timed(list, asked, reader).0
    }

    /// As [`Judge::rewards_of`], with the seconds that each reward took, in the order of [`Rewards::parts`].
    pub fn timed(&self, list: &QueryList, asked: &[Asked], reader: &View) -> (Rewards, [f64; N_REWARDS]) {
        let mut seconds = [0.0; N_REWARDS];
        let mut clock = seconds.iter_mut();
        let mut part = |of: &dyn Fn() -> f64| {
            let started = Instant::now();
            let reward = of();
            if let Some(seconds) = clock.next() {
                *seconds = started.elapsed().as_secs_f64();
            }
            reward
        };
        let rewards = Rewards {
            alignment: part(&|| {
                let units: Vec<Option<&Unit>> = asked.iter().map(|asked| asked.unit.as_ref()).collect();
                alignment::alignment(&units, &self.living, &self.calibration)
            }),
            coverage: part(&|| coverage::coverage(asked, reader)),
            specificity: part(&|| specificity::specificity(asked, self)),
            diversity: part(&|| diversity::diversity(asked, self.articles)),
            structure: part(&|| structure::structure(list)),
        };
        (rewards, seconds)
    }

    /// The paper's values before any mapping: the mean cosine of a query to its ten nearest articles, and the mean cosine distance of
    /// two queries. Words that mean nothing are near to nothing and distant from nothing.
    pub fn raw(&self, asked: &[Asked]) -> [f64; 2] {
        let units: Vec<Option<&Unit>> = asked.iter().map(|asked| asked.unit.as_ref()).collect();
        let nearest = |unit: &Option<&Unit>| {
            unit.map_or(0.0, |unit| nearest_mean(unit, &self.living, alignment::NEAREST))
        };
        [mean(units.iter().map(nearest)), mean_distance(&units, f64::INFINITY).unwrap_or(0.0)]
    }

    /// Articles alive at the judge's moment that are nearest to a meaning, the nearest first.
    pub fn nearest(&self, to: &Unit, k: usize) -> Vec<usize> {
        self.living.search(&to.0, k).into_iter().map(|near| near.article_idx).collect()
    }

    /// Rewards a query by itself: how much of what it finds first is wanted, from 0 to 1.
    pub fn query_reward(&self, asked: &Asked, reader: &View) -> f64 {
        coverage::found(std::slice::from_ref(asked), reader)
    }

    /// Looks all queries of a list up.
    /// # Errors
    /// If the search fails.
    pub fn all_asked(&self, list: &QueryList) -> Result<Vec<Asked>, TrainError> {
        list.as_slice().iter().map(|query| self.asked(query.as_str())).collect()
    }

    /// Looks a query up.
    /// # Errors
    /// If the search fails.
    pub fn asked(&self, query: &str) -> Result<Asked, TrainError> {
        Ok(Asked {
            words: words(query).map(fold).collect(),
            unit: self.meaning.text(query),
            found: self.retrieval.scored_hits(query, self.at_unix_s)?,
        })
    }
}

/// Mean of values; 0 of none.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (n, sum) = values.fold((0.0, 0.0), |(n, sum), value| (n + 1.0, sum + value));
    if n == 0.0 { 0.0 } else { sum / n }
}
