//! What a generation gives: candidates, and the answer that holds them.
use crate::{
    cleaner::{Verdict, rules},
    decode::batch::Finish,
    queries::{Query, QueryList},
    serve::{
        cost::{Cost, Owed},
        models::facts::ModelFacts,
        rerank::{Method, Standing},
    },
    text::{
        parse::{self, Malformed},
        stitch::{Stitched, stitch},
    },
};
use std::{sync::Arc, time::Duration};

/// Why a candidate is no list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// It reached the token limit, so its last query may be cut.
    Unfinished,
    /// It was stopped, because another list was better beyond doubt.
    Pruned,
    /// A query of it is personal data.
    Personal,
    /// Without queries about sensitive topics too few are left.
    Sensitive,
    /// The parser refused it.
    Malformed(Malformed),
    /// The server that generated it found it to be none, and did not store why.
    Elsewhere,
}

impl Invalid {
    /// The reason as a metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::Pruned => "pruned",
            Self::Personal => "personal",
            Self::Sensitive => "sensitive",
            Self::Malformed(malformed) => malformed.reason(),
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// The list that a text is. A network can write what it has learned, and repeat what it has read, and a store can hold anything: personal
/// data is no query, wherever it comes from.
///
/// # Errors
/// If the parser refuses it, or a query is personal data.
pub fn list(text: &str) -> Result<QueryList, Invalid> {
    let list = parse::parse(text).map_err(Invalid::Malformed)?;
    if list.as_slice().iter().any(is_personal) { Err(Invalid::Personal) } else { Ok(list) }
}

/// The queries of a list that is not written to its end, as far as they are some and not personal data.
pub fn queries_so_far(written: &str) -> Vec<Query> {
    parse::queries_so_far(written).into_iter().filter(|query| !is_personal(query)).collect()
}

fn is_personal(query: &Query) -> bool {
    rules::verdict(query.as_str()) == Some(Verdict::Personal)
}

/// What the head said of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Predicted reward of the list.
    pub list: f32,
    /// Predicted reward of each query; absent where the lines that the head saw are not the queries.
    pub queries: Option<Vec<f32>>,
}

/// One candidate that ended.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its number.
    pub row_idx: usize,
    /// The list, or why it is none.
    pub list: Result<QueryList, Invalid>,
    /// What the head said; absent without a head and for what is no list.
    pub scores: Option<Scores>,
    /// How far the other valid lists agree with it, from 0 to 1; absent where there is no other, and for what is no list.
    pub consensus: Option<f32>,
    /// How far they agree with each of its queries; empty where they do not, or the lines that were read are not the queries.
    pub query_consensus: Vec<f32>,
    /// Mean log-probability per token, nats.
    pub mean_logprob: f32,
    /// How it ended.
    pub finish: Finish,
    /// Tokens sampled, the stop token included.
    pub n_tokens: usize,
    /// Whether it beats every list that ended before it. While others are being written, scores may still move.
    pub best_so_far: bool,
}

impl Candidate {
    /// What is compared of it.
    pub fn standing(&self) -> Standing {
        let list_score = self.scores.as_ref().map(|scores| scores.list);
        let consensus = self.consensus.unwrap_or(0.0);
        Standing { row_idx: self.row_idx, list_score, consensus, mean_logprob: self.mean_logprob }
    }
}

/// One candidate that is being written.
#[derive(Clone, Debug)]
pub struct Growing {
    /// Its number.
    pub row_idx: usize,
    /// Its queries that have ended.
    pub queries: Vec<Query>,
    /// Predicted reward of each; absent where none is predicted, and where the lines that the head saw are not the queries.
    pub scores: Option<Vec<f32>>,
    /// What the head foresees that the whole list will be worth; absent where it foresees nothing.
    pub foreseen: Option<f32>,
    /// Tokens sampled.
    pub n_tokens: usize,
}

/// What whoever waits for an answer sees of it before it is there.
#[derive(Clone, Debug)]
pub enum Seen {
    /// One more query of a candidate.
    Growing(Arc<Growing>),
    /// A candidate that ended.
    Ended(Arc<Candidate>),
}

/// The best queries of several candidates.
#[derive(Clone, Debug, PartialEq)]
pub struct StitchedList {
    /// In the order in which they were chosen.
    pub list: QueryList,
    /// Predicted reward of each query; absent without a head.
    pub scores: Option<Vec<f32>>,
}

