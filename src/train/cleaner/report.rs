//! What a cleaner is worth: right and wrong verdicts, what readers' lists find with and without it, and its cost.
use super::{LABELS, judged};
use crate::{
    cleaner::{Cleaner, Verdict},
    signals::Stream,
    train::{
        error::TrainError,
        events::{Reader, Split, World},
        gates::{MUCH_NOISE, noise_share},
        ranking,
        retrieval::{RECALL_K, Retrieval},
        rewards::{Judge, wishes::wishes},
        statistics::{Estimate, bootstrap, bootstrap_ratio},
    },
    world::known::Known,
};
use serde::Serialize;
use std::{fmt, time::Instant};

/// Signals whose verdicts are timed.
const TIMED: usize = 20_000;
/// Signals copied as queries.
const N_COPIED: usize = 5;
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
    /// What finds articles, and for whom.
    pub way: &'static str,
    /// Readers.
    pub n_users: usize,
    /// With all signals.
    pub without: Estimate,
    /// With those that the cleaner keeps.
    pub with: Estimate,
    /// The second divided by the first.
    pub ratio: Estimate,
}

/// What a cleaner's training and measurement say.
#[derive(Clone, Debug, Serialize)]
pub struct CleanerReport {
    /// World, as it tells itself.
    pub world: String,
    /// Mean loss at the end of training, nats.
    pub loss: f64,
    /// By verdict, on validation readers' searches and pages; empty where no truth is known.
    pub verdicts: Vec<OfVerdict>,
    /// What lists find on validation readers.
    pub gains: Vec<Gain>,
    /// Microseconds per signal, rules and classifier, on one thread.
    pub cost_us: f64,
}

/// Measures a cleaner on validation readers.
pub(super) fn measure(
    world: &World,
    known: Option<&Known>,
    cleaner: &Cleaner,
    loss: f64,
) -> Result<CleanerReport, TrainError> {
    let readers: Vec<&Reader> = world.readers.iter().filter(|reader| reader.split == Split::Valid).collect();
    let (verdicts, gains) = match known {
        Some(known) => (right_and_wrong(&readers, known, cleaner)?, gains(world, &readers, known, cleaner)?),
        None => (Vec::new(), Vec::new()),
    };
    Ok(CleanerReport { world: world.title(), loss, verdicts, gains, cost_us: cost_us(world, cleaner)? })
}

#[allow(clippy::cast_precision_loss, reason = "counts of signals")]
fn right_and_wrong(
    readers: &[&Reader],
    known: &Known,
    cleaner: &Cleaner,
) -> Result<Vec<OfVerdict>, TrainError> {
    let (events, truth): (Vec<_>, Vec<Verdict>) =
        readers.iter().flat_map(|reader| judged(reader, known)).unzip();
    let found = cleaner.verdicts(events.iter().map(|event| (event.stream, event.text.as_str())))?;
    let count = |is: &dyn Fn(Verdict, Verdict) -> bool| {
        truth.iter().zip(&found).filter(|(truth, found)| is(**truth, **found)).count()
    };
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    let of = |verdict: Verdict| {
        let both = count(&|truth, found| truth == verdict && found == verdict);
        let n = count(&|truth, _| truth == verdict);
        let n_found = count(&|_, found| found == verdict);
        OfVerdict { verdict: verdict.word(), precision: share(both, n_found), recall: share(both, n), n }
    };
    Ok(LABELS.map(of).to_vec())
}

/// Recall@10 of copied signals and of the judge's own list, of all readers and of those with much noise.
fn gains(
    world: &World,
    readers: &[&Reader],
    known: &Known,
    cleaner: &Cleaner,
) -> Result<Vec<Gain>, TrainError> {
    let cutoff = world.cutoff_unix_s;
    let retrieval = Retrieval::of(&world.articles, |article| article.is_alive_at(cutoff))?;
    let judge = Judge::of(world, world.training_readers(), cutoff)?;
    let find = |reader: &Reader| -> Result<[f64; 2], TrainError> {
        let clicked = ranking::alike(reader.held_out.iter().copied());
        let newest = reader.events.iter().rev().take(N_COPIED).map(|event| event.text.as_str());
        let copied = retrieval.ranking(newest, cutoff)?;
        let listed = match wishes(&judge.view(reader).interests, &judge.meaning) {
            Some(list) => retrieval.list_ranking(&list, cutoff)?,
            None => Vec::new(),
        };
        Ok([copied, listed].map(|found| ranking::recall(&found, &clicked, RECALL_K)))
    };
    let mut found: Vec<(f64, [f64; 2], [f64; 2])> = Vec::new();
    for reader in readers.iter().filter(|reader| !reader.held_out.is_empty() && !reader.events.is_empty()) {
        let cleaned = cleaned(reader, cleaner)?;
        found.push((noise_share(known.tags(&reader.key)), find(reader)?, find(&cleaned)?));
    }
    let gain = |way: &'static str, column: usize, noise_min: f64| {
        let of = found.iter().filter(|(noise, _, _)| *noise >= noise_min);
        let (without, with): (Vec<f64>, Vec<f64>) =
            of.map(|(_, without, with)| (without[column], with[column])).unzip();
        Gain {
            way,
            n_users: with.len(),
            ratio: bootstrap_ratio(&with, &without, SEED),
            without: bootstrap(&without, SEED),
            with: bootstrap(&with, SEED),
        }
    };
    Ok(vec![
        gain("copied signals, all readers", 0, 0.0),
        gain("copied signals, much noise", 0, MUCH_NOISE),
        gain("the judge's list, all readers", 1, 0.0),
        gain("the judge's list, much noise", 1, MUCH_NOISE),
    ])
}

/// A reader without the events that the cleaner takes for noise.
fn cleaned(reader: &Reader, cleaner: &Cleaner) -> Result<Reader, TrainError> {
    let verdicts = cleaner.verdicts(reader.events.iter().map(|event| (event.stream, event.text.as_str())))?;
    let kept = reader.events.iter().zip(verdicts).filter(|(_, verdict)| *verdict == Verdict::Keep);
    Ok(Reader { events: kept.map(|(event, _)| event.clone()).collect(), ..reader.clone() })
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
    // In bundles of the size that a busy reader has.
    pool.install(|| {
        texts.chunks(64).try_for_each(|chunk| cleaner.verdicts(chunk.iter().copied()).map(|_| ()))
    })?;
    Ok(started.elapsed().as_secs_f64() * 1e6 / texts.len().max(1) as f64)
}

impl fmt::Display for CleanerReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{}. Loss {:.4}; {:.1} microseconds per signal on one thread.\n",
            self.world, self.loss, self.cost_us
        )?;
        if self.verdicts.is_empty() {
            return Ok(());
        }
        writeln!(out, "| verdict | signals | precision | recall |\n|---|---|---|---|")?;
        for row in &self.verdicts {
            writeln!(out, "| {} | {} | {:.4} | {:.4} |", row.verdict, row.n, row.precision, row.recall)?;
        }
        writeln!(
            out,
            "\n| Recall@10 | readers | all signals | cleaned | ratio | 95 % interval |\n|---|---|---|---|---|---|"
        )?;
        for gain in &self.gains {
            writeln!(
                out,
                "| {} | {} | {:.4} | {:.4} | {:.3} | [{:.3}, {:.3}] |",
                gain.way,
                gain.n_users,
                gain.without.mean,
                gain.with.mean,
                gain.ratio.mean,
                gain.ratio.low,
                gain.ratio.high
            )?;
        }
        Ok(())
    }
}
