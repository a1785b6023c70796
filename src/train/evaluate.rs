//! Figures of a bundle: what its lists find for readers whose clicks nothing was trained on, against popularity and copying the signals.
use super::{
    error::TrainError,
    events::{Reader, Scope, Split, World},
    journal::progress_bar,
    order::Order,
    ranking::{self, Grades},
    retrieval::{RANKING_LENGTH, Retrieval},
    rewards::mean,
    rollout::{Sample, Sampled},
    statistics::{Estimate, bootstrap},
};
use crate::{
    bundle::load::{self, BundleSource},
    model::reward_head::{ListFeatures, RewardHead},
    signals::UserSignals,
    text::prompt,
};
use candle_core::{DType, Device};
use rayon::prelude::*;
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write, path::Path, sync::Arc};

/// Signals that the copying baseline takes as queries.
const COPIED_SIGNALS: usize = 5;
/// Popularity counts the clicks of this long before the cutoff.
const POPULARITY_WINDOW_S: i64 = 24 * 3600;

/// What is evaluated and how.
#[derive(Clone, Copy, Debug)]
pub struct EvaluateSettings {
    /// Which readers: those of validation for choices between runs, those of the test for final figures.
    pub split: Split,
    /// Most readers; those without signals or held-out clicks do not count.
    pub n_users: usize,
    /// Lists per reader.
    pub n_lists: usize,
    /// Seed of the choice of readers, of sampling and of the bootstrap.
    pub seed: u64,
}

/// Recall@10 of one way to serve.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The way.
    pub name: String,
    /// Mean over readers with its interval.
    pub recall: Estimate,
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// World, as it tells itself.
    pub world: String,
    /// Bundle id.
    pub bundle: String,
    /// Which readers.
    pub split: Split,
    /// Readers evaluated.
    pub n_users: usize,
    /// Lists sampled per reader.
    pub n_lists: usize,
    /// Share of sampled lists that are valid, readers resampled.
    pub validity: Estimate,
    /// Lists that are not valid, by reason.
    pub invalid: BTreeMap<&'static str, usize>,
    /// One per way to serve.
    pub rows: Vec<Row>,
    /// Paired differences.
    pub differences: Vec<Row>,
}

/// A reader ready to be asked.
struct Question<'a> {
    reader: &'a Reader,
    signals: UserSignals,
    clicked: Grades<usize>,
}

/// Evaluates a bundle on a world's held-out readers at the cutoff.
/// # Errors
/// If world or bundle cannot be read, or sampling fails.
pub fn run(world_at: &Path, bundle_at: &Path, settings: EvaluateSettings) -> Result<Evaluation, TrainError> {
    let world = World::read(world_at, Scope::Evaluation)?;
    let bundle = load::load(BundleSource::Dir(bundle_at), DType::F32, &Device::Cpu)?;
    let prompt_tokens_max = bundle.manifest.prompt_tokens_max;
    let student = Sampled { model: Arc::new(bundle.model), tokens: bundle.tokens };
    // A platform's index holds what can be read today.
    let retrieval = Retrieval::of(&world.articles, |article| article.is_alive_at(world.cutoff_unix_s))?;
    let questions = questions(&world, settings);
    if questions.is_empty() {
        return Err(TrainError::TooLittleData {
            reason: "no reader of the split has signals and held-out clicks".to_owned(),
        });
    }
    let prompts: Vec<Vec<u32>> = questions
        .iter()
        .map(|question| prompt::build(&question.signals, &student.tokens, prompt_tokens_max).ids)
        .collect();
    let bar = progress_bar("eval", (prompts.len() * settings.n_lists) as u64);
    let samples = student.lists(&prompts, settings.n_lists, settings.seed, &|| bar.inc(1))?;
    bar.finish();
    let popular = popular(&world);
    let outcomes: Vec<Outcome> = questions
        .par_iter()
        .zip(&samples)
        .map(|(question, samples)| {
            let context =
                Context { retrieval: &retrieval, cutoff: world.cutoff_unix_s, head: bundle.head.as_ref() };
            context.outcome(question, samples, &popular)
        })
        .collect::<Result<_, _>>()?;
    Ok(Evaluation {
        world: world.name.clone(),
        bundle: bundle.id.0,
        split: settings.split,
        n_users: questions.len(),
        n_lists: settings.n_lists,
        validity: bootstrap(&column(&outcomes, |outcome| outcome.valid), settings.seed),
        invalid: invalid(&samples),
        rows: rows(&outcomes, settings),
        differences: differences(&outcomes, settings),
    })
}

