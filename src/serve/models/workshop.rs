//! Where models are made ready: read, verified and warmed up apart from the one that answers, and given a thread.
use super::facts::{ModelFacts, Origin};
use crate::{
    bundle::{
        load::{self, Bundle, BundleError, BundleSource},
        manifest::BundleId,
    },
    decode::{
        batch::{Batch, DecodeError, GroupId, GroupRequest},
        sampler::SamplerSettings,
    },
    model::{precision::Precision, reward_head::RewardHead, transformer::Transformer},
    serve::{
        Parts, demo,
        engine::{Ending, Engine, EngineThread, Generator, Limits, Warmth},
        generation::Writer,
        metrics::Metrics,
        settings::GenerationSettings,
        solo::Solo,
        topics::Topics,
    },
    text::{prompt, tokens::Tokens},
};
use candle_core::Device;
use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

/// Rows and tokens of the lists that warm a network up: as many rows as a request has by default, and few tokens, since pages and caches are
/// warm after one step.
const WARM_ROWS: usize = 8;
const WARM_TOKENS: usize = 3;
/// What they are called: the first requests come after them.
const WARM_GROUP: GroupId = GroupId(0);
/// Tokens of the prompt by which its speed is measured: those of a dozen signals, since the first of a prompt say little of what more take.
const MEASURED_PROMPT_TOKENS: usize = 128;

/// How far a thread that loads stands back for those that answer: 19 is as far as the system allows.
#[cfg(target_os = "linux")]
const LOAD_NICENESS: i32 = 19;

/// Why a model cannot be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The bundle is refused.
    #[error("bundle is refused")]
    Bundle(#[from] BundleError),
    /// The folder holds another bundle.
    #[error("bundle is {got}, and {expected} was asked for")]
    Another {
        /// What was asked for.
        expected: String,
        /// What is there.
        got: String,
    },
    /// The model cannot take what the settings allow.
    #[error(transparent)]
    Positions(#[from] Positions),
    /// The model cannot write.
    #[error("model failed on its first list")]
    Warm(#[from] DecodeError),
    /// The system has no more threads.
    #[error("thread could not be started")]
    Thread(#[source] io::Error),
    /// It panicked.
    #[error("loading panicked")]
    Panicked,
}

/// A model has too few positions for what the settings allow.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "model has {positions} positions; generation.output_tokens_max of {output_tokens_max} and generation.prompt_tokens_max leave {left} for the prompt, which needs {needed}"
)]
pub struct Positions {
    /// Positions of the model.
    pub positions: usize,
    /// What a candidate may write.
    pub output_tokens_max: usize,
    /// What is left for the prompt.
    pub left: usize,
    /// Instructions and the beginning of one signal.
    pub needed: usize,
}

/// A model that was read and has no thread yet.
pub struct Loaded {
    parts: Parts,
    origin: Origin,
    load_time: Option<Duration>,
    make: Make,
    /// Whether it tries how fast it is on its thread, before it takes requests.
    tries: bool,
}

/// Makes a generator on the thread where it is used, and says how fast it is there if it tried.
type Make = Box<dyn FnOnce() -> (Box<dyn Generator>, Option<Warmth>) + Send>;

impl fmt::Debug for Loaded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Loaded").field("id", &self.parts.id).field("origin", &self.origin).finish()
    }
}

impl Loaded {
    /// A model of which the generator is made on the model thread.
    pub fn new<G: Generator + 'static>(
        parts: Parts,
        origin: Origin,
        make: impl FnOnce() -> G + Send + 'static,
    ) -> Self {
        Self {
            parts,
            origin,
            load_time: None,
            make: Box::new(move || (Box::new(make()), None)),
            tries: false,
        }
    }

    /// A bundle that was read from there.
    ///
    /// # Errors
    /// If its network cannot write.
    pub fn of(bundle: Bundle, origin: Origin) -> Result<Self, LoadError> {
        let Bundle { id, manifest, tokens, model, head, lexicon, cleaner } = bundle;
        let max_positions = model.config().max_positions;
        let parts = Parts { id, manifest, tokens, head, lexicon, cleaner, max_positions };
        Self::warm(parts, origin, model)
    }

    /// A model of which the network writes a little, so that no reader waits for cold memory, and one that cannot write is found before it
    /// answers; and a little more on the model thread, to see how fast it is there.
    ///
    /// # Errors
    /// If it cannot write.
    pub fn warm(parts: Parts, origin: Origin, model: Transformer) -> Result<Self, LoadError> {
        let (mut batch, tokens) = (Batch::new(Arc::new(model)), parts.tokens.clone());
        let opening = prompt::opening(&tokens);
        warm(&mut batch, opening.clone(), &tokens)?;
        let n_tokens = MEASURED_PROMPT_TOKENS.min(parts.max_positions.saturating_sub(WARM_TOKENS));
        let prompt = opening.into_iter().cycle().take(n_tokens).collect();
        let make: Make = Box::new(move || {
            // It wrote before: if it does not any more, those who ask hear of it.
            let warmth = warm(&mut batch, prompt, &tokens).ok();
            if warmth.is_none() {
                batch.cancel(WARM_GROUP);
            }
            (Box::new(batch), warmth)
        });
        Ok(Self { parts, origin, load_time: None, make, tries: true })
    }

    /// Where it was read from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What it is made of, apart from the network.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }
}