impl StitchedList {
    /// The best queries of all valid lists, by the head where there is one; a list that stands alone agrees with all there are.
    pub(super) fn of(candidates: &[Candidate]) -> Option<Self> {
        let lists: Vec<(&QueryList, &Candidate)> = candidates
            .iter()
            .filter_map(|candidate| Some((candidate.list.as_ref().ok()?, candidate)))
            .collect();
        let predicted =
            |candidate: &Candidate| candidate.scores.as_ref().map(|scores| scores.queries.clone());
        let worth = |(list, candidate): &(&QueryList, &Candidate)| match predicted(candidate) {
            // The head predicts rewards, which are from 0 to 1, without being held to it.
            Some(scores) => scores.unwrap_or_default().iter().map(|score| score.clamp(0.0, 1.0)).collect(),
            None if candidate.consensus.is_none() => vec![1.0; list.as_slice().len()],
            None => candidate.query_consensus.clone(),
        };
        let worths: Vec<Vec<f32>> = lists.iter().map(worth).collect();
        let worths: Vec<&[f32]> = worths.iter().map(Vec::as_slice).collect();
        let Stitched { list, from } =
            stitch(&lists.iter().map(|(list, _)| *list).collect::<Vec<_>>(), &worths)?;
        let score =
            |&(list_idx, query_idx): &(usize, usize)| predicted(lists[list_idx].1)??.get(query_idx).copied();
        Some(Self { list, scores: from.iter().map(score).collect() })
    }
}

/// Where the time of a generation went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Judging signals.
    pub clean: Duration,
    /// Building the prompt.
    pub tokenize: Duration,
    /// Waiting for the model.
    pub queue: Duration,
    /// Running the prompt through the model.
    pub prefill: Duration,
    /// Sampling.
    pub decode: Duration,
    /// Parsing and scoring.
    pub rerank: Duration,
    /// From the start to the first valid list.
    pub time_to_first_candidate: Duration,
}

/// What a generation gave and what it cost.
#[derive(Debug)]
pub struct Answer {
    /// The model that wrote it.
    pub model: Arc<ModelFacts>,
    /// Every candidate, in the order in which they ended.
    pub candidates: Vec<Arc<Candidate>>,
    /// Position of the best one, which is valid: the last that is marked as the best so far.
    pub best_idx: usize,
    /// The list that is the answer in place of the best one, where queries are chosen instead of lists.
    pub stitched: Option<StitchedList>,
    /// Most queries wanted of the best list.
    pub n_queries_max: usize,
    /// How it was found.
    pub method: Method,
    /// Whether it is for the moment alone: the reward head failed, so that it was found otherwise than was asked, or candidates were left out that
    /// were needed.
    pub fell_short: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that went through the model.
    pub prefill_tokens_computed: usize,
    /// Signals left out of the prompt, or cut.
    pub n_truncated_signals: usize,
    /// Signals left out as noise.
    pub n_cleaned_signals: usize,
    /// What it cost.
    pub cost: Cost,
    /// What of that nobody has paid yet.
    pub owed: Owed,
    /// Where the time went.
    pub phases: Phases,
}

impl Answer {
    /// A list of everybody's as an answer: no model wrote it, and it costs nothing. `model`: the one that would have answered.
    pub(super) fn of_cohort(list: QueryList, model: Arc<ModelFacts>, n_queries_max: usize) -> Self {
        let candidate = Candidate {
            row_idx: 0,
            list: Ok(list),
            scores: None,
            consensus: None,
            query_consensus: Vec::new(),
            mean_logprob: 0.0,
            finish: Finish::Stop,
            n_tokens: 0,
            best_so_far: true,
        };
        Self {
            model,
            candidates: vec![Arc::new(candidate)],
            best_idx: 0,
            stitched: None,
            n_queries_max,
            method: Method::None,
            fell_short: false,
            prompt_tokens: 0,
            prefill_tokens_computed: 0,
            n_truncated_signals: 0,
            n_cleaned_signals: 0,
            cost: Cost::default(),
            owed: Owed::new(Cost::default()),
            phases: Phases::default(),
        }
    }

    /// The chosen candidate.
    pub fn best(&self) -> &Candidate {
        &self.candidates[self.best_idx]
    }

