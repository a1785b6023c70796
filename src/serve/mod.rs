//! Signals to queries, online: one request at a time through cache, prompt, engine, parser and reward head.
//!
//! This file only wires the rooms together. A request's way is told in `answer`, a generation's in `generation`, the model
//! thread's in `engine`, the wire in `rpc`.
pub mod answer;
pub mod batcher;
pub mod bill;
pub mod cache;
pub mod candidate;
pub mod commands;
pub mod cost;
pub mod demo;
pub mod engine;
pub mod experiments;
pub mod flights;
pub mod generation;
pub mod health;
pub mod http;
pub mod ledger;
pub mod metrics;
pub mod owner;
pub mod question;
pub mod rerank;
pub mod rpc;
pub mod settings;

use crate::{
    bundle::{
        load::Bundle,
        manifest::{BundleId, Manifest},
    },
    cleaner::Cleaner,
    decode::batch::Batch,
    experiment::policy::{Bounds, Head},
    model::reward_head::RewardHead,
    serve::{
        answer::Answerer,
        batcher::Room,
        engine::{Ending, Engine, EngineThread, Generator, Limits, prefixes::PrefixLimits},
        experiments::{ExperimentsError, InForce, log::RecordLog},
        generation::Writer,
        health::Health,
        ledger::Ledger,
        metrics::Metrics,
        rpc::{
            decode::TEMPERATURE_MAX,
            encode::ModelFacts,
            feedback::Feedback,
            reader::Reader,
            server::{Rpc, RpcError, SERVICE_NAMES},
            service::{Rooms, Service},
        },
        settings::{
            CACHE_TTL_MS_MAX, CANDIDATES_MAX, EngineSettings, GenerationSettings, LogSettings, ServeSettings,
        },
    },
    text::{
        parse::{QUERIES_MAX, QUERIES_MIN},
        prompt,
        tokens::Tokens,
    },
};
use std::{future::Future, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{net::TcpListener, task::JoinSet};
use tracing::{error, info, warn};

/// How often histograms are folded and the cache is measured.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How long the end waits for a disk that takes no more records.
const LOG_CLOSE_MAX: Duration = Duration::from_secs(5);

/// Why the server did not start, or did not end well.
#[derive(Debug, Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error("{key} {addr} cannot be used; choose another with --{flag}")]
    Bind {
        /// The setting.
        key: &'static str,
        /// The command line flag.
        flag: &'static str,
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The model cannot take what the settings allow.
    #[error(
        "model has {positions} positions; generation.output_tokens_max of {output_tokens_max} and generation.prompt_tokens_max leave {left} for the prompt, which needs {needed}"
    )]
    Positions {
        /// Positions of the model.
        positions: usize,
        /// What a candidate may write.
        output_tokens_max: usize,
        /// What is left for the prompt.
        left: usize,
        /// Instructions and the beginning of one signal.
        needed: usize,
    },
    /// Experiments cannot be used.
    #[error("experiments cannot be used")]
    Experiments(#[from] ExperimentsError),
    /// Nothing can be written where the log should be.
    #[error("experiments.log_dir {} cannot be written to", .dir.display())]
    Log {
        /// The setting.
        dir: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The metrics could not be set up.
    #[error("metrics could not be set up")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// The model thread could not be started.
    #[error("model thread could not be started")]
    Thread(#[source] io::Error),
    /// The gRPC server failed.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The model thread panicked.
    #[error("model thread panicked")]
    EnginePanicked,
}

/// Open sockets of a server.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For /metrics and /healthz.
    pub http: TcpListener,
}

impl Listeners {
    /// Opens both sockets.
    ///
    /// # Errors
    /// If an address is taken or not ours; the error names it.
    pub async fn bind(grpc_addr: SocketAddr, http_addr: SocketAddr) -> Result<Self, RunError> {
        let bind = async |key, flag, addr| {
            TcpListener::bind(addr).await.map_err(|source| RunError::Bind { key, flag, addr, source })
        };
        Ok(Self {
            grpc: bind("grpc_addr", "grpc-addr", grpc_addr).await?,
            http: bind("http_addr", "http-addr", http_addr).await?,
        })
    }

    /// Where gRPC and the operators' port are bound: with real ports where port 0 was asked for.
    ///
    /// # Errors
    /// If the system does not know.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.grpc.local_addr()?, self.http.local_addr()?))
    }
}

