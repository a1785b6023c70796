//! One step's gradient as plain numbers, by parameter name.
use super::error::TrainError;
use candle_core::{Var, backprop::GradStore};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Gradients by parameter name, flat, f32.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gradients(BTreeMap<String, Vec<f32>>);

impl Gradients {
    /// Takes the gradient of every parameter out of a backward pass: of a large model two copies of all would not fit beside each other.
    /// # Errors
    /// If a parameter has no gradient: a part of the network is then cut off from the loss.
    pub fn collect(vars: &BTreeMap<String, Var>, mut store: GradStore) -> Result<Self, TrainError> {
        vars.iter()
            .map(|(name, var)| {
                let gradient = store.remove(var).ok_or_else(|| TrainError::File {
                    file: name.clone(),
                    reason: "parameter has no gradient".to_owned(),
                })?;
                Ok((name.clone(), gradient.flatten_all()?.to_vec1()?))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Wraps gradients that are plain numbers already.
    pub fn from_map(by_name: BTreeMap<String, Vec<f32>>) -> Self {
        Self(by_name)
    }

    /// Returns the gradient of a parameter.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Adds another micro-batch's gradients; names new to this one are taken over.
    pub fn add(&mut self, other: Self) {
        for (name, gradient) in other.0 {
            match self.0.get_mut(&name) {
                Some(sum) => sum.par_iter_mut().zip(&gradient).for_each(|(sum, value)| *sum += value),
                None => {
                    self.0.insert(name, gradient);
                }
            }
        }
    }

    /// Returns the Euclidean norm over all parameters.
    pub fn norm(&self) -> f64 {
        // One sum per parameter in a fixed order: the norm is the same on any number of threads.
        let squares: Vec<f64> = self
            .0
            .par_iter()
            .map(|(_, gradient)| gradient.iter().map(|value| f64::from(*value) * f64::from(*value)).sum())
            .collect();
        squares.iter().sum::<f64>().sqrt()
    }

    /// Scales all gradients down to a norm of at most `max_norm`; returns the norm before.
    ///
    /// Source: torch `clip_grad_norm_`, which divides by norm + 1e-6.
    #[allow(clippy::cast_possible_truncation, reason = "the coefficient is at most 1")]
    pub fn clip(&mut self, max_norm: f64) -> f64 {
        let norm = self.norm();
        let coefficient = (max_norm / (norm + 1e-6)).min(1.0) as f32;
        if coefficient < 1.0 {
            self.0.par_iter_mut().for_each(|(_, gradient)| {
                for value in gradient.iter_mut() {
                    *value *= coefficient;
                }
            });
        }
        norm
    }
}
