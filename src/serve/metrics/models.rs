//! Metrics of the models that a server has and changes.
use super::{Metrics, key, whole};
use metrics::{Gauge, Label, Recorder};
use std::time::Duration;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// To load a model.
    Load,
    /// To let a loaded one answer.
    Swap,
    /// To go back.
    Rollback,
    /// To give up a loaded one.
    Unload,
}

impl Change {
    const ALL: [Self; 4] = [Self::Load, Self::Swap, Self::Rollback, Self::Unload];

    /// Its word in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Swap => "swap",
            Self::Rollback => "rollback",
            Self::Unload => "unload",
        }
    }
}

impl Metrics {
    pub(super) fn show_models_from_the_start(&self) {
        for change in Change::ALL {
            for result in ["ok", "refused", "failed"] {
                self.model_changes(change, result, 0);
            }
        }
    }

    /// Counts a change that was made (`ok`), was not to be made (`refused`), or could not be (`failed`).
    pub fn model_changed(&self, change: Change, result: &'static str) {
        self.model_changes(change, result, 1);
    }

    fn model_changes(&self, change: Change, result: &'static str, n: u64) {
        let labels = [("change", change.word()), ("result", result)];
        self.counter("newshound_model_changes_total", &labels).increment(n);
    }

    /// Records the time that a model took to be ready.
    pub fn model_loaded(&self, took: Duration) {
        self.histogram("newshound_model_load_seconds", &[]).record(took.as_secs_f64());
    }

    /// Shows which model answers under a name, which is empty for the default one; 0 where none does. The settings have few names.
    pub fn model_generation(&self, resident: &str, generation: u64) {
        let labels = (!resident.is_empty()).then(|| Label::new("resident", resident.to_owned()));
        let key = key("newshound_model_generation", labels.into_iter().collect());
        self.recorder.register_gauge(&key, &super::METADATA).set(whole(generation));
    }

    /// Models in memory.
    pub fn models_in_memory(&self) -> Gauge {
        self.gauge("newshound_models_in_memory", &[])
    }
}
