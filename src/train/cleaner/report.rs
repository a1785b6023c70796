//! What a cleaner is worth: right and wrong verdicts, what readers' lists find with and without it, and its cost.
//!
//! Signals are judged as before training and serving ([`Reader::clean`]), and lists are those of evaluation. A second person on the
//! account writes like anybody, so that a cleaner of single signals keeps what they write: how much that costs is told by leaving it out
//! by the world's own tags, and how far the rest of an account tells the two apart by the share of its other signals that are
//! about the same (`alike`).
mod second_person;

use super::{LABELS, judged};
use crate::{
    cleaner::{Cleaner, Verdict},
    signals::Stream,
    train::{
        error::TrainError,
        evaluate::{
            self,
            unaided::{Shows, UNAIDED},
            ways::{Platform, Way},
        },
        events::{Reader, Split, World},
        gates::{
            MUCH_NOISE,
            gate::{Bound, Gate, Table},
            noise_share,
        },
        ranking,
        retrieval::RECALL_K,
        statistics::{Estimate, bootstrap, bootstrap_ratio},
    },
    world::known::{Known, Tag},
};
use rayon::prelude::*;
use second_person::SecondPerson;
use serde::Serialize;
use std::{fmt, time::Instant};

/// Signals whose verdicts are timed.
const TIMED: usize = 20_000;
/// Signals of a busy reader: what is judged in one call.
const SIGNALS_PER_CALL: usize = 64;
/// Signals that one core must judge in a second: a cleaner in front of every prompt must cost less than the prompt.
const SIGNALS_PER_S_MIN: f64 = 10_000.0;
/// What a list must find for noisy readers, next to one that was made of all signals.
const GAIN_MIN: f64 = 1.05;
/// The ways that are compared with and without cleaning.
const COMPARED: [Way; 2] = [Way::Copy, Way::Judge];
const SEED: u64 = 1;

/// Verdicts of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct OfVerdict {
    /// The verdict's word.
    pub verdict: &'static str,
    /// Of the signals judged so, how many are.
    pub precision: f64,
    /// Of the signals that are so, how many are judged so.
    pub recall: f64,
    /// Signals that are so.
    pub n: usize,
}

/// Recall@10 of one way with and without cleaning.
#[derive(Clone, Debug, Serialize)]
pub struct Gain {
    /// What finds articles.
    pub way: String,
    /// Whether only readers with much noise are asked.
    pub noisy: bool,
    /// Readers.
    pub n_users: usize,
    /// With all signals.
    pub without: Estimate,
    /// With those that the cleaner keeps.
    pub with: Estimate,
    /// The second divided by the first.
    pub ratio: Estimate,
    /// With those that the cleaner keeps, and without the second person.
    pub alone: Estimate,
}

/// What a cleaner's training and measurement say.
#[derive(Clone, Debug, Serialize)]
pub struct CleanerReport {
    /// World, as it tells itself.
    pub world: String,
    /// Mean loss at the end of training, nats.
    pub loss: f64,
    /// By verdict, searches and pages of validation readers; empty where no truth is known.
    pub verdicts: Vec<OfVerdict>,
    /// What lists find on validation readers.
    pub gains: Vec<Gain>,
    /// What becomes of signals of the second person on an account, where there is a truth.
    pub second_person: Option<SecondPerson>,
    /// Microseconds per signal, rules and classifier, on one thread.
    pub cost_us: f64,
    /// What must hold of a cleaner, as far as it is known.
    pub gates: Vec<Gate>,
}

/// Measures a cleaner on validation readers.
pub(super) fn measure(
    world: &World,
    known: Option<&Known>,
    cleaner: &Cleaner,
    loss: f64,
) -> Result<CleanerReport, TrainError> {
    let cost_us = cost_us(world, cleaner)?;
    let mut report = CleanerReport {
        world: world.title(),
        loss,
        verdicts: Vec::new(),
        gains: Vec::new(),
        second_person: None,
        cost_us,
        gates: Vec::new(),
    };
    if let Some(known) = known {
        let readers: Vec<&Reader> =
            world.readers.iter().filter(|reader| reader.split == Split::Valid).collect();
        let cleaned = readers.par_iter().map(|reader| {
            let mut reader = (*reader).clone();
            reader.clean(cleaner)?;
            Ok(reader)
        });
        let cleaned = cleaned.collect::<Result<Vec<Reader>, TrainError>>()?;
        let platform = Platform::of(world, evaluate::popular(world), None, None)?;
        report.verdicts = right_and_wrong(&cleaned, known);
        report.gains = gains(&platform, (&readers, &cleaned), known)?;
        report.second_person = Some(SecondPerson::of(&platform, &cleaned, known));
    }
    report.gates = gates(&report);
    Ok(report)
}

#[allow(clippy::cast_precision_loss, reason = "counts of signals")]
fn right_and_wrong(cleaned: &[Reader], known: &Known) -> Vec<OfVerdict> {
    let judged: Vec<(Verdict, Verdict)> = cleaned
        .iter()
        .flat_map(|reader| judged(reader, known).map(|(event, truth)| (truth, event.verdict)))
        .collect();
    let count = |is: &dyn Fn(Verdict, Verdict) -> bool| {
        judged.iter().filter(|(truth, found)| is(*truth, *found)).count()
    };
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    let of = |verdict: Verdict| {
        let both = count(&|truth, found| truth == verdict && found == verdict);
        let n = count(&|truth, _| truth == verdict);
        let n_found = count(&|_, found| found == verdict);
        OfVerdict { verdict: verdict.word(), precision: share(both, n_found), recall: share(both, n), n }
    };
    LABELS.map(of).to_vec()
}

