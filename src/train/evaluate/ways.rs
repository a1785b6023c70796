//! Every way to serve one reader, with what it finds.
use super::{
    Question,
    measures::{Figures, RECALL_10, figures, mean},
};
use super::{
    space::Space,
    tier::Tier,
    traits::Supply,
    unaided::{AVERAGED_SIGNALS, COPIED_SIGNALS, Shown, Shows, UNAIDED},
};
use crate::{
    model::reward_head::{ListFeatures, ListScores, RewardHead},
    queries::QueryList,
    text::stitch::stitch,
    train::{
        error::TrainError,
        events::{Reader, World},
        rewards::{Aggregation, Judge, meaning::Meaning},
        rollout::Sample,
    },
};
use serde::Serialize;
use std::path::Path;

/// A way to choose what a reader is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The articles most clicked in the last day.
    Popularity,
    /// The last signals as queries.
    Copy,
    /// The articles nearest to the mean of the last signals' vectors: those that the rewards are made of, so that no list is
    /// called exclusive for finding what they find, or those of another embedder.
    Vector,
    /// The list that the judge of the rewards would write.
    Judge,
    /// The student's first list.
    First,
    /// The mean over the student's lists.
    Random,
    /// The student's likeliest list.
    LogProb,
    /// The list that the others agree with most.
    Consensus,
    /// The list that the reward head likes best.
    Head,
    /// The same where weak lists are stopped early, if that is all but sure.
    HeadSafe,
    /// The same where weak lists are stopped as soon as that is likely.
    HeadAggressive,
    /// The same where lists beside the first are written only if those disagree.
    HeadAdaptive,
    /// The best queries of all lists, by how far other lists agree with each.
    StitchedConsensus,
    /// The best queries of all lists, by the reward head.
    StitchedHead,
    /// The list with the highest weighted composite of the rewards by all signals of the reader: more than a head can know.
    Composite,
    /// The list with the highest Recall@10: an upper bound of that measure.
    Oracle,
}

impl Way {
    /// Those that show one ranking.
    pub const RANKED: [Self; 15] = [
        Self::Popularity,
        Self::Copy,
        Self::Vector,
        Self::Judge,
        Self::First,
        Self::LogProb,
        Self::Consensus,
        Self::Head,
        Self::HeadSafe,
        Self::HeadAggressive,
        Self::HeadAdaptive,
        Self::StitchedConsensus,
        Self::StitchedHead,
        Self::Composite,
        Self::Oracle,
    ];

    /// Its name in files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Popularity => "popularity",
            Self::Copy => "copy",
            Self::Vector => "vector",
            Self::Judge => "judge",
            Self::First => "first",
            Self::Random => "random",
            Self::LogProb => "logprob",
            Self::Consensus => "consensus",
            Self::Head => "head",
            Self::HeadSafe => "head_safe",
            Self::HeadAggressive => "head_aggressive",
            Self::HeadAdaptive => "head_adaptive",
            Self::StitchedConsensus => "stitched_consensus",
            Self::StitchedHead => "stitched_head",
            Self::Composite => "composite",
            Self::Oracle => "oracle",
        }
    }

    /// Its name in a table of `n` lists per reader.
    pub fn name(self, n: usize) -> String {
        match self {
            Self::Popularity => "popularity, last 24 h".to_owned(),
            Self::Copy => format!("copy the last {COPIED_SIGNALS} signals (BM25)"),
            Self::Vector => format!("mean vector of the last {AVERAGED_SIGNALS} signals"),
            Self::Judge => "list of the rewards' judge".to_owned(),
            Self::First => "student, N=1".to_owned(),
            Self::Random => format!("student, random of N={n}"),
            Self::LogProb => format!("student, best of N={n} by log-probability"),
            Self::Consensus => format!("student, best of N={n} by consensus"),
            Self::Head => format!("student, best of N={n} by head"),
            Self::HeadSafe => format!("student, best of N={n} by head, weak lists stopped (safe)"),
            Self::HeadAggressive => {
                format!("student, best of N={n} by head, weak lists stopped (aggressive)")
            }
            Self::HeadAdaptive => {
                format!("student, best of at most N={n} by head, further lists where the first disagree")
            }
            Self::StitchedConsensus => format!("student, best queries of N={n} by consensus"),
            Self::StitchedHead => format!("student, best queries of N={n} by head"),
            Self::Composite => format!("student, best of N={n} by the rewards' judge"),
            Self::Oracle => format!("student, best of N={n} by held-out clicks (upper bound of Recall@10)"),
        }
    }
}

/// What one way shows a reader.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// Articles, best first; empty where a mean over lists is measured.
    pub ranking: Vec<usize>,
    /// What the ranking is worth.
    pub figures: Figures,
    /// How its queries do, where it has queries.
    pub supply: Option<Supply>,
}

