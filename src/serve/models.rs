//! The models in memory: which ones answer, and how another takes the place of one.
//!
//! One answers by default; others, the residents, answer the readers of arms that name them. A request takes the `Writer` that answers it
//! when it begins and keeps it to its end, so an answer is of one model whatever is changed meanwhile. A model that was replaced has no
//! other owner than its requests: it leaves memory with the last of them. A rollback therefore finds it in memory or loads it again; keeping
//! it would mean that no other model can be loaded beside those that answer.
mod answering;
mod arriving;
mod error;
pub mod facts;
pub mod workshop;

use crate::{
    bundle::{manifest::BundleId, save::is_plain_name},
    serve::{
        experiments::InForce,
        generation::Writer,
        metrics::{Metrics, models::Change},
        owner::Owner,
    },
    telemetry::Chain,
};
pub use answering::Answering;
use arriving::{Arriving, below};
pub use error::ModelsError;
use facts::{Listed, ModelFacts, Role};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{info, warn};
use workshop::{LoadError, Workshop};

/// Models in memory beside those that answer: one that waits to take a place or ends its last requests. A machine must have room for it to
/// change a model at all; who asks for another is refused.
const MODELS_BESIDE: usize = 1;

/// Most models in memory where so many others than the default one may answer.
pub fn models_max(n_residents: usize) -> usize {
    1 + n_residents + MODELS_BESIDE
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
    answering: Answering,
    coming: Coming,
    /// What answered before, by the name under which it did.
    previous: BTreeMap<String, Arc<ModelFacts>>,
    /// All that were loaded and may still live: those that answer, the one that waits, and those that end their last requests.
    in_memory: Vec<Weak<Writer>>,
    n_loaded: u64,
    is_stopping: bool,
}

impl State {
    fn expect(&self, resident: &str, expected: Option<u64>) -> Result<(), ModelsError> {
        let current = self.answering.under(resident)?.map_or(0, |writer| writer.facts.generation);
        match expected {
            _ if self.is_stopping => Err(ModelsError::Stopping),
            Some(expected) if expected != current => Err(ModelsError::Mismatch { current, expected }),
            Some(_) | None => Ok(()),
        }
    }

