//! `bench`: open-loop load on a running server. Requests leave at their times whatever the server does, and a latency counts from
//! the time at which its request should have left, so a server that stalls cannot hide it.
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
    experiment::policy::Rung,
    serve::{
        experiments::enrolment::Entrant,
        rpc::client::{Ask, Client, ClientError, Reply, ReplyCost},
    },
    signals::{SignalDraft, Stream},
};
use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use std::{
    collections::BTreeMap,
    io::Write,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Percentiles that are reported.
const PERCENTILES: [f64; 5] = [50.0, 90.0, 95.0, 99.0, 99.9];
/// Connections, unless it is said otherwise.
pub(super) const CONNECTIONS: usize = 4;
/// Latencies are kept in microseconds up to a minute, to three digits.
const LATENCY_US_MAX: u64 = 60_000_000;

/// How to load.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Address of the server
    #[arg(long, default_value = "127.0.0.1:50051", global = true)]
    pub addr: String,
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
    /// Writes one JSON object
    #[arg(long, global = true)]
    pub json: bool,
    /// What to show.
    #[command(flatten)]
    pub reach: ReachArgs,
}

impl BenchArgs {
    /// # Errors
    /// If the load makes no sense.
    pub(super) fn check(&self) -> Result<(), CommandError> {
        let in_range = |value: f64, most: f64| value > 0.0 && value <= most;
        let sensible = in_range(self.rate, 100_000.0) && in_range(self.duration_s, 86_400.0);
        if !sensible || self.connections == 0 || self.signals == 0 || self.readers == 0 {
            let usage = "rate must be above 0 and at most 100000, duration above 0 and at most 86400 s; connections, readers and signals at least 1";
            return Err(CommandError::Usage(usage.to_owned()));
        }
        Ok(())
    }

    /// Its connections.
    ///
    /// # Errors
    /// If nobody answers.
    pub(super) async fn clients(&self) -> Result<Vec<Client>, CommandError> {
        let to = self.reach.to(&self.addr)?;
        let mut clients = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            clients.push(Client::connect(&to).await?);
        }
        Ok(clients)
    }
}

/// What else can be measured; all but `swaps` without a server.
#[derive(Clone, Debug, Subcommand)]
pub enum Measure {
    /// Compares the compute time of several numbers of candidates
    Cost(CostArgs),
    /// Measures how many readers the model answers per second under load, without a server around it
    Engine(EngineArgs),
    /// Measures exact and approximate search among random article vectors
    Index(IndexArgs),
    /// Measures what changing the model of a running server costs those who ask it meanwhile
    Swaps(SwapsArgs),
}

/// Measures something, or how a running server bears a load, and writes one JSON object or words.
///
/// # Errors
/// What the measurement says.
pub async fn measure(
    what: Option<Measure>,
    load: BenchArgs,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let json = load.json;
    let Some(what) = what else { return bench(load, out).await };
    match what {
        Measure::Cost(args) => cost::cost(&args, json, out),
        Measure::Engine(args) => engine::engine(&args, json, out),
        Measure::Index(args) => index::index(&args, json, out),
        Measure::Swaps(args) => swaps::swaps(args, load, out).await,
    }
}

/// Loads a server and reports.
///
/// # Errors
/// If nobody answers, no request is answered, or the load makes no sense.
async fn bench(args: BenchArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    args.check()?;
    let clients = args.clients().await?;
    let started = Instant::now();
    let mut calls = JoinSet::new();
    let mut tally = Tally::new()?;
    for (number, client) in (0u64..).zip(clients.iter().cycle()) {
        #[allow(clippy::cast_precision_loss, reason = "a load has far fewer than 2^52 requests")]
        let due_s = number as f64 / args.rate;
        if due_s >= args.duration_s {
            break;
        }
        let due = started + Duration::from_secs_f64(due_s);
        tokio::time::sleep_until(due.into()).await;
        let (client, ask) = (client.clone(), question(&args, number));
        calls.spawn(async move {
            let outcome = client.ask(ask).await.map(|Reply { cache, cost, .. }| (cache, cost));
            (outcome, due.elapsed())
        });
        while let Some(ended) = calls.try_join_next() {
            tally.add(ended.map_err(|_| CommandError::Panicked)?);
        }
    }
    while let Some(ended) = calls.join_next().await {
        tally.add(ended.map_err(|_| CommandError::Panicked)?);
    }
    tally.report(&args, started.elapsed(), out)?;
    tally.verdict()
}