/// What one way finds for a reader: with all signals, with those that are kept, and without the second person too.
struct Found {
    noise: f64,
    without: f64,
    with: f64,
    alone: f64,
}

/// Recall@10 of copied signals and of the judge's own list, of all readers and of those with much noise.
fn gains(
    platform: &Platform<'_>,
    (readers, cleaned): (&[&Reader], &[Reader]),
    known: &Known,
) -> Result<Vec<Gain>, TrainError> {
    let of_way = |(way, shows): &(Way, Shows)| {
        let find = |reader: &Reader| -> Result<f64, TrainError> {
            let clicked = ranking::alike(reader.held_out.iter().copied());
            Ok(ranking::recall(&shows(platform, reader)?.ranking, &clicked, RECALL_K))
        };
        let of_reader = |(reader, cleaned): (&&Reader, &Reader)| {
            let tags = known.tags(&reader.key);
            let own = cleaned.events.iter().zip(tags).filter(|(_, tag)| **tag != Tag::Household);
            let alone = Reader { events: own.map(|(event, _)| event.clone()).collect(), ..cleaned.clone() };
            let noise = noise_share(tags);
            Ok(Found { noise, without: find(reader)?, with: find(cleaned)?, alone: find(&alone)? })
        };
        let asked = readers.par_iter().zip(cleaned).filter(|(reader, _)| !reader.held_out.is_empty());
        let found = asked.map(of_reader).collect::<Result<Vec<Found>, TrainError>>()?;
        Ok([(false, 0.0), (true, MUCH_NOISE)].map(|(noisy, least)| gain(&way.name(0), noisy, least, &found)))
    };
    let compared = UNAIDED.iter().filter(|(way, _)| COMPARED.contains(way));
    Ok(compared.map(of_way).collect::<Result<Vec<_>, TrainError>>()?.concat())
}

fn gain(way: &str, noisy: bool, noise_min: f64, found: &[Found]) -> Gain {
    let column = |value: fn(&Found) -> f64| -> Vec<f64> {
        found.iter().filter(|found| found.noise >= noise_min).map(value).collect()
    };
    let (without, with) = (column(|found| found.without), column(|found| found.with));
    Gain {
        way: way.to_owned(),
        noisy,
        n_users: with.len(),
        ratio: bootstrap_ratio(&with, &without, SEED),
        without: bootstrap(&without, SEED),
        with: bootstrap(&with, SEED),
        alone: bootstrap(&column(|found| found.alone), SEED),
    }
}

/// Five copied signals find too little to tell; so the judge's list is asked.
fn gates(report: &CleanerReport) -> Vec<Gate> {
    let per_s = 1e6 / report.cost_us;
    let speed = Estimate { mean: per_s, low: per_s, high: per_s };
    let noisy = report.gains.iter().find(|gain| gain.noisy && gain.way == Way::Judge.name(0));
    let gain = noisy.map(|gain| {
        Gate::of("noisy readers: judge's list cleaned / of all signals", gain.ratio, Bound::AtLeast(GAIN_MIN))
    });
    let speed = Gate::of("signals per second and core", speed, Bound::AtLeast(SIGNALS_PER_S_MIN));
    gain.into_iter().chain([speed]).collect()
}

#[allow(clippy::cast_precision_loss, reason = "counts of signals")]
fn cost_us(world: &World, cleaner: &Cleaner) -> Result<f64, TrainError> {
    let events = world.readers.iter().flat_map(|reader| &reader.events);
    let texts: Vec<(Stream, &str)> = events
        .filter(|event| event.stream != Stream::Click)
        .map(|event| (event.stream, event.text.as_str()))
        .take(TIMED)
        .collect();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .map_err(|error| TrainError::Settings { reason: error.to_string() })?;
    let started = Instant::now();
    pool.install(|| {
        let mut calls = texts.chunks(SIGNALS_PER_CALL);
        calls.try_for_each(|chunk| cleaner.verdicts(chunk.iter().copied()).map(|_| ()))
    })?;
    Ok(started.elapsed().as_secs_f64() * 1e6 / texts.len().max(1) as f64)
}

impl fmt::Display for CleanerReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { world, loss, cost_us, .. } = self;
        writeln!(out, "{world}. Loss {loss:.4}; {cost_us:.1} microseconds per signal on one thread.\n")?;
        if !self.verdicts.is_empty() {
            writeln!(out, "| verdict | signals | precision | recall |\n|---|---|---|---|")?;
            for OfVerdict { verdict, n, precision, recall } in &self.verdicts {
                writeln!(out, "| {verdict} | {n} | {precision:.4} | {recall:.4} |")?;
            }
            writeln!(
                out,
                "\n| Recall@10 | readers | all signals | cleaned | ratio | 95 % interval | without the second person too |\n\
                 |---|---|---|---|---|---|---|"
            )?;
        }
        for Gain { way, noisy, n_users, without, with, ratio: Estimate { mean, low, high }, alone } in
            &self.gains
        {
            let who = if *noisy { "much noise" } else { "all readers" };
            let (without, with, alone) = (without.mean, with.mean, alone.mean);
            writeln!(
                out,
                "| {way}, {who} | {n_users} | {without:.4} | {with:.4} | {mean:.3} | [{low:.3}, {high:.3}] | {alone:.4} |"
            )?;
        }
        if let Some(found) = &self.second_person {
            writeln!(out, "\n{found}")?;
        }
        write!(out, "\n{}", Table(&self.gates))
    }
}
