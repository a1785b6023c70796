//! Fits a perceptron that scores lists, a part of the reward head or the rubric's: regression on rewards, and ranking within the lists of one reader.
use super::{
    error::TrainError,
    gradients::Gradients,
    optimizer::{AdamW, AdamWSettings},
    order::Order,
    rewards::mean,
    statistics::spearman,
};
use crate::model::weights::{ModelError, Parameters};
use candle_core::{D, Device, Tensor, Var};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most passes over the lists.
const EPOCHS_MAX: u64 = 60;
/// Passes without a better loss on held-out readers before fitting stops.
const PATIENCE: u64 = 8;
/// Groups of one update.
const BATCH_GROUPS: usize = 32;
/// Small, as the inputs are standardised and the layers tiny.
const LEARNING_RATE: f64 = 1e-3;
/// A difference of a tenth of the reward's range should decide a pair clearly: it becomes one logit.
const LOGITS_PER_REWARD: f64 = 10.0;
/// Strong: a head sees some thousand lists, and hidden states have hundreds of dimensions.
const WEIGHT_DECAY: f64 = 0.1;

/// Inputs with their rewards; rows of one reader form a group.
#[derive(Debug)]
pub struct Table {
    /// (n, width), f32.
    pub inputs: Tensor,
    /// One per row.
    pub rewards: Vec<f32>,
    /// Rows of each reader.
    pub groups: Vec<Vec<usize>>,
}

/// How well a score orders the rows of one reader.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Ordering {
    /// Mean of Spearman's correlation over readers whose rewards differ.
    pub spearman: f64,
    /// Share of pairs with different rewards that are in the right order; ties of the score count half.
    pub auc: f64,
    /// Readers whose rewards differ.
    pub n_groups: usize,
}

/// A part's network: rows of inputs to (n, 2), mean and log-variance.
pub type Forward<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor, ModelError>;

/// Fits the parameters named `<part>.*` of a fresh head; keeps those of the pass that was best on `held_out`.
/// # Errors
/// If the network fails.
pub fn fit(
    parameters: &Parameters,
    part: &str,
    forward: Forward<'_>,
    (train, held_out): (&Table, &Table),
    seed: u64,
) -> Result<(), TrainError> {
    standardise(parameters, part, &train.inputs)?;
    let vars: BTreeMap<String, Var> = parameters
        .vars()
        .iter()
        .filter(|(name, _)| name.starts_with(&format!("{part}.")) && !name.contains(".input_"))
        .map(|(name, var)| (name.clone(), var.clone()))
        .collect();
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: WEIGHT_DECAY };
    let mut optimizer = AdamW::new(settings, &vars);
    let order = Order::new(seed, train.groups.len());
    let mut best = (f64::INFINITY, 0, copies(&vars)?);
    for epoch in 0..EPOCHS_MAX {
        let pass = order.items(epoch * train.groups.len() as u64, train.groups.len());
        for chosen in pass.chunks(BATCH_GROUPS) {
            let groups: Vec<&[usize]> = chosen.iter().map(|&idx| train.groups[idx].as_slice()).collect();
            let loss = loss(forward, train, &groups)?;
            let mut gradients = Gradients::collect(&vars, loss.backward()?)?;
            gradients.clip(1.0);
            optimizer.step(&vars, &gradients, LEARNING_RATE)?;
        }
        let all: Vec<&[usize]> = held_out.groups.iter().map(Vec::as_slice).collect();
        let held_out_loss = f64::from(loss(forward, held_out, &all)?.to_scalar::<f32>()?);
        if held_out_loss < best.0 {
            best = (held_out_loss, epoch, copies(&vars)?);
        } else if epoch - best.1 >= PATIENCE {
            break;
        }
    }
    for (name, value) in &best.2 {
        vars[name].set(value)?;
    }
    Ok(())
}

/// Measures how scores order rewards within groups.
pub fn ordering(table: &Table, scores: &[f64]) -> Ordering {
    let (mut correlations, mut right, mut n_pairs) = (Vec::new(), 0.0, 0.0);
    for group in &table.groups {
        let rewards: Vec<f64> = group.iter().map(|&row| f64::from(table.rewards[row])).collect();
        let of_group: Vec<f64> = group.iter().map(|&row| scores[row]).collect();
        if rewards.iter().all(|reward| (reward - rewards[0]).abs() < 1e-9) {
            continue;
        }
        correlations.push(spearman(&rewards, &of_group).unwrap_or(0.0));
        for (better, worse) in pairs(group, &table.rewards) {
            let difference = scores[better] - scores[worse];
            right += if difference > 0.0 {
                1.0
            } else if difference < 0.0 {
                0.0
            } else {
                0.5
            };
            n_pairs += 1.0;
        }
    }
    let n_groups = correlations.len();
    let auc = if n_pairs > 0.0 { right / n_pairs } else { 0.5 };
    Ordering { spearman: mean(correlations.into_iter()), auc, n_groups }
}

