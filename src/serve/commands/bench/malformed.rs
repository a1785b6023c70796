//! `bench malformed`: what those whose requests are right notice of those who send what is no request, in turn with and without them.
use super::{
    super::CommandError,
    bars::{Bar, Bars},
    house::{House, HouseArgs},
    load::{Lines, Pace, Readers, open},
    seen::{Seen, median},
};
use crate::{
    client::refusal::code_word,
    serve::rpc::{
        client::Ask,
        raw::{self, GENERATE},
    },
};
use clap::Args;
use hyper::body::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::{collections::BTreeMap, io::Write, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that never were a message are fewer than this.
const NOISE_BYTES_MAX: usize = 600;
/// Codes that say what is wrong with a message, or with how many there are.
const CLEAR: [&str; 6] = [
    "INVALID_ARGUMENT",
    "RESOURCE_EXHAUSTED",
    "OUT_OF_RANGE",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
];

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct MalformedArgs {
    /// Pairs of measurements, with and without malformed requests in turn; medians are reported
    #[arg(long, default_value_t = 5)]
    pub pairs: usize,
    /// How long each lasts, in seconds
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Malformed requests per second: every other one was right before something was done to its bytes, the others never were
    #[arg(long, default_value_t = 400.0)]
    pub malformed_rate: f64,
    /// Requests per second that are right
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
    /// Different readers whose requests are right; few, so that they are cache hits, which notice most
    #[arg(long, default_value_t = 16)]
    pub readers: u64,
    /// Signals per reader
    #[arg(long, default_value_t = 12)]
    pub signals: u64,
    /// Candidates per request
    #[arg(long, default_value_t = 8)]
    pub n: u32,
    /// Connections of each kind
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// The server.
    #[command(flatten)]
    pub house: HouseArgs,
}

impl MalformedArgs {
    fn check(&self) -> Result<(), CommandError> {
        let in_range = |value: f64, most: f64| value > 0.0 && value <= most;
        let rates = in_range(self.rate, 100_000.0) && in_range(self.malformed_rate, 100_000.0);
        let counts = [self.pairs, self.connections].iter().all(|&n| n > 0);
        if rates && counts && in_range(self.seconds, 3600.0) && self.readers > 0 && self.signals > 0 {
            return Ok(());
        }
        let usage = "rates must be above 0 and at most 100000, seconds above 0 and at most 3600; pairs, connections, readers and signals at least 1";
        Err(CommandError::Usage(usage.to_owned()))
    }
}

/// Measures and reports.
///
/// # Errors
/// If the server cannot start, or nothing is answered.
pub async fn malformed(args: &MalformedArgs, json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    args.check()?;
    let house = args.house.open(args.house.settings()?).await?;
    let readers =
        Readers { n_readers: args.readers, n_signals: args.signals, n_candidates: args.n, timeout: PATIENCE };
    let crowd = Crowd {
        right: Lines::to(house.grpc, args.connections).await?,
        wrong: Lines::to(house.grpc, args.connections).await?,
        readers,
        n_asked: 0,
        random: ChaCha8Rng::seed_from_u64(1),
        codes: BTreeMap::new(),
    };
    measured(args, &house, crowd, json, out).await?;
    house.close().await
}

async fn measured(
    args: &MalformedArgs,
    house: &House,
    mut crowd: Crowd,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let time = Duration::from_secs_f64(args.seconds);
    // So that what can be a cache hit is one.
    let n_stored = args.readers.min(Pace::during(args.rate, time).n_requests);
    crowd.ask(Pace { n_requests: n_stored, ..Pace::during(args.rate, time) }).await?;
    house.quiet().await?;
    let mut pairs = Vec::with_capacity(args.pairs);
    for _ in 0..args.pairs {
        let without = crowd.ask(Pace::during(args.rate, time)).await?.answered_any()?;
        let with = crowd.beside(Pace::during(args.rate, time), args.malformed_rate, time).await?;
        pairs.push((without, with.answered_any()?));
        house.quiet().await?;
    }
    report(args, &pairs, &crowd.codes, json, out)
}

/// Those who ask rightly, and those who do not.
struct Crowd {
    right: Lines,
    wrong: Lines,
    readers: Readers,
    n_asked: u64,
    random: ChaCha8Rng,
    /// What became of malformed requests.
    codes: BTreeMap<String, u64>,
}

impl Crowd {
    /// Requests that are right.
    async fn ask(&mut self, pace: Pace) -> Result<Seen, CommandError> {
        let seen = right(&self.right, self.readers, self.n_asked, pace).await;
        self.n_asked += pace.n_requests;
        seen
    }

    /// The same beside malformed ones.
    async fn beside(&mut self, pace: Pace, rate: f64, time: Duration) -> Result<Seen, CommandError> {
        let never = CancellationToken::new();
        let right = right(&self.right, self.readers, self.n_asked, pace);
        let whole = keyless(&self.readers);
        let (random, codes) = (&mut self.random, &mut self.codes);
        let call = |number| {
            let is_noise = number % 2 == 1;
            let bytes = if is_noise { noise(random) } else { mutated(whole.to_vec(), random) };
            let line = self.wrong.of(number);
            async move { line.call(GENERATE, bytes.into(), Some(PATIENCE)).await }
        };
        let wrong = open(Pace::during(rate, time), &never, call, |ended| {
            let code = ended.outcome.map_or_else(|refusal| code_word(refusal.code), |_| "OK");
            *codes.entry(code.to_owned()).or_default() += 1;
        });
        let (seen, sent) = tokio::join!(right, wrong);
        self.n_asked += pace.n_requests;
        sent?;
        seen
    }
}

async fn right(lines: &Lines, readers: Readers, first: u64, pace: Pace) -> Result<Seen, CommandError> {
    let mut seen = Seen::new()?;
    let call = |number| {
        let (line, ask) = (lines.of(number), readers.ask(first + number));
        async move { line.call(GENERATE, raw::message(&ask), Some(PATIENCE)).await }
    };
    open(pace, &CancellationToken::new(), call, |ended| seen.add(&ended.outcome, ended.took)).await?;
    Ok(seen)
}

/// A message in which all is right but for the key of the reader, which is not there: whatever is done to its bytes, the model is never asked.
fn keyless(readers: &Readers) -> Bytes {
    raw::message(&Ask { user_key: String::new(), ..readers.ask(0) })
}

/// A message to whose bytes one to four things were done.
pub fn mutated(mut bytes: Vec<u8>, random: &mut ChaCha8Rng) -> Vec<u8> {
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..bytes.len().max(1)).min(bytes.len());
        let until = (at + random.random_range(0..16)).min(bytes.len());
        match random.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.random(),
            2 => drop(bytes.drain(at..until)),
            3 => bytes.truncate(at),
            4 => {
                let again = bytes[at..until].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let more: [u8; 8] = random.random();
                bytes.splice(at..at, more);
            }
        }
    }
    bytes
}