    /// The reward that the head predicts for the list that is the answer; it sees no list that is made of several.
    pub fn score(&self) -> Option<f32> {
        let scores = self.best().scores.as_ref().filter(|_| self.stitched.is_none());
        scores.map(|scores| scores.list)
    }

    /// By how much that is above what it predicts for the first candidate, where the head chose and that is a list: what a platform has of asking for
    /// more than one.
    pub fn gain(&self) -> Option<f32> {
        if self.method != Method::RewardHead {
            return None;
        }
        let first = self.candidates.iter().find(|candidate| candidate.row_idx == 0)?;
        Some(self.score()? - first.scores.as_ref()?.list)
    }

    /// Tokens sampled for all candidates.
    pub fn n_output_tokens(&self) -> usize {
        self.candidates.iter().map(|candidate| candidate.n_tokens).sum()
    }

    /// About how much memory it takes.
    pub fn n_bytes(&self) -> usize {
        let of_list = |list: &QueryList| -> usize {
            list.as_slice()
                .iter()
                .map(|query| size_of::<String>() + size_of::<f32>() + query.as_str().len())
                .sum()
        };
        let candidates = self.candidates.iter().map(|candidate| candidate.list.as_ref().map_or(0, of_list));
        let stitched = self.stitched.as_ref().map_or(0, |stitched| of_list(&stitched.list));
        size_of::<Self>()
            + stitched
            + candidates.map(|n_bytes| n_bytes + size_of::<Candidate>() + 16).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    /// A list, what the head says of its queries, and how far others agree with each.
    fn candidate(row_idx: usize, text: &str, scores: Option<[f32; 3]>, agreed: [f32; 3]) -> Candidate {
        let queries = |scores: [f32; 3]| Scores { list: 0.5, queries: Some(scores.to_vec()) };
        Candidate {
            row_idx,
            list: parse::parse(text).map_err(Invalid::Malformed),
            scores: scores.map(queries),
            consensus: Some(0.0),
            query_consensus: agreed.to_vec(),
            mean_logprob: -1.0,
            finish: Finish::Stop,
            n_tokens: 9,
            best_so_far: false,
        }
    }

    const ONE: &str = "one two\nthree four\nfive six";
    const OTHER: &str = "seven eight\nnine ten\neleven twelve";

    #[track_caller]
    fn check(candidates: &[Candidate], expected: Option<([&str; 3], Option<[f32; 3]>)>) {
        let got = StitchedList::of(candidates);
        let texts =
            |list: &QueryList| list.as_slice().iter().map(|query| query.as_str().to_owned()).collect();
        let got = got.map(|got| (texts(&got.list), got.scores));
        let owned = |(texts, scores): ([&str; 3], Option<[f32; 3]>)| {
            (texts.map(str::to_owned).to_vec(), scores.map(|scores| scores.to_vec()))
        };
        assert_eq!(got, expected.map(owned));
    }

    #[test]
    fn queries_are_worth_what_the_head_says_and_without_it_how_far_lists_agree() {
        let agreed = [[0.5, 0.0, 0.1], [0.0, 0.4, 0.3]];
        let with = |scores: [Option<[f32; 3]>; 2]| {
            [candidate(0, ONE, scores[0], agreed[0]), candidate(1, OTHER, scores[1], agreed[1])]
        };
        check(&with([None, None]), Some((["one two", "nine ten", "eleven twelve"], None)));
        // A prediction of more than the most that there is counts as that, and is told as it is.
        let scores = [Some([0.1, 1.5, 0.2]), Some([1.0, 0.3, 0.2])];
        let expected = ["three four", "seven eight", "nine ten"];
        check(&with(scores), Some((expected, Some([1.5, 1.0, 0.3]))));
    }

    #[test]
    fn a_list_alone_is_itself_and_what_is_worth_nothing_makes_none() {
        let alone = Candidate { consensus: None, ..candidate(0, ONE, None, [0.0; 3]) };
        check(
            &[alone, candidate(1, "no list", None, [0.9; 3])],
            Some((["one two", "three four", "five six"], None)),
        );
        check(&[candidate(0, ONE, None, [0.0; 3]), candidate(1, OTHER, None, [0.0; 3])], None);
        check(&[candidate(0, "no list", None, [0.9; 3])], None);
    }
}