/// What every way finds for one reader.
#[derive(Debug)]
pub struct Outcome {
    /// The reader's tier.
    pub tier: Tier,
    /// Share of lists that are valid.
    pub valid: f64,
    /// Ways in the order of tables; without a head, not by head.
    pub found: Vec<(Way, Served)>,
}

impl Outcome {
    /// What one way shows.
    pub fn of(&self, way: Way) -> Option<&Served> {
        self.found.iter().find(|(other, _)| *other == way).map(|(_, served)| served)
    }
}

/// Outcomes of the same readers under several seeds: figures and validity are means, what is shown is the first seed's.
pub(super) fn merged(by_seed: Vec<Vec<Outcome>>) -> Vec<Outcome> {
    #[allow(clippy::cast_precision_loss, reason = "a handful of seeds")]
    let n_seeds = by_seed.len().max(1) as f64;
    let mut by_seed = by_seed.into_iter();
    let mut merged = by_seed.next().unwrap_or_default();
    for outcome in &mut merged {
        outcome.valid /= n_seeds;
        outcome
            .found
            .iter_mut()
            .flat_map(|(_, served)| &mut served.figures)
            .for_each(|figure| *figure /= n_seeds);
    }
    for (reader, more) in by_seed.flat_map(|outcomes| outcomes.into_iter().enumerate()) {
        let sum = &mut merged[reader];
        sum.valid += more.valid / n_seeds;
        for ((_, sum), (_, more)) in sum.found.iter_mut().zip(more.found) {
            sum.figures.iter_mut().zip(more.figures).for_each(|(sum, figure)| *sum += figure / n_seeds);
        }
    }
    merged
}

/// What serving takes beside a student.
#[derive(Debug)]
pub struct Platform<'a> {
    pub(super) judge: Judge<'a>,
    /// The bundle's reward head.
    pub head: Option<&'a RewardHead>,
    pub(super) popular: Vec<usize>,
    pub(super) space: Space,
}

impl<'a> Platform<'a> {
    /// Indexes what is alive at the world's cutoff. `embedder`: a sentence-transformers folder by which vectors are compared.
    /// # Errors
    /// If the index cannot be built, or the embedder not be used.
    pub fn of(
        world: &'a World,
        popular: Vec<usize>,
        head: Option<&'a RewardHead>,
        embedder: Option<&Path>,
    ) -> Result<Self, TrainError> {
        // A platform's index holds what can be read today; the judge searches the same.
        let judge = Judge::of(world, world.training_readers(), world.cutoff_unix_s)?;
        let space = Space::of(world, &judge.meaning, embedder)?;
        Ok(Self { judge, head, popular, space })
    }