/// Reads a model; called on a thread where it may take its time.
pub type Loader = Arc<dyn Fn(&Origin) -> Result<Loaded, LoadError> + Send + Sync>;

/// A loader that reads bundles.
pub fn bundles(precision: Precision, device: Device) -> Loader {
    Arc::new(move |origin| {
        let source = match origin {
            Origin::BuiltIn => demo::source(),
            Origin::At(dir) => BundleSource::At(dir),
        };
        Loaded::of(load::load(source, precision, &device)?, origin.clone())
    })
}

fn warm(batch: &mut Batch, prompt: Vec<u32>, tokens: &Tokens) -> Result<Warmth, DecodeError> {
    let prompt_tokens = prompt.len();
    let request = GroupRequest {
        id: WARM_GROUP,
        prompt,
        known: None,
        seeds: (0..WARM_ROWS as u64).collect(),
        sampler: SamplerSettings::SERVING,
        max_new_tokens: WARM_TOKENS,
        // All go on together to the last.
        stop_ids: Arc::new([]),
        boundary_ids: tokens.boundary_ids(),
        pruning: None,
        n_held: 0,
    };
    let started = Instant::now();
    batch.admit(request)?;
    let prefill = started.elapsed();
    let mut step = Duration::MAX;
    while batch.n_rows() > 0 {
        let started = Instant::now();
        batch.step()?;
        // The fastest: what the others took more was not theirs.
        step = step.min(started.elapsed());
    }
    Ok(Warmth { prompt_tokens, prefill, rows: WARM_ROWS, step })
}

/// A place in memory for a model; shown and counted until it is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.models_in_memory().decrement(1.0);
    }
}

/// What every model of a server is made with.
pub struct Workshop {
    loader: Loader,
    limits: Limits,
    generation: GenerationSettings,
    topics: Arc<Topics>,
    metrics: Arc<Metrics>,
    solo: Arc<Solo>,
    places: Arc<Semaphore>,
    /// Most models in memory.
    pub(super) models_max: usize,
    /// One task for each model thread, which ends after it.
    threads: TaskTracker,
    /// A model thread has panicked or stands still.
    pub(super) failed: CancellationToken,
}