pub(super) fn question(args: &BenchArgs, number: u64) -> Ask {
    const WORDS: [&str; 8] = ["solar", "storm", "train", "strike", "market", "city", "council", "football"];
    let reader = number % args.readers;
    // Words and, because words alone repeat, a number that differ by reader, so that prompts do; times that do not, so that a
    // reader's answer can be a cache hit.
    let word = |at: u64| {
        let position = usize::try_from(reader.wrapping_mul(31).wrapping_add(at * 7) % 8).unwrap_or(0);
        WORDS[position]
    };
    let signals = (0..args.signals).map(|at| SignalDraft {
        stream: [Stream::Search, Stream::Page, Stream::Click][usize::try_from(at % 3).unwrap_or(0)],
        text: format!("{} {} {} {reader}", word(at), word(at + 1), word(at + 3)),
        time_unix_s: 1_700_000_000 + i64::try_from(at).unwrap_or(0) * 60,
        category: None,
        source: None,
        dwell_ms: None,
        weight: None,
    });
    Ask {
        user_key: format!("bench-{reader}"),
        signals: signals.collect(),
        n_candidates: Some(args.n),
        seed: Some(reader),
        bypass_cache: false,
        // A load is measured with whole answers: what is refused is seen, and what falls short would not be.
        lowest_rung: Some(Rung::Full),
        entrant: Entrant::default(),
        timeout: Duration::from_millis(args.timeout_ms),
    }
}

/// How an answer is counted, beside the codes of refusals.
pub(super) const OK: &str = "OK";

/// How an answer was found, and what it cost where the server has a price.
pub(super) type Answered = (&'static str, Option<ReplyCost>);

pub(super) struct Tally {
    pub(super) latencies: Histogram<u64>,
    pub(super) codes: BTreeMap<String, u64>,
    caches: BTreeMap<&'static str, u64>,
    /// Billionths of each currency, which are one unless the servers behind a proxy differ.
    costs: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn new() -> Result<Self, CommandError> {
        let latencies = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
        let latencies = latencies.map_err(|error| CommandError::Usage(error.to_string()))?;
        let (codes, caches, costs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { latencies, codes, caches, costs })
    }

    /// Only answers have a latency; refusals are fast and would flatter it.
    pub(super) fn add(&mut self, (outcome, took): (Result<Answered, ClientError>, Duration)) {
        let code = match outcome {
            Ok((cache, cost)) => {
                let took_us = u64::try_from(took.as_micros()).unwrap_or(LATENCY_US_MAX);
                self.latencies.saturating_record(took_us);
                *self.caches.entry(cache).or_default() += 1;
                if let Some(ReplyCost { nanos, currency, .. }) = cost {
                    *self.costs.entry(currency).or_default() += nanos;
                }
                OK.to_owned()
            }
            Err(ClientError::Refused { code, .. }) => code.to_owned(),
            Err(
                ClientError::Address { .. }
                | ClientError::Unreachable { .. }
                | ClientError::Tls { .. }
                | ClientError::Token
                | ClientError::Tenant,
            ) => "UNREACHABLE".to_owned(),
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
        let percentiles = percentiles(&self.latencies);
        if args.json {
            let report = serde_json::json!({
                "rate_per_s": args.rate,
                "candidates": args.n,
                "duration_s": args.duration_s,
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
            args.rate,
            args.duration_s,
            args.n,
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

/// Percentiles in milliseconds by name; none where nothing was measured.
pub(super) fn percentiles(latencies: &Histogram<u64>) -> BTreeMap<String, f64> {
    #[allow(clippy::cast_precision_loss, reason = "latencies are below a minute")]
    let milliseconds = |percentile: f64| latencies.value_at_quantile(percentile / 100.0) as f64 / 1000.0;
    let measured = PERCENTILES.iter().filter(|_| !latencies.is_empty());
    measured.map(|&percentile| (format!("p{percentile}"), milliseconds(percentile))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::HashSet;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        load: BenchArgs,
    }

    #[test]
    fn no_two_readers_have_a_signal_in_common_and_a_reader_always_has_the_same() {
        let args = Line::parse_from(["bench", "--readers", "1000"]).load;
        let texts = |number| question(&args, number).signals.into_iter().map(|draft| draft.text);
        let first: HashSet<String> = texts(0).collect();
        assert!((1..1000).all(|number| texts(number).all(|text| !first.contains(&text))));
        assert!(texts(1000).eq(texts(0)));
    }

    #[test]
    fn a_load_without_an_answer_fails_and_one_with_an_answer_does_not() {
        let mut tally = Tally::new().unwrap();
        let refused =
            ClientError::Refused { code: "UNAVAILABLE", message: String::new(), details: String::new() };
        tally.add((Err(refused), Duration::ZERO));
        assert!(matches!(tally.verdict(), Err(CommandError::NoAnswer { n_requests: 1 })));
        tally.add((Ok(("MISS", None)), Duration::ZERO));
        assert!(tally.verdict().is_ok());
    }
}
