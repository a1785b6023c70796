//! Hidden states to predicted reward: mean and variance, per query and per list.
use super::{
    perceptron::{Perceptron, Score, scores},
    weights::{ModelError, TensorSource},
};
use candle_core::{DType, Device, Tensor};

/// Longest valid list; the list head reads the number of queries as a share of it.
const N_QUERIES_FULL: f32 = 8.0;
/// Extra inputs of the query head beside one hidden state: its mean log-probability, its consensus.
const QUERY_EXTRA: usize = 2;
/// Inputs of the list head: its queries' mean score, mean and lowest log-probability, consensus, number of queries; where the head reads it,
/// affinity comes last
/// in both.
///
/// Hidden states reach it through the scores of the queries alone. Given to it directly, they drowned the rest: rewards of
/// lists are noisy, and a reader has few later clicks.
const LIST_INPUTS: usize = 5;

/// Places of the consensus among the extra inputs.
const QUERY_CONSENSUS: usize = 1;
const LIST_CONSENSUS: usize = 3;

/// The tensor by which a head foresees.
pub const FORESIGHT: &str = "foresight";

/// What the head reads of one generated list.
#[derive(Clone, Debug)]
pub struct ListFeatures {
    /// Per query: the hidden state (hidden_size) from which its end (line feed or stop) was sampled.
    pub query_hidden: Vec<Vec<f32>>,
    /// Per query: mean log-probability of its tokens, nats.
    pub query_logprob: Vec<f32>,
    /// Mean log-probability of the whole list, nats.
    pub mean_logprob: f32,
    /// How far other lists of the same prompt agree with it; none where there is no other.
    pub consensus: Option<Consensus>,
    /// How far it asks for what the reader's signals ask for; none where nobody knows.
    pub affinity: Option<Affinity>,
}

/// How many numbers say how far a query asks for what a reader is interested in. What they are and their order is part of the format of a
/// head's file: a head that was fitted to others has to be fitted anew.
pub const QUERY_AFFINITY: usize = 10;
/// How many say it of a list; the same holds.
pub const LIST_AFFINITY: usize = 7;

/// How far queries ask for what a reader is interested in, as numbers that the head weighs (`lexicon::affinity` says which).
#[derive(Clone, Debug, PartialEq)]
pub struct Affinity {
    /// Of each query by itself.
    pub queries: Vec<[f32; QUERY_AFFINITY]>,
    /// Of all together.
    pub list: [f32; LIST_AFFINITY],
}

/// Shares of the other lists, from 0 to 1, that hold what a list holds.
///
/// What many samples say is what the model believes, whichever sample says it: the expected agreement with the other
/// samples is the utility of minimum Bayes risk decoding (Eikema and Aziz, arXiv 2108.04718).
#[derive(Clone, Debug, PartialEq)]
pub struct Consensus {
    /// Per query: mean over its tokens of the share of other lists that hold the token.
    pub queries: Vec<f32>,
    /// The same over the tokens of all queries.
    pub list: f32,
}

/// Predicted rewards of one list and of each of its queries.
#[derive(Clone, Debug)]
pub struct ListScores {
    /// Of the list as a whole.
    pub list: Score,
    /// One per query, in order.
    pub queries: Vec<Score>,
}

/// Two small networks on features of a generated list: one scores queries, one lists.
#[derive(Clone, Debug)]
pub struct RewardHead {
    hidden_size: usize,
    reads_affinity: bool,
    query: Perceptron,
    list: Perceptron,
    foresight: Option<Foresight>,
}

/// Lines of a head that foresees: of lists that have ended, and of those with 1 to 8 queries.
pub const FORESIGHT_ROWS: usize = 9;

/// Per row: intercept and slope of the line from a list's score now to its score in the end, and the deviation from it. A deviation of
/// 0 means that nothing is known.
type Foresight = [[f32; 3]; FORESIGHT_ROWS];

impl RewardHead {
    /// Reads `query.*` and `list.*` tensors for features of that hidden size, with affinity or without, and `foresight` (9, 3) where there is one.
    ///
    /// Per part: `input_mean`, `input_scale` (inputs), `hidden.weight`, `hidden.bias`, `output.weight`, `output.bias`.
    /// # Errors
    /// If a tensor is missing, misshapen or not finite.
    pub fn load(
        source: &mut dyn TensorSource,
        hidden_size: usize,
        reads_affinity: bool,
    ) -> Result<Self, ModelError> {
        let [of_query, of_list] = if reads_affinity { [QUERY_AFFINITY, LIST_AFFINITY] } else { [0, 0] };
        Ok(Self {
            hidden_size,
            reads_affinity,
            query: Perceptron::load(source, "query", hidden_size + QUERY_EXTRA + of_query)?,
            list: Perceptron::load(source, "list", LIST_INPUTS + of_list)?,
            foresight: foresight(source)?,
        })
    }