    /// The model of that number, if it waits.
    fn waiting(&self, generation: u64) -> Option<&Arc<Writer>> {
        match &self.coming {
            Coming::Waiting(writer) if writer.facts.generation == generation => Some(writer),
            Coming::Waiting(_) | Coming::Nobody | Coming::Loading => None,
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
    /// The models of a server that answers with these. `dir`: where others may be loaded from.
    pub fn new(
        answering: Answering,
        workshop: Workshop,
        experiments: Arc<InForce>,
        dir: Option<PathBuf>,
    ) -> Arc<Self> {
        let metrics = Arc::clone(&answering.default().metrics);
        let in_memory: Vec<_> = answering.all().map(Arc::downgrade).collect();
        let n_loaded = in_memory.len() as u64;
        let (coming, previous) = (Coming::Nobody, BTreeMap::new());
        metrics.model_generation("", answering.default().facts.generation);
        answering.residents().for_each(|(name, generation)| metrics.model_generation(name, generation));
        let state = State { answering, coming, previous, in_memory, n_loaded, is_stopping: false };
        let (state, changing) = (RwLock::new(state), Semaphore::new(1));
        Arc::new(Self { state, changing, workshop, experiments, dir, metrics })
    }

    /// The model that answers whoever begins now, unless an arm says otherwise.
    pub fn serving(&self) -> Arc<Writer> {
        Arc::clone(self.read().answering.default())
    }

    /// The resident of that name, if one answers.
    pub fn resident(&self, name: &str) -> Option<Arc<Writer>> {
        self.read().answering.resident(name).cloned()
    }

    /// Most models in memory.
    pub fn models_max(&self) -> usize {
        self.workshop.models_max
    }

    /// The models in memory, and the one that a rollback goes to.
    pub fn list(&self) -> Listed {
        let state = self.read();
        let role = |facts: &ModelFacts| match facts.generation {
            waiting if state.waiting(waiting).is_some() => Role::Loaded,
            serving if state.answering.all().any(|writer| writer.facts.generation == serving) => {
                Role::Serving
            }
            _ => Role::Retiring,
        };
        let facts = state.in_memory.iter().filter_map(|writer| Some(Arc::clone(&writer.upgrade()?.facts)));
        let models = facts.map(|facts| (Arc::clone(&facts), role(&facts))).collect();
        Listed { models, previous: state.previous.get("").cloned() }
    }

    /// Loads a model beside those that answer; `resident` is the name under which it is to answer, empty for the default one. Dropping the
    /// future does not end it.
    ///
    /// # Errors
    /// If the folder holds no such bundle, there is no place, or another model answers under the name than is expected.
    pub async fn load(
        self: &Arc<Self>,
        folder: &str,
        resident: &str,
        bundle: Option<BundleId>,
        expected: Option<u64>,
    ) -> Result<Arc<ModelFacts>, ModelsError> {
        let loaded = self.load_below(folder, resident, bundle, expected).await;
        self.count(Change::Load, loaded)
    }

    async fn load_below(
        self: &Arc<Self>,
        folder: &str,
        resident: &str,
        bundle: Option<BundleId>,
        expected: Option<u64>,
    ) -> Result<Arc<ModelFacts>, ModelsError> {
        let dir = self.dir.clone().ok_or(ModelsError::Off)?;
        if !is_plain_name(folder) {
            return Err(ModelsError::FolderName);
        }
        let arriving = {
            let mut state = self.write();
            state.expect(resident, expected)?;
            match state.coming {
                Coming::Nobody => Arriving::new(self, &mut state),
                Coming::Loading => return Err(self.full("another is being loaded")),
                Coming::Waiting(_) => return Err(self.full("one waits to be swapped in or unloaded")),
            }
        };
        let (name, resident) = (folder.to_owned(), resident.to_owned());
        let task = tokio::spawn(async move {
            let found = tokio::task::spawn_blocking(move || below(&dir, &name)).await;
            let origin = found.map_err(|_| LoadError::Panicked)??;
            arriving.load(&resident, origin, bundle).await
        });
        let writer = task.await.map_err(|_| LoadError::Panicked)??;
        Ok(Arc::clone(&writer.facts))
    }

    /// Lets a loaded model answer from now on, under the name that it was loaded for.
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
                let next = state.waiting(generation).cloned();
                state.expect(next.as_ref().map_or("", |writer| &writer.facts.resident), expected)?;
                next.ok_or(ModelsError::Unknown { generation })?
            };
            models.put(next).await
        });
        let swapped = task.await.map_err(|_| ModelsError::from(LoadError::Panicked));
        self.count(Change::Swap, swapped.and_then(|result| result))
    }

    /// Goes back to the model that answered before under a name, which is then the one that a rollback goes to. A model that waits is given
    /// up where its place is needed: whoever goes back is in a hurry.
    ///
    /// # Errors
    /// If there is none, it cannot be loaded any more, or another answers than is expected.
    pub async fn rollback(
        self: &Arc<Self>,
        resident: &str,
        expected: Option<u64>,
    ) -> Result<Arc<ModelFacts>, ModelsError> {
        let (models, resident) = (Arc::clone(self), resident.to_owned());
        // A task of its own, so that a client which leaves does not leave a model half way.
        let task = tokio::spawn(async move {
            let _permit = models.change().await?;
            let (facts, alive) = {
                let state = models.read();
                state.expect(&resident, expected)?;
                let facts = state.previous.get(&resident).cloned().ok_or(ModelsError::NoPrevious)?;
                let mut alive = state.in_memory.iter().filter_map(Weak::upgrade);
                let alive = alive.find(|writer| writer.facts.generation == facts.generation);
                (facts, alive)
            };
            let next = match alive {
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
                Coming::Loading => return Err(self.full("another is being loaded")),
                Coming::Waiting(writer) => Some(writer),
                Coming::Nobody => None,
            };
            (Arriving::new(self, &mut state), given_up)
        };
        drop(given_up);
        arriving.load(&facts.resident, facts.origin.clone(), Some(facts.bundle.clone())).await
    }

    /// Gives up a model that waits, or a resident: readers of arms that name it get the default one from now on.
    ///
    /// # Errors
    /// If it is neither.
    pub async fn unload(self: &Arc<Self>, generation: u64) -> Result<(), ModelsError> {
        let models = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _permit = models.change().await?;
            let resident = {
                let mut state = models.write();
                if state.waiting(generation).is_some() {
                    state.coming = Coming::Nobody;
                    return Ok(());
                }
                let mut residents = state.answering.residents();
                let found = residents.find(|(_, of_resident)| *of_resident == generation);
                found.map(|(name, _)| name.to_owned()).ok_or(ModelsError::Unknown { generation })?
            };
            let name = resident.clone();
            models.replace(resident.clone(), move |answering| answering.remove(&name)).await?;
            info!(generation, resident, "resident is given up");
            Ok(())
        });
        let unloaded = task.await.map_err(|_| ModelsError::from(LoadError::Panicked));
        self.count(Change::Unload, unloaded.and_then(|result| result))
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

    /// Resolves when a model thread has panicked or stands still.
    pub async fn failed(&self) {
        self.workshop.failed.cancelled().await;
    }

    /// Whether one has.
    pub fn has_failed(&self) -> bool {
        self.workshop.failed.is_cancelled()
    }

    /// Ends every model thread and joins it.
    pub async fn end(&self) {
        self.write().is_stopping = true;
        self.in_memory().iter().for_each(|writer| writer.engine.stop());
        self.workshop.ended().await;
    }

    async fn change(&self) -> Result<SemaphorePermit<'_>, ModelsError> {
        self.changing.acquire().await.map_err(|_| ModelsError::Stopping)
    }

    fn full(&self, why: &'static str) -> ModelsError {
        ModelsError::Full { models_max: self.models_max(), why }
    }

    /// Puts a model in the place of the one that answers under its name.
    async fn put(self: &Arc<Self>, next: Arc<Writer>) -> Result<Arc<ModelFacts>, ModelsError> {
        let facts = Arc::clone(&next.facts);
        self.replace(facts.resident.clone(), move |answering| answering.put(next)).await?;
        info!(
            generation = facts.generation,
            resident = facts.resident,
            bundle = facts.bundle.0,
            "model answers from now on"
        );
        Ok(facts)
    }

    /// Changes who answers under a name. `change` returns who did.
    async fn replace(
        self: &Arc<Self>,
        resident: String,
        change: impl FnOnce(&mut Answering) -> Option<Arc<Writer>> + Send + 'static,
    ) -> Result<(), ModelsError> {
        let models = Arc::clone(self);
        // Experiments that are being read hold this up.
        let task = tokio::task::spawn_blocking(move || {
            // Nobody else changes it: the caller has the permit.
            let mut answering = models.read().answering.clone();
            // Dropped after the lock: whatever it frees need not be waited for by requests.
            let old = change(&mut answering);
            let generation = answering.under(&resident)?.map_or(0, |writer| writer.facts.generation);
            models.experiments.change_models(answering.head(), || {
                let mut state = models.write();
                if state.waiting(generation).is_some() {
                    state.coming = Coming::Nobody;
                }
                state.answering = answering;
                match &old {
                    Some(old) => state.previous.insert(resident.clone(), Arc::clone(&old.facts)),
                    None => state.previous.remove(&resident),
                };
            })?;
            models.metrics.model_generation(&resident, generation);
            Ok(())
        });
        task.await.map_err(|_| ModelsError::from(LoadError::Panicked))?
    }

    fn in_memory(&self) -> Vec<Arc<Writer>> {
        self.read().in_memory.iter().filter_map(Weak::upgrade).collect()
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
