//! The experiments in force, read from a file that may change while the server runs.
pub mod enrolment;
pub mod log;

use crate::{
    experiment::{
        flags::{Experiment, Experiments, FILE_BYTES_MAX},
        hash::HashVersion,
        policy::{Bounds, Head},
    },
    serve::{
        metrics::Metrics,
        watched::{self, FileError, FilesDigest, Looked, Watched},
    },
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use thiserror::Error;
use tracing::{info, warn};

/// The experiments in force.
#[derive(Debug)]
pub struct InForce {
    current: Watched<Experiments>,
    file: Option<PathBuf>,
    /// Held while a file is read and put in force, so that it is checked against the model that answers then.
    bounds: Mutex<Bounds>,
    metrics: Arc<Metrics>,
}

/// Arms ask for more than a model can do.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("arms of the experiments in force need a reward head that {}", match .needed { Head::Foresees => "foresees", Head::Scores | Head::Absent => "scores" })]
pub struct HeadNeeded {
    /// What they need.
    pub needed: Head,
}

impl InForce {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// If it cannot be read or has mistakes: a server does not start with experiments that are not those it was given.
    pub fn open(file: Option<PathBuf>, bounds: Bounds, metrics: Arc<Metrics>) -> Result<Self, FileError> {
        let (experiments, contents) = match &file {
            None => (Experiments::default(), FilesDigest::of([])),
            Some(path) => {
                let text = read(path)?;
                let contents = FilesDigest::of([&*text]);
                (Experiments::read(&text, &path.display().to_string(), &bounds)?, contents)
            }
        };
        let current = Watched::new(experiments, contents);
        let in_force = Self { current, file, bounds: Mutex::new(bounds), metrics };
        in_force.loaded();
        Ok(in_force)
    }

    /// The experiments as they are now.
    pub fn now(&self) -> Arc<Experiments> {
        self.current.now()
    }

    /// Changes the models that answer. `head`: what the reward heads of all can do, which later files are checked against. Reading a file holds
    /// this up, so not for an async thread.
    ///
    /// # Errors
    /// If arms need more than the heads can do: nothing is changed then.
    pub fn change_models(&self, head: Head, change: impl FnOnce()) -> Result<(), HeadNeeded> {
        let mut bounds = self.bounds();
        let needed = self.now().head_needed();
        if needed > head {
            return Err(HeadNeeded { needed });
        }
        bounds.head = head;
        change();
        // A file that asked too much of the old models may be right for the new ones.
        self.current.reconsider();
        Ok(())
    }

    fn bounds(&self) -> MutexGuard<'_, Bounds> {
        // The bounds are whole after every statement.
        self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the file again and again. Where there is none it returns.
    pub async fn watch(self: Arc<Self>, interval: Duration) {
        let Some(path) = self.file.clone() else { return };
        watched::watch(interval, move || self.look(&path)).await;
    }

    /// Puts the file in force if it has changed and is right; otherwise says once what is wrong with it.
    fn look(&self, path: &Path) {
        let bounds = self.bounds();
        let make = |text: Vec<u8>| Ok(Experiments::read(&text, &path.display().to_string(), &bounds)?);
        match self.current.look(read(path), |text| FilesDigest::of([&**text]), make) {
            Looked::Same => {}
            Looked::Back => self.metrics.experiments_refused(false),
            Looked::Loaded => self.loaded(),
            Looked::Refused(error) => {
                let is_read = matches!(error, FileError::Mistakes(_));
                self.metrics.experiments_read(if is_read { "refused" } else { "unreadable" });
                let error = crate::telemetry::Chain(&error);
                warn!(%error, "experiments file is refused; the old one stays in force");
            }
        }
    }

    fn loaded(&self) {
        let experiments = self.now();
        let n_enabled = experiments.experiments.iter().filter(|experiment| experiment.enabled).count();
        if self.file.is_some() {
            self.metrics.experiments_read("loaded");
            info!(
                digest = experiments.digest,
                version = experiments.version.as_deref().unwrap_or("none"),
                n_experiments = experiments.experiments.len(),
                n_enabled,
                n_flags_of_others = experiments.n_ignored,
                "experiments are in force"
            );
        }
        self.metrics.experiments_enabled(n_enabled);
        let moves = |experiment: &&Arc<Experiment>| {
            experiment.enabled && experiment.spread.version == HashVersion::Flagd
        };
        for experiment in experiments.experiments.iter().filter(moves) {
            warn!(
                experiment = experiment.id,
                "a change of weights moves readers between arms; hash_version 2 leaves them"
            );
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    watched::read_named("experiments.file", path, FILE_BYTES_MAX as u64)
}
