//! `bench deadlines`: whether a server that is asked for twice what it can do keeps the times that its clients have, from a millisecond to
//! seconds, and whether it refuses what cannot be in time before the model has worked for it.
use super::{
    super::CommandError,
    bars::{Bar, Bars},
    house::{House, HouseArgs},
    load::{Ended, Lines, Pace, Readers, open},
    overload::{Asking, NO_LIST},
    seen::Times,
};
use crate::{
    client::{Code, refusal::Refusal},
    serve::rpc::raw::{self, GENERATE},
};
use clap::Args;
use hyper::body::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::{collections::BTreeMap, io::Write, time::Duration};
use tokio_util::sync::CancellationToken;

/// The shortest and the longest time that a client has, in milliseconds; those between are spread evenly over their logarithms.
const TIMEOUTS_MS: (f64, f64) = (1.0, 5000.0);
/// How much later than its deadline an answer may come: what a busy machine takes to wake two programs up.
const LATE: Duration = Duration::from_millis(20);
/// How long a request may take while the peak is sought.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is decided of the times is decided by this.
const SEED: u64 = 1;

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct DeadlinesArgs {
    /// How many times the peak is asked for
    #[arg(long, default_value_t = 2.0)]
    pub times: f64,
    /// For how long, in seconds
    #[arg(long, default_value_t = 60.0)]
    pub duration_s: f64,
    /// How long each number of clients seeks the peak, in seconds
    #[arg(long, default_value_t = 20.0)]
    pub calm_s: f64,
    /// Most requests under way at the same time while the peak is sought
    #[arg(long, default_value_t = 32)]
    pub clients: u64,
    /// Candidates per request
    #[arg(long, default_value_t = 8)]
    pub n: u32,
    /// Signals per reader
    #[arg(long, default_value_t = 12)]
    pub signals: u64,
    /// Connections
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// The server.
    #[command(flatten)]
    pub house: HouseArgs,
}

/// Measures and reports.
///
/// # Errors
/// If the server cannot start, or nothing is answered.
pub async fn deadlines(args: &DeadlinesArgs, json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    let in_range = |value: f64, most: f64| value > 0.0 && value <= most;
    let times = in_range(args.duration_s, 86_400.0) && in_range(args.calm_s, 86_400.0);
    if !times
        || !in_range(args.times, 1000.0)
        || args.clients == 0
        || args.connections == 0
        || args.signals == 0
    {
        let usage = "times must be above 0 and at most 1000, seconds above 0 and at most 86400; clients, connections and signals at least 1";
        return Err(CommandError::Usage(usage.to_owned()));
    }
    let house = args.house.open(args.house.settings()?).await?;
    let readers =
        Readers { n_readers: u64::MAX, n_signals: args.signals, n_candidates: args.n, timeout: PATIENCE };
    let lines = Lines::to(house.grpc, args.connections).await?;
    let asking = Asking::new(lines.clone(), readers);
    let (_, peak) = asking.busiest(&house, args.clients, Duration::from_secs_f64(args.calm_s)).await?;
    let before = Computed::of(&house).await?;
    let pace = Pace::during(args.times * peak, Duration::from_secs_f64(args.duration_s));
    let mut found = Found::new()?;
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let phase = asking.phase();
    let call = |number| {
        let timeout = timeout(&mut random);
        let (line, ask) = (lines.of(number), phase(number));
        async move { (timeout, line.call(GENERATE, raw::message(&ask), Some(timeout)).await) }
    };
    open(pace, &CancellationToken::new(), call, |ended| found.add(&ended)).await?;
    house.quiet().await?;
    found.computed = Computed::of(&house).await?.since(before);
    drop((asking, lines));
    house.close().await?;
    found.report(args, peak, json, out)
}

fn timeout(random: &mut ChaCha8Rng) -> Duration {
    let (least, most) = TIMEOUTS_MS;
    let ms = (least.ln() + random.random::<f64>() * (most.ln() - least.ln())).exp();
    Duration::from_secs_f64(ms / 1000.0)
}

/// Deadlines that the server says it missed, by where.
#[derive(Clone, Copy, Debug, Default)]
struct Computed {
    /// Before the model had done anything: at the door or in the queue.
    before: f64,
    /// While it worked.
    running: f64,
    /// Requests whose prompt went through the model.
    prefills: f64,
}

impl Computed {
    async fn of(house: &House) -> Result<Self, CommandError> {
        let all = house.metric("newshound_deadline_missed_total{").await?;
        let running = house.metric("newshound_deadline_missed_total{phase=\"running\"}").await?;
        let prefills = house.metric("newshound_step_duration_seconds_count{phase=\"prefill\"}").await?;
        Ok(Self { before: all - running, running, prefills })
    }

    fn since(self, other: Self) -> Self {
        Self {
            before: self.before - other.before,
            running: self.running - other.running,
            prefills: self.prefills - other.prefills,
        }
    }
}

struct Found {
    answered: Times,
    refused: Times,
    /// How late whatever came was that was late, if only by a moment.
    late: Times,
    n_too_late: u64,
    n_shed: u64,
    n_no_list: u64,
    reasons: BTreeMap<String, u64>,
    computed: Computed,
}