    /// Whether it reads how far lists ask for what signals ask for.
    #[must_use]
    pub fn reads_affinity(&self) -> bool {
        self.reads_affinity
    }

    /// Whether it was taught to foresee.
    #[must_use]
    pub fn foresees(&self) -> bool {
        self.foresight.is_some()
    }

    /// Foresees what lists of one prompt will score when all have ended; `has_ended`: which have. None where nothing is known: of a
    /// list without a query, or by a head that was not taught.
    ///
    /// # Errors
    /// As `score`.
    pub fn foresee(
        &self,
        lists: &[ListFeatures],
        has_ended: &[bool],
    ) -> Result<Vec<Option<Score>>, ModelError> {
        let Some(lines) = &self.foresight else { return Ok(vec![None; lists.len()]) };
        let foreseen = |(now, (list, &has_ended)): (ListScores, (&ListFeatures, &bool))| {
            let [intercept, slope, deviation] =
                lines[Self::foresight_place(list.query_hidden.len(), has_ended)?];
            let mean = intercept + slope * now.list.mean;
            (deviation > 0.0).then_some(Score { mean, variance: deviation * deviation })
        };
        Ok(self.score(lists)?.into_iter().zip(lists.iter().zip(has_ended)).map(foreseen).collect())
    }

    /// Which row of `foresight` speaks of a list; none without a query.
    #[must_use]
    pub fn foresight_place(n_queries: usize, has_ended: bool) -> Option<usize> {
        match (has_ended, n_queries) {
            (_, 0) => None,
            (true, _) => Some(0),
            (false, n_queries) => Some(n_queries.min(FORESIGHT_ROWS - 1)),
        }
    }

    /// Scores lists; used by the server (plain numbers out).
    ///
    /// # Errors
    /// If a feature has another width or is not finite.
    pub fn score(&self, lists: &[ListFeatures]) -> Result<Vec<ListScores>, ModelError> {
        if lists.is_empty() {
            return Ok(Vec::new());
        }
        let of_queries = self.score_queries(lists)?;
        let of_lists = scores(&self.forward_lists(&self.list_inputs(lists, &of_queries)?)?)?;
        let mut of_queries = of_queries.into_iter();
        let of_list = |(list, score): (&ListFeatures, Score)| ListScores {
            list: score,
            queries: of_queries.by_ref().take(list.query_hidden.len()).collect(),
        };
        Ok(lists.iter().zip(of_lists).map(of_list).collect())
    }

    /// Scores the queries of all lists, in order.
    ///
    /// # Errors
    /// If a feature has another width or is not finite.
    pub fn score_queries(&self, lists: &[ListFeatures]) -> Result<Vec<Score>, ModelError> {
        scores(&self.forward_queries(&self.query_inputs(lists)?)?)
    }

    /// Maps rows of `query_inputs` to mean and log-variance: (n, 2). Differentiable.
    ///
    /// # Errors
    /// If the width differs.
    pub fn forward_queries(&self, inputs: &Tensor) -> Result<Tensor, ModelError> {
        self.query.forward(inputs)
    }

    /// Maps rows of `list_inputs` to mean and log-variance: (n, 2). Differentiable.
    ///
    /// # Errors
    /// If the width differs.
    pub fn forward_lists(&self, inputs: &Tensor) -> Result<Tensor, ModelError> {
        self.list.forward(inputs)
    }

    /// Lays out what the query head reads, one row per query of every list: hidden state, mean log-probability, consensus, affinity.
    /// What is not there of the last two stands at the mean of what the head was fitted on, and says nothing.
    ///
    /// # Errors
    /// If a feature has another width or is not finite.
    pub fn query_inputs(&self, lists: &[ListFeatures]) -> Result<Tensor, ModelError> {
        let mut rows = Vec::new();
        let neutral = self.query.input_mean_at(self.hidden_size + QUERY_CONSENSUS)?;
        let indifferent = self.query.input_means(self.hidden_size + QUERY_EXTRA)?;
        for list in lists {
            self.check(list)?;
            for (idx, (hidden, logprob)) in list.query_hidden.iter().zip(&list.query_logprob).enumerate() {
                let consensus = list.consensus.as_ref().map_or(neutral, |consensus| consensus.queries[idx]);
                rows.extend_from_slice(hidden);
                rows.extend([*logprob, consensus]);
                let affinity = list.affinity.as_ref().map(|affinity| &affinity.queries[idx][..]);
                rows.extend(self.affinity_or(affinity, &indifferent));
            }
        }
        matrix(rows, self.query.n_inputs(), self.device())
    }