/// Bytes that never were a message.
pub fn noise(random: &mut ChaCha8Rng) -> Vec<u8> {
    (0..random.random_range(0..NOISE_BYTES_MAX)).map(|_| random.random()).collect()
}

fn report(
    args: &MalformedArgs,
    pairs: &[(Seen, Seen)],
    codes: &BTreeMap<String, u64>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let of = |value: fn(&(Seen, Seen)) -> f64| median(pairs.iter().map(value).collect());
    let ratio = of(|(without, with)| with.answered.ms(99.0) / without.answered.ms(99.0));
    let unclear: u64 = codes.iter().filter(|(code, _)| !CLEAR.contains(&code.as_str())).map(|(_, n)| n).sum();
    let n_refused: u64 = pairs.iter().map(|(without, with)| without.refused.n() + with.refused.n()).sum();
    #[allow(clippy::cast_precision_loss, reason = "a load has far fewer than 2^52 requests")]
    let [unclear, n_refused] = [unclear, n_refused].map(|n| n as f64);
    let bars = Bars(vec![
        Bar::at_most("p99 beside malformed requests, to that without", ratio, 1.2),
        Bar::at_most("malformed requests without a clear answer", unclear, 0.0),
        Bar::at_most("requests that were right and refused", n_refused, 0.0),
    ]);
    let rows = [
        ("without", of(|pair| pair.0.answered.ms(50.0)), of(|pair| pair.0.answered.ms(99.0))),
        ("beside", of(|pair| pair.1.answered.ms(50.0)), of(|pair| pair.1.answered.ms(99.0))),
    ];
    if json {
        let sides: BTreeMap<&str, serde_json::Value> = rows
            .iter()
            .map(|&(name, p50_ms, p99_ms)| (name, serde_json::json!({ "p50_ms": p50_ms, "p99_ms": p99_ms })))
            .collect();
        let report = serde_json::json!({
            "pairs": args.pairs, "seconds": args.seconds, "rate_per_s": args.rate, "readers": args.readers,
            "malformed_per_s": args.malformed_rate, "sides": sides, "malformed": codes, "bars": bars.json(),
        });
        return Ok(writeln!(out, "{report}")?);
    }
    writeln!(
        out,
        "{} requests per second of {} readers, beside {} malformed ones; medians of {} times {} s",
        args.rate, args.readers, args.malformed_rate, args.pairs, args.seconds
    )?;
    for (name, p50_ms, p99_ms) in rows {
        writeln!(out, "  {name:<8} p50 {p50_ms:7.2} ms  p99 {p99_ms:7.2} ms")?;
    }
    for (code, n) in codes {
        writeln!(out, "  malformed {code:<20} {n}")?;
    }
    Ok(write!(out, "{bars}")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::rpc::raw::has_reader;

    /// Otherwise the model would be asked for lists, and what is measured would be a load.
    #[test]
    fn no_malformed_message_is_a_request() {
        let readers = Readers { n_readers: 1, n_signals: 3, n_candidates: 1, timeout: PATIENCE };
        let whole = keyless(&readers);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        assert!(!has_reader(&whole) && has_reader(&raw::message(&readers.ask(0))));
        let n_readers = (0..2000).filter(|_| has_reader(&mutated(whole.to_vec(), &mut random))).count();
        assert!(n_readers < 10, "{n_readers} of 2000");
    }
}
