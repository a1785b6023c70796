//! `bench sharing`: what those who ask notice of a Redis that answers late, stands still, or is killed: a redis-server that is started here,
//! with something between that does to its connections what is to be measured.
use super::{
    super::CommandError,
    bars::{Bar, Bars},
    house::{ANYWHERE, HouseArgs},
    load::{Lines, Pace, Readers},
    overload::{Asking, seen},
    seen::Seen,
};
use crate::serve::settings::ServeSettings;
use clap::Args;
use std::{
    io::Write,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a redis-server may take to start.
const START_MAX: Duration = Duration::from_secs(10);
/// How much later a slow Redis answers: five budgets of an operation.
const SLOW: Duration = Duration::from_millis(100);
/// Bytes that are carried at once.
const CHUNK: usize = 1 << 16;

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct SharingArgs {
    /// How long each phase lasts, in seconds
    #[arg(long, default_value_t = 20.0)]
    pub seconds: f64,
    /// Requests per second, each of another reader, so that Redis is asked for all
    #[arg(long, default_value_t = 5.0)]
    pub rate: f64,
    /// Candidates per request
    #[arg(long, default_value_t = 1)]
    pub n: u32,
    /// Signals per reader
    #[arg(long, default_value_t = 12)]
    pub signals: u64,
    /// Connections
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// Program that is started as Redis
    #[arg(long, default_value = "redis-server")]
    pub redis: String,
    /// The server.
    #[command(flatten)]
    pub house: HouseArgs,
}

/// Measures and reports.
///
/// # Errors
/// If Redis or the server cannot start, or nothing is answered.
pub async fn sharing(args: &SharingArgs, json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    let in_range = |value: f64, most: f64| value > 0.0 && value <= most;
    if !in_range(args.seconds, 3600.0)
        || !in_range(args.rate, 10_000.0)
        || args.connections == 0
        || args.signals == 0
    {
        let usage = "rate must be above 0 and at most 10000, seconds above 0 and at most 3600; connections and signals at least 1";
        return Err(CommandError::Usage(usage.to_owned()));
    }
    let redis = Redis::start(&args.redis).await?;
    let between = Between::start(redis.addr).await?;
    let settings = with_redis(args, between.addr)?;
    let budget = settings.redis.as_ref().map(|redis| redis.budget).unwrap_or_default();
    let house = args.house.open(settings).await?;
    let lines = Lines::to(house.grpc, args.connections).await?;
    let readers =
        Readers { n_readers: u64::MAX, n_signals: args.signals, n_candidates: args.n, timeout: PATIENCE };
    let asking = Asking::new(lines, readers);
    let pace = Pace::during(args.rate, Duration::from_secs_f64(args.seconds));
    // Not counted: the model has answered nothing yet.
    asking.open(Pace::during(args.rate, Duration::from_secs(3))).await?;
    let (mut phases, mut redis) = (Vec::with_capacity(4), Some(redis));
    for (name, how) in
        [("healthy", How::Passes), ("slow", How::Slow), ("paused", How::Stands), ("killed", How::Passes)]
    {
        // Each begins with a Redis that is asked, and not with one that is left alone because of the phase before.
        between.how.send_replace(How::Passes);
        house.rest(&["newshound_shared_cache_breaker_open "]).await?;
        between.how.send_replace(how);
        if name == "killed" {
            drop(redis.take());
        }
        phases.push((name, seen(&asking.open(pace).await?)?.answered_any()?));
    }
    let n_looks = house.metric("newshound_shared_cache_looks_total{result=\"miss\"}").await?;
    drop(asking);
    house.close().await?;
    if n_looks < 1.0 {
        return Err(CommandError::Usage("redis was never asked, so nothing was measured".to_owned()));
    }
    report(args, &phases, budget, json, out)
}

fn with_redis(args: &SharingArgs, addr: SocketAddr) -> Result<ServeSettings, CommandError> {
    let shared =
        ServeSettings::read(&format!("[cache.redis]\nurl = \"redis://{addr}/0\""), "bench sharing", &[])?;
    let settings = args.house.settings()?;
    // What the file says of Redis counts, but for where it is.
    let redis = match (settings.redis.clone(), shared.redis) {
        (Some(file), Some(here)) => {
            Some(crate::serve::settings::sharing::RedisSettings { address: here.address, ..file })
        }
        (None, here) => here,
        (file, None) => file,
    };
    Ok(ServeSettings { redis, ..settings })
}

/// A redis-server that stores nothing on a disk; killed when it is dropped.
struct Redis {
    addr: SocketAddr,
    child: Child,
}

impl Redis {
    async fn start(program: &str) -> Result<Self, CommandError> {
        // A port that is free now; nothing else tells redis-server one.
        let addr = TcpListener::bind(ANYWHERE).await?.local_addr()?;
        let port = addr.port().to_string();
        let child = Command::new(program)
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .map_err(|source| CommandError::File { path: program.into(), source })?;
        let redis = Self { addr, child };
        let answering = async {
            while TcpStream::connect(addr).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(START_MAX, answering).await.map_err(|_| {
            let words = format!("{program} does not listen on {addr}");
            CommandError::Usage(words)
        })?;
        Ok(redis)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How bytes get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Passes,
    /// Later.
    Slow,
    /// Not at all, until they do.
    Stands,
}

/// Stands between a server and Redis.
struct Between {
    addr: SocketAddr,
    how: watch::Sender<How>,
}

impl Between {
    async fn start(to: SocketAddr) -> Result<Self, CommandError> {
        let listener = TcpListener::bind(ANYWHERE).await?;
        let addr = listener.local_addr()?;
        let how = watch::Sender::new(How::Passes);
        let of_task = how.subscribe();
        // It ends with the runtime of the command.
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(connection(near, to, of_task.clone()));
            }
        });
        Ok(Self { addr, how })
    }
}

