//! Figures of a bundle: what its lists find for readers whose clicks nothing was trained on, against popularity and copying the signals.
pub mod measures;
pub mod page;
pub mod space;
mod stopping;
pub mod table;
pub mod tier;
pub mod traits;
pub mod trec;
pub mod unaided;
pub mod ways;

use super::{
    error::TrainError,
    events::{Reader, Scope, Split, World},
    journal::progress_bar,
    order::Order,
    ranking::{self, Grades},
    retrieval::RANKING_LENGTH,
    rollout::{Sample, Sampled},
    statistics::bootstrap,
};
use crate::{
    bundle::load::{self, BundleSource},
    decode::{features::Meets, sampler::SamplerSettings},
    lexicon::meets::meets,
    model::{precision::Precision, reward_head::RewardHead},
    signals::{Stream, UserSignals},
    text::prompt,
};
use candle_core::Device;
use rayon::prelude::*;
use std::{collections::BTreeMap, path::Path, sync::Arc};
use stopping::Cut;
use table::Evaluation;
use ways::{Outcome, Platform, Way};

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
    /// Times that lists are sampled, each with the next seed; figures are means over them.
    pub n_seeds: u64,
    /// The only stream that anything reads of the readers asked; none: all three.
    pub stream: Option<Stream>,
}

/// A reader ready to be asked.
#[derive(Debug)]
pub struct Question<'a> {
    /// The reader.
    pub reader: &'a Reader,
    pub(super) signals: UserSignals,
    /// Articles held out, each with grade 1.
    pub clicked: Grades<usize>,
}

/// Where things lie.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// World folder.
    pub world: &'a Path,
    /// Bundle folder.
    pub bundle: &'a Path,
    /// Sentence-transformers folder by which vectors are compared, instead of the rewards' own.
    pub embedder: Option<&'a Path>,
    /// Where the bundle's network computes.
    pub device: &'a Device,
    /// How its numbers are held.
    pub precision: Precision,
    /// Folder for rankings and clicks, where they are wanted.
    pub trec: Option<&'a Path>,
}

/// Evaluates a bundle on a world's held-out readers at the cutoff.
/// # Errors
/// If world, bundle or embedder cannot be read, or sampling fails.
pub fn run(inputs: Inputs<'_>, settings: EvaluateSettings) -> Result<Evaluation, TrainError> {
    let mut world = World::read(inputs.world, Scope::Evaluation)?;
    if let Some(stream) = settings.stream {
        world.keep_stream(stream);
    }
    let bundle = load::load(BundleSource::At(inputs.bundle), inputs.precision, inputs.device)?;
    // As the server does it; what the student is compared with reads the same signals.
    if let Some(cleaner) = &bundle.cleaner {
        world.clean(cleaner, &[settings.split])?;
    }
    let prompt_tokens_max = bundle.manifest.prompt_tokens_max;
    let student = Sampled { model: Arc::new(bundle.model), tokens: bundle.tokens };
    let questions = questions(&world, settings);
    if questions.is_empty() {
        return Err(TrainError::TooLittleData {
            reason: "no reader of the split has signals and held-out clicks".to_owned(),
        });
    }
    let read = |question: &Question<'_>| {
        let prompt = prompt::build(&question.signals, &student.tokens, prompt_tokens_max);
        let lexicon = bundle.lexicon.as_ref();
        let meets = lexicon.map(|lexicon| meets(lexicon, prompt.shown(&question.signals), &student.tokens));
        (prompt.ids, meets)
    };
    let (prompts, meets): (Vec<Vec<u32>>, Vec<Option<Meets>>) = questions.iter().map(read).unzip();
    let head = bundle.head.map(Arc::new);
    let drawn = drawn(&student, head.as_ref(), (&prompts, &meets), settings)?;
    let platform = Platform::of(&world, popular(&world), head.as_deref(), inputs.embedder)?;
    let of_seed = |drawn: &Drawn| -> Result<Vec<Outcome>, TrainError> {
        let asked = questions.par_iter().zip(&drawn.samples).enumerate();
        asked.map(|(at, (question, samples))| platform.outcome(question, samples, &drawn.cut(at))).collect()
    };
    let by_seed: Vec<Vec<Outcome>> = drawn.iter().map(of_seed).collect::<Result<_, _>>()?;
    let seeds = table::seeds(&by_seed, settings);
    let outcomes = ways::merged(by_seed);
    if let Some(dir) = inputs.trec {
        trec::write(dir, &questions, &outcomes, &world.articles)?;
    }
    let valid: Vec<f64> = outcomes.iter().map(|outcome| outcome.valid).collect();
    Ok(Evaluation {
        world: world.title(),
        stream: settings.stream.map(Stream::word),
        bundle: bundle.id.0,
        split: settings.split,
        n_users: questions.len(),
        n_lists: settings.n_lists,
        validity: bootstrap(&valid, settings.seed),
        invalid: invalid(drawn.iter().flat_map(|drawn| &drawn.samples)),
        rows: table::rows(&outcomes, settings),
        differences: table::differences(&outcomes, settings),
        seeds,
        stopping: drawn
            .first()
            .map_or_else(Vec::new, |drawn| stopping::table(&drawn.cuts, (settings.n_lists, settings.seed))),
        // How much a reader clicked is not known where only one stream was read.
        tiers: if settings.stream.is_none() { table::tiers(&outcomes, settings) } else { Vec::new() },
        traits: traits::rows(&questions, &outcomes, &world.articles, settings),
    })
}

/// Lists of all readers under one seed.
struct Drawn {
    samples: Vec<Vec<Sample>>,
    /// What early stopping leaves of them.
    cuts: Vec<(Way, Vec<Cut>)>,
}

impl Drawn {
    /// What early stopping leaves of one reader's lists.
    fn cut(&self, reader: usize) -> Vec<(Way, &[Sample])> {
        self.cuts.iter().map(|(way, cuts)| (*way, cuts[reader].samples.as_slice())).collect()
    }
}

/// Draws lists once for every seed.
fn drawn(
    student: &Sampled,
    head: Option<&Arc<RewardHead>>,
    (prompts, meets): (&[Vec<u32>], &[Option<Meets>]),
    settings: EvaluateSettings,
) -> Result<Vec<Drawn>, TrainError> {
    let n_seeds = settings.n_seeds.max(1);
    let bar = progress_bar("eval", (prompts.len() * settings.n_lists) as u64 * n_seeds);
    let of_seed = |seed: u64| {
        let how = (seed, SamplerSettings::SERVING);
        let rows = student.rows(prompts, settings.n_lists, how, &|| bar.inc(1))?;
        let read = rows.iter().zip(meets);
        let samples = read.map(|(rows, meets)| student.samples(rows, meets.as_ref())).collect();
        Ok(Drawn { samples, cuts: stopping::cut(student, head, &rows, meets)? })
    };
    let seeds = (settings.seed..).take(usize::try_from(n_seeds).unwrap_or(usize::MAX));
    let drawn = seeds.map(of_seed).collect();
    bar.finish();
    drawn
}

/// Readers of the split in a seeded order, as many as asked for.
pub(super) fn questions(world: &World, settings: EvaluateSettings) -> Vec<Question<'_>> {
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

fn invalid<'a>(samples: impl Iterator<Item = &'a Vec<Sample>>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for reason in samples.flatten().filter_map(|sample| sample.as_ref().err()) {
        *counts.entry(*reason).or_default() += 1;
    }
    counts
}
