//! Signals to queries, online: one request at a time through cache, prompt, engine, parser and reward head.
//!
//! This file only wires the rooms together. A request's way is told in `answer`, a generation's in `generation`, the model
//! thread's in `engine`, the wire in `rpc`.
pub mod answer;
pub mod batcher;
pub mod bill;
pub mod cache;
pub mod candidate;
pub mod cohorts;
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
pub mod looks;
pub mod metrics;
pub mod models;
mod opening;
pub mod owner;
pub mod playground;
pub mod question;
pub mod rerank;
pub mod rpc;
pub mod runtime;
pub mod settings;
pub mod shared;
pub mod solo;
pub mod tenants;
pub mod topics;
pub mod traces;
pub mod watched;

use crate::{
    bundle::{
        load::Bundle,
        manifest::{BundleId, Manifest},
    },
    cleaner::Cleaner,
    lexicon::Lexicon,
    model::reward_head::RewardHead,
    serve::{
        demo::DemoError,
        door::{AccessError, Door},
        health::Health,
        ledger::Ledger,
        models::{
            Models,
            facts::Origin,
            workshop::{self, LoadError, Loaded, Loader},
        },
        rpc::{
            admin::{self, Admin},
            feedback::Feedback,
            reader::Reader,
            server::{Rpc, RpcError, SERVICE_NAMES},
            service::{Rooms, Service},
        },
        runtime::watch_lag,
        settings::ServeSettings,
        shared::SharedCacheError,
        traces::Traces,
        watched::FileError,
    },
    telemetry::Chain,
    text::tokens::Tokens,
};
use candle_core::Device;
use opening::{Opened, close, open_log};
use std::{future::Future, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{net::TcpListener, task::JoinSet};
use tonic_health::server::{HealthReporter, HealthService};
use tracing::{error, info, warn};

/// How often histograms are folded and the cache is measured.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long a server that has nobody left to answer waits for the step that its model is in. What it computes is of no use any more.
const LAST_STEP_MAX: Duration = Duration::from_secs(2);

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
    /// A resident bundle cannot be used. Boxed, because every error of a command has room for this one.
    #[error("models.residents.{name} cannot be used")]
    Resident {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<LoadError>,
    },
    /// Experiments, lists of cohorts or sensitive topics cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nobody can be let in.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Answers cannot be shared as the settings say.
    #[error(transparent)]
    Shared(#[from] SharedCacheError),
    /// The playground has nothing to show. Boxed for the same reason.
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
    /// The model thread panicked, or a step of it did not end: the log says which.
    #[error("model thread failed")]
    EngineFailed,
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
    /// What signals mean to the head, where it reads that.
    pub lexicon: Option<Arc<Lexicon>>,
    /// Its signal cleaner.
    pub cleaner: Option<Cleaner>,
    /// Positions of its network.
    pub max_positions: usize,
}

/// Reads all that a server of these settings would read, resident bundles and files too, and lets the models compute what a server lets them compute
/// before it says that it is ready; lets nobody in. Nothing is written, nowhere is listened, and Redis is not asked. As at a start, a model may
/// take as long as it takes.
///
/// # Errors
/// If a server would not start.
pub async fn check(settings: ServeSettings, bundle: Bundle, origin: Origin) -> Result<(), RunError> {
    let (settings, first, loader) = prepared(settings, bundle, origin).await?;
    let opened = Opened::of(&settings, first, loader).await?;
    let is_over = tokio::time::timeout(LAST_STEP_MAX, opened.models.end()).await.is_ok();
    if is_over && !opened.models.has_failed() { Ok(()) } else { Err(RunError::EngineFailed) }
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
    let (settings, first, loader) = prepared(settings, bundle, origin).await?;
    run_with(settings, first, loader, listeners, shutdown).await
}

/// The settings on the bundle's device, the bundle ready to answer, and what loads others like it.
async fn prepared(
    settings: ServeSettings,
    bundle: Bundle,
    origin: Origin,
) -> Result<(ServeSettings, Loaded, Loader), RunError> {
    let device = bundle.model.device().clone();
    let settings = ServeSettings { engine: settings.engine.on(&device), ..settings };
    let loader = workshop::bundles(settings.precision, device);
    let first = tokio::task::spawn_blocking(|| Loaded::of(bundle, origin)).await;
    Ok((settings, first.map_err(|_| LoadError::Panicked)??, loader))
}

/// Serves with models of the caller's: what `run` does once there is one. Unless it is said how many rows they decode, as many as on a CPU.
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
    let settings = ServeSettings { engine: settings.engine.on(&Device::Cpu), ..settings };
    let opened = Opened::of(&settings, first, loader).await?;
    let Opened { metrics, door, topics, answerer, shared, shelf, experiments, models } = opened;
    let log = settings.experiments.log.as_ref().map(|log| open_log(log, &metrics)).transpose()?;
    let (traces, spans) = Traces::open(&settings.telemetry, &metrics);
    let reporter = HealthReporter::new();
    let health_service = HealthService::from_health_reporter(reporter.clone());
    let health = Health::new(reporter.clone(), SERVICE_NAMES.to_vec(), Arc::clone(&metrics)).await;
    let rooms = Rooms {
        answerer,
        models: Arc::clone(&models),
        experiments,
        ledger: Arc::new(Ledger::new(log.clone(), Arc::clone(&metrics))),
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
        traces,
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
    let mut background = background((http, admin), (rooms, of_admin), door, &settings);
    background.spawn(topics.watch());
    shared.into_iter().for_each(|shared| drop(background.spawn(async move { shared.keep().await })));
    let served = rpc.serve(grpc, end(shutdown, Arc::clone(&models))).await;
    health.draining().await;
    let ended_well = last_step(&models).await;
    drop(background);
    close(log, spans).await;
    served?;
    info!("stopped");
    if ended_well { Ok(()) } else { Err(RunError::EngineFailed) }
}

/// Ends the models' threads, or leaves behind those that are in the middle of a step. Says whether none has failed.
async fn last_step(models: &Models) -> bool {
    if tokio::time::timeout(LAST_STEP_MAX, models.end()).await.is_err() {
        warn!("a model is in the middle of a step, and is left behind");
    }
    !models.has_failed()
}

/// Until the server is told to end, or there is no model any more.
async fn end(shutdown: impl Future<Output = ()>, models: Arc<Models>) {
    tokio::select! {
        () = shutdown => {}
        () = models.failed() => {}
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
    tasks.spawn(answerer.cohorts().watch());
    tasks.spawn(http::serve(http, settings.connections, of_http, health));
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
    tasks.spawn(watch_lag(Arc::clone(&of_upkeep)));
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
