//! Load: whom it is asked for, and when requests leave. The only place where that is decided.
use super::{super::CommandError, seen::Seen};
use crate::{
    client::refusal::Refusal,
    experiment::policy::Rung,
    serve::{
        experiments::enrolment::Entrant,
        rpc::{client::Ask, raw::RawClient},
    },
    signals::{SignalDraft, Stream},
};
use clap::ValueEnum;
use hyper::body::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What readers ask.
#[derive(Clone, Copy, Debug)]
pub struct Readers {
    /// Different readers; who comes after them is the first again.
    pub n_readers: u64,
    /// Signals of each.
    pub n_signals: u64,
    /// Candidates of each request.
    pub n_candidates: u32,
    /// How long a request may take.
    pub timeout: Duration,
}

impl Readers {
    /// The request with a number: words and, because words alone repeat, a number that differ by reader, so that prompts do; times that do
    /// not, so that a reader's answer can be a cache hit.
    pub fn ask(&self, number: u64) -> Ask {
        const WORDS: [&str; 8] =
            ["solar", "storm", "train", "strike", "market", "city", "council", "football"];
        let reader = number % self.n_readers;
        let word = |at: u64| {
            let position = usize::try_from(reader.wrapping_mul(31).wrapping_add(at * 7) % 8).unwrap_or(0);
            WORDS[position]
        };
        let signals = (0..self.n_signals).map(|at| SignalDraft {
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
            n_candidates: Some(self.n_candidates),
            seed: Some(reader),
            bypass_cache: false,
            all_candidates: false,
            // A load is measured with whole answers: what is refused is seen, and what falls short would not be.
            lowest_rung: Some(Rung::Full),
            entrant: Entrant::default(),
            timeout: self.timeout,
        }
    }
}

/// How fast requests leave, and how many at most.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Requests per second.
    pub per_second: f64,
    /// No more than these leave.
    pub n_requests: u64,
    /// How they follow one another.
    pub arrivals: Arrivals,
    /// What those at random are drawn from.
    pub seed: u64,
}

/// How requests follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// One after the other at equal distances.
    Even,
    /// At random, as those of readers who know nothing of each other: a Poisson process, as in the scenario Server of MLPerf Inference
    /// (Reddi et al., arXiv 1911.02549, section 4)
    Poisson,
}

impl Pace {
    /// As many requests as leave within a time.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a load has far fewer than 2^52 requests, and neither rate nor time is negative"
    )]
    pub fn during(per_second: f64, time: Duration) -> Self {
        let n_requests = (per_second * time.as_secs_f64()).ceil() as u64;
        Self { per_second, n_requests, arrivals: Arrivals::Even, seed: 0 }
    }

    /// When requests leave, from the start; at random as many as come in the time that even ones take, the same for the same seed.
    #[allow(clippy::cast_precision_loss, reason = "a load has far fewer than 2^52 requests")]
    fn due(self) -> impl Iterator<Item = Duration> {
        let (mut random, mut at_random) = (StdRng::seed_from_u64(self.seed), 0.0);
        let at = (0..).map(move |number: u64| match self.arrivals {
            Arrivals::Even => number as f64,
            Arrivals::Poisson => {
                // Gaps between them are exponential: less the logarithm of what is drawn evenly from above 0 to 1.
                at_random -= (1.0 - random.random::<f64>()).ln();
                at_random
            }
        });
        let end = self.n_requests as f64;
        at.take_while(move |&at| at < end).map(move |at| Duration::from_secs_f64(at / self.per_second))
    }
}

/// A request that has ended.
#[derive(Clone, Debug)]
pub struct Ended<T> {
    /// Its number, from 0.
    pub number: u64,
    /// When it should have left, from the start.
    pub due: Duration,
    /// How long it took from then.
    pub took: Duration,
    /// How it ended.
    pub outcome: T,
}

/// Open loop: requests leave at their times whatever becomes of those before, and their times count from then, so a server that stalls
/// cannot hide it. Returns when all have ended that left before `stop`.
///
/// # Errors
/// If a call panics.
pub async fn open<T: Send + 'static, F>(
    pace: Pace,
    stop: &CancellationToken,
    mut call: impl FnMut(u64) -> F,
    mut ended: impl FnMut(Ended<T>),
) -> Result<(), CommandError>
where
    F: Future<Output = T> + Send + 'static,
{
    let (started, mut calls) = (Instant::now(), JoinSet::new());
    for (number, due) in (0..).zip(pace.due()) {
        tokio::select! {
            // First: where the time has passed too, nothing leaves any more.
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until((started + due).into()) => {}
        }
        let calling = call(number);
        calls.spawn(async move {
            let outcome = calling.await;
            Ended { number, due, took: started.elapsed().saturating_sub(due), outcome }
        });
        while let Some(call) = calls.try_join_next() {
            ended(call.map_err(|_| CommandError::Panicked)?);
        }
    }
    while let Some(call) = calls.join_next().await {
        ended(call.map_err(|_| CommandError::Panicked)?);
    }
    Ok(())
}

