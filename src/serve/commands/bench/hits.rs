//! `bench hits`: what an answer from the cache costs beside the barest service of the library, in the same process, in turn.
use super::{
    super::CommandError,
    bars::{Bar, Bars},
    house::{ANYWHERE, House, HouseArgs, Running},
    load::{Lines, Readers, closed},
    seen::{Seen, median},
};
use crate::serve::rpc::{
    echo::{self, ECHO},
    raw::{self, GENERATE},
};
use clap::Args;
use hyper::body::Bytes;
use std::{fmt, io::Write, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::oneshot};

/// Answers stay longer than any measurement lasts, and none is made anew meanwhile.
const ANSWER_TTL: Duration = Duration::from_secs(86_400);
/// How long the generation of one answer may take.
const GENERATION_MAX: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct HitsArgs {
    /// Pairs of measurements, hits and echo in turn; medians are reported
    #[arg(long, default_value_t = 5)]
    pub pairs: usize,
    /// How long each lasts, in seconds
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Requests under way at the same time
    #[arg(long, default_value_t = 32)]
    pub clients: u64,
    /// Connections
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// Different readers
    #[arg(long, default_value_t = 16)]
    pub readers: u64,
    /// Signals per reader
    #[arg(long, default_value_t = 12)]
    pub signals: u64,
    /// Candidates per request
    #[arg(long, default_value_t = 8)]
    pub n: u32,
    /// The server.
    #[command(flatten)]
    pub house: HouseArgs,
}

/// Measures and reports.
///
/// # Errors
/// If a server cannot start, or an answer was no hit.
pub async fn hits(args: &HitsArgs, json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    let sensible = args.pairs > 0 && args.clients > 0 && args.connections > 0 && args.readers > 0;
    if !(sensible && args.seconds > 0.0 && args.seconds <= 3600.0) {
        let usage =
            "pairs, clients, connections and readers must be at least 1, seconds above 0 and at most 3600";
        return Err(CommandError::Usage(usage.to_owned()));
    }
    let mut settings = args.house.settings()?;
    settings.cache.ttl = ANSWER_TTL;
    settings.cache.renew_ahead = Duration::ZERO;
    let house = args.house.open(settings).await?;
    let messages = Arc::new(messages(args));
    let answer = generated(&house, &messages).await?;
    let sizes = (messages[0].len(), answer.len());
    let (echo_addr, echo) = start_echo(answer).await?;
    let (ours, theirs) =
        (Lines::to(house.grpc, args.connections).await?, Lines::to(echo_addr, args.connections).await?);
    let time = Duration::from_secs_f64(args.seconds);
    let mut pairs = Vec::with_capacity(args.pairs);
    // The first pair warms both up and is not counted.
    for round in 0..=args.pairs {
        let time = if round == 0 { time.min(Duration::from_secs(1)) } else { time };
        let before = house.metric(HITS).await?;
        let hits = slot(&ours, GENERATE, &messages, (args.clients, time)).await?;
        all_hits(hits.answered.n(), house.metric(HITS).await? - before)?;
        let echo = slot(&theirs, ECHO, &messages, (args.clients, time)).await?;
        if round > 0 {
            pairs.push(Pair { hits: Side::of(&hits, time), echo: Side::of(&echo, time) });
        }
    }
    drop((ours, theirs));
    echo.end().await?;
    house.close().await?;
    report(args, &pairs, sizes, json, out)
}

/// The counter of answers from the cache.
const HITS: &str = "newshound_cache_requests_total{status=\"hit\"}";

/// What is not a hit would be measured as one.
fn all_hits(n_answered: u64, n_hits: f64) -> Result<(), CommandError> {
    #[allow(clippy::cast_precision_loss, reason = "a load has far fewer than 2^52 requests")]
    let n_answered = n_answered as f64;
    if (n_hits - n_answered).abs() < 0.5 {
        return Ok(());
    }
    Err(CommandError::Usage(format!("{n_answered} requests were answered, and {n_hits} of them were hits")))
}

fn messages(args: &HitsArgs) -> Vec<Bytes> {
    let readers = Readers {
        n_readers: args.readers,
        n_signals: args.signals,
        n_candidates: args.n,
        timeout: GENERATION_MAX,
    };
    (0..args.readers).map(|number| raw::message(&readers.ask(number))).collect()
}

