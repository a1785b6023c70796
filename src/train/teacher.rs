//! The teacher: Dr.GRPO on the five rewards, from a student that was fine-tuned before.
//!
//! A step samples a group of lists for each of some readers, by the decoder that serves; rewards them by the judge; and moves the
//! network so that lists better than their group's mean become likelier. Every step samples anew, so nothing is pending between steps
//! and a run that is cut short goes on as if it had not been.
//! Source: Dr.GRPO, arXiv 2503.20783; the five rewards of arXiv 2602.15005.
mod line;
mod update;

use super::{
    askers::{Asker, Asking, askers},
    checkpoint::{self, Run},
    error::TrainError,
    events::World,
    examples::belongs_to_head,
    figures,
    fit::{self, Computed, Place, Workers},
    losses::advantages::{AdvantageSettings, Scale, group_advantages, reward_metrics},
    order::Order,
    pretrain::{id_bytes, settings_digest},
    rewards::{Judge, N_REWARDS, Rewards, WEIGHTS},
    rollout::{self, Sampled},
    settings::TeacherSettings,
    tokenizer,
    watch::Watch,
};
use crate::{
    bundle::load::WEIGHTS_FILE,
    decode::{batch::FinishedRow, sampler::SamplerSettings},
    model::{ops::Numerics, transformer::Transformer},
    text::tokens::Tokens,
};
use candle_core::Device;
use rayon::prelude::*;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use update::{Rows, update};

/// Lists sampled for the readers of one step, with what they are worth.
struct Rollout {
    /// Groups after one another.
    rows: Vec<(Vec<u32>, FinishedRow)>,
    /// The rewards of each row; none where a component gave no value.
    rewards: Vec<Vec<Option<f32>>>,
    n_valid: usize,
}

/// Trains a teacher, on `device`, on the readers that the reward head is not fitted on; goes on from the newest checkpoint in `out`.
///
/// Returns the folder of the best checkpoint by validation readers, or of the last where nothing is watched.
/// # Errors
/// If the model folder is broken, there is no reader to ask, or training fails.
pub fn run(
    world: &World,
    init: &Path,
    settings: &TeacherSettings,
    out: &Path,
    device: &Device,
) -> Result<PathBuf, TrainError> {
    let init = checkpoint::resolve(init)?;
    let (tokens, tokenizer_json) = tokenizer::read(&init)?;
    let others = || world.training_readers().filter(|reader| !belongs_to_head(&reader.key));
    let asking = Asking { cuts_per_reader: settings.cuts_per_reader, prompt_tokens: settings.prompt_tokens };
    let (prompts, askers) = askers(world, others(), &tokens, asking);
    if askers.is_empty() {
        return Err(TrainError::TooLittleData { reason: "no training reader has signals".to_owned() });
    }
    let weights = init.join(WEIGHTS_FILE);
    let weights = std::fs::read(&weights).map_err(TrainError::disk(&weights, "read"))?;
    let (title, articles) = (world.title(), world.articles_digest());
    let data = [&tokenizer_json, &weights, &id_bytes(&prompts), title.as_bytes(), articles.as_bytes()];
    let digest = settings_digest(settings, &data)?;
    let mut run = checkpoint::resume_or_begin(out, &init, settings.fit.adamw(), digest, device)?;
    let judge = Judge::of(world, others(), world.cutoff_unix_s)?;
    let place = Place { title: "teacher", out, tokenizer_json: &tokenizer_json };
    let watching = (settings.watch, settings.prompt_tokens);
    let mut watch = match settings.watch.every {
        0 => Watch::off(),
        _ => Watch::new(world, (&judge, &tokens), watching, place, run.state.step)?,
    };
    let workers = Workers::new(device)?;
    let stage = Stage { judge: &judge, prompts, askers, tokens: &tokens, settings, workers };
    stage.train(&mut run, place, &mut watch)?;
    watch.end(&mut run)?;
    checkpoint::resolve(out)
}

struct Stage<'a> {
    judge: &'a Judge<'a>,
    prompts: Vec<Vec<u32>>,
    askers: Vec<Asker<'a>>,
    tokens: &'a Tokens,
    settings: &'a TeacherSettings,
    workers: Workers,
}

impl Stage<'_> {
    fn train(&self, run: &mut Run, place: Place<'_>, watch: &mut Watch<'_>) -> Result<PathBuf, TrainError> {
        let fit = &self.settings.fit;
        let model = Transformer::load(&run.config, &mut run.parameters, Numerics::Train)?;
        let order = Order::new(fit.seed, self.askers.len());
        let advantages = AdvantageSettings {
            group_size: self.settings.lists_per_prompt,
            weights: &WEIGHTS,
            scale: Scale::None,
        };
        fit::descend(run, fit, place, |run| {
            let step = run.state.step;
            if watch.stops(run)? {
                return Ok(None);
            }
            let chosen = order.items(step * fit.micro_batches as u64, fit.micro_batches);
            let rollout = self.rollout(run, &chosen, step)?;
            let rows = Rows {
                examples: rollout::examples(&rollout.rows),
                rows: &rollout.rows,
                advantages: &group_advantages(&advantages, &rollout.rewards)?,
                padding: self.tokens.end_of_text(),
            };
            let updated = update(&self.workers, (&model, &run.parameters), self.settings, &rows)?;
            let metrics = reward_metrics(&advantages, &rollout.rewards)?;
            let line = line::figures(step, &updated, &metrics, &rollout);
            let (loss, gradients) = (updated.loss, updated.gradients);
            Ok(Some(Computed { loss, gradients, target_tokens: figures::n_tokens(&rollout.rows), line }))
        })
    }

    /// Samples a group for each of the readers chosen, and has the lists rewarded.
    fn rollout(&self, run: &mut Run, chosen: &[usize], step: u64) -> Result<Rollout, TrainError> {
        let n = self.settings.lists_per_prompt;
        let model = Transformer::load(&run.config, &mut run.parameters, Numerics::Serve)?;
        let sampled = Sampled { model: Arc::new(model), tokens: self.tokens.clone() };
        let prompts: Vec<Vec<u32>> = chosen.iter().map(|&idx| self.prompts[idx].clone()).collect();
        // Seeds of other steps are other seeds, also after a run went on.
        let seed = self.settings.fit.seed.wrapping_add(step);
        let groups = sampled.rows(&prompts, n, (seed, SamplerSettings::PLAIN), &|| ())?;
        let rewarded: Vec<Vec<Option<Rewards>>> = groups
            .par_iter()
            .zip(chosen)
            .map(|(rows, &idx)| {
                let view = self.askers[idx].view(self.judge);
                let reward = |row: &FinishedRow| match sampled.list(row) {
                    Ok(list) => self.judge.rewards(Some(&list), &view).map(Some),
                    Err(_) => Ok(None),
                };
                rows.iter().map(reward).collect::<Result<_, _>>()
            })
            .collect::<Result<_, TrainError>>()?;
        let rewarded: Vec<Option<Rewards>> = rewarded.concat();
        Ok(Rollout {
            rows: rollout::with_prompts(&prompts, groups),
            n_valid: rewarded.iter().flatten().count(),
            // What is no list is worth nothing: every component says so.
            rewards: rewarded.iter().map(|rewards| components(&rewards.unwrap_or_default())).collect(),
        })
    }
}

#[allow(clippy::cast_possible_truncation, reason = "rewards are from 0 to 1")]
fn components(rewards: &Rewards) -> Vec<Option<f32>> {
    let parts: [f64; N_REWARDS] = rewards.parts();
    parts.iter().map(|part| Some(*part as f32)).collect()
}
