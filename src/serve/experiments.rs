//! The experiments in force, read from a file that may change while the server runs.
pub mod enrolment;
pub mod log;

use crate::{
    experiment::{
        flags::{Experiments, FILE_BYTES_MAX},
        policy::{Bounds, Head},
    },
    serve::metrics::Metrics,
    settings::Mistakes,
};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};
use thiserror::Error;
use tracing::{info, warn};

/// Why experiments cannot be used.
#[derive(Debug, Error)]
pub enum ExperimentsError {
    /// The file cannot be read.
    #[error("experiments file {} cannot be read", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file has mistakes.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
}

/// What the last look at the file saw, so that each mistake is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// What is in force.
    InForce,
    /// A file with this digest, which was refused for a model with this head.
    Refused(String, Head),
    /// No file.
    Unreadable,
}

/// The experiments in force.
#[derive(Debug)]
pub struct InForce {
    current: RwLock<Arc<Experiments>>,
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
    pub fn open(
        file: Option<PathBuf>,
        bounds: Bounds,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ExperimentsError> {
        let experiments = match &file {
            None => Experiments::default(),
            Some(path) => {
                let source = |source| ExperimentsError::File { path: path.clone(), source };
                let text = read(path).map_err(source)?;
                Experiments::read(&text, &path.display().to_string(), &bounds)?
            }
        };
        let in_force = Self { current: RwLock::default(), file, bounds: Mutex::new(bounds), metrics };
        in_force.put(experiments);
        Ok(in_force)
    }

    /// The experiments as they are now.
    pub fn now(&self) -> Arc<Experiments> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the model, of which `head` is the reward head; later files are checked against it. Reading a file holds this up, so not
    /// for an async thread.
    ///
    /// # Errors
    /// If arms need more than the head can do: nothing is changed then.
    pub fn change_model(&self, head: Head, change: impl FnOnce()) -> Result<(), HeadNeeded> {
        let mut bounds = self.bounds();
        let needed = self.now().head_needed();
        if needed > head {
            return Err(HeadNeeded { needed });
        }
        bounds.head = head;
        change();
        Ok(())
    }

    fn bounds(&self) -> MutexGuard<'_, Bounds> {
        // The bounds are whole after every statement.
        self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the file again and again. Where there is none it returns.
    pub async fn watch(self: Arc<Self>, interval: Duration) {
        let Some(path) = self.file.clone() else { return };
        let mut seen = Seen::InForce;
        loop {
            tokio::time::sleep(interval).await;
            let (in_force, path) = (Arc::clone(&self), path.clone());
            // Reading a file is work for another thread, whatever disk it is on.
            let looked = tokio::task::spawn_blocking(move || in_force.look(&path, seen)).await;
            // A look that panicked changed nothing, and the next one is a fresh one.
            seen = looked.unwrap_or(Seen::InForce);
        }
    }

    /// Puts the file in force if it has changed and is right; otherwise says once what is wrong with it.
    fn look(&self, path: &Path, seen: Seen) -> Seen {
        let text = match read(path) {
            Ok(text) => text,
            Err(error) => {
                if seen != Seen::Unreadable {
                    self.metrics.experiments_read("unreadable");
                    warn!(path = %path.display(), %error, "experiments file cannot be read; the old one stays in force");
                }
                return Seen::Unreadable;
            }
        };
        let digest = Experiments::digest(&text);
        let bounds = self.bounds();
        if seen == Seen::Refused(digest.clone(), bounds.head) {
            return seen;
        }
        if self.now().digest == digest {
            // Also if something else stood there for a while.
            self.metrics.experiments_refused(false);
            return Seen::InForce;
        }
        match Experiments::read(&text, &path.display().to_string(), &bounds) {
            Ok(experiments) => {
                self.put(experiments);
                Seen::InForce
            }
            Err(Mistakes { file, mistakes }) => {
                self.metrics.experiments_read("refused");
                let mistakes = mistakes.join("; ");
                warn!(file, mistakes, "experiments file is refused; the old one stays in force");
                Seen::Refused(digest, bounds.head)
            }
        }
    }

    fn put(&self, experiments: Experiments) {
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
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(experiments);
    }
}

/// Reads a file, but not much more of it than `Experiments::read` takes.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}