/// What the server needs of a bundle, apart from the network.
#[derive(Debug)]
pub struct Parts {
    /// Id of the bundle.
    pub id: BundleId,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Its tokenizer.
    pub tokens: Tokens,
    /// Its reward head.
    pub head: Option<RewardHead>,
    /// Its signal cleaner.
    pub cleaner: Option<Cleaner>,
    /// Positions of its network.
    pub max_positions: usize,
}

/// Serves a bundle until `shutdown` resolves, then drains and returns.
///
/// # Errors
/// If the server cannot start, or the model thread dies.
pub async fn run(
    settings: ServeSettings,
    bundle: Bundle,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let Bundle { id, manifest, tokens, model, head, cleaner } = bundle;
    let max_positions = model.config().max_positions;
    let parts = Parts { id, manifest, tokens, head, cleaner, max_positions };
    run_with(settings, parts, move || Batch::new(Arc::new(model)), listeners, shutdown).await
}

/// Serves with a generator of the caller's: what `run` does once the network is in a batch.
///
/// # Errors
/// As `run`.
pub async fn run_with<G: Generator>(
    mut settings: ServeSettings,
    parts: Parts,
    make: impl FnOnce() -> G + Send + 'static,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    settings.generation = fitted(settings.generation, &parts)?;
    let metrics = Arc::new(Metrics::new(settings.engine.rows_max)?.priced(settings.cost.price.clone()));
    let experiments = settings.experiments.clone();
    let in_force = InForce::open(experiments.file, bounds(head(parts.head.as_ref())), Arc::clone(&metrics))?;
    let log = experiments.log.as_ref().map(|log| open_log(log, &metrics)).transpose()?;
    let opening = prompt::opening(&parts.tokens).into();
    let (engine, mut thread) = Engine::start(limits(settings.engine), opening, Arc::clone(&metrics), make)
        .map_err(RunError::Thread)?;
    let reporter = tonic_health::server::HealthReporter::new();
    let health_service = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
    let health = Health::new(reporter, SERVICE_NAMES.to_vec(), Arc::clone(&metrics)).await;
    let (answerer, model) = answerer(&settings, parts, engine.clone(), &metrics);
    let rooms = Rooms {
        answerer,
        experiments: Arc::new(in_force),
        ledger: Arc::new(Ledger::new(log.clone(), Arc::clone(&metrics))),
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
    };
    let rpc = Rpc {
        service: Service::new(rooms.clone(), model, &settings),
        feedback: Feedback::new(rooms.clone()),
        reader: Reader::new(rooms.clone()),
        health_service,
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
        connections: settings.connections,
        shutdown: settings.shutdown,
    };
    // First, so that nobody who asks is told that a server which starts is draining.
    health.ready().await;
    let background = background(listeners.http, rooms, engine.clone(), experiments.check_interval);
    if let Ok(grpc) = listeners.grpc.local_addr() {
        info!(%grpc, "ready");
    }
    let mut ending = None;
    let stop = async {
        tokio::select! {
            () = shutdown => {}
            ended = &mut thread.ended => ending = Some(ended.unwrap_or(Ending::Panicked)),
        }
    };
    let served = rpc.serve(listeners.grpc, stop).await;
    health.draining().await;
    let ending = end(&engine, thread, ending).await;
    drop(background);
    close(log).await;
    served?;
    info!("stopped");
    if ending == Ending::Panicked { Err(RunError::EnginePanicked) } else { Ok(()) }
}

/// What a candidate and a prompt may take together, within the positions of the model; a prompt is never longer than
/// those that the model was trained on.
fn fitted(mut settings: GenerationSettings, parts: &Parts) -> Result<GenerationSettings, RunError> {
    let positions = parts.max_positions;
    let output_tokens_max = settings.output_tokens_max;
    let for_prompt = positions.saturating_sub(output_tokens_max).min(parts.manifest.prompt_tokens_max);
    let (left, needed) = (settings.prompt_tokens_max.min(for_prompt), prompt::budget_min(&parts.tokens));
    if left < needed {
        return Err(RunError::Positions { positions, output_tokens_max, left, needed });
    }
    settings.prompt_tokens_max = left;
    Ok(settings)
}