/// Readers of the split in a seeded order, as many as asked for.
fn questions(world: &World, settings: EvaluateSettings) -> Vec<Question<'_>> {
    let able: Vec<&Reader> = world
        .readers
        .iter()
        .filter(|reader| reader.split == settings.split && !reader.held_out.is_empty())
        .collect();
    let order = Order::new(settings.seed, able.len()).items(0, able.len());
    let question = |idx: usize| {
        let reader = *able.get(idx)?;
        let clicked = ranking::alike(reader.held_out.iter().copied());
        Some(Question { reader, signals: reader.signals_until(world.cutoff_unix_s)?, clicked })
    };
    order.into_iter().filter_map(question).take(settings.n_users).collect()
}

/// The articles that training readers clicked most in the day before the cutoff and that are still alive.
pub(super) fn popular(world: &World) -> Vec<usize> {
    let mut n_clicks = vec![0_u32; world.articles.len()];
    for reader in world.training_readers() {
        let clicks = reader.clicks_between(world.cutoff_unix_s - POPULARITY_WINDOW_S, world.cutoff_unix_s);
        clicks.filter_map(|event| event.article_idx).for_each(|idx| n_clicks[idx] += 1);
    }
    let alive = |idx: &usize| world.articles[*idx].is_alive_at(world.cutoff_unix_s);
    let mut ranked: Vec<usize> = (0..n_clicks.len()).filter(alive).collect();
    ranked.sort_by_key(|&idx| (std::cmp::Reverse(n_clicks[idx]), idx));
    ranked.truncate(RANKING_LENGTH);
    ranked
}

/// Recall@10 of every way to serve one reader.
struct Outcome {
    valid: f64,
    popularity: f64,
    copy: f64,
    first: f64,
    random: f64,
    by_logprob: f64,
    by_consensus: f64,
    by_head: Option<f64>,
    oracle: f64,
}

struct Context<'a> {
    retrieval: &'a Retrieval,
    cutoff: i64,
    head: Option<&'a RewardHead>,
}

impl Context<'_> {
    fn outcome(
        &self,
        question: &Question<'_>,
        samples: &[Sample],
        popular: &[usize],
    ) -> Result<Outcome, TrainError> {
        let recall = |found: &[usize]| ranking::recall(found, &question.clicked, RANKING_LENGTH);
        let recalls = samples
            .iter()
            .map(|sample| match sample {
                Ok((list, _)) => Ok(recall(&self.retrieval.list_ranking(list, self.cutoff)?)),
                // A reader who gets no list is shown nothing.
                Err(_) => Ok(0.0),
            })
            .collect::<Result<Vec<f64>, TrainError>>()?;
        let valid: Vec<usize> = (0..samples.len()).filter(|&idx| samples[idx].is_ok()).collect();
        let features: Vec<ListFeatures> = samples.iter().flatten().map(|(_, read)| read.clone()).collect();
        // `scores`: one per valid list. On a tie the earlier list wins: max_by would take the last.
        let best_by = |scores: &[f32]| {
            let best = (0..valid.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            best.map_or(0.0, |idx| recalls[valid[idx]])
        };
        let by_consensus: Vec<f32> =
            features.iter().map(|read| read.consensus.as_ref().map_or(0.0, |found| found.list)).collect();
        let by_logprob: Vec<f32> = features.iter().map(|read| read.mean_logprob).collect();
        let by_head = self.head.map(|head| {
            let scores: Vec<f32> = head.score(&features)?.iter().map(|scores| scores.list.mean).collect();
            Ok::<f64, TrainError>(best_by(&scores))
        });
        let newest =
            question.reader.events.iter().rev().take(COPIED_SIGNALS).map(|event| event.text.as_str());
        Ok(Outcome {
            valid: mean(samples.iter().map(|sample| f64::from(u8::from(sample.is_ok())))),
            popularity: recall(popular),
            copy: recall(&self.retrieval.ranking(newest, self.cutoff)?),
            first: recalls.first().copied().unwrap_or(0.0),
            random: mean(recalls.iter().copied()),
            by_logprob: best_by(&by_logprob),
            by_consensus: best_by(&by_consensus),
            by_head: by_head.transpose()?,
            oracle: recalls.iter().copied().fold(0.0, f64::max),
        })
    }
}

