//! `bench overload`: what a server does that is asked for ten times what it can do, and how soon it is itself again.
//!
//! Every request is of another reader, so that the model answers all, and wants a whole answer, so that none is counted that fell short. A machine
//! that is shared does not do as much at one time as at another: all is measured several times in a row, the peak too, and medians count.
use super::{
    super::CommandError,
    bars::{Bar, Bars},
    house::{House, HouseArgs},
    load::{Arrivals, Ended, Lines, Pace, Readers, closed, open},
    seen::{Seen, Times, median},
};
use crate::{
    client::refusal::Refusal,
    serve::rpc::{
        client::Ask,
        raw::{self, GENERATE},
    },
};
use clap::{Args, ValueEnum};
use hyper::body::Bytes;
use std::{
    collections::BTreeMap,
    future::Future,
    io::Write,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// The share of the peak at which a server should be calm.
const CALM: f64 = 0.8;
/// How long the first requests are not counted: a model that has answered nothing yet knows no rates.
const WARM_UP: Duration = Duration::from_secs(3);
/// Of a second's requests, those that may be slower than 99 % were before it: where nothing has changed a hundredth is, but a machine that stands still
/// for a fifth of a second makes a fifth of a second's slow.
const SLOW_SHARE: f64 = 0.25;
/// The reason of a generation in which no candidate was a list: it says something of the model, and took the server as long as any.
pub const NO_LIST: &str = "NO_VALID_LIST";
/// As many readers as there are numbers: nobody comes twice.
const READERS: u64 = u64::MAX;

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct OverloadArgs {
    /// How many times the peak is asked for
    #[arg(long, default_value_t = 10.0)]
    pub times: f64,
    /// For how long, in seconds
    #[arg(long, default_value_t = 60.0)]
    pub overload_s: f64,
    /// How many times peak, 80 % of it, overload and 80 % again are measured, of which the medians count
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// How long each number of clients seeks the peak, and how long 80 % of it are asked for before and after, in seconds
    #[arg(long, default_value_t = 20.0)]
    pub calm_s: f64,
    /// How requests of the load follow one another
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    pub arrivals: Arrivals,
    /// Most requests under way at the same time while the peak is sought
    #[arg(long, default_value_t = 32)]
    pub clients: u64,
    /// Longest wait for the model, in milliseconds, instead of engine.queue_wait_max_ms: by default as long as requests that come at random at 80 % of
    /// the peak may wait for each other, and no longer, for whoever waits when an overload begins is answered all the same
    #[arg(long, default_value_t = 1000)]
    pub queue_wait_ms: u64,
    /// Candidates per request
    #[arg(long, default_value_t = 8)]
    pub n: u32,
    /// Signals per reader
    #[arg(long, default_value_t = 12)]
    pub signals: u64,
    /// How long a request may take, in milliseconds
    #[arg(long, default_value_t = 30_000)]
    pub timeout_ms: u64,
    /// Connections
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// The server.
    #[command(flatten)]
    pub house: HouseArgs,
}

impl OverloadArgs {
    fn check(&self) -> Result<(), CommandError> {
        let in_range = |value: f64, most: f64| value > 0.0 && value <= most;
        let times = in_range(self.overload_s, 86_400.0) && in_range(self.calm_s, 86_400.0);
        if times
            && in_range(self.times, 1000.0)
            && self.rounds > 0
            && self.clients > 0
            && self.connections > 0
            && self.signals > 0
        {
            return Ok(());
        }
        let usage = "times must be above 0 and at most 1000, seconds above 0 and at most 86400; rounds, clients, connections and signals at least 1";
        Err(CommandError::Usage(usage.to_owned()))
    }
}

/// Measures and reports.
///
/// # Errors
/// If the server cannot start, or nothing is answered.
pub async fn overload(args: &OverloadArgs, json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    args.check()?;
    let mut settings = args.house.settings()?;
    settings.engine.queue_wait_max = Duration::from_millis(args.queue_wait_ms);
    let house = args.house.open(settings).await?;
    let timeout = Duration::from_millis(args.timeout_ms);
    let readers = Readers { n_readers: READERS, n_signals: args.signals, n_candidates: args.n, timeout };
    let asking = Asking::new(Lines::to(house.grpc, args.connections).await?, readers);
    let calm = Duration::from_secs_f64(args.calm_s);
    let (n_clients, _) = asking.busiest(&house, args.clients, calm).await?;
    // Every phase has its own, and each run the same.
    let mut seed = 0;
    let mut pace = |per_second, time| {
        seed += 1;
        Pace { arrivals: args.arrivals, seed, ..Pace::during(per_second, time) }
    };
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let peak = asking.per_second(&house, n_clients, calm).await?;
        let before = asking.open(pace(CALM * peak, calm)).await?;
        let overloaded = Duration::from_secs_f64(args.overload_s);
        // One right after the other, whatever of the first is still under way.
        let (load, later) = (pace(args.times * peak, overloaded), pace(CALM * peak, calm));
        let (over, after) = tokio::join!(asking.open(load), async {
            tokio::time::sleep(overloaded).await;
            asking.open(later).await
        });
        rounds.push(Round::of(args, peak, [before, over?, after?])?);
    }
    drop(asking);
    house.close().await?;
    Found(rounds).report(args, json, out)
}

