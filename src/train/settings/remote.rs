//! Services that a stage may call.
use crate::train::error::TrainError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Limits of the calls of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default = "CallSettings::usual")]
pub struct CallSettings {
    /// Calls at once. 8: what a small server batches.
    pub concurrency: usize,
    /// Most calls a minute; 0: as many as there are.
    pub per_minute: u32,
    /// Longest time of a try, milliseconds. 60,000: a busy judge of some billion parameters takes seconds.
    pub timeout_ms: u64,
    /// Tries of a call that nobody answered or the service was too busy for. 4: pauses of 0.25, 0.5 and 1 seconds between them.
    pub tries: usize,
}

impl CallSettings {
    /// For a server in the same network.
    pub fn usual() -> Self {
        Self { concurrency: 8, per_minute: 0, timeout_ms: 60_000, tries: 4 }
    }

    /// Looks for limits that nothing passes.
    /// # Errors
    /// If there is one.
    pub fn check(&self) -> Result<(), TrainError> {
        if self.concurrency == 0 || self.timeout_ms == 0 || self.tries == 0 {
            let reason = format!("{self:?}: concurrency, timeout_ms and tries must be at least 1");
            return Err(TrainError::Settings { reason });
        }
        Ok(())
    }

    /// Time between the beginnings of two calls, where it is limited.
    pub fn interval(&self) -> Option<Duration> {
        (self.per_minute > 0).then(|| Duration::from_secs(60) / self.per_minute)
    }
}

/// A judge that reads lists as a person would, through a server of OpenAI's format (`/v1/chat/completions`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default = "HttpJudgeSettings::none")]
pub struct HttpJudgeSettings {
    /// `http://host:port` of the server. Empty: there is no such judge.
    pub url: String,
    /// Model that is asked for.
    pub model: String,
    /// Weight of its word beside those of the five rewards, which are 1 together.
    pub weight: f64,
    /// File with the key that is sent; empty: none.
    pub key_file: String,
    /// Limits of its calls; other limits do not make another run.
    #[serde(skip_serializing)]
    pub calls: CallSettings,
}

impl HttpJudgeSettings {
    /// No judge.
    pub fn none() -> Self {
        let (url, model, key_file) = (String::new(), String::new(), String::new());
        Self { url, model, weight: 0.3, key_file, calls: CallSettings::usual() }
    }

    /// Whether there is no judge. Settings of such a run are those of runs from before there was one.
    pub fn is_none(&self) -> bool {
        self.url.is_empty()
    }
}
