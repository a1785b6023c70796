//! What a generation gives: candidates, and the answer that holds them.
use crate::{
    decode::batch::Finish,
    queries::QueryList,
    serve::{
        cost::{Cost, Owed},
        rerank::{Method, Standing},
    },
    text::parse::Malformed,
};
use std::{sync::Arc, time::Duration};

/// Why a candidate is no list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// It reached the token limit, so its last query may be cut.
    Unfinished,
    /// It was stopped, because another list was better beyond doubt.
    Pruned,
    /// The parser refused it.
    Malformed(Malformed),
}

impl Invalid {
    /// The reason as a metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::Pruned => "pruned",
            Self::Malformed(malformed) => malformed.reason(),
        }
    }
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
    /// Every candidate, in the order in which they ended.
    pub candidates: Vec<Arc<Candidate>>,
    /// Position of the best one, which is valid: the last that is marked as the best so far.
    pub best_idx: usize,
    /// Most queries wanted of the best list.
    pub n_queries_max: usize,
    /// How it was found.
    pub method: Method,
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
    /// The chosen candidate.
    pub fn best(&self) -> &Candidate {
        &self.candidates[self.best_idx]
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
        size_of::<Self>() + candidates.map(|n_bytes| n_bytes + size_of::<Candidate>() + 16).sum::<usize>()
    }
}
