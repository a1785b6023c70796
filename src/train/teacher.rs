//! The teacher: Dr.GRPO on the five rewards, from a student that was fine-tuned before.
//!
//! A step samples a group of lists for each of some readers, by the decoder that serves; rewards them by the judge; and moves the
//! network so that lists better than their group's mean become likelier. Every step samples anew, so nothing is pending between steps
//! and a run that is cut short goes on as if it had not been.
//! Source: Dr.GRPO, arXiv 2503.20783; the five rewards of arXiv 2602.15005.
mod line;
mod update;

use super::{
    checkpoint::{self, Run, RunState},
    error::TrainError,
    events::{self, Event, Reader, World},
    examples::{belongs_to_head, cuts},
    fit::Workers,
    journal::Journal,
    losses::advantages::{AdvantageSettings, Scale, group_advantages, reward_metrics},
    optimizer::AdamW,
    order::Order,
    packing::Example,
    pretrain::{id_bytes, settings_digest},
    rewards::{Judge, N_REWARDS, Rewards, WEIGHTS},
    rollout::Sampled,
    settings::TeacherSettings,
    tokenizer,
};
use crate::{
    bundle::load::WEIGHTS_FILE,
    decode::{
        batch::{Finish, FinishedRow},
        sampler::SamplerSettings,
    },
    model::{ops::Numerics, transformer::Transformer},
    text::{prompt, tokens::Tokens},
};
use candle_core::Device;
pub use line::PolicyLine;
use rayon::prelude::*;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use update::{Rows, TEMPERATURE, update};

/// A reader at a moment: the traces that her prompt shows.
struct Asker<'a> {
    shown: Vec<&'a Event>,
    at_unix_s: i64,
}

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
/// Returns the last checkpoint's folder.
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
    let (prompts, askers) = askers(world, others(), (&tokens, settings));
    if askers.is_empty() {
        return Err(TrainError::TooLittleData { reason: "no training reader has signals".to_owned() });
    }
    let weights = init.join(WEIGHTS_FILE);
    let weights = std::fs::read(&weights).map_err(TrainError::disk(&weights, "read"))?;
    let title = world.title();
    let data = [&tokenizer_json, &weights, &id_bytes(&prompts), title.as_bytes()];
    let digest = settings_digest(settings, &data)?;
    let adamw = settings.fit.adamw();
    let mut run = match checkpoint::latest(out)? {
        Some(folder) => checkpoint::open(&folder, adamw, &digest, device)?,
        None => {
            let (config, parameters) = checkpoint::open_model(&init, device)?;
            let optimizer = AdamW::new(adamw, parameters.vars());
            Run { config, parameters, optimizer, state: RunState::start(digest) }
        }
    };
    let judge = Judge::of(world, others(), world.cutoff_unix_s)?;
    let stage = Stage { judge, prompts, askers, tokens, settings, workers: Workers::new(device)? };
    stage.train(&mut run, &tokenizer_json, out)
}

fn askers<'a>(
    world: &World,
    readers: impl Iterator<Item = &'a Reader>,
    (tokens, settings): (&Tokens, &TeacherSettings),
) -> (Vec<Vec<u32>>, Vec<Asker<'a>>) {
    readers
        .flat_map(|reader| {
            let cuts = cuts(reader, world.cutoff_unix_s, settings.cuts_per_reader).into_iter();
            cuts.map(move |at_unix_s| (reader, at_unix_s))
        })
        .filter_map(|(reader, at_unix_s)| {
            let past: Vec<usize> = (0..reader.events_until(at_unix_s).len()).collect();
            let readable: Vec<&Event> =
                reader.readable(&past).into_iter().map(|idx| &reader.events[idx]).collect();
            let signals = events::signals(readable.iter().copied())?;
            let prompt = prompt::build(&signals, tokens, settings.prompt_tokens);
            // The oldest are left out where the prompt has no room; lists are rewarded by what it shows.
            let shown = readable[prompt.n_truncated_signals.min(readable.len())..].to_vec();
            Some((prompt.ids, Asker { shown, at_unix_s }))
        })
        .unzip()
}

struct Stage<'a> {
    judge: Judge<'a>,
    prompts: Vec<Vec<u32>>,
    askers: Vec<Asker<'a>>,
    tokens: Tokens,
    settings: &'a TeacherSettings,
    workers: Workers,
}

