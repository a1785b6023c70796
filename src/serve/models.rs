//! The models in memory: which one answers, and how another takes its place.
//!
//! A request takes the `Writer` that answers when it begins and keeps it to its end, so an answer is of one model whatever is changed
//! meanwhile. A model that was replaced has no other owner than its requests: it leaves memory with the last of them. A rollback
//! therefore finds it in memory or loads it again; keeping it would mean that no third model can be loaded beside it.
mod arriving;
pub mod facts;
pub mod workshop;

use crate::{
    bundle::{manifest::BundleId, save::is_plain_name},
    serve::{
        experiments::{HeadNeeded, InForce},
        generation::Writer,
        metrics::{Metrics, models::Change},
        owner::Owner,
    },
    telemetry::Chain,
};
use arriving::{Arriving, below};
use facts::{Listed, ModelFacts, Role};
use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
};
use thiserror::Error;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{info, warn};
use workshop::{LoadError, Workshop};

/// Most models in memory: the one that answers, and one that waits to take its place or ends its last requests. A machine must have room
/// for two to change its model at all; who asks for a third is refused.
pub const MODELS_MAX: usize = 2;

/// Why the model is not changed. One variant per thing that the operator can do about it.
#[derive(Debug, Error)]
pub enum ModelsError {
    /// Name a folder to load from in the settings.
    #[error("admin.models_dir is not set, so no model can be loaded")]
    Off,
    /// Name a bundle.
    #[error("must be the name of a folder or archive: letters, digits, '.', '_' and '-', no '.' first")]
    FolderName,
    /// Put the bundle there.
    #[error("admin.models_dir has no bundle {folder}")]
    FolderUnknown {
        /// Its name.
        folder: String,
    },
    /// Look again: somebody else has changed the model.
    #[error("generation {current} answers, and {expected} was expected to")]
    Mismatch {
        /// The one that answers.
        current: u64,
        /// The one that the caller believed in.
        expected: u64,
    },
    /// Load it first.
    #[error("no model of generation {generation} waits")]
    Unknown {
        /// The number.
        generation: u64,
    },
    /// Swap or unload the one that waits, or come back when the last requests have ended.
    #[error("{MODELS_MAX} models are in memory, or are about to be, and no more may: {why}")]
    Full {
        /// Who has the second place.
        why: &'static str,
    },
    /// Change the experiments first.
    #[error(transparent)]
    HeadNeeded(#[from] HeadNeeded),
    /// There is nothing to go back to.
    #[error("no model answered before this one")]
    NoPrevious,
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// This server is going to stop.
    #[error("server is draining")]
    Stopping,
}

/// A model that may come.
#[derive(Debug)]
enum Coming {
    Nobody,
    /// It is being loaded.
    Loading,
    /// It waits.
    Waiting(Arc<Writer>),
}

#[derive(Debug)]
struct State {
    serving: Arc<Writer>,
    coming: Coming,
    /// The one that answered before; it is in memory as long as its requests are.
    previous: Option<(Arc<ModelFacts>, Weak<Writer>)>,
    n_loaded: u64,
    is_stopping: bool,
}

impl State {
    fn expect(&self, expected: Option<u64>) -> Result<(), ModelsError> {
        let current = self.serving.facts.generation;
        match expected {
            _ if self.is_stopping => Err(ModelsError::Stopping),
            Some(expected) if expected != current => Err(ModelsError::Mismatch { current, expected }),
            Some(_) | None => Ok(()),
        }
    }
}

/// The models of one server.
#[derive(Debug)]
pub struct Models {
    state: RwLock<State>,
    /// Whoever changes the model that answers, one at a time.
    changing: Semaphore,
    workshop: Workshop,
    experiments: Arc<InForce>,
    dir: Option<PathBuf>,
    metrics: Arc<Metrics>,
}

impl Models {
    /// The models of a server that has one. `dir`: where others may be loaded from.
    pub fn new(
        first: Arc<Writer>,
        workshop: Workshop,
        experiments: Arc<InForce>,
        dir: Option<PathBuf>,
    ) -> Arc<Self> {
        let metrics = Arc::clone(&first.metrics);
        metrics.model_generation(first.facts.generation);
        let n_loaded = first.facts.generation;
        let (coming, previous) = (Coming::Nobody, None);
        let state = State { serving: first, coming, previous, n_loaded, is_stopping: false };
        let (state, changing) = (RwLock::new(state), Semaphore::new(1));
        Arc::new(Self { state, changing, workshop, experiments, dir, metrics })
    }

