//! What a server opens before anybody is let in, and closes when everybody has left.
use super::RunError;
use crate::{
    experiment::policy::{Bounds, Head},
    model::reward_head::RewardHead,
    queries::{QUERIES_MAX, QUERIES_MIN},
    serve::{
        answer::Answerer,
        batcher::{Room, Sharing},
        cohorts::Cohorts,
        demo::Shelf,
        door::Door,
        engine::{Limits, prefixes::PrefixLimits},
        experiments::{InForce, log::RecordLog},
        generation::Writer,
        metrics::Metrics,
        models::{
            Answering, Models,
            facts::Origin,
            models_max,
            workshop::{LoadError, Loaded, Loader, Workshop},
        },
        rpc::decode::TEMPERATURE_MAX,
        settings::{CACHE_TTL_MS_MAX, CANDIDATES_MAX, EngineSettings, LogSettings, ServeSettings},
        shared::SharedCache,
        topics::Topics,
        traces::Sending,
    },
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tracing::warn;

/// How long the end waits for a disk that takes no more records.
const LOG_CLOSE_MAX: Duration = Duration::from_secs(5);

/// What a server reads before it lets anybody in.
pub(super) struct Opened {
    pub(super) metrics: Arc<Metrics>,
    pub(super) door: Door,
    pub(super) topics: Arc<Topics>,
    pub(super) answerer: Arc<Answerer>,
    pub(super) shared: Option<Arc<SharedCache>>,
    pub(super) shelf: Option<Arc<Shelf>>,
    pub(super) experiments: Arc<InForce>,
    pub(super) models: Arc<Models>,
}

impl Opened {
    /// Reads all of it; `first` answers whoever no arm gives another model.
    pub(super) async fn of(
        settings: &ServeSettings,
        first: Loaded,
        loader: Loader,
    ) -> Result<Self, RunError> {
        let metrics = Arc::new(Metrics::new()?.priced(settings.cost.price.clone()));
        let door = Door::open(&settings.access, &metrics)?;
        let topics = Arc::new(Topics::open(settings.topics.clone(), Arc::clone(&metrics))?);
        let (answerer, shared) = answerer(settings, &topics, &metrics)?;
        let shelf = if settings.doors.playground { shelf(first.origin()).await? } else { None };
        let (experiments, models) = models(settings, first, loader, (&topics, &metrics)).await?;
        Ok(Self { metrics, door, topics, answerer, shared, shelf, experiments, models })
    }
}

/// Whoever answers, and the cache that servers share, if they do.
fn answerer(
    settings: &ServeSettings,
    topics: &Arc<Topics>,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<Answerer>, Option<Arc<SharedCache>>), RunError> {
    let shared = settings.redis.as_ref().map(|redis| SharedCache::open(redis, metrics)).transpose()?;
    let file = settings.degradation.cohort_file.clone();
    let cohorts = Arc::new(Cohorts::open(file, Arc::clone(metrics))?);
    let everybodys = (cohorts, Arc::clone(topics));
    Ok((Arc::new(Answerer::new(settings, shared.clone(), everybodys, Arc::clone(metrics))), shared))
}

/// The demo's catalogue and readers, if the model is the demo's.
async fn shelf(origin: &Origin) -> Result<Option<Arc<Shelf>>, RunError> {
    if *origin != Origin::BuiltIn {
        return Ok(None);
    }
    // Indexing is nothing for an async thread; a task of ours that panics says no more than that there is nothing to show.
    let loading = tokio::task::spawn_blocking(Shelf::load);
    let loaded = loading.await.ok().transpose();
    Ok(loaded.map_err(|error| RunError::Playground(Box::new(error)))?.map(Arc::new))
}

/// The experiments in force and the models, of which as many are loaded as are to answer.
async fn models(
    settings: &ServeSettings,
    first: Loaded,
    loader: Loader,
    (topics, metrics): (&Arc<Topics>, &Arc<Metrics>),
) -> Result<(Arc<InForce>, Arc<Models>), RunError> {
    let gate = (Arc::clone(topics), Arc::clone(metrics));
    let residents = &settings.models.residents;
    let n_max = models_max(residents.len());
    let workshop = Workshop::new(loader, limits(settings.engine), settings.generation, gate, n_max)
        .map_err(LoadError::Thread)?;
    let place = workshop.place(Duration::ZERO).await.ok_or(LoadError::Panicked)?;
    let first = workshop.start(first, (1, ""), place).await?;
    let mut answering = Answering::new(first, residents.keys().cloned());
    for (name, path) in residents.iter().filter_map(|(name, path)| Some((name, path.as_ref()?))) {
        let number = answering.all().count() as u64 + 1;
        let resident = resident(&workshop, (number, name), Origin::At(path.clone())).await;
        let refused = |error| RunError::Resident { name: name.clone(), source: Box::new(error) };
        answering.put(resident.map_err(refused)?);
    }
    let file = settings.experiments.file.clone();
    let experiments = Arc::new(InForce::open(
        file,
        bounds(answering.head(), residents.keys().cloned().collect()),
        Arc::clone(metrics),
    )?);
    let dir = settings.admin.models_dir.clone();
    Ok((Arc::clone(&experiments), Models::new(answering, workshop, experiments, dir)))
}

async fn resident(workshop: &Workshop, named: (u64, &str), origin: Origin) -> Result<Arc<Writer>, LoadError> {
    let place = workshop.place(Duration::ZERO).await.ok_or(LoadError::Panicked)?;
    let loaded = workshop.load(origin, None).await?;
    workshop.start(loaded, named, place).await
}

fn limits(settings: EngineSettings) -> Limits {
    Limits {
        room: Room { rows: settings.rows_max, tokens: settings.tokens_max },
        rows_enough: settings.rows_enough,
        queue_max: settings.queue_requests_max,
        queue_tokens_max: settings.queue_tokens_max,
        queue_wait_max: settings.queue_wait_max,
        overtake_max: settings.overtake_max,
        sharing: Sharing {
            interactive: settings.interactive_share,
            above_bulk: settings.above_bulk_share,
            aging: settings.aging,
        },
        prefixes: PrefixLimits { bytes_max: settings.prefix_bytes_max, age_max: settings.prefix_age_max },
        step_max: settings.step_max,
    }
}

/// What arms may ask of a server whose heads can do that and whose residents have these names.
pub(in crate::serve) fn bounds(head: Head, bundles: BTreeSet<String>) -> Bounds {
    Bounds {
        candidate_counts: 1..=CANDIDATES_MAX as u64,
        query_counts: QUERIES_MIN as u64..=QUERIES_MAX as u64,
        temperatures: 0.0..=TEMPERATURE_MAX,
        cache_ttls_ms: 1..=CACHE_TTL_MS_MAX,
        cache_stales_ms: 0..=CACHE_TTL_MS_MAX,
        head,
        bundles,
    }
}

/// What arms may ask of a head.
pub(in crate::serve) fn head(head: Option<&RewardHead>) -> Head {
    match head {
        None => Head::Absent,
        Some(head) if head.foresees() => Head::Foresees,
        Some(_) => Head::Scores,
    }
}

pub(super) fn open_log(settings: &LogSettings, metrics: &Arc<Metrics>) -> Result<Arc<RecordLog>, RunError> {
    let opened = RecordLog::open(settings, Arc::clone(metrics));
    opened.map(Arc::new).map_err(|source| RunError::Log { dir: settings.dir.clone(), source })
}

/// Writes what waits for the log and tells what is left of traces, unless the disk or the collector holds the end up.
pub(super) async fn close(log: Option<Arc<RecordLog>>, spans: Option<Sending>) {
    if let Some(spans) = spans {
        spans.close().await;
    }
    let Some(log) = log else { return };
    let closing = tokio::task::spawn_blocking(move || log.close());
    if tokio::time::timeout(LOG_CLOSE_MAX, closing).await.is_err() {
        warn!("records that waited for the disk are lost");
    }
}