/// Has every answer generated; returns the last, as it comes from the cache.
async fn generated(house: &House, messages: &[Bytes]) -> Result<Bytes, CommandError> {
    let lines = Lines::to(house.grpc, 1).await?;
    let mut last = Bytes::new();
    for message in messages {
        let ask = async || lines.of(0).call(GENERATE, message.clone(), Some(GENERATION_MAX)).await;
        let _ = ask().await;
        last = ask().await.map_err(|refusal| {
            let words = format!("no answer to store: {}", refusal.kind());
            CommandError::Usage(words)
        })?;
    }
    match raw::cache_of(last.clone()) {
        Some("HIT") => Ok(last),
        other => Err(CommandError::Usage(format!("an answer that was stored is {other:?}, and no hit"))),
    }
}

async fn start_echo(answer: Bytes) -> Result<(SocketAddr, Running), CommandError> {
    let (tell, told) = oneshot::channel();
    let running = Running::start(move |stop| async move {
        let listener = TcpListener::bind(ANYWHERE).await?;
        // Whoever started it may have gone.
        let _ = tell.send(listener.local_addr()?);
        let served = echo::serve(listener, answer, stop.cancelled_owned()).await;
        served.map_err(|error| CommandError::Run(error.into()))
    })?;
    match told.await {
        Ok(addr) => Ok((addr, running)),
        Err(_) => Err(running.end().await.err().unwrap_or(CommandError::Panicked)),
    }
}

async fn slot(
    lines: &Lines,
    method: &'static str,
    messages: &Arc<Vec<Bytes>>,
    (n_clients, time): (u64, Duration),
) -> Result<Seen, CommandError> {
    let (lines, messages) = (lines.clone(), Arc::clone(messages));
    let call = move |number: u64| {
        let at = usize::try_from(number % messages.len() as u64).unwrap_or(0);
        let (line, message) = (lines.of(number), messages[at].clone());
        async move { line.call(method, message, Some(GENERATION_MAX)).await }
    };
    closed(n_clients, time, call).await?.answered_any()
}

/// One measurement, or the medians of several.
#[derive(Clone, Copy, Debug)]
struct Side {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    n_refused: u64,
}

impl Side {
    fn of(seen: &Seen, time: Duration) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a load has far fewer than 2^52 requests")]
        let n_answered = seen.answered.n() as f64;
        Self {
            per_second: n_answered / time.as_secs_f64(),
            p50_ms: seen.answered.ms(50.0),
            p99_ms: seen.answered.ms(99.0),
            n_refused: seen.refused.n(),
        }
    }

    /// The medians, and all refusals.
    fn median(sides: impl Iterator<Item = Self> + Clone) -> Self {
        let of = |value: fn(Self) -> f64| median(sides.clone().map(value).collect());
        Self {
            per_second: of(|side| side.per_second),
            p50_ms: of(|side| side.p50_ms),
            p99_ms: of(|side| side.p99_ms),
            n_refused: sides.map(|side| side.n_refused).sum(),
        }
    }

    fn json(&self) -> serde_json::Value {
        let Self { per_second, p50_ms, p99_ms, n_refused } = self;
        serde_json::json!({ "per_second": per_second, "p50_ms": p50_ms, "p99_ms": p99_ms, "refused": n_refused })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { per_second, p50_ms, p99_ms, n_refused } = self;
        write!(
            out,
            "{per_second:9.0} per second  p50 {p50_ms:7.3} ms  p99 {p99_ms:7.3} ms  {n_refused} refused"
        )
    }
}

struct Pair {
    hits: Side,
    echo: Side,
}

fn report(
    args: &HitsArgs,
    pairs: &[Pair],
    (request_bytes, answer_bytes): (usize, usize),
    json: bool,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let of = |ratio: fn(&Pair) -> f64| median(pairs.iter().map(ratio).collect());
    let bars = Bars(vec![
        Bar::at_least(
            "requests per second, to the echo's",
            of(|pair| pair.hits.per_second / pair.echo.per_second),
            0.6,
        ),
        Bar::at_most("p99, to the echo's", of(|pair| pair.hits.p99_ms / pair.echo.p99_ms), 2.0),
    ]);
    let hits = Side::median(pairs.iter().map(|pair| pair.hits));
    let echo = Side::median(pairs.iter().map(|pair| pair.echo));
    if json {
        let report = serde_json::json!({
            "pairs": args.pairs, "seconds": args.seconds, "clients": args.clients,
            "connections": args.connections, "request_bytes": request_bytes, "answer_bytes": answer_bytes,
            "sides": { "hits": hits.json(), "echo": echo.json() }, "bars": bars.json(),
        });
        return Ok(writeln!(out, "{report}")?);
    }
    writeln!(
        out,
        "{} clients on {} connections, {request_bytes} bytes asked, {answer_bytes} answered; medians of {} times {} s",
        args.clients, args.connections, args.pairs, args.seconds
    )?;
    writeln!(out, "  hits {hits}\n  echo {echo}")?;
    Ok(write!(out, "{bars}")?)
}
