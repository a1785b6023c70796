//! The teacher: Dr.GRPO on the five rewards, from a student that was fine-tuned before.
//!
//! A step samples a group of lists for each of some readers, by the decoder that serves; rewards them by the judge; and moves the
//! network so that lists better than the others of their group become likelier (by default: those that add to the best of four). Every step samples anew, or every so many do: checkpoints
//! fall on those, so nothing is pending in any of them and a run that is cut short goes on as if it had not been.
//! Source: Dr.GRPO, arXiv 2503.20783; the five rewards of arXiv 2602.15005.
mod credit;
mod elsewhere;
mod groups;
mod line;
mod update;

use super::{
    askers::{Asker, Asking, askers},
    checkpoint::{self, Run},
    error::TrainError,
    events::{Reader, World},
    examples::belongs_to_head,
    figures,
    fit::{self, Computed, Place, Workers},
    order::Order,
    packing::Example,
    pretrain::{ids_digest, settings_digest},
    remote::judge::HttpJudge,
    rewards::{Judge, composite::Composite},
    rollout,
    samples::Samples,
    settings::TeacherSettings,
    tokenizer,
    watch::Watch,
};
use crate::{
    bundle::manifest::sha256_hex,
    decode::batch::FinishedRow,
    model::{ops::Numerics, transformer::Transformer},
    text::tokens::Tokens,
};
use candle_core::Device;
use credit::Credit;
use elsewhere::Elsewhere;
use groups::{Rollout, Source};
use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};
use update::{Rows, Updated, update};

/// What a teacher starts from.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The fine-tuned model: a model folder or a run's folder.
    pub init: &'a Path,
    /// Lists that another engine sampled for the prompts of [`prompts`] (format: `teacher/elsewhere.rs`); None: the network that
    /// learns samples.
    pub rollouts: Option<&'a Path>,
}

/// Trains a teacher, on `device`, on the readers that the reward head is not fitted on; goes on from the newest checkpoint in `out`.
///
/// Returns the folder of the best checkpoint by validation readers, or of the last where nothing is watched.
/// # Errors
/// If the model folder is broken, there is no reader to ask, or training fails.
pub fn run(
    world: &World,
    start: Start<'_>,
    settings: &TeacherSettings,
    out: &Path,
    device: &Device,
) -> Result<PathBuf, TrainError> {
    settings.grpo.check(settings.lists_per_prompt, settings.fit.checkpoint_every)?;
    settings.rewards.check()?;
    let init = checkpoint::resolve(start.init)?;
    let (tokens, tokenizer_json) = tokenizer::read(&init)?;
    let (mut prompts, mut askers) = asked(world, &tokens, settings)?;
    let (source, rollouts) = source(start.rollouts, &tokens, settings)?;
    if let Source::Elsewhere(elsewhere) = &source {
        let n = settings.lists_per_prompt;
        (prompts, askers) =
            prompts.into_iter().zip(askers).filter(|(prompt, _)| elsewhere.has(prompt, n)).unzip();
        if askers.is_empty() {
            let reason = format!("the rollouts hold no {n} lists of any prompt that is asked");
            return Err(TrainError::TooLittleData { reason });
        }
    }
    let mut data =
        vec![sha256_hex(&tokenizer_json), checkpoint::weights_digest(&init)?, ids_digest(&prompts)];
    data.extend(world.digests());
    data.extend(rollouts.map(|text| sha256_hex(text.as_bytes())));
    data.extend(settings.rewards.rubric_digest()?);
    let digest = settings_digest(settings, &data)?;
    let lora = settings.lora.of_seed(settings.fit.seed)?;
    let mut run = checkpoint::resume_or_begin(out, (&init, lora), settings.fit.adamw(), digest, device)?;
    let judge = judge(world)?;
    let place = Place { title: "teacher", out, tokenizer_json: &tokenizer_json };
    let watching = (settings.watch, settings.prompt_tokens);
    let mut watch = match settings.watch.every {
        0 => Watch::off(),
        _ => Watch::new(world, (&judge, &tokens), watching, place, run.state.step)?,
    };
    let mut samples = Samples::open(place, run.state.step, &tokens, (&prompts, &askers))?;
    let stage = Stage {
        composite: Composite::of(world, &judge, &settings.rewards)?,
        order: Order::new(settings.fit.seed, prompts.len()),
        spare: Order::new(settings.fit.seed ^ SPARE_SEED, prompts.len()),
        prompts,
        askers,
        source,
        http_judge: (!settings.http_judge.is_none())
            .then(|| HttpJudge::open(&settings.http_judge, out).map(Mutex::new))
            .transpose()?,
        tokens: &tokens,
        settings,
        workers: Workers::new(device)?,
    };
    stage.train(&mut run, place, (&mut watch, &mut samples))?;
    watch.end(&mut run)?;
    samples.ask(&mut run)?;
    checkpoint::resolve(out)
}

/// What a teacher asks, for engines and trainers elsewhere.
#[derive(Debug)]
pub struct Asks<'a> {
    /// Ids of every prompt.
    pub prompts: Vec<Vec<u32>>,
    /// Whose prompt each is.
    pub askers: Vec<Asker<'a>>,
    /// What the ids mean.
    pub tokens: Tokens,
}

