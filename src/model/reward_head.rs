//! Hidden states to predicted reward: mean and variance, per query and per list.
use super::{
    linear::{Bias, Linear},
    weights::{ModelError, TensorSource},
};
use candle_core::{D, DType, Device, Tensor};

/// Width of the one hidden layer of each head.
const N_UNITS: usize = 64;
/// Longest valid list; the list head reads the number of queries as a share of it.
const N_QUERIES_FULL: f32 = 8.0;
/// Log-variances are kept in this range, so that neither a variance nor its inverse overflows.
const LOG_VARIANCE_LIMIT: f64 = 10.0;
/// Extra inputs of the query head beside one hidden state: its mean log-probability.
const QUERY_EXTRA: usize = 1;
/// Extra inputs of the list head beside two hidden states: mean and lowest log-probability, number of queries.
const LIST_EXTRA: usize = 3;

/// Mean and variance of a predicted reward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Expected reward.
    pub mean: f32,
    /// How uncertain the head is about it.
    pub variance: f32,
}

/// What the head reads of one generated list.
#[derive(Clone, Debug)]
pub struct ListFeatures {
    /// Per query: the hidden state (hidden_size) from which its end (line feed or stop) was sampled.
    pub query_hidden: Vec<Vec<f32>>,
    /// Per query: mean log-probability of its tokens, nats.
    pub query_logprob: Vec<f32>,
    /// Mean log-probability of the whole list, nats.
    pub mean_logprob: f32,
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
///
/// Each standardises its input with fixed `input_mean` and `input_scale` (the trainer fits them; they get no
/// gradient), then has one layer of 64 SiLU units, then mean and log-variance.
#[derive(Clone, Debug)]
pub struct RewardHead {
    hidden_size: usize,
    query: Perceptron,
    list: Perceptron,
}

impl RewardHead {
    /// Reads `query.*` and `list.*` tensors for features of that hidden size.
    ///
    /// Per part: `input_mean`, `input_scale` (inputs), `hidden.weight`, `hidden.bias`, `output.weight`, `output.bias`.
    /// # Errors
    /// If a tensor is missing, misshapen or not finite.
    pub fn load(source: &mut dyn TensorSource, hidden_size: usize) -> Result<Self, ModelError> {
        Ok(Self {
            hidden_size,
            query: Perceptron::load(source, "query", hidden_size + QUERY_EXTRA)?,
            list: Perceptron::load(source, "list", 2 * hidden_size + LIST_EXTRA)?,
        })
    }

    /// Scores lists; used by the server (plain numbers out).
    ///
    /// # Errors
    /// If a feature has another width or is not finite.
    pub fn score(&self, lists: &[ListFeatures]) -> Result<Vec<ListScores>, ModelError> {
        if lists.is_empty() {
            return Ok(Vec::new());
        }
        let (of_lists, of_queries) = self.forward(lists)?;
        let of_lists = scores(&of_lists)?;
        let mut of_queries = scores(&of_queries)?.into_iter();
        let of_list = |(list, score): (&ListFeatures, Score)| ListScores {
            list: score,
            queries: of_queries.by_ref().take(list.query_hidden.len()).collect(),
        };
        Ok(lists.iter().zip(of_lists).map(of_list).collect())
    }