impl Found {
    fn new() -> Result<Self, CommandError> {
        let (n_too_late, n_shed, n_no_list, reasons, computed) = Default::default();
        let [answered, refused, late] = [Times::new()?, Times::new()?, Times::new()?];
        Ok(Self { answered, refused, late, n_too_late, n_shed, n_no_list, reasons, computed })
    }

    fn add(&mut self, ended: &Ended<(Duration, Result<Bytes, Refusal>)>) {
        let (timeout, outcome) = &ended.outcome;
        match outcome {
            Ok(_) => self.answered.add(ended.took),
            // It says something of the model, which has done all its work, and was in time.
            Err(refusal) if refusal.reason == NO_LIST => self.n_no_list += 1,
            Err(refusal) => {
                self.refused.add(ended.took);
                self.n_shed += u64::from(refusal.code == Code::ResourceExhausted);
                *self.reasons.entry(refusal.kind()).or_default() += 1;
            }
        }
        if let Some(late) = ended.took.checked_sub(*timeout) {
            self.late.add(late);
            self.n_too_late += u64::from(late > LATE);
        }
    }

    /// Of what was refused, the share for which the model had done nothing: whose prompt had gone through it and who got no answer was refused after,
    /// whatever it was that came too late.
    fn share_before(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a load has far fewer than 2^52 requests")]
        let [n_refused, n_ended] = [self.refused.n(), self.answered.n() + self.n_no_list].map(|n| n as f64);
        1.0 - (self.computed.prefills - n_ended).max(0.0) / n_refused
    }

    fn report(
        &self,
        args: &DeadlinesArgs,
        peak: f64,
        json: bool,
        out: &mut dyn Write,
    ) -> Result<(), CommandError> {
        #[allow(clippy::cast_precision_loss, reason = "a load has far fewer than 2^52 requests")]
        let n_too_late = self.n_too_late as f64;
        let bars = Bars(vec![
            Bar::at_most("outcomes later than the deadline and 20 ms", n_too_late, 0.0),
            Bar::at_least("share of refusals before the model worked for them", self.share_before(), 0.95),
        ]);
        let Self { answered, refused, late, computed, .. } = self;
        if json {
            let report = serde_json::json!({
                "candidates": args.n, "times": args.times, "duration_s": args.duration_s, "peak_per_s": peak,
                "answered": answered.n(), "latency_ms": answered.percentiles(),
                "refused": refused.n(), "reasons": self.reasons, "shed": self.n_shed,
                "late": late.n(), "late_ms": late.percentiles(),
                "missed_before_prefill": computed.before, "missed_running": computed.running,
                "prefills": computed.prefills, "no_valid_list": self.n_no_list,
                "bars": bars.json(),
            });
            return Ok(writeln!(out, "{report}")?);
        }
        writeln!(
            out,
            "peak {peak:.1} answers per second of {} candidates; {} times that for {} s, with 1 ms to 5 s of time each",
            args.n, args.times, args.duration_s
        )?;
        writeln!(
            out,
            "  {} answered, p99 {:.0} ms; {} refused",
            answered.n(),
            answered.ms(99.0),
            refused.n()
        )?;
        for (reason, n) in &self.reasons {
            writeln!(out, "    {reason:<36} {n}")?;
        }
        writeln!(
            out,
            "  deadlines missed: {} before the model worked for them, {} while it did; {} outcomes after it, p99 {:.1} ms later",
            computed.before,
            computed.running,
            late.n(),
            late.ms(99.0)
        )?;
        Ok(write!(out, "{bars}")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spread_over_all_magnitudes() {
        let mut random = ChaCha8Rng::seed_from_u64(SEED);
        let times: Vec<f64> = (0..1000).map(|_| timeout(&mut random).as_secs_f64() * 1000.0).collect();
        assert!(times.iter().all(|ms| (1.0..=5000.0).contains(ms)));
        for (from, to) in [(1.0, 10.0), (10.0, 100.0), (100.0, 1000.0), (1000.0, 5000.0)] {
            let n = times.iter().filter(|ms| (from..to).contains(*ms)).count();
            assert!(n > 100, "{n} from {from} to {to}");
        }
    }

    #[test]
    fn what_comes_late_counts_whatever_it_is() {
        let mut found = Found::new().unwrap();
        let ms = Duration::from_millis;
        let refusal = Refusal::new(Code::DeadlineExceeded, "");
        for (timeout, took, outcome) in [
            (ms(10), ms(9), Ok(Bytes::new())),
            (ms(10), ms(30), Ok(Bytes::new())),
            (ms(10), ms(31), Ok(Bytes::new())),
            (ms(1), ms(22), Err(refusal)),
        ] {
            found.add(&Ended { number: 0, due: Duration::ZERO, took, outcome: (timeout, outcome) });
        }
        assert_eq!((found.n_too_late, found.late.n(), found.answered.n(), found.refused.n()), (2, 3, 3, 1));
        let of_the_model = Refusal { reason: NO_LIST.to_owned(), ..Refusal::new(Code::NotFound, "") };
        let outcome = (ms(10), Err(of_the_model));
        found.add(&Ended { number: 0, due: Duration::ZERO, took: ms(5), outcome });
        assert_eq!(found.refused.n(), 1);
        for (prefills, share) in [(4.0, 1.0), (5.0, 0.0)] {
            found.computed.prefills = prefills;
            assert!((found.share_before() - share).abs() < 1e-9);
        }
    }
}