/// Says what a teacher asks of a model folder's tokenizer.
/// # Errors
/// If the folder has no tokenizer, or there is no reader to ask.
pub fn prompts<'a>(
    world: &'a World,
    init: &Path,
    settings: &TeacherSettings,
) -> Result<Asks<'a>, TrainError> {
    let (tokens, _) = tokenizer::read(&checkpoint::resolve(init)?)?;
    let (prompts, askers) = asked(world, &tokens, settings)?;
    Ok(Asks { prompts, askers, tokens })
}

/// The judge of a teacher's lists.
/// # Errors
/// If the world's articles cannot be indexed.
pub fn judge(world: &World) -> Result<Judge<'_>, TrainError> {
    Judge::of(world, others(world), world.cutoff_unix_s)
}

/// Training readers that the reward head is not fitted on.
fn others(world: &World) -> impl Iterator<Item = &Reader> {
    world.training_readers().filter(|reader| !belongs_to_head(&reader.key))
}

/// Prompts, each with its asker.
fn asked<'a>(
    world: &'a World,
    tokens: &Tokens,
    settings: &TeacherSettings,
) -> Result<(Vec<Vec<u32>>, Vec<Asker<'a>>), TrainError> {
    let asking = Asking { cuts_per_reader: settings.cuts_per_reader, prompt_tokens: settings.prompt_tokens };
    let asked = askers(world, others(world), tokens, asking);
    if asked.0.is_empty() {
        return Err(TrainError::TooLittleData { reason: "no training reader has signals".to_owned() });
    }
    Ok(asked)
}

/// Where lists come from, and the text of the file where it is one.
fn source(
    rollouts: Option<&Path>,
    tokens: &Tokens,
    settings: &TeacherSettings,
) -> Result<(Source, Option<String>), TrainError> {
    let Some(path) = rollouts else { return Ok((Source::Own, None)) };
    if settings.grpo.importance_max == 0.0 {
        let reason = "lists sampled elsewhere need grpo.importance_max; 2 is usual".to_owned();
        return Err(TrainError::Settings { reason });
    }
    let text = std::fs::read_to_string(path).map_err(TrainError::disk(path, "read"))?;
    Ok((Source::Elsewhere(Elsewhere::read(path, &text, tokens)?), Some(text)))
}

/// Readers whose groups replace others stand in an order of their own.
const SPARE_SEED: u64 = 0x5eed;

struct Stage<'a> {
    composite: Composite<'a>,
    prompts: Vec<Vec<u32>>,
    askers: Vec<Asker<'a>>,
    order: Order,
    spare: Order,
    source: Source,
    /// Asked by one thread at a time, after the groups of a step are drawn.
    http_judge: Option<Mutex<HttpJudge>>,
    tokens: &'a Tokens,
    settings: &'a TeacherSettings,
    workers: Workers,
}

/// Lists that one or more updates learn from.
struct Drawn {
    rollout: Rollout,
    rows: Vec<(Vec<u32>, FinishedRow)>,
    examples: Vec<Example>,
    advantages: Vec<Vec<f32>>,
    /// What the policy that sampled said of them; known with the first update.
    old: Option<Vec<Vec<f32>>>,
}

impl Stage<'_> {
    fn drawn_at(&self, run: &mut Run, rollout_idx: u64) -> Result<Drawn, TrainError> {
        let rollout = self.groups(run, rollout_idx)?;
        let pairs = rollout.groups.iter().flat_map(|group| {
            group.rows.iter().map(|row| (self.prompts[group.asker_idx].clone(), row.clone()))
        });
        let rows: Vec<(Vec<u32>, FinishedRow)> = pairs.collect();
        let advantages = credit::of_tokens(self.credit(), &rollout.groups)?;
        Ok(Drawn { examples: rollout::examples(&rows), rollout, rows, advantages, old: None })
    }

    fn credit(&self) -> Credit<'_> {
        let judge_weight = self.http_judge.as_ref().map(|_| self.settings.http_judge.weight);
        Credit { grpo: &self.settings.grpo, weights: &self.composite.weights, judge_weight }
    }

    fn train(
        &self,
        run: &mut Run,
        place: Place<'_>,
        (watch, samples): (&mut Watch<'_>, &mut Samples),
    ) -> Result<PathBuf, TrainError> {
        let model = Transformer::load(&run.config, &mut run.parameters, Numerics::Train)?;
        let sample_every = self.settings.fit.checkpoint_every;
        let n_updates = self.settings.grpo.updates_per_rollout;
        let mut pending: Option<Drawn> = None;
        fit::descend(run, &self.settings.fit, place, |run| {
            let step = run.state.step;
            if watch.stops(run)? {
                return Ok(None);
            }
            samples.take(run, sample_every)?;
            let mut drawn = match pending.take().filter(|_| !step.is_multiple_of(n_updates)) {
                Some(drawn) => drawn,
                None => self.drawn_at(run, step / n_updates)?,
            };
            if step.is_multiple_of(sample_every.max(1)) {
                self.extremes(step, &drawn.rollout).try_for_each(|sample| samples.add(sample))?;
            }
            let Drawn { rollout, rows, examples, advantages, old } = &drawn;
            let sampled = Rows { examples, rows, advantages, old: old.as_deref() };
            let updated = update(&self.workers, (&model, &run.parameters), self.settings, &sampled)?;
            let line = line::figures(step, &updated, rollout, rows, self.credit())?;
            let target_tokens = figures::n_tokens(rows);
            let Updated { loss, gradients, old, .. } = updated;
            drawn.old = Some(old);
            pending = Some(drawn);
            Ok(Some(Computed { loss, gradients, target_tokens, line }))
        })
    }
}
