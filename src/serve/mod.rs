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
pub mod door;
pub mod engine;
pub mod experiments;
pub mod flights;
pub mod generation;
pub mod health;
pub mod http;
pub mod ladder;
pub mod ledger;
pub mod metrics;
pub mod models;
pub mod owner;
pub mod playground;
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
    experiment::policy::{Bounds, Head},
    model::reward_head::RewardHead,
    serve::{
        answer::Answerer,
        batcher::{Room, Sharing},
        demo::{DemoError, Shelf},
        door::{AccessError, Door},
        engine::{Limits, prefixes::PrefixLimits},
        experiments::{ExperimentsError, InForce, log::RecordLog},
        health::Health,
        ledger::Ledger,
        metrics::Metrics,
        models::{
            Models,
            facts::Origin,
            workshop::{self, LoadError, Loaded, Loader, Workshop},
        },
        rpc::{
            admin::{self, Admin},
            decode::TEMPERATURE_MAX,
            feedback::Feedback,
            reader::Reader,
            server::{Rpc, RpcError, SERVICE_NAMES},
            service::{Rooms, Service},
        },
        settings::{CACHE_TTL_MS_MAX, CANDIDATES_MAX, EngineSettings, LogSettings, ServeSettings},
    },
    telemetry::Chain,
    text::{
        parse::{QUERIES_MAX, QUERIES_MIN},
        tokens::Tokens,
    },
};
use std::{future::Future, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{net::TcpListener, task::JoinSet};
use tonic_health::server::{HealthReporter, HealthService};
use tracing::{error, info, warn};

/// How often histograms are folded and the cache is measured.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How long the end waits for a disk that takes no more records.
const LOG_CLOSE_MAX: Duration = Duration::from_secs(5);

/// Why the server did not start, or did not end well.
#[derive(Debug, Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error("{key} {addr} cannot be used; choose another with {by}")]
    Bind {
        /// The setting.
        key: &'static str,
        /// The command line flag, or the variable.
        by: &'static str,
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The model cannot be used.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// Experiments cannot be used.
    #[error("experiments cannot be used")]
    Experiments(#[from] ExperimentsError),
    /// Nobody can be let in.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The playground has nothing to show. Boxed, because every error of a command has room for this one.
    #[error(transparent)]
    Playground(Box<DemoError>),
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
    /// For changes of the model, if it may be changed.
    pub admin: Option<TcpListener>,
}

impl Listeners {
    /// Opens the sockets of requests and metrics.
    ///
    /// # Errors
    /// If an address is taken or not ours; the error names it.
    pub async fn bind(grpc_addr: SocketAddr, http_addr: SocketAddr) -> Result<Self, RunError> {
        Ok(Self {
            grpc: bind("grpc_addr", "--grpc-addr", grpc_addr).await?,
            http: bind("http_addr", "--http-addr", http_addr).await?,
            admin: None,
        })
    }

    /// Opens those that the settings name.
    ///
    /// # Errors
    /// If an address is taken or not ours; the error names it.
    pub async fn of(settings: &ServeSettings) -> Result<Self, RunError> {
        let admin = match settings.admin.addr {
            Some(addr) => Some(bind("admin.addr", "NEWSHOUND__ADMIN__ADDR", addr).await?),
            None => None,
        };
        Ok(Self { admin, ..Self::bind(settings.grpc_addr, settings.http_addr).await? })
    }

    /// Where gRPC and the operators' port are bound: with real ports where port 0 was asked for.
    ///
    /// # Errors
    /// If the system does not know.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.grpc.local_addr()?, self.http.local_addr()?))
    }
}

async fn bind(key: &'static str, by: &'static str, addr: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(addr).await.map_err(|source| RunError::Bind { key, by, addr, source })
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

/// Serves a bundle until `shutdown` resolves, then drains and returns. `origin`: where the bundle was read from.
///
/// # Errors
/// If the server cannot start, or a model thread dies.
pub async fn run(
    settings: ServeSettings,
    bundle: Bundle,
    origin: Origin,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let loader = workshop::bundles(settings.precision, bundle.model.device().clone());
    run_with(settings, Loaded::of(bundle, origin), loader, listeners, shutdown).await
}

/// Serves with models of the caller's: what `run` does once there is one.
///
/// # Errors
/// As `run`.
pub async fn run_with(
    settings: ServeSettings,
    first: Loaded,
    loader: Loader,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let metrics = Arc::new(Metrics::new(settings.engine.rows_max)?.priced(settings.cost.price.clone()));
    let door = Door::open(&settings.access, &metrics)?;
    let shelf = if settings.doors.playground { shelf(first.origin()).await? } else { None };
    let (experiments, models) = models(&settings, first, loader, &metrics).await?;
    let log = settings.experiments.log.as_ref().map(|log| open_log(log, &metrics)).transpose()?;
    let reporter = HealthReporter::new();
    let health_service = HealthService::from_health_reporter(reporter.clone());
    let health = Health::new(reporter.clone(), SERVICE_NAMES.to_vec(), Arc::clone(&metrics)).await;
    let rooms = Rooms {
        answerer: Arc::new(Answerer::new(settings.cache, settings.degradation, Arc::clone(&metrics))),
        models: Arc::clone(&models),
        experiments,
        ledger: Arc::new(Ledger::new(log.clone(), Arc::clone(&metrics))),
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
    };
    let rpc = Rpc {
        service: Service::new(rooms.clone(), &settings),
        feedback: Feedback::new(rooms.clone()),
        reader: Reader::new(rooms.clone()),
        health_service,
        health: Arc::clone(&health),
        metrics,
        door: door.clone(),
        doors: settings.doors.clone(),
        shelf,
        connections: settings.connections,
        shutdown: settings.shutdown,
    };
    // First, so that nobody who asks is told that a server which starts is draining.
    health.ready().await;
    let Listeners { grpc, http, admin } = listeners;
    if let Ok(grpc) = grpc.local_addr() {
        info!(%grpc, "ready");
    }
    let of_admin = HealthService::from_health_reporter(reporter);
    let background = background((http, admin), (rooms, of_admin), door, &settings);
    let stop = async {
        tokio::select! {
            () = shutdown => {}
            () = models.panicked() => {}
        }
    };
    let served = rpc.serve(grpc, stop).await;
    health.draining().await;
    let ended_well = models.end().await;
    drop(background);
    close(log).await;
    served?;
    info!("stopped");
    if ended_well { Ok(()) } else { Err(RunError::EnginePanicked) }
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

/// The experiments in force and the models, of which there is one.
async fn models(
    settings: &ServeSettings,
    first: Loaded,
    loader: Loader,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<InForce>, Arc<Models>), RunError> {
    let bounds = bounds(head(first.parts().head.as_ref()));
    let file = settings.experiments.file.clone();
    let experiments = Arc::new(InForce::open(file, bounds, Arc::clone(metrics))?);
    let workshop = Workshop::new(loader, limits(settings.engine), settings.generation, Arc::clone(metrics));
    let place = workshop.place(Duration::ZERO).await.ok_or(LoadError::Panicked)?;
    let first = workshop.start(first, 1, place)?;
    let dir = settings.admin.models_dir.clone();
    Ok((Arc::clone(&experiments), Models::new(first, workshop, experiments, dir)))
}

fn limits(settings: EngineSettings) -> Limits {
    Limits {
        room: Room { rows: settings.rows_max, tokens: settings.tokens_max },
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

/// The operators' ports, the upkeep of metrics and the watch over the experiments file; all end when the set is dropped.
fn background(
    (http, admin): (TcpListener, Option<TcpListener>),
    (rooms, of_admin): (Rooms, HealthService),
    door: Door,
    settings: &ServeSettings,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let Rooms { answerer, models, experiments, health, metrics, .. } = rooms;
    let (of_http, of_upkeep) = (Arc::clone(&metrics), Arc::clone(&metrics));
    tasks.spawn(experiments.watch(settings.experiments.check_interval));
    tasks.spawn(async move {
        if let Err(error) = http::serve(http, of_http, health).await {
            error!(%error, "operators' port failed");
        }
    });
    if let Some(listener) = admin {
        let admin = Admin::new(Arc::clone(&models), metrics);
        let serving = admin::serve(listener, admin, door.clone(), of_admin, settings.connections);
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                error!(error = %Chain(&error), "admin port failed");
            }
        });
    }
    tasks.spawn(door.watch(settings.access.check_interval));
    tasks.spawn(async move {
        let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            interval.tick().await;
            answerer.upkeep().await;
            models.upkeep();
            of_upkeep.upkeep();
        }
    });
    tasks
}