    /// The model that answers whoever begins now.
    pub fn serving(&self) -> Arc<Writer> {
        Arc::clone(&self.read().serving)
    }

    /// The models in memory, and the one that a rollback goes to.
    pub fn list(&self) -> Listed {
        let state = self.read();
        let mut models = vec![(Arc::clone(&state.serving.facts), Role::Serving)];
        if let Coming::Waiting(writer) = &state.coming {
            models.push((Arc::clone(&writer.facts), Role::Loaded));
        }
        if let Some((facts, writer)) = &state.previous
            && writer.strong_count() > 0
        {
            models.push((Arc::clone(facts), Role::Retiring));
        }
        models.sort_by_key(|(facts, _)| facts.generation);
        Listed { models, previous: state.previous.as_ref().map(|(facts, _)| Arc::clone(facts)) }
    }

    /// Loads a model beside the one that answers. Dropping the future does not end it.
    ///
    /// # Errors
    /// If the folder holds no such bundle, there is no place, or another model answers than is expected.
    pub async fn load(
        self: &Arc<Self>,
        folder: &str,
        bundle: Option<BundleId>,
        expected: Option<u64>,
    ) -> Result<Arc<ModelFacts>, ModelsError> {
        let loaded = self.load_below(folder, bundle, expected).await;
        self.count(Change::Load, loaded)
    }

    async fn load_below(
        self: &Arc<Self>,
        folder: &str,
        bundle: Option<BundleId>,
        expected: Option<u64>,
    ) -> Result<Arc<ModelFacts>, ModelsError> {
        let dir = self.dir.clone().ok_or(ModelsError::Off)?;
        if !is_plain_name(folder) {
            return Err(ModelsError::FolderName);
        }
        let arriving = {
            let mut state = self.write();
            state.expect(expected)?;
            match state.coming {
                Coming::Nobody => Arriving::new(self, &mut state),
                Coming::Loading => return Err(ModelsError::Full { why: "another is being loaded" }),
                Coming::Waiting(_) => {
                    return Err(ModelsError::Full { why: "one waits to be swapped in or unloaded" });
                }
            }
        };
        let name = folder.to_owned();
        let task = tokio::spawn(async move {
            let found = tokio::task::spawn_blocking(move || below(&dir, &name)).await;
            let origin = found.map_err(|_| LoadError::Panicked)??;
            arriving.load(origin, bundle).await
        });
        let writer = task.await.map_err(|_| LoadError::Panicked)??;
        Ok(Arc::clone(&writer.facts))
    }

    /// Lets a loaded model answer from now on.
    ///
    /// # Errors
    /// If it does not wait, another answers than is expected, or experiments need another head.
    pub async fn swap(
        self: &Arc<Self>,
        generation: u64,
        expected: Option<u64>,
    ) -> Result<Arc<ModelFacts>, ModelsError> {
        let models = Arc::clone(self);
        // A task of its own, so that a client which leaves does not leave a model half way.
        let task = tokio::spawn(async move {
            let _permit = models.change().await?;
            let next = {
                let state = models.read();
                state.expect(expected)?;
                match &state.coming {
                    Coming::Waiting(writer) if writer.facts.generation == generation => Arc::clone(writer),
                    Coming::Waiting(_) | Coming::Nobody | Coming::Loading => {
                        return Err(ModelsError::Unknown { generation });
                    }
                }
            };
            models.put(next).await
        });
        let swapped = task.await.map_err(|_| ModelsError::from(LoadError::Panicked));
        self.count(Change::Swap, swapped.and_then(|result| result))
    }

    /// Goes back to the model that answered before, which is then the one that a rollback goes to. A model that waits is given up where
    /// its place is needed: whoever goes back is in a hurry.
    ///
    /// # Errors
    /// If there is none, it cannot be loaded any more, or another answers than is expected.
    pub async fn rollback(self: &Arc<Self>, expected: Option<u64>) -> Result<Arc<ModelFacts>, ModelsError> {
        let models = Arc::clone(self);
        // A task of its own, so that a client which leaves does not leave a model half way.
        let task = tokio::spawn(async move {
            let _permit = models.change().await?;
            let (facts, writer) = {
                let state = models.read();
                state.expect(expected)?;
                state.previous.clone().ok_or(ModelsError::NoPrevious)?
            };
            let next = match writer.upgrade() {
                Some(writer) => writer,
                None => models.reload(&facts).await?,
            };
            models.put(next).await
        });
        let rolled_back = task.await.map_err(|_| ModelsError::from(LoadError::Panicked));
        self.count(Change::Rollback, rolled_back.and_then(|result| result))
    }