    /// Lays out what the list head reads, one row per list: mean of `of_queries`, the scores of its queries (0 without
    /// queries), mean and lowest log-probability, consensus, number of queries, affinity. What is not there of consensus and affinity stands at
    /// the mean of what the head was fitted on.
    ///
    /// # Errors
    /// If the scores are not those of the lists' queries, or a list has a broken feature.
    pub fn list_inputs(&self, lists: &[ListFeatures], of_queries: &[Score]) -> Result<Tensor, ModelError> {
        if of_queries.len() != lists.iter().map(|list| list.query_hidden.len()).sum::<usize>() {
            return Err(broken("scores are not one per query"));
        }
        let mut of_queries = of_queries.iter().map(|score| score.mean);
        let neutral = self.list.input_mean_at(LIST_CONSENSUS)?;
        let indifferent = self.list.input_means(LIST_INPUTS)?;
        let mut rows = Vec::with_capacity(lists.len() * self.list.n_inputs());
        for list in lists {
            self.check(list)?;
            #[allow(clippy::cast_precision_loss, reason = "a list has a handful of queries")]
            let n_queries = list.query_hidden.len() as f32;
            let score = of_queries.by_ref().take(list.query_hidden.len()).sum::<f32>() / n_queries.max(1.0);
            let lowest = list.query_logprob.iter().copied().reduce(f32::min).unwrap_or(list.mean_logprob);
            let consensus = list.consensus.as_ref().map_or(neutral, |consensus| consensus.list);
            rows.extend([score, list.mean_logprob, lowest, consensus, n_queries / N_QUERIES_FULL]);
            let affinity = list.affinity.as_ref().map(|affinity| &affinity.list[..]);
            rows.extend(self.affinity_or(affinity, &indifferent));
        }
        matrix(rows, self.list.n_inputs(), self.device())
    }

    /// An affinity, or what stands for one that is not there; nothing where the head reads none.
    fn affinity_or<'a>(&self, affinity: Option<&'a [f32]>, indifferent: &'a [f32]) -> &'a [f32] {
        affinity.filter(|_| self.reads_affinity).unwrap_or(indifferent)
    }

    fn device(&self) -> &Device {
        self.query.device()
    }

    fn check(&self, list: &ListFeatures) -> Result<(), ModelError> {
        let reason = if list.query_hidden.iter().any(|hidden| hidden.len() != self.hidden_size) {
            format!("a hidden state is not {} wide", self.hidden_size)
        } else if list.query_hidden.len() != list.query_logprob.len() {
            "a query has no log-probability".to_owned()
        } else if list.consensus.as_ref().is_some_and(|c| c.queries.len() != list.query_hidden.len()) {
            "a query has no consensus".to_owned()
        } else if list.affinity.as_ref().is_some_and(|a| a.queries.len() != list.query_hidden.len()) {
            "a query has no affinity".to_owned()
        } else if !list.mean_logprob.is_finite()
            || !list.query_hidden.iter().flatten().chain(&list.query_logprob).all(|value| value.is_finite())
            || list.consensus.iter().any(|c| !c.queries.iter().chain([&c.list]).all(|v| v.is_finite()))
            || list.affinity.iter().any(|a| !a.queries.iter().flatten().chain(&a.list).all(|v| v.is_finite()))
        {
            "a feature is not finite".to_owned()
        } else {
            return Ok(());
        };
        Err(broken(reason))
    }
}

fn foresight(source: &mut dyn TensorSource) -> Result<Option<Foresight>, ModelError> {
    if !source.contains(FORESIGHT) {
        return Ok(None);
    }
    let rows = source.tensor(FORESIGHT, &[FORESIGHT_ROWS, 3])?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let mut lines = [[0.0; 3]; FORESIGHT_ROWS];
    for (line, row) in lines.iter_mut().zip(rows) {
        line.copy_from_slice(&row);
    }
    Ok(Some(lines))
}

fn broken(reason: impl Into<String>) -> ModelError {
    ModelError::Forward(candle_core::Error::Msg(reason.into()))
}

fn matrix(values: Vec<f32>, width: usize, device: &Device) -> Result<Tensor, ModelError> {
    let n_rows = values.len() / width;
    Ok(Tensor::from_vec(values, (n_rows, width), device)?)
}