impl fmt::Debug for Workshop {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Workshop").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Workshop {
    /// A workshop whose places, one for each model in memory, are all free.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn new(
        loader: Loader,
        limits: Limits,
        generation: GenerationSettings,
        (topics, metrics): (Arc<Topics>, Arc<Metrics>),
        models_max: usize,
    ) -> io::Result<Self> {
        let (places, threads) = (Arc::new(Semaphore::new(models_max)), TaskTracker::new());
        let (failed, solo) = (CancellationToken::new(), Arc::new(Solo::start(Arc::clone(&metrics))?));
        Ok(Self { loader, limits, generation, topics, metrics, solo, places, models_max, threads, failed })
    }

    /// Waits for a place; none if it takes longer than `patience`.
    pub async fn place(&self, patience: Duration) -> Option<Place> {
        let waited = tokio::time::timeout(patience, Arc::clone(&self.places).acquire_owned()).await;
        let permit = waited.ok()?.ok()?;
        self.metrics.models_in_memory().increment(1.0);
        Some(Place { _permit: permit, metrics: Arc::clone(&self.metrics) })
    }

    /// Reads a model on a thread that stands back for all others.
    ///
    /// # Errors
    /// If it is refused, or is not the one that is wanted.
    pub async fn load(&self, origin: Origin, wanted: Option<BundleId>) -> Result<Loaded, LoadError> {
        let (loader, started) = (Arc::clone(&self.loader), Instant::now());
        let loading = tokio::task::spawn_blocking(move || standing_back(|| loader(&origin)));
        let loaded = loading.await.map_err(|_| LoadError::Panicked)??;
        if let Some(expected) = wanted.filter(|wanted| *wanted != loaded.parts.id) {
            return Err(LoadError::Another { expected: expected.0, got: loaded.parts.id.0 });
        }
        let load_time = started.elapsed();
        self.metrics.model_loaded(load_time);
        Ok(Loaded { load_time: Some(load_time), ..loaded })
    }

    /// Gives a model its thread, its number, and the name under which it is to answer, and waits until it is warm. The place is free again
    /// when the thread has ended.
    ///
    /// # Errors
    /// If the settings leave no room for a prompt, or the system has no more threads.
    pub async fn start(
        &self,
        loaded: Loaded,
        (generation, resident): (u64, &str),
        place: Place,
    ) -> Result<Arc<Writer>, LoadError> {
        let Loaded { parts, origin, load_time, make, tries } = loaded;
        let settings = fitted(self.generation, &parts)?;
        let opening = prompt::opening(&parts.tokens).into();
        let (engine, mut thread) = Engine::start(self.limits, opening, Arc::clone(&self.metrics), make)
            .map_err(LoadError::Thread)?;
        if tries {
            // A thread that ends instead says so itself.
            let _ = (&mut thread.warm).await;
        }
        let stuck = CancellationToken::new();
        self.threads.spawn(see_to_its_end(thread, place, generation, [stuck.clone(), self.failed.clone()]));
        let facts = ModelFacts {
            generation,
            resident: resident.to_owned(),
            bundle: parts.id,
            manifest: parts.manifest,
            origin,
            load_time,
            has_reward_head: parts.head.is_some(),
            foresees: parts.head.as_ref().is_some_and(RewardHead::foresees),
            has_cleaner: parts.cleaner.is_some(),
        };
        Ok(Arc::new(Writer {
            facts: Arc::new(facts),
            tokens: parts.tokens,
            head: parts.head.map(Arc::new),
            lexicon: parts.lexicon,
            cleaner: parts.cleaner,
            engine,
            prompt_tokens_max: settings.prompt_tokens_max,
            topics: Arc::clone(&self.topics),
            metrics: Arc::clone(&self.metrics),
            solo: Arc::clone(&self.solo),
            stuck,
        }))
    }

    /// Waits for the end of every thread.
    pub async fn ended(&self) {
        self.threads.close();
        self.threads.wait().await;
    }
}

async fn see_to_its_end(
    mut thread: EngineThread,
    place: Place,
    generation: u64,
    [stuck, failed]: [CancellationToken; 2],
) {
    let ending = thread.ended().await;
    // The thread has reported its end, so joining takes no time; it is a blocking call all the same.
    if ending != Ending::Stuck && tokio::task::spawn_blocking(move || thread.join()).await.is_err() {
        error!("model thread could not be joined");
    }
    match ending {
        Ending::Stopped => info!(generation, "model left memory"),
        Ending::Panicked => failed.cancel(),
        Ending::Stuck => [stuck, failed].iter().for_each(CancellationToken::cancel),
    }
    drop(place);
}

/// What a candidate and a prompt may take together, within the positions of the model; a prompt is never longer than
/// those that the model was trained on.
fn fitted(mut settings: GenerationSettings, parts: &Parts) -> Result<GenerationSettings, Positions> {
    let positions = parts.max_positions;
    let output_tokens_max = settings.output_tokens_max;
    let for_prompt = positions.saturating_sub(output_tokens_max).min(parts.manifest.prompt_tokens_max);
    let (left, needed) = (settings.prompt_tokens_max.min(for_prompt), prompt::budget_min(&parts.tokens));
    if left < needed {
        return Err(Positions { positions, output_tokens_max, left, needed });
    }
    settings.prompt_tokens_max = left;
    Ok(settings)
}

/// Works on one thread of the lowest priority: everything that libraries would spread over all cores stays on it too.
fn standing_back<T: Send>(work: impl FnOnce() -> Result<T, LoadError> + Send) -> Result<T, LoadError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).thread_name(|_| "load".to_owned());
    let pool = pool.start_handler(|_| stand_back()).build();
    pool.map_err(|error| LoadError::Thread(io::Error::other(error)))?.install(work)
}

#[cfg(target_os = "linux")]
fn stand_back() {
    // On Linux a thread has a niceness of its own. One that the system keeps as it was only loads faster than it should.
    let _ = rustix::process::nice(LOAD_NICENESS);
}

/// Elsewhere the whole process would stand back.
#[cfg(not(target_os = "linux"))]
fn stand_back() {}