    async fn reload(self: &Arc<Self>, facts: &ModelFacts) -> Result<Arc<Writer>, ModelsError> {
        let (arriving, given_up) = {
            let mut state = self.write();
            let given_up = match std::mem::replace(&mut state.coming, Coming::Loading) {
                Coming::Loading => return Err(ModelsError::Full { why: "another is being loaded" }),
                Coming::Waiting(writer) => Some(writer),
                Coming::Nobody => None,
            };
            (Arriving::new(self, &mut state), given_up)
        };
        drop(given_up);
        arriving.load(facts.origin.clone(), Some(facts.bundle.clone())).await
    }

    /// Gives up a loaded model.
    ///
    /// # Errors
    /// If it does not wait.
    pub async fn unload(&self, generation: u64) -> Result<Arc<ModelFacts>, ModelsError> {
        let unloaded = async {
            let _permit = self.change().await?;
            let mut state = self.write();
            match &state.coming {
                Coming::Waiting(writer) if writer.facts.generation == generation => {
                    let facts = Arc::clone(&writer.facts);
                    state.coming = Coming::Nobody;
                    Ok(facts)
                }
                Coming::Waiting(_) | Coming::Nobody | Coming::Loading => {
                    Err(ModelsError::Unknown { generation })
                }
            }
        };
        self.count(Change::Unload, unloaded.await)
    }

    /// Lets every model thread drop what it has kept for too long.
    pub fn upkeep(&self) {
        self.in_memory().iter().for_each(|writer| writer.engine.upkeep());
    }

    /// Drops the prompts of a reader that any model has kept.
    pub async fn forget(&self, owner: Owner) {
        for writer in self.in_memory() {
            writer.engine.forget(owner).await;
        }
    }

    /// Resolves when a model thread has panicked.
    pub async fn panicked(&self) {
        self.workshop.panicked().await;
    }

    /// Ends every model thread and joins it. Says whether all ended as they were told.
    pub async fn end(&self) -> bool {
        self.write().is_stopping = true;
        self.in_memory().iter().for_each(|writer| writer.engine.stop());
        self.workshop.ended().await
    }

    async fn change(&self) -> Result<SemaphorePermit<'_>, ModelsError> {
        self.changing.acquire().await.map_err(|_| ModelsError::Stopping)
    }

    /// Puts a model in the place of the one that answers.
    async fn put(self: &Arc<Self>, next: Arc<Writer>) -> Result<Arc<ModelFacts>, ModelsError> {
        let models = Arc::clone(self);
        // Experiments that are being read hold this up.
        let task = tokio::task::spawn_blocking(move || {
            let facts = Arc::clone(&next.facts);
            let head = crate::serve::opening::head(next.head.as_deref());
            // Dropped after the lock: whatever it frees need not be waited for by requests.
            let mut old = None;
            models.experiments.change_model(head, || {
                let mut state = models.write();
                if matches!(&state.coming, Coming::Waiting(writer) if Arc::ptr_eq(writer, &next)) {
                    state.coming = Coming::Nobody;
                }
                let before = std::mem::replace(&mut state.serving, next);
                state.previous = Some((Arc::clone(&before.facts), Arc::downgrade(&before)));
                old = Some(before);
            })?;
            models.metrics.model_generation(facts.generation);
            info!(generation = facts.generation, bundle = facts.bundle.0, "model answers from now on");
            Ok(facts)
        });
        task.await.map_err(|_| ModelsError::from(LoadError::Panicked))?
    }

    fn in_memory(&self) -> Vec<Arc<Writer>> {
        let state = self.read();
        let waiting = match &state.coming {
            Coming::Waiting(writer) => Some(Arc::clone(writer)),
            Coming::Nobody | Coming::Loading => None,
        };
        let retiring = state.previous.as_ref().and_then(|(_, writer)| writer.upgrade());
        std::iter::once(Arc::clone(&state.serving)).chain(waiting).chain(retiring).collect()
    }

    fn count<T>(&self, change: Change, result: Result<T, ModelsError>) -> Result<T, ModelsError> {
        let word = match &result {
            Ok(_) => "ok",
            Err(ModelsError::Load(_)) => "failed",
            Err(_) => "refused",
        };
        self.metrics.model_changed(change, word);
        result.inspect_err(|error| {
            warn!(change = change.word(), error = %Chain(error), "model is not changed");
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // The state is whole after every statement.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