    /// Serves one reader in every way. `stopped`: what early stopping leaves of the samples.
    /// # Errors
    /// If the search or the head fails.
    pub fn outcome(
        &self,
        question: &Question<'_>,
        samples: &[Sample],
        stopped: &[(Way, &[Sample])],
    ) -> Result<Outcome, TrainError> {
        let lists = samples
            .iter()
            .map(|sample| match sample {
                Ok((list, _)) => self.served_list(question, list),
                // A reader who gets no list is shown nothing.
                Err(_) => Ok(Served::default()),
            })
            .collect::<Result<Vec<Served>, TrainError>>()?;
        let valid: Vec<usize> = (0..samples.len()).filter(|&idx| samples[idx].is_ok()).collect();
        let features: Vec<ListFeatures> = samples.iter().flatten().map(|(_, read)| read.clone()).collect();
        // One score per valid list. On a tie the earlier list wins: max_by would take the last.
        let best_by = |scores: &[f32]| {
            let best = (0..valid.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            best.map_or_else(Served::default, |idx| lists[valid[idx]].clone())
        };
        let by_logprob: Vec<f32> = features.iter().map(|read| read.mean_logprob).collect();
        let by_consensus: Vec<f32> =
            features.iter().map(|read| read.consensus.as_ref().map_or(0.0, |found| found.list)).collect();
        let most = lists.iter().rev().max_by(|a, b| a.figures[RECALL_10].total_cmp(&b.figures[RECALL_10]));
        let of_lists: Vec<Figures> = lists.iter().map(|list| list.figures).collect();
        let mut found = self.without_student(question)?;
        found.extend([
            (Way::First, lists.first().cloned().unwrap_or_default()),
            (Way::Random, Served { figures: mean(&of_lists), ..Served::default() }),
            (Way::LogProb, best_by(&by_logprob)),
            (Way::Consensus, best_by(&by_consensus)),
        ]);
        if let Some(head) = self.head {
            let scores: Vec<f32> = head.score(&features)?.iter().map(|scores| scores.list.mean).collect();
            found.push((Way::Head, best_by(&scores)));
        }
        for (way, stopped) in stopped {
            found.push((*way, self.best_by_head(question, stopped)?));
        }
        found.extend(self.stitched(question, samples)?);
        found.push((Way::Composite, best_by(&self.composites(question.reader, samples)?)));
        found.push((Way::Oracle, most.cloned().unwrap_or_default()));
        #[allow(clippy::cast_precision_loss, reason = "a handful of lists")]
        let share = valid.len() as f64 / samples.len().max(1) as f64;
        Ok(Outcome { tier: Tier::of(question.reader), valid: share, found })
    }

    /// The composite reward of each valid list, by all signals of the reader.
    /// # Errors
    /// If the search fails.
    pub fn composites(&self, reader: &Reader, samples: &[Sample]) -> Result<Vec<f32>, TrainError> {
        let view = self.judge.view(reader);
        let of_list = |(list, _): &(QueryList, ListFeatures)| {
            let rewards = self.judge.rewards(Some(list), &view)?;
            #[allow(clippy::cast_possible_truncation, reason = "rewards lie between 0 and 1")]
            Ok(rewards.composite(Aggregation::Weighted) as f32)
        };
        samples.iter().flatten().map(of_list).collect()
    }

    /// The list that the head likes best, and nothing where there is none.
    fn best_by_head(&self, question: &Question<'_>, samples: &[Sample]) -> Result<Served, TrainError> {
        let (lists, features): (Vec<&QueryList>, Vec<ListFeatures>) =
            samples.iter().flatten().map(|(list, read)| (list, read.clone())).unzip();
        let Some(head) = self.head else { return Ok(Served::default()) };
        let scores: Vec<f32> = head.score(&features)?.iter().map(|scores| scores.list.mean).collect();
        let best = (0..lists.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        best.map_or_else(|| Ok(Served::default()), |idx| self.served_list(question, lists[idx]))
    }

    /// The best queries of a student's lists as one list.
    fn stitched(
        &self,
        question: &Question<'_>,
        samples: &[Sample],
    ) -> Result<Vec<(Way, Served)>, TrainError> {
        let (lists, features): (Vec<&QueryList>, Vec<ListFeatures>) =
            samples.iter().flatten().map(|(list, read)| (list, read.clone())).unzip();
        let of =
            |scores: &[Vec<f32>]| match stitch(&lists, &scores.iter().map(Vec::as_slice).collect::<Vec<_>>())
            {
                Some(stitched) => self.served_list(question, &stitched.list),
                None => Ok(Served::default()),
            };
        // A list that stands alone agrees with all there are.
        let agreed = |read: &ListFeatures| match &read.consensus {
            Some(consensus) => consensus.queries.clone(),
            None => vec![1.0; read.query_logprob.len()],
        };
        let by_consensus: Vec<Vec<f32>> = features.iter().map(agreed).collect();
        let mut found = vec![(Way::StitchedConsensus, of(&by_consensus)?)];
        if let Some(head) = self.head {
            let scores = head.score(&features)?;
            // The head predicts rewards, which are from 0 to 1, without being held to it.
            let means =
                |scores: &ListScores| scores.queries.iter().map(|score| score.mean.clamp(0.0, 1.0)).collect();
            let by_head: Vec<Vec<f32>> = scores.iter().map(means).collect();
            found.push((Way::StitchedHead, of(&by_head)?));
        }
        Ok(found)
    }

    /// The ways that need no student.
    /// # Errors
    /// If the search fails.
    pub fn without_student(&self, question: &Question<'_>) -> Result<Vec<(Way, Served)>, TrainError> {
        let of_way = |(way, shows): (Way, Shows)| {
            let Shown { ranking, queries } = shows(self, question.reader)?;
            let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
            Ok((way, served(question, ranking, self.supply(&queries)?)))
        };
        UNAIDED.into_iter().map(of_way).collect()
    }

    /// What words and signals mean.
    pub fn meaning(&self) -> &Meaning {
        &self.judge.meaning
    }

    /// What queries find, best first.
    /// # Errors
    /// If the search fails.
    pub fn ranking<'q>(&self, queries: impl Iterator<Item = &'q str>) -> Result<Vec<usize>, TrainError> {
        self.judge.ranking(queries)
    }

    /// What one query finds, best first.
    /// # Errors
    /// If the search fails.
    pub fn hits(&self, query: &str) -> Result<Vec<usize>, TrainError> {
        self.judge.hits(query)
    }

    fn served_list(&self, question: &Question<'_>, list: &QueryList) -> Result<Served, TrainError> {
        let queries: Vec<&str> = list.as_slice().iter().map(|query| query.as_str()).collect();
        self.served_queries(question, &queries)
    }

    fn served_queries(&self, question: &Question<'_>, queries: &[&str]) -> Result<Served, TrainError> {
        Ok(served(question, self.ranking(queries.iter().copied())?, self.supply(queries)?))
    }

    fn supply(&self, queries: &[&str]) -> Result<Option<Supply>, TrainError> {
        Supply::of(queries, |query| self.hits(query))
    }
}

fn served(question: &Question<'_>, ranking: Vec<usize>, supply: Option<Supply>) -> Served {
    Served { figures: figures(&ranking, &question.clicked), ranking, supply }
}