fn invalid(samples: &[Vec<Sample>]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for reason in samples.iter().flatten().filter_map(|sample| sample.as_ref().err()) {
        *counts.entry(*reason).or_default() += 1;
    }
    counts
}

fn column(outcomes: &[Outcome], value: impl Fn(&Outcome) -> f64) -> Vec<f64> {
    outcomes.iter().map(value).collect()
}

fn rows(outcomes: &[Outcome], settings: EvaluateSettings) -> Vec<Row> {
    let n = settings.n_lists;
    let row = |name: String, value: &dyn Fn(&Outcome) -> f64| Row {
        name,
        recall: bootstrap(&column(outcomes, value), settings.seed),
    };
    let mut rows = vec![
        row("popularity, last 24 h".to_owned(), &|o| o.popularity),
        row(format!("copy the last {COPIED_SIGNALS} signals"), &|o| o.copy),
        row("student, N=1".to_owned(), &|o| o.first),
        row(format!("student, random of N={n}"), &|o| o.random),
        row(format!("student, best of N={n} by log-probability"), &|o| o.by_logprob),
        row(format!("student, best of N={n} by consensus"), &|o| o.by_consensus),
    ];
    if outcomes.iter().all(|outcome| outcome.by_head.is_some()) {
        rows.push(row(format!("student, best of N={n} by head"), &|o| o.by_head.unwrap_or(0.0)));
    }
    rows.push(row(format!("student, best of N={n} by held-out clicks (upper bound)"), &|o| o.oracle));
    rows
}

fn differences(outcomes: &[Outcome], settings: EvaluateSettings) -> Vec<Row> {
    let n = settings.n_lists;
    let row = |name: String, value: &dyn Fn(&Outcome) -> f64| Row {
        name,
        recall: bootstrap(&column(outcomes, value), settings.seed),
    };
    let served = |outcome: &Outcome| outcome.by_head.unwrap_or(outcome.first);
    let mut rows = vec![
        row("student N=1 - popularity".to_owned(), &|o| o.first - o.popularity),
        row("student N=1 - copy".to_owned(), &|o| o.first - o.copy),
        row(format!("best of N={n} by log-probability - N=1"), &|o| o.by_logprob - o.first),
        row(format!("best of N={n} by consensus - N=1"), &|o| o.by_consensus - o.first),
    ];
    if outcomes.iter().all(|outcome| outcome.by_head.is_some()) {
        rows.push(row(format!("best of N={n} by head - N=1"), &|o| served(o) - o.first));
        rows.push(row(format!("best of N={n} by head - by consensus"), &|o| served(o) - o.by_consensus));
        rows.push(row(format!("best of N={n} by head - random of N={n}"), &|o| served(o) - o.random));
        rows.push(row(format!("best of N={n} by head - popularity"), &|o| served(o) - o.popularity));
        rows.push(row(format!("best of N={n} by head - copy"), &|o| served(o) - o.copy));
    }
    rows
}

impl Evaluation {
    /// Returns the figures as a Markdown table.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{} ({} {} readers, synthetic), bundle {}, N={}, temperature 0.8. Intervals: 95 %, 1,000 resamples of readers.\n\n",
            self.world,
            self.n_users,
            self.split.name(),
            self.bundle,
            self.n_lists
        );
        let Estimate { mean, low, high } = self.validity;
        // Writing to a string cannot fail.
        let _ = write!(text, "Valid lists: {:.1} % [{:.1}, {:.1}]", 100.0 * mean, 100.0 * low, 100.0 * high);
        for (reason, n) in &self.invalid {
            let _ = write!(text, ", {reason} {n}");
        }
        text.push_str("\n\n");
        for (title, rows) in [("Recall@10", &self.rows), ("Paired difference", &self.differences)] {
            let _ = writeln!(text, "| {title} | mean | 95 % interval |\n|---|---|---|");
            for Row { name, recall } in rows {
                let _ = writeln!(
                    text,
                    "| {name} | {:.4} | [{:.4}, {:.4}] |",
                    recall.mean, recall.low, recall.high
                );
            }
            text.push('\n');
        }
        text
    }
}