async fn connection(near: TcpStream, to: SocketAddr, how: watch::Receiver<How>) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = carry(near_read, far_write, how.clone()) => {}
        () = carry(far_read, near_write, how) => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut how: watch::Receiver<How>) {
    let mut bytes = vec![0; CHUNK];
    while let Ok(n_bytes @ 1..) = from.read(&mut bytes).await {
        let now = *how.borrow();
        match now {
            How::Passes => {}
            How::Slow => tokio::time::sleep(SLOW).await,
            How::Stands if how.wait_for(|how| *how != How::Stands).await.is_err() => return,
            How::Stands => {}
        }
        if to.write_all(&bytes[..n_bytes]).await.is_err() {
            return;
        }
    }
}

fn report(
    args: &SharingArgs,
    phases: &[(&'static str, Seen)],
    budget: Duration,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let budget_ms = budget.as_secs_f64() * 1000.0;
    let healthy = phases.first().map_or(f64::NAN, |(_, seen)| seen.answered.ms(99.0));
    #[allow(clippy::cast_precision_loss, reason = "a load has far fewer than 2^52 requests")]
    let n_refused = phases.iter().map(|(_, seen)| seen.refused.n()).sum::<u64>() as f64;
    let more = |name: &str| {
        let phase = phases.iter().find(|(of, _)| *of == name);
        phase.map_or(f64::NAN, |(_, seen)| seen.answered.ms(99.0) - healthy)
    };
    let bars = Bars(vec![
        Bar::at_most("p99 with a slow Redis, ms above healthy", more("slow"), budget_ms),
        Bar::at_most("p99 with a paused Redis, ms above healthy", more("paused"), budget_ms),
        Bar::at_most("p99 without Redis, ms above healthy", more("killed"), budget_ms),
        Bar::at_most("requests that were refused", n_refused, 0.0),
    ]);
    if json {
        let phases: serde_json::Map<String, serde_json::Value> = phases
            .iter()
            .map(|(name, seen)| {
                let phase = serde_json::json!({
                    "answered": seen.answered.n(), "latency_ms": seen.answered.percentiles(),
                    "refused": seen.refused.n(), "reasons": seen.reasons,
                });
                ((*name).to_owned(), phase)
            })
            .collect();
        let report = serde_json::json!({
            "rate_per_s": args.rate, "candidates": args.n, "seconds": args.seconds, "budget_ms": budget_ms,
            "phases": phases, "bars": bars.json(),
        });
        return Ok(writeln!(out, "{report}")?);
    }
    writeln!(
        out,
        "{} requests per second of {} candidate(s), {} s in each phase; Redis has {budget_ms} ms for an operation",
        args.rate, args.n, args.seconds
    )?;
    for (name, seen) in phases {
        let (answered, refused) = (&seen.answered, seen.refused.n());
        let (n, p50, p99) = (answered.n(), answered.ms(50.0), answered.ms(99.0));
        writeln!(out, "  {name:<8} {n} answered, p50 {p50:.1} ms, p99 {p99:.1} ms; {refused} refused")?;
        for (reason, n) in &seen.reasons {
            writeln!(out, "    {reason:<36} {n}")?;
        }
    }
    Ok(write!(out, "{bars}")?)
}
