//! Adapters in place of full training, for models whose optimiser state does not fit.
use crate::{model::lora::Lora, train::error::TrainError};
use serde::{Deserialize, Serialize};

/// Low-rank adapters of all projections.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default = "LoraSettings::none")]
pub struct LoraSettings {
    /// Rank of the adapters. 0: every parameter is trained, as a small model needs it. 16 to 128 are usual, with a learning rate ten
    /// times that of full training.
    ///
    /// On a GPU the frozen matrices still get gradients as large as they are, which are thrown away: only the CPU spares
    /// them.
    pub rank: usize,
    /// Adapters count alpha / rank. 32: the usual twice of rank 16.
    pub alpha: f64,
}

impl LoraSettings {
    /// No adapters.
    pub fn none() -> Self {
        Self { rank: 0, alpha: 32.0 }
    }

    /// Whether every parameter is trained. Settings of such a run are those of runs from before there were adapters.
    pub fn is_none(&self) -> bool {
        self.rank == 0
    }

    /// How the network is adapted, fresh adapters on a seed; None: not at all.
    /// # Errors
    /// If alpha is not above 0.
    pub fn of_seed(&self, seed: u64) -> Result<Option<Lora>, TrainError> {
        if self.is_none() {
            return Ok(None);
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            let reason = format!("lora.alpha is {}, expected above 0", self.alpha);
            return Err(TrainError::Settings { reason });
        }
        Ok(Some(Lora { rank: self.rank, alpha: self.alpha, seed }))
    }
}