/// Sends requests of readers of whom none comes twice.
#[derive(Debug)]
pub struct Asking {
    lines: Lines,
    readers: Readers,
    /// The first reader of the next phase.
    next: AtomicU64,
}

/// Requests of one phase, in the order of their ends.
type Phase = Vec<Ended<Result<Bytes, Refusal>>>;

/// A request under way.
type Calling = Pin<Box<dyn Future<Output = Result<Bytes, Refusal>> + Send>>;

/// Readers that a phase has for itself: more than ask in it, and few enough that their numbers do not make prompts long.
const PHASE_READERS: u64 = 10_000_000;

impl Asking {
    /// By these connections.
    pub fn new(lines: Lines, readers: Readers) -> Self {
        Self { lines, readers, next: AtomicU64::new(0) }
    }

    /// How many clients that each wait for the answer before are given the most answers per second, and how many those are: of one, two, four and so
    /// on up to so many, each number for a while. Too few leave the machine idle, and with too many the server refuses some, who come back later
    /// than they could.
    ///
    /// # Errors
    /// If nothing is answered.
    pub async fn busiest(
        &self,
        house: &House,
        clients_max: u64,
        time: Duration,
    ) -> Result<(u64, f64), CommandError> {
        closed(1, WARM_UP.min(time), self.call()).await?;
        house.quiet().await?;
        let mut busiest = (1, 0.0_f64);
        for n_clients in (0..).map(|doublings| 1 << doublings).take_while(|&n| n <= clients_max) {
            let per_second = self.per_second(house, n_clients, time).await?;
            if per_second > busiest.1 {
                busiest = (n_clients, per_second);
            }
        }
        Ok(busiest)
    }

    async fn per_second(&self, house: &House, n_clients: u64, time: Duration) -> Result<f64, CommandError> {
        let begun = Instant::now();
        let seen = closed(n_clients, time, self.call()).await?.answered_any()?;
        // To the last answer: those that end after the time were begun within it.
        let took = begun.elapsed();
        house.quiet().await?;
        #[allow(clippy::cast_precision_loss, reason = "a load has far fewer than 2^52 requests")]
        let n_answered = seen.answered.n() as f64;
        Ok(n_answered / took.as_secs_f64())
    }

    /// Requests at their times.
    ///
    /// # Errors
    /// If a task panics.
    pub async fn open(&self, pace: Pace) -> Result<Phase, CommandError> {
        let (mut phase, never) = (Vec::new(), CancellationToken::new());
        open(pace, &never, self.call(), |ended| phase.push(ended)).await?;
        Ok(phase)
    }

    /// The request with a number in a phase that begins now.
    pub fn phase(&self) -> impl Fn(u64) -> Ask + Clone + Send + 'static {
        let (readers, first) = (self.readers, self.next.fetch_add(PHASE_READERS, Ordering::Relaxed));
        move |number| readers.ask(first + number)
    }

    fn call(&self) -> impl Fn(u64) -> Calling + Clone + Send + 'static {
        let (lines, phase) = (self.lines.clone(), self.phase());
        move |number| {
            let (line, ask) = (lines.of(number), phase(number));
            Box::pin(async move {
                match line.call(GENERATE, raw::message(&ask), Some(ask.timeout)).await {
                    Err(refusal) if refusal.reason != NO_LIST => Err(refusal),
                    // Whoever has it only counts it.
                    Ok(_) | Err(_) => Ok(Bytes::new()),
                }
            })
        }
    }
}

