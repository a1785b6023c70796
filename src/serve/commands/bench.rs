//! `bench`: open-loop load on a running server (`bench rpc`), and what else can be measured.
pub mod bars;
pub mod deadlines;
pub mod hits;
pub mod house;
pub mod load;
pub mod malformed;
pub mod memory;
pub mod overload;
pub mod seen;
pub mod sharing;
mod sweep;

use super::{
    CommandError,
    cost::{self, CostArgs},
    engine::{self, EngineArgs},
    index::{self, IndexArgs},
    reach::ReachArgs,
    swaps::{self, SwapsArgs},
    tour,
};
use crate::{
    client::refusal::code_word,
    serve::rpc::client::{Client, ClientError, Reply, ReplyCost},
};
use clap::{Args, Subcommand};
use deadlines::DeadlinesArgs;
use hits::HitsArgs;
use load::{Pace, Readers};
use malformed::MalformedArgs;
use overload::OverloadArgs;
use seen::Times;
use sharing::SharingArgs;
use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Connections, unless it is said otherwise.
pub(super) const CONNECTIONS: usize = 4;

/// Which server, how to report, and how to load where nothing else is to be measured.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Address of the server
    #[arg(long, default_value = "127.0.0.1:50051", global = true)]
    pub addr: String,
    /// Writes one JSON object
    #[arg(long, global = true)]
    pub json: bool,
    /// What to show.
    #[command(flatten)]
    pub reach: ReachArgs,
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// How to load.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Requests per second
    #[arg(long, default_value_t = 5.0)]
    pub rate: f64,
    /// For how long, in seconds
    #[arg(long, default_value_t = 10.0)]
    pub duration_s: f64,
    /// Candidates per request
    #[arg(long, default_value_t = 8)]
    pub n: u32,
    /// Different readers; fewer than requests means cache hits
    #[arg(long, default_value_t = 1_000_000)]
    pub readers: u64,
    /// Signals per reader
    #[arg(long, default_value_t = 12)]
    pub signals: u64,
    /// Connections
    #[arg(long, default_value_t = CONNECTIONS)]
    pub connections: usize,
    /// How long a request may take, in milliseconds
    #[arg(long, default_value_t = 30_000)]
    pub timeout_ms: u64,
    /// Also draws, into this file as SVG, answers per second over candidates, over requests at a time and over signals; each of ten points takes as
    /// long as the load
    #[arg(long)]
    pub plot: Option<PathBuf>,
    /// Most requests at a time in the plot
    #[arg(long, default_value_t = 8)]
    pub at_once: usize,
}

impl LoadArgs {
    /// # Errors
    /// If the load makes no sense.
    pub(super) fn check(&self) -> Result<(), CommandError> {
        let in_range = |value: f64, most: f64| value > 0.0 && value <= most;
        let sensible = in_range(self.rate, 100_000.0) && in_range(self.duration_s, 86_400.0);
        if !sensible || self.connections == 0 || self.at_once == 0 || self.signals == 0 || self.readers == 0 {
            let usage = "rate must be above 0 and at most 100000, duration above 0 and at most 86400 s; connections, readers, signals and requests at a time at least 1";
            return Err(CommandError::Usage(usage.to_owned()));
        }
        Ok(())
    }

    /// Who asks for what.
    pub(super) fn readers(&self) -> Readers {
        Readers {
            n_readers: self.readers,
            n_signals: self.signals,
            n_candidates: self.n,
            timeout: Duration::from_millis(self.timeout_ms),
        }
    }
}

impl BenchArgs {
    /// Connections of the load.
    ///
    /// # Errors
    /// If nobody answers.
    pub(super) async fn clients(&self) -> Result<Vec<Client>, CommandError> {
        let to = self.reach.to(&self.addr)?;
        let mut clients = Vec::with_capacity(self.load.connections);
        for _ in 0..self.load.connections {
            clients.push(Client::connect(&to).await?);
        }
        Ok(clients)
    }
}

/// What can be measured; all but `rpc` and `swaps` without a server that runs already.
#[derive(Clone, Debug, Subcommand)]
pub enum Measure {
    /// Compares the compute time of several numbers of candidates
    Cost(CostArgs),
    /// Measures whether a server keeps its clients' times while it is asked for more than it can do
    Deadlines(DeadlinesArgs),
    /// Measures how many readers the model answers per second under load, without a server around it
    Engine(EngineArgs),
    /// Compares answers from the cache with the barest service of the gRPC library
    Hits(HitsArgs),
    /// Measures exact and approximate search among random article vectors
    Index(IndexArgs),
    /// Measures what others notice of malformed requests
    Malformed(MalformedArgs),
    /// Measures what a server does that is asked for ten times what it can do
    Overload(OverloadArgs),
    /// Loads a running server, as `bench` alone does
    Rpc(LoadArgs),
    /// Measures what readers notice of a Redis that is slow, stands still or is killed; starts one
    Sharing(SharingArgs),
    /// Measures what changing the model of a running server costs those who ask it meanwhile
    Swaps(SwapsArgs),
}