fn limits(settings: EngineSettings) -> Limits {
    Limits {
        room: Room { rows: settings.rows_max, tokens: settings.tokens_max },
        queue_max: settings.queue_requests_max,
        queue_wait_max: settings.queue_wait_max,
        overtake_max: settings.overtake_max,
        prefixes: PrefixLimits { bytes_max: settings.prefix_bytes_max, age_max: settings.prefix_age_max },
    }
}

/// What arms may ask of a server.
fn bounds(head: Head) -> Bounds {
    Bounds {
        candidate_counts: 1..=CANDIDATES_MAX as u64,
        query_counts: QUERIES_MIN as u64..=QUERIES_MAX as u64,
        temperatures: 0.0..=TEMPERATURE_MAX,
        cache_ttls_ms: 1..=CACHE_TTL_MS_MAX,
        cache_stales_ms: 0..=CACHE_TTL_MS_MAX,
        head,
    }
}

/// What arms may ask of a head.
fn head(head: Option<&RewardHead>) -> Head {
    match head {
        None => Head::Absent,
        Some(head) if head.foresees() => Head::Foresees,
        Some(_) => Head::Scores,
    }
}

fn open_log(settings: &LogSettings, metrics: &Arc<Metrics>) -> Result<Arc<RecordLog>, RunError> {
    let opened = RecordLog::open(settings, Arc::clone(metrics));
    opened.map(Arc::new).map_err(|source| RunError::Log { dir: settings.dir.clone(), source })
}

/// Writes what waits for the log, unless the disk holds the end up.
async fn close(log: Option<Arc<RecordLog>>) {
    let Some(log) = log else { return };
    let closing = tokio::task::spawn_blocking(move || log.close());
    if tokio::time::timeout(LOG_CLOSE_MAX, closing).await.is_err() {
        warn!("records that waited for the disk are lost");
    }
}

fn answerer(
    settings: &ServeSettings,
    parts: Parts,
    engine: Engine,
    metrics: &Arc<Metrics>,
) -> (Arc<Answerer>, ModelFacts) {
    let model = ModelFacts {
        bundle_id: parts.id.0.clone(),
        manifest: parts.manifest,
        has_reward_head: parts.head.is_some(),
        foresees: parts.head.as_ref().is_some_and(RewardHead::foresees),
        has_cleaner: parts.cleaner.is_some(),
    };
    let writer = Writer {
        tokens: parts.tokens,
        head: parts.head.map(Arc::new),
        cleaner: parts.cleaner,
        engine,
        prompt_tokens_max: settings.generation.prompt_tokens_max,
        metrics: Arc::clone(metrics),
    };
    (Arc::new(Answerer::new(writer, parts.id, settings.cache)), model)
}

/// The operators' port, the upkeep of metrics and the watch over the experiments file; all end when the set is dropped.
fn background(listener: TcpListener, rooms: Rooms, engine: Engine, check_interval: Duration) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let Rooms { answerer, experiments, health, metrics, .. } = rooms;
    let (of_http, of_upkeep) = (Arc::clone(&metrics), metrics);
    tasks.spawn(experiments.watch(check_interval));
    tasks.spawn(async move {
        if let Err(error) = http::serve(listener, of_http, health).await {
            error!(%error, "operators' port failed");
        }
    });
    tasks.spawn(async move {
        let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            interval.tick().await;
            answerer.upkeep().await;
            engine.upkeep();
            of_upkeep.upkeep();
        }
    });
    tasks
}

/// Ends the model thread and joins it.
async fn end(engine: &Engine, mut thread: EngineThread, known: Option<Ending>) -> Ending {
    engine.stop();
    let ending = match known {
        Some(ending) => ending,
        None => (&mut thread.ended).await.unwrap_or(Ending::Panicked),
    };
    // The thread has reported its end, so joining takes no time; it is a blocking call all the same.
    if tokio::task::spawn_blocking(move || thread.join()).await.is_err() {
        error!("model thread could not be joined");
    }
    ending
}