    /// Maps list features to (B, 2) mean and log-variance of lists and (sum of queries, 2) of queries. Differentiable.
    ///
    /// # Errors
    /// If there is no list, or a feature has another width or is not finite.
    pub fn forward(&self, lists: &[ListFeatures]) -> Result<(Tensor, Tensor), ModelError> {
        Ok((
            self.forward_lists(&self.list_inputs(lists)?)?,
            self.forward_queries(&self.query_inputs(lists)?)?,
        ))
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

    /// Lays out what the query head reads, one row per query of every list: hidden state, mean log-probability.
    ///
    /// # Errors
    /// If a feature has another width or is not finite.
    pub fn query_inputs(&self, lists: &[ListFeatures]) -> Result<Tensor, ModelError> {
        let mut rows = Vec::new();
        for list in lists {
            self.check(list)?;
            for (hidden, logprob) in list.query_hidden.iter().zip(&list.query_logprob) {
                rows.extend_from_slice(hidden);
                rows.push(*logprob);
            }
        }
        matrix(rows, self.hidden_size + QUERY_EXTRA, self.device())
    }

    /// Lays out what the list head reads, one row per list: mean and last of its queries' hidden states, mean and
    /// lowest log-probability, number of queries. A list without queries has hidden states of zero.
    ///
    /// # Errors
    /// If a feature has another width or is not finite.
    pub fn list_inputs(&self, lists: &[ListFeatures]) -> Result<Tensor, ModelError> {
        let mut rows = Vec::new();
        for list in lists {
            self.check(list)?;
            #[allow(clippy::cast_precision_loss, reason = "a list has a handful of queries")]
            let n_queries = list.query_hidden.len() as f32;
            let mean = |unit: usize| {
                list.query_hidden.iter().map(|hidden| hidden[unit]).sum::<f32>() / n_queries.max(1.0)
            };
            rows.extend((0..self.hidden_size).map(mean));
            match list.query_hidden.last() {
                Some(last) => rows.extend_from_slice(last),
                None => rows.resize(rows.len() + self.hidden_size, 0.0),
            }
            let lowest = list.query_logprob.iter().copied().reduce(f32::min);
            rows.extend([list.mean_logprob, lowest.unwrap_or(list.mean_logprob), n_queries / N_QUERIES_FULL]);
        }
        matrix(rows, 2 * self.hidden_size + LIST_EXTRA, self.device())
    }

    fn device(&self) -> &Device {
        self.query.input_mean.device()
    }

    fn check(&self, list: &ListFeatures) -> Result<(), ModelError> {
        let reason = if list.query_hidden.iter().any(|hidden| hidden.len() != self.hidden_size) {
            format!("a hidden state is not {} wide", self.hidden_size)
        } else if list.query_hidden.len() != list.query_logprob.len() {
            "a query has no log-probability".to_owned()
        } else if !list.mean_logprob.is_finite()
            || !list.query_hidden.iter().flatten().chain(&list.query_logprob).all(|value| value.is_finite())
        {
            "a feature is not finite".to_owned()
        } else {
            return Ok(());
        };
        Err(ModelError::Forward(candle_core::Error::Msg(reason)))
    }
}

#[derive(Clone, Debug)]
struct Perceptron {
    input_mean: Tensor,
    input_scale: Tensor,
    hidden: Linear,
    output: Linear,
}

impl Perceptron {
    fn load(source: &mut dyn TensorSource, name: &str, n_inputs: usize) -> Result<Self, ModelError> {
        Ok(Self {
            input_mean: source.tensor(&format!("{name}.input_mean"), &[n_inputs])?.detach(),
            input_scale: source.tensor(&format!("{name}.input_scale"), &[n_inputs])?.detach(),
            hidden: Linear::load(source, &format!("{name}.hidden"), (n_inputs, N_UNITS), Bias::Added)?,
            output: Linear::load(source, &format!("{name}.output"), (N_UNITS, 2), Bias::Added)?,
        })
    }

    /// (n, inputs) to (n, 2).
    fn forward(&self, inputs: &Tensor) -> Result<Tensor, ModelError> {
        if inputs.dim(0)? == 0 {
            return Ok(Tensor::zeros((0, 2), DType::F32, inputs.device())?);
        }
        let inputs = inputs.to_dtype(self.input_mean.dtype())?;
        let standard = inputs.broadcast_sub(&self.input_mean)?.broadcast_mul(&self.input_scale)?;
        let output = self.output.forward(&self.hidden.forward(&standard)?.silu()?)?.to_dtype(DType::F32)?;
        let mean = output.narrow(D::Minus1, 0, 1)?;
        let log_variance = output.narrow(D::Minus1, 1, 1)?.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)?;
        Ok(Tensor::cat(&[mean, log_variance], D::Minus1)?)
    }
}

fn matrix(values: Vec<f32>, width: usize, device: &Device) -> Result<Tensor, ModelError> {
    let n_rows = values.len() / width;
    Ok(Tensor::from_vec(values, (n_rows, width), device)?)
}

fn scores(outputs: &Tensor) -> Result<Vec<Score>, ModelError> {
    let score = |row: &Vec<f32>| Score { mean: row[0], variance: row[1].exp() };
    Ok(outputs.to_vec2::<f32>()?.iter().map(score).collect())
}