/// All requests of a phase.
///
/// # Errors
/// As `Seen::new`.
pub fn seen(phase: &Phase) -> Result<Seen, CommandError> {
    let mut seen = Seen::new()?;
    phase.iter().for_each(|ended| seen.add(&ended.outcome, ended.took));
    Ok(seen)
}

/// When the last second ended in which somebody was refused, or more than `SLOW_SHARE` were slower than 99 % of those before were.
///
/// The slowest of those before would be no measure: of two phases that are alike either has the slowest.
fn back(after: &Phase, p99_ms: f64) -> Duration {
    let mut seconds = BTreeMap::<u64, [u32; 3]>::new();
    for Ended { due, took, outcome, .. } in after {
        let [n, n_slow, n_refused] = seconds.entry(due.as_secs()).or_default();
        *n += 1;
        *n_slow += u32::from(1000.0 * took.as_secs_f64() > p99_ms);
        *n_refused += u32::from(outcome.is_err());
    }
    let is_strange =
        |[n, n_slow, n_refused]: [u32; 3]| n_refused > 0 || f64::from(n_slow) > SLOW_SHARE * f64::from(n);
    let strange = seconds.iter().filter(|&(_, &second)| is_strange(second)).map(|(second, _)| second + 1);
    Duration::from_secs(strange.max().unwrap_or_default())
}

/// What was found in a round.
struct Round {
    peak: f64,
    goodput: f64,
    before: Seen,
    over: Seen,
    /// Refusals of the overload that come from it, and not from the requests.
    shed: Times,
    back: Duration,
}

impl Round {
    fn of(args: &OverloadArgs, peak: f64, [before, over, after]: [Phase; 3]) -> Result<Self, CommandError> {
        let overloaded = Duration::from_secs_f64(args.overload_s);
        let in_it = over.iter().filter(|ended| ended.outcome.is_ok() && ended.due + ended.took <= overloaded);
        #[allow(clippy::cast_precision_loss, reason = "a load has far fewer than 2^52 requests")]
        let goodput = in_it.count() as f64 / args.overload_s;
        let mut shed = Times::new()?;
        over.iter().filter(|ended| ended.outcome.is_err()).for_each(|ended| shed.add(ended.took));
        let (before, over) = (seen(&before)?.answered_any()?, seen(&over)?.answered_any()?);
        let back = back(&after, before.answered.ms(99.0));
        Ok(Self { peak, goodput, before, over, shed, back })
    }

    fn share_refused_before(&self) -> f64 {
        let Seen { answered, refused, .. } = &self.before;
        #[allow(clippy::cast_precision_loss, reason = "a load has far fewer than 2^52 requests")]
        let share = refused.n() as f64 / (answered.n() + refused.n()) as f64;
        share
    }

    fn share_retry(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a load has far fewer than 2^52 requests")]
        let share = self.over.n_retry as f64 / self.over.refused.n() as f64;
        share
    }

    fn json(&self) -> serde_json::Value {
        let of = |seen: &Seen| {
            serde_json::json!({
                "answered": seen.answered.n(), "latency_ms": seen.answered.percentiles(),
                "refused": seen.refused.n(), "refusal_ms": seen.refused.percentiles(),
                "reasons": seen.reasons,
            })
        };
        serde_json::json!({
            "peak_per_s": self.peak, "goodput_per_s": self.goodput, "back_s": self.back.as_secs(),
            "calm": of(&self.before), "overload": of(&self.over),
        })
    }

    fn print(&self, out: &mut dyn Write) -> Result<(), CommandError> {
        let Self { peak, goodput, back, .. } = self;
        let share = goodput / peak;
        writeln!(
            out,
            "peak {peak:.1} answers per second, in overload {goodput:.1} ({share:.2}), as before after {} s",
            back.as_secs()
        )?;
        for (name, seen) in [("80 %", &self.before), ("overload", &self.over)] {
            let (answered, refused) = (&seen.answered, &seen.refused);
            writeln!(
                out,
                "  {name:<9} {} answered, p50 {:.0} ms, p99 {:.0} ms; {} refused, p50 {:.1} ms, p99 {:.1} ms",
                answered.n(),
                answered.ms(50.0),
                answered.ms(99.0),
                refused.n(),
                refused.ms(50.0),
                refused.ms(99.0)
            )?;
            for (reason, n) in &seen.reasons {
                writeln!(out, "    {reason:<36} {n}")?;
            }
        }
        Ok(())
    }
}