impl Stage<'_> {
    fn train(&self, run: &mut Run, tokenizer_json: &[u8], out: &Path) -> Result<PathBuf, TrainError> {
        let fit = &self.settings.fit;
        let model = Transformer::load(&run.config, &mut run.parameters, Numerics::Train)?;
        let mut journal = Journal::<PolicyLine>::open(out, "teacher", run.state.step, fit.steps)?;
        let order = Order::new(fit.seed, self.askers.len());
        let mut folder = None;
        while run.state.step < fit.steps {
            let (step, started) = (run.state.step, Instant::now());
            let chosen = order.items(step * fit.micro_batches as u64, fit.micro_batches);
            let rollout = self.rollout(run, &chosen, step)?;
            let advantages = AdvantageSettings {
                group_size: self.settings.lists_per_prompt,
                weights: &WEIGHTS,
                scale: Scale::None,
            };
            let rows = Rows {
                examples: rollout.examples(),
                rows: &rollout.rows,
                advantages: &group_advantages(&advantages, &rollout.rewards)?,
                padding: self.tokens.end_of_text(),
            };
            let mut updated = update(&self.workers, (&model, &run.parameters), self.settings, &rows)?;
            let grad_norm = updated.gradients.clip(fit.max_grad_norm);
            // Once in the weights, what is no number is in every checkpoint.
            if !(updated.loss.is_finite() && grad_norm.is_finite()) {
                return Err(TrainError::Diverged { step, loss: updated.loss });
            }
            let learning_rate = fit.schedule().rate(step);
            run.optimizer.step(run.parameters.vars(), &updated.gradients, learning_rate)?;
            run.state.step += 1;
            run.state.target_tokens += rollout.n_tokens() as u64;
            let metrics = reward_metrics(&advantages, &rollout.rewards)?;
            let line = PolicyLine::of((step, learning_rate, grad_norm), &updated, &metrics, &rollout);
            journal.note(line.timed(started.elapsed()))?;
            if run.state.step.is_multiple_of(fit.checkpoint_every.max(1)) || run.state.step == fit.steps {
                folder = Some(checkpoint::save(out, run, tokenizer_json, fit.checkpoints_kept)?);
                journal.draw()?;
            }
        }
        journal.finish();
        folder.map_or_else(|| checkpoint::resolve(out), Ok)
    }

    /// Samples a group for each of the readers chosen, and has the lists rewarded.
    fn rollout(&self, run: &mut Run, chosen: &[usize], step: u64) -> Result<Rollout, TrainError> {
        let n = self.settings.lists_per_prompt;
        let model = Transformer::load(&run.config, &mut run.parameters, Numerics::Serve)?;
        let sampled = Sampled { model: Arc::new(model), tokens: self.tokens.clone() };
        let prompts: Vec<Vec<u32>> = chosen.iter().map(|&idx| self.prompts[idx].clone()).collect();
        // Seeds of other steps are other seeds, also after a run went on.
        let seed = self.settings.fit.seed.wrapping_add(step);
        let groups = sampled.rows(&prompts, n, (seed, self.sampler()), &|| ())?;
        let rewarded: Vec<Vec<Option<Rewards>>> = groups
            .par_iter()
            .zip(chosen)
            .map(|(rows, &idx)| {
                let Asker { shown, at_unix_s } = &self.askers[idx];
                let view = self.judge.view_of(shown.iter().copied(), *at_unix_s);
                let reward = |row: &FinishedRow| match sampled.list(row) {
                    Ok(list) => self.judge.rewards(Some(&list), &view).map(Some),
                    Err(_) => Ok(None),
                };
                rows.iter().map(reward).collect::<Result<_, _>>()
            })
            .collect::<Result<_, TrainError>>()?;
        let rewarded: Vec<Option<Rewards>> = rewarded.concat();
        let rows = prompts
            .iter()
            .zip(groups)
            .flat_map(|(prompt, rows)| rows.into_iter().map(|row| (prompt.clone(), row)).collect::<Vec<_>>());
        Ok(Rollout {
            rows: rows.collect(),
            n_valid: rewarded.iter().flatten().count(),
            // What is no list is worth nothing: every component says so.
            rewards: rewarded.iter().map(|rewards| components(&rewards.unwrap_or_default())).collect(),
        })
    }

    /// The plain model at the temperature of training: whatever narrows the choice would make log-probabilities lie.
    fn sampler(&self) -> SamplerSettings {
        #[allow(clippy::cast_possible_truncation, reason = "a small number")]
        let temperature = TEMPERATURE as f32;
        SamplerSettings {
            temperature,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            distinct_queries: false,
        }
    }
}

impl Rollout {
    fn n_tokens(&self) -> usize {
        self.rows.iter().map(|(_, row)| row.ids.len()).sum()
    }

    /// Rows that were cut off by the limit of tokens.
    fn n_cut(&self) -> usize {
        self.rows.iter().filter(|(_, row)| row.finish == Finish::Length).count()
    }

    fn examples(&self) -> Vec<Example> {
        let example = |(prompt, row): &(Vec<u32>, FinishedRow)| Example {
            prompt: prompt.clone(),
            completion: row.ids.clone(),
        };
        self.rows.iter().map(example).collect()
    }
}

#[allow(clippy::cast_possible_truncation, reason = "rewards are from 0 to 1")]
fn components(rewards: &Rewards) -> Vec<Option<f32>> {
    let parts: [f64; N_REWARDS] = rewards.parts();
    parts.iter().map(|part| Some(*part as f32)).collect()
}