/// Closed loop: so many clients each send the next request when the one before has ended, for a while; one that is refused comes again when it
/// is told to, or the refusals would take the machine from the answers. `number` counts each client's own requests from its own start,
/// `n_clients` apart, so that no two clients send the same.
///
/// # Errors
/// If a call panics.
pub async fn closed<F>(
    n_clients: u64,
    time: Duration,
    call: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Result<Seen, CommandError>
where
    F: Future<Output = Result<Bytes, Refusal>> + Send + 'static,
{
    let (until, mut clients) = (Instant::now() + time, JoinSet::new());
    for client in 0..n_clients {
        let call = call.clone();
        clients.spawn(async move {
            let mut seen = Seen::new()?;
            let mut number = client;
            while Instant::now() < until {
                let begun = Instant::now();
                let outcome = call(number).await;
                seen.add(&outcome, begun.elapsed());
                if let Some(delay) = outcome.err().and_then(|refusal| refusal.retry_after) {
                    tokio::time::sleep(delay.min(until.saturating_duration_since(Instant::now()))).await;
                }
                number += n_clients;
            }
            Ok::<Seen, CommandError>(seen)
        });
    }
    let mut all = Seen::new()?;
    while let Some(seen) = clients.join_next().await {
        all.join(seen.map_err(|_| CommandError::Panicked)??);
    }
    Ok(all)
}

/// Connections that requests take in turn.
#[derive(Clone, Debug)]
pub struct Lines(Vec<RawClient>);

impl Lines {
    /// Opens them.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn to(addr: SocketAddr, n_connections: usize) -> Result<Self, CommandError> {
        let mut lines = Vec::with_capacity(n_connections);
        for _ in 0..n_connections {
            lines.push(RawClient::connect(addr).await?);
        }
        Ok(Self(lines))
    }

    /// The one of a request.
    pub fn of(&self, number: u64) -> RawClient {
        let n_lines = self.0.len() as u64;
        self.0[usize::try_from(number % n_lines).unwrap_or(0)].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_readers_have_a_signal_in_common_and_a_reader_always_has_the_same() {
        let timeout = Duration::from_secs(1);
        let readers = Readers { n_readers: 1000, n_signals: 12, n_candidates: 8, timeout };
        let texts = |number| readers.ask(number).signals.into_iter().map(|draft| draft.text);
        let first: HashSet<String> = texts(0).collect();
        assert!((1..1000).all(|number| texts(number).all(|text| !first.contains(&text))));
        assert!(texts(1000).eq(texts(0)));
    }

    /// Of a Poisson process the mean of the gaps is that of even ones, and so is their deviation; a share of 1/e is longer.
    #[test]
    fn requests_at_random_come_as_often_and_in_gaps_of_every_length() {
        let pace = Pace { arrivals: Arrivals::Poisson, ..Pace::during(100.0, Duration::from_secs(100)) };
        let due =
            |seed| -> Vec<f64> { Pace { seed, ..pace }.due().map(|due| 100.0 * due.as_secs_f64()).collect() };
        let gaps: Vec<f64> = (0..10)
            .flat_map(|seed| due(seed).windows(2).map(|two| two[1] - two[0]).collect::<Vec<_>>())
            .collect();
        assert!((97_000..103_000).contains(&gaps.len()) && gaps.iter().all(|&gap| gap >= 0.0));
        assert!(due(0).last().unwrap() < &10_000.0, "none after the time");
        let mean = |of: &dyn Fn(f64) -> f64| gaps.iter().map(|&gap| of(gap)).sum::<f64>() / gaps.len() as f64;
        for (found, expected) in [
            (mean(&|gap| gap), 1.0),
            (mean(&|gap| (gap - 1.0).powi(2)), 1.0),
            (mean(&|gap| f64::from(u8::from(gap > 1.0))), (-1.0_f64).exp()),
        ] {
            assert!((found - expected).abs() < 0.05, "{found}, not {expected}");
        }
        assert!(due(0) == due(0) && due(0) != due(1));
    }

    #[tokio::test]
    async fn as_many_requests_leave_as_the_time_has_room_for_and_none_after_it_is_told_to_stop() {
        let pace = Pace::during(1000.0, Duration::from_millis(10));
        assert_eq!((pace.n_requests, pace.due().nth(5)), (10, Some(Duration::from_millis(5))));
        let (mut n_ended, never) = (0, CancellationToken::new());
        open(pace, &never, |_| std::future::ready(()), |_| n_ended += 1).await.unwrap();
        assert_eq!(n_ended, 10);
        let stop = CancellationToken::new();
        let mut n_ended = 0;
        let cancelling = |number| {
            if number == 2 {
                stop.cancel();
            }
            std::future::ready(())
        };
        open(pace, &stop, cancelling, |_| n_ended += 1).await.unwrap();
        assert_eq!(n_ended, 3, "those that had left have ended");
    }
}