/// All rounds.
struct Found(Vec<Round>);

impl Found {
    fn bars(&self) -> Bars {
        let of = |figure: fn(&Round) -> f64| median(self.0.iter().map(figure).collect());
        let p99 = of(|round| round.over.answered.ms(99.0) / round.before.answered.ms(99.0));
        Bars(vec![
            Bar::at_least("answers per second, to the peak", of(|round| round.goodput / round.peak), 0.9),
            Bar::at_most("p99 of answers, to that at 80 % of the peak", p99, 2.0),
            // A server that refuses then is not calm, and nothing can be held against it.
            Bar::at_most("share of refusals at 80 % of the peak", of(Round::share_refused_before), 0.01),
            Bar::at_most("p99 of refusals, ms", of(|round| round.shed.ms(99.0)), 10.0),
            Bar::at_least("share of refusals that say when to come again", of(Round::share_retry), 1.0),
            Bar::at_most("s until all is as at 80 % before", of(|round| round.back.as_secs_f64()), 5.0),
        ])
    }

    fn report(&self, args: &OverloadArgs, json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
        let OverloadArgs { n, times, overload_s, queue_wait_ms, arrivals, .. } = args;
        if json {
            let rounds: serde_json::Value = self.0.iter().map(Round::json).collect();
            let arrivals = arrivals.to_possible_value().map(|value| value.get_name().to_owned());
            let report = serde_json::json!({
                "candidates": n, "queue_wait_ms": queue_wait_ms, "times": times, "overload_s": overload_s,
                "arrivals": arrivals,
                "rounds": rounds, "bars": self.bars().json(),
            });
            return Ok(writeln!(out, "{report}")?);
        }
        writeln!(
            out,
            "answers of {n} candidates; {times} times the peak for {overload_s} s, with waits up to {queue_wait_ms} ms, arrivals {arrivals:?}"
        )?;
        for round in &self.0 {
            round.print(out)?;
        }
        Ok(write!(out, "medians of {}:\n{}", self.0.len(), self.bars())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(due_s: u64, took_ms: u64, is_ok: bool) -> Ended<Result<Bytes, Refusal>> {
        let refusal = Refusal::new(crate::client::Code::ResourceExhausted, "");
        let outcome = if is_ok { Ok(Bytes::new()) } else { Err(refusal) };
        let (due, took) = (Duration::from_secs(due_s), Duration::from_millis(took_ms));
        Ended { number: 0, due, took, outcome }
    }

    #[test]
    fn goodput_is_what_was_answered_meanwhile_and_normal_is_no_slower_than_before() {
        let args = ["overload", "--overload-s", "10"];
        let args = <Line as clap::Parser>::parse_from(args).args;
        let before = vec![ended(0, 100, true), ended(1, 300, true)];
        let over = vec![ended(1, 200, true), ended(9, 900, true), ended(9, 1100, true), ended(2, 1, false)];
        let after = vec![ended(0, 5, false), ended(3, 310, true), ended(4, 290, true)];
        let round = Round::of(&args, 0.2, [before, over, after]).unwrap();
        assert!((round.goodput - 0.2).abs() < 1e-9, "{}", round.goodput);
        assert_eq!(round.back, Duration::from_secs(4));
        let met: Vec<bool> = Found(vec![round])
            .bars()
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|bar| bar["met"] == true)
            .collect();
        assert_eq!(met, [true, false, true, true, false, true]);
    }

    #[test]
    fn all_is_as_before_after_the_last_second_with_a_refusal_or_many_slow_ones() {
        let second = |due_s, n, n_slow| {
            (0..n).map(move |number| ended(due_s, if number < n_slow { 101 } else { 99 }, true))
        };
        let after =
            |third: Vec<_>| back(&second(0, 20, 20).chain(second(1, 20, 5)).chain(third).collect(), 100.0);
        assert_eq!(after(vec![]), Duration::from_secs(1));
        assert_eq!(after(second(2, 20, 6).collect()), Duration::from_secs(3));
        assert_eq!(after(vec![ended(2, 1, false)]), Duration::from_secs(3));
        assert_eq!(back(&vec![], 100.0), Duration::ZERO);
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: OverloadArgs,
    }
}
