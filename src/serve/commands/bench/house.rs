//! A server in this process, to be measured: with a runtime and ports of its own, as the program has them.
use super::super::CommandError;
use crate::{
    bundle::load::{self, Bundle, BundleSource},
    model::{device::DeviceChoice, precision::Precision},
    serve::{Listeners, demo, models::facts::Origin, run, runtime::runtime, settings::ServeSettings},
};
use clap::Args;
use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

/// Any free port of this machine, which nobody else reaches.
pub const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How long a server may take to come to rest: twice the minute that a request of a load may take at most.
const REST_MAX: Duration = Duration::from_secs(120);

/// Which model is measured.
#[derive(Clone, Debug, Args)]
pub struct ModelArgs {
    /// The bundle, a folder or a tar archive of one; without it, the demo's
    #[arg(long)]
    pub bundle: Option<PathBuf>,
    /// Where the network computes: auto, cpu or cuda
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

impl ModelArgs {
    /// Loads it, its network in `precision`.
    ///
    /// # Errors
    /// If there is no such bundle or device.
    pub fn load(&self, precision: Precision) -> Result<Bundle, CommandError> {
        let device = self.device.open()?;
        Ok(match &self.bundle {
            Some(dir) => load::load(BundleSource::At(dir), precision, &device)?,
            None => demo::bundle_in(precision, &device)?,
        })
    }
}

/// Which server is measured.
#[derive(Clone, Debug, Args)]
pub struct HouseArgs {
    /// Settings file of the server that is measured, of which addresses do not count; without it, the defaults
    #[arg(long)]
    pub settings: Option<PathBuf>,
    /// Its model.
    #[command(flatten)]
    pub model: ModelArgs,
}

impl HouseArgs {
    /// The settings, on ports that nobody else has.
    ///
    /// # Errors
    /// If the file cannot be read, or has mistakes.
    pub fn settings(&self) -> Result<ServeSettings, CommandError> {
        let settings = match &self.settings {
            None => ServeSettings::demo(),
            Some(path) => ServeSettings::read(&read(path)?, &path.display().to_string(), &[])?,
        };
        Ok(ServeSettings { grpc_addr: ANYWHERE, http_addr: ANYWHERE, ..settings })
    }

    /// Starts the server.
    ///
    /// # Errors
    /// If it cannot start.
    pub async fn open(&self, settings: ServeSettings) -> Result<House, CommandError> {
        let (model, precision) = (self.model.clone(), settings.precision);
        let loading = tokio::task::spawn_blocking(move || model.load(precision));
        let bundle = loading.await.map_err(|_| CommandError::Panicked)??;
        let (tell, told) = oneshot::channel();
        let running = Running::start(|stop| async move {
            let listeners = Listeners::of(&settings).await?;
            // Whoever started it may have gone.
            let _ = tell.send(listeners.addresses()?);
            Ok(run(settings, bundle, Origin::BuiltIn, listeners, stop.cancelled_owned()).await?)
        })?;
        match told.await {
            Ok((grpc, http)) => Ok(House { grpc, http, running }),
            Err(_) => Err(running.end().await.err().unwrap_or(CommandError::Panicked)),
        }
    }
}

fn read(path: &Path) -> Result<String, CommandError> {
    std::fs::read_to_string(path).map_err(|source| CommandError::File { path: path.to_owned(), source })
}

/// A server that runs.
#[derive(Debug)]
pub struct House {
    /// Where it is asked.
    pub grpc: SocketAddr,
    /// Where its metrics are.
    http: SocketAddr,
    running: Running,
}

impl House {
    /// The sum of the series that begin so; 0 of none.
    ///
    /// # Errors
    /// If the server does not say.
    pub async fn metric(&self, series: &str) -> Result<f64, CommandError> {
        let mut stream = TcpStream::connect(self.http).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: newshound\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let values = text.lines().filter(|line| line.starts_with(series));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Resolves when the model has nothing to do.
    ///
    /// # Errors
    /// As `rest`.
    pub async fn quiet(&self) -> Result<(), CommandError> {
        self.rest(&["newshound_running_rows ", "newshound_queue_depth "]).await
    }

    /// Resolves when none of these series is above zero.
    ///
    /// # Errors
    /// If the server does not say, or not within a limit.
    pub async fn rest(&self, series: &[&str]) -> Result<(), CommandError> {
        /// Often enough that nobody notices, and rarely enough to cost nothing.
        const LOOK: Duration = Duration::from_millis(20);
        let resting = async {
            loop {
                // Together: what leaves one may go to another.
                let mut sum = 0.0;
                for name in series {
                    sum += self.metric(name).await?;
                }
                if sum <= 0.0 {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(REST_MAX, resting).await.unwrap_or_else(|_| {
            let words = format!("{} is not 0 after {} s", series.join("or "), REST_MAX.as_secs());
            Err(CommandError::Usage(words))
        })
    }

    /// Ends the server.
    ///
    /// # Errors
    /// Why it did not end well.
    pub async fn close(self) -> Result<(), CommandError> {
        self.running.end().await
    }
}

/// Something that runs in a thread and a runtime of its own.
#[derive(Debug)]
pub struct Running {
    stop: CancellationToken,
    thread: thread::JoinHandle<Result<(), CommandError>>,
}

impl Running {
    /// Starts it; it ends when what it gets is cancelled.
    ///
    /// # Errors
    /// If the system has no thread.
    pub fn start<F>(
        serving: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Result<Self, CommandError>
    where
        F: Future<Output = Result<(), CommandError>>,
    {
        let stop = CancellationToken::new();
        let told = stop.clone();
        let thread = thread::Builder::new().name("measured".to_owned()).spawn(move || {
            let runtime = runtime()?;
            let ended = runtime.block_on(serving(told));
            runtime.shutdown_background();
            ended
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends it, and says how.
    ///
    /// # Errors
    /// If it did not end well.
    pub async fn end(self) -> Result<(), CommandError> {
        self.stop.cancel();
        let joining = tokio::task::spawn_blocking(move || self.thread.join());
        let joined = joining.await.map_err(|_| CommandError::Panicked)?;
        joined.map_err(|_| CommandError::Panicked)?
    }
}