/// Measures something, or how a running server bears a load, and writes one JSON object or words.
///
/// # Errors
/// What the measurement says.
pub async fn measure(
    what: Option<Measure>,
    args: BenchArgs,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let (json, common) = (args.json, args);
    match what.unwrap_or_else(|| Measure::Rpc(common.load.clone())) {
        Measure::Cost(args) => cost::cost(&args, json, out),
        Measure::Deadlines(args) => deadlines::deadlines(&args, json, out).await,
        Measure::Engine(args) => engine::engine(&args, json, out),
        Measure::Hits(args) => hits::hits(&args, json, out).await,
        Measure::Index(args) => index::index(&args, json, out),
        Measure::Malformed(args) => malformed::malformed(&args, json, out).await,
        Measure::Overload(args) => overload::overload(&args, json, out).await,
        Measure::Rpc(load) => rpc(BenchArgs { load, ..common }, out).await,
        Measure::Sharing(args) => sharing::sharing(&args, json, out).await,
        Measure::Swaps(args) => swaps::swaps(args, common, out).await,
    }
}

/// Loads a server and reports.
///
/// # Errors
/// If nobody answers, no request is answered, or the load makes no sense.
async fn rpc(args: BenchArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let load = &args.load;
    load.check()?;
    let (connected, readers) = (args.clients().await?, load.readers());
    let (started, mut tally) = (Instant::now(), Tally::new()?);
    let mut clients = connected.iter().cycle();
    let call = |number| {
        let client = clients.next().cloned();
        async move {
            let reply = client?.ask(readers.ask(number)).await;
            Some(reply.map(|Reply { cache, cost, .. }| (cache, cost)))
        }
    };
    let pace = Pace::during(load.rate, Duration::from_secs_f64(load.duration_s));
    load::open(pace, &CancellationToken::new(), call, |ended| {
        // Without connections nothing leaves.
        ended.outcome.into_iter().for_each(|outcome| tally.add((outcome, ended.took)));
    })
    .await?;
    tally.report(&args, started.elapsed(), out)?;
    tally.verdict()?;
    match &load.plot {
        Some(path) => sweep::draw(load, &connected, pace.n_requests, path).await,
        None => Ok(()),
    }
}

/// How an answer is counted, beside the codes of refusals.
pub(super) const OK: &str = "OK";

/// How an answer was found, and what it cost where the server has a price.
pub(super) type Answered = (&'static str, Option<ReplyCost>);

pub(super) struct Tally {
    pub(super) latencies: Times,
    pub(super) codes: BTreeMap<String, u64>,
    caches: BTreeMap<&'static str, u64>,
    /// Billionths of each currency, which are one unless the servers behind a proxy differ.
    costs: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn new() -> Result<Self, CommandError> {
        let latencies = Times::new()?;
        let (codes, caches, costs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { latencies, codes, caches, costs })
    }

    /// Only answers have a latency; refusals are fast and would flatter it.
    pub(super) fn add(&mut self, (outcome, took): (Result<Answered, ClientError>, Duration)) {
        let code = match outcome {
            Ok((cache, cost)) => {
                self.latencies.add(took);
                *self.caches.entry(cache).or_default() += 1;
                if let Some(ReplyCost { nanos, currency, .. }) = cost {
                    *self.costs.entry(currency).or_default() += nanos;
                }
                OK.to_owned()
            }
            Err(ClientError::Refused(refusal)) => code_word(refusal.code).to_owned(),
            Err(ClientError::Reach(_) | ClientError::NotReached { .. } | ClientError::Tenant) => {
                "UNREACHABLE".to_owned()
            }
        };
        *self.codes.entry(code).or_default() += 1;
    }

    /// A load of which nothing was answered measured nothing.
    pub(super) fn verdict(&self) -> Result<(), CommandError> {
        if self.codes.contains_key(OK) {
            return Ok(());
        }
        Err(CommandError::NoAnswer { n_requests: self.codes.values().sum() })
    }

    fn report(&self, args: &BenchArgs, took: Duration, out: &mut dyn Write) -> Result<(), CommandError> {
        let (percentiles, load) = (self.latencies.percentiles(), &args.load);
        if args.json {
            let report = serde_json::json!({
                "rate_per_s": load.rate,
                "candidates": load.n,
                "duration_s": load.duration_s,
                "seconds": took.as_secs_f64(),
                "codes": self.codes,
                "cache": self.caches,
                "latency_ms": percentiles,
                "cost_nanos": self.costs,
            });
            return Ok(writeln!(out, "{report}")?);
        }
        let n_answered = self.codes.get(OK).copied().unwrap_or_default();
        #[allow(clippy::cast_precision_loss, reason = "a load has far fewer than 2^52 requests")]
        let answered_per_s = n_answered as f64 / took.as_secs_f64();
        writeln!(
            out,
            "sent {} requests per second for {} s, {} candidates each; {answered_per_s:.1} answers per second in {:.1} s",
            load.rate,
            load.duration_s,
            load.n,
            took.as_secs_f64()
        )?;
        for (code, count) in &self.codes {
            writeln!(out, "  {code:<20} {count}")?;
        }
        for (cache, count) in &self.caches {
            writeln!(out, "  cache {cache:<14} {count}")?;
        }
        for (currency, &nanos) in &self.costs {
            let per_answer = tour::amount(nanos / n_answered.max(1));
            writeln!(out, "  cost per answer {per_answer} {currency}")?;
        }
        for (name, latency) in &percentiles {
            writeln!(out, "  {name:<6} {latency:9.1} ms")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Code, refusal::Refusal};

    #[test]
    fn a_load_without_an_answer_fails_and_one_with_an_answer_does_not() {
        let mut tally = Tally::new().unwrap();
        let refused = Refusal::new(Code::Unavailable, "").into();
        tally.add((Err(refused), Duration::ZERO));
        assert!(matches!(tally.verdict(), Err(CommandError::NoAnswer { n_requests: 1 })));
        tally.add((Ok(("MISS", None)), Duration::ZERO));
        assert!(tally.verdict().is_ok());
    }
}