/// Predicted means, one per row.
/// # Errors
/// If the network fails.
pub fn predict(forward: Forward<'_>, table: &Table) -> Result<Vec<f64>, TrainError> {
    let means: Vec<f32> = forward(&table.inputs)?.narrow(1, 0, 1)?.squeeze(1)?.to_vec1()?;
    Ok(means.into_iter().map(f64::from).collect())
}

/// Gaussian negative log-likelihood of the rewards plus the Bradley-Terry loss of pairs within groups.
fn loss(forward: Forward<'_>, table: &Table, groups: &[&[usize]]) -> Result<Tensor, TrainError> {
    let rows: Vec<usize> = groups.concat();
    let place: BTreeMap<usize, u32> = rows.iter().copied().zip(0..).collect();
    let ids: Vec<u32> = rows.iter().map(|&row| u32::try_from(row).unwrap_or(u32::MAX)).collect();
    let inputs = table.inputs.index_select(&index(ids)?, 0)?;
    let output = forward(&inputs)?; // (n, 2)
    let column = |idx: usize| output.narrow(1, idx, 1)?.squeeze(1)?.contiguous();
    let (means, log_variances) = (column(0)?, column(1)?);
    let rewards: Vec<f32> = rows.iter().map(|&row| table.rewards[row]).collect();
    let rewards = Tensor::from_vec(rewards, rows.len(), &Device::Cpu)?;
    let errors = ((&means - rewards)?.sqr()? * log_variances.neg()?.exp()?)?;
    let regression = ((errors + log_variances)? * 0.5)?.mean_all()?;
    let (better, worse): (Vec<u32>, Vec<u32>) = groups
        .iter()
        .flat_map(|group| pairs(group, &table.rewards))
        .map(|(better, worse)| (place[&better], place[&worse]))
        .unzip();
    if better.is_empty() {
        return Ok(regression);
    }
    let logits = (means * LOGITS_PER_REWARD)?;
    let ranking =
        bradley_terry(&logits.index_select(&index(better)?, 0)?, &logits.index_select(&index(worse)?, 0)?)?;
    Ok((regression + ranking)?)
}

/// Mean of -log sigmoid(chosen - rejected) over pairs of scores (n): the loss of Bradley and Terry's model.
///
/// # Errors
/// If the shapes differ.
pub fn bradley_terry(chosen: &Tensor, rejected: &Tensor) -> Result<Tensor, TrainError> {
    let margins = (chosen - rejected)?;
    let sizes = margins.abs()?;
    // -log sigmoid(x) = max(-x, 0) + log(1 + exp(-|x|)), which cannot overflow. As (|x| - x) / 2 the first term has the right
    // gradient at 0 too, where candle takes the slopes of |x| and of a relu to be 1.
    let above_zero = ((&sizes - &margins)? * 0.5)?;
    Ok((above_zero + (sizes.neg()?.exp()? + 1.0)?.log()?)?.mean(D::Minus1)?)
}

/// Pairs of rows of a group, the better first.
fn pairs<'a>(group: &'a [usize], rewards: &'a [f32]) -> impl Iterator<Item = (usize, usize)> + 'a {
    group.iter().flat_map(move |&better| {
        group
            .iter()
            .filter(move |&&worse| rewards[better] > rewards[worse] + 1e-6)
            .map(move |&worse| (better, worse))
    })
}

/// Sets the part's fixed input mean and scale from the training rows.
fn standardise(parameters: &Parameters, part: &str, inputs: &Tensor) -> Result<(), TrainError> {
    let mean = inputs.mean(0)?;
    let deviation = inputs.broadcast_sub(&mean)?.sqr()?.mean(0)?.sqrt()?;
    // The network multiplies by the scale. A constant input says nothing; a scale of one keeps it finite.
    let scale: Vec<f32> = deviation
        .to_vec1::<f32>()?
        .into_iter()
        .map(|value| if value > 1e-6 { value.recip() } else { 1.0 })
        .collect();
    let set = |name: &str, value: &Tensor| {
        let name = format!("{part}.{name}");
        let var = parameters.vars().get(&name).ok_or_else(|| TrainError::File {
            file: name.clone(),
            reason: "the head has no such tensor".to_owned(),
        })?;
        Ok::<(), TrainError>(var.set(&value.reshape(var.shape())?)?)
    };
    set("input_mean", &mean)?;
    set("input_scale", &Tensor::from_vec(scale, mean.shape(), &Device::Cpu)?)
}

fn copies(vars: &BTreeMap<String, Var>) -> Result<BTreeMap<String, Tensor>, TrainError> {
    vars.iter().map(|(name, var)| Ok((name.clone(), var.as_tensor().copy()?.detach()))).collect()
}

fn index(rows: Vec<u32>) -> Result<Tensor, TrainError> {
    let n_rows = rows.len();
    Ok(Tensor::from_vec(rows, n_rows, &Device::Cpu)?)
}
