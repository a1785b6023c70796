//! The reward head: what a list will be worth, by the student's hidden states and log-probabilities, what other lists say, and what the lexicon says of signals.
mod worse;

use super::{
    askers::{Asker, Asking, askers},
    checkpoint,
    corrupted::{Corrupter, another},
    error::TrainError,
    events::World,
    examples::belongs_to_head,
    fit::DEVICE,
    foresight,
    head_fit::{self, Ordering, Table},
    journal::progress_bar,
    model_folder::ModelFolder,
    pretrain::{ids_digest, settings_digest},
    rewards::{Aggregation, Judge, view::View},
    rollout::{Sample, Sampled},
    settings::HeadSettings,
    tokenizer,
};
use crate::{
    bundle::{
        load::{self, HEAD_FILE},
        manifest::sha256_hex,
    },
    decode::{batch::FinishedRow, features::Meets, sampler::SamplerSettings},
    lexicon::{self, Lexicon, meets::meets},
    model::{
        perceptron::Score,
        reward_head::{FORESIGHT, FORESIGHT_ROWS, ListFeatures, RewardHead},
        weights::Parameters,
    },
};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, path::Path, sync::Arc};
use worse::{Worse, Written};

/// One reader in this many tells when to stop and gives the figures of the report.
const HELD_OUT_SHARE: usize = 5;

/// How the head orders the lists of readers it was not fitted on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeadReport {
    /// Digest of settings, student and readers.
    pub settings_sha256: String,
    /// Lists that were sampled.
    pub n_lists: usize,
    /// Share of sampled lists that are valid.
    pub valid: f64,
    /// The head's score of lists against their composite reward.
    pub lists: Ordering,
    /// The head's score of queries against theirs.
    pub queries: Ordering,
    /// The mean log-probability against the composite reward: what is there without a head.
    pub logprob: Ordering,
    /// For early stopping, of lists that have ended and of those with 1 to 8 queries: intercept and slope of the line from a list's score
    /// to the one it ends with, and the deviation from it; zeros where too few were seen.
    pub foresight: Vec<[f32; 3]>,
}

/// Lists of one reader at one moment with their rewards, valid ones only.
struct Group {
    features: Vec<ListFeatures>,
    rewards: Vec<ListReward>,
}

/// What the judge says of a list, and of each of its queries alone.
struct ListReward {
    list: f64,
    queries: Vec<f64>,
}

/// Samples lists of training readers that fine-tuning left out, has them judged by the readers' signals, fits the head and writes it. A head that stands there with the same student, readers and settings is left as it is.
/// # Errors
/// If there are too few such readers, or sampling or fitting fails.
pub fn run(
    world: &World,
    model: &Path,
    settings: &HeadSettings,
    out: &Path,
    device: &Device,
) -> Result<HeadReport, TrainError> {
    let folder = ModelFolder::open(model, device)?;
    let (tokens, tokenizer_json) = tokenizer::read(&folder.path)?;
    let weights = checkpoint::weights_digest(&folder.path)?;
    let student = Sampled { model: Arc::new(folder.model), tokens };
    let readers = world.training_readers().filter(|reader| belongs_to_head(&reader.key));
    let asking = Asking { cuts_per_reader: settings.cuts_per_reader, prompt_tokens: settings.prompt_tokens };
    let (prompts, askers) = askers(world, readers, &student.tokens, asking);
    let [title, articles] = world.digests();
    let data = [sha256_hex(&tokenizer_json), weights, ids_digest(&prompts), title, articles];
    let digest = settings_digest(settings, &data)?;
    if let Some(report) = finished(out, &digest, student.model.config().hidden_size) {
        return Ok(report);
    }
    let bar = progress_bar("lists", (prompts.len() * settings.lists_per_prompt) as u64);
    let drawn = (settings.seed, SamplerSettings::SERVING);
    let rows = student.rows(&prompts, settings.lists_per_prompt, drawn, &|| bar.inc(1))?;
    bar.finish();
    // It compares with what is alive at the world's cutoff, and has learned from fine-tuning's readers alone.
    let others = world.training_readers().filter(|reader| !belongs_to_head(&reader.key));
    let judge = Judge::of(world, others, world.cutoff_unix_s)?;
    let lexicon = carried(judge.meaning.lexicon())?;
    let meets: Vec<Option<Meets>> = askers
        .iter()
        .map(|asker| Some(meets(&lexicon, asker.signals()?.as_slice(), &student.tokens)))
        .collect();
    let mut samples: Vec<Vec<Sample>> =
        rows.iter().zip(&meets).map(|(rows, meets)| student.samples(rows, meets.as_ref())).collect();
    let n_lists = samples.iter().map(Vec::len).sum::<usize>();
    let valid = rows.iter().zip(&samples).map(|(rows, samples)| only_valid(rows, samples));
    let valid: Vec<(Vec<&FinishedRow>, Option<Meets>)> = valid.zip(meets).collect();
    if settings.corrupted_per_prompt > 0 {
        let corrupter = Corrupter::of(world, &judge.meaning);
        let n = settings.corrupted_per_prompt;
        let worse = Worse { student: &student, judge: &judge, corrupter, n, seed: settings.seed };
        add_worse(&worse, (&prompts, &askers), &valid, &mut samples)?;
    }
    let (held_out, train) = groups(&judge, samples, &askers)?;
    let mut parameters = Parameters::fresh(settings.seed, &DEVICE);
    let shape = Shape { seed: settings.seed, hidden_size: student.model.config().hidden_size };
    let head = RewardHead::load(&mut parameters, shape.hidden_size, true)?;
    let mut report = fit(&head, &parameters, (&train, &held_out), shape)?;
    report.foresight = foresight::fit(&head, &valid)?;
    let lines = Tensor::from_vec(report.foresight.concat(), (FORESIGHT_ROWS, 3), &DEVICE)?;
    parameters.vars()[FORESIGHT].set(&lines)?;
    #[allow(clippy::cast_precision_loss, reason = "thousands of lists")]
    let share = valid.iter().map(|(rows, _)| rows.len()).sum::<usize>() as f64 / n_lists.max(1) as f64;
    (report.n_lists, report.valid, report.settings_sha256) = (n_lists, share, digest);
    write(out, &parameters, &lexicon, &report)?;
    Ok(report)
}

fn only_valid<'a>(rows: &'a [FinishedRow], samples: &[Sample]) -> Vec<&'a FinishedRow> {
    rows.iter().zip(samples).filter(|(_, sample)| sample.is_ok()).map(|(row, _)| row).collect()
}

/// Adds to the samples of readers that the head is fitted on some that were made worse; those of the others stay as they were sampled.
fn add_worse(
    worse: &Worse<'_>,
    (prompts, askers): (&[Vec<u32>], &[Asker<'_>]),
    valid: &[(Vec<&FinishedRow>, Option<Meets>)],
    samples: &mut [Vec<Sample>],
) -> Result<(), TrainError> {
    let bar = progress_bar("corrupted lists", prompts.len() as u64);
    let made: Vec<Vec<Sample>> = (0..prompts.len())
        .into_par_iter()
        .map(|idx| {
            bar.inc(1);
            let (rows, meets) = &valid[idx];
            if is_held_out(&askers[idx]) {
                return Ok(Vec::new());
            }
            let list = |place: usize| samples[place].iter().flatten().map(|(list, _)| list).next();
            let is_fit = |place: usize| {
                let other = &askers[place];
                !is_held_out(other) && other.reader_idx != askers[idx].reader_idx && list(place).is_some()
            };
            let other = another(idx, prompts.len(), is_fit).and_then(list);
            let lists = samples[idx].iter().flatten().map(|(list, _)| list).collect();
            let (prompt, asker, meets) = (&prompts[idx], &askers[idx], meets.as_ref());
            worse.samples(idx, &Written { prompt, asker, rows, lists, meets }, other)
        })
        .collect::<Result<_, _>>()?;
    bar.finish();
    samples.iter_mut().zip(made).for_each(|(samples, made)| samples.extend(made));
    Ok(())
}

/// Whether an asker tells when to stop, and is not fitted on.
fn is_held_out(asker: &Asker<'_>) -> bool {
    asker.reader_idx.is_multiple_of(HELD_OUT_SHARE)
}

/// The lexicon as it will be read from the head's file, so that the head is fitted to what it will be told.
fn carried(lexicon: &Lexicon) -> Result<Arc<Lexicon>, TrainError> {
    let lost = |reason| TrainError::File { file: HEAD_FILE.to_owned(), reason };
    let empty = Parameters::fresh(0, &DEVICE).to_safetensors(DType::F32)?;
    let read =
        lexicon::file::add(lexicon, &empty).and_then(|bytes| lexicon::file::read(&bytes)).map_err(lost)?;
    read.map(Arc::new).ok_or_else(|| lost("has no lexicon".to_owned()))
}

/// Rewarded lists of the readers that tell when to stop, and of those that the head is fitted on.
fn groups(
    judge: &Judge<'_>,
    samples: Vec<Vec<Sample>>,
    askers: &[Asker<'_>],
) -> Result<(Vec<Group>, Vec<Group>), TrainError> {
    let groups: Vec<Group> = samples
        .into_par_iter()
        .zip(askers)
        .map(|(samples, asker)| rewarded(samples, &asker.view(judge), judge))
        .collect::<Result<_, _>>()?;
    let (held_out, train): (Vec<_>, Vec<_>) =
        groups.into_iter().zip(askers).partition(|(_, asker)| is_held_out(asker));
    let only = |groups: Vec<(Group, &Asker<'_>)>| -> Vec<Group> {
        groups.into_iter().map(|(group, _)| group).filter(|group| group.features.len() > 1).collect()
    };
    let (held_out, train) = (only(held_out), only(train));
    if train.is_empty() || held_out.is_empty() {
        return Err(TrainError::TooLittleData { reason: "too few readers gave two valid lists".to_owned() });
    }
    Ok((held_out, train))
}

fn rewarded(samples: Vec<Sample>, view: &View, judge: &Judge<'_>) -> Result<Group, TrainError> {
    let mut group = Group { features: Vec::new(), rewards: Vec::new() };
    for sample in samples {
        let Ok((list, features)) = sample else { continue };
        let asked = judge.all_asked(&list)?;
        if asked.len() == features.query_hidden.len() {
            let list = judge.rewards_of(&list, &asked, view).composite(Aggregation::Weighted);
            let queries = asked.iter().map(|asked| judge.query_reward(asked, view)).collect();
            group.features.push(features);
            group.rewards.push(ListReward { list, queries });
        }
    }
    Ok(group)
}

fn fit(
    head: &RewardHead,
    parameters: &Parameters,
    (train, held_out): (&[Group], &[Group]),
    shape: Shape,
) -> Result<HeadReport, TrainError> {
    let seed = shape.seed;
    let queries = (query_table(head, train)?, query_table(head, held_out)?);
    let (of_lists, of_queries) = (|x: &_| head.forward_lists(x), |x: &_| head.forward_queries(x));
    head_fit::fit(parameters, "query", &of_queries, (&queries.0, &queries.1), seed)?;
    // The list part reads what the query part says, so it comes second.
    let train_scores = out_of_fold(train, &queries.1, shape)?;
    let held_out_scores = head.score_queries(&features(held_out))?;
    let lists = (list_table(head, train, &train_scores)?, list_table(head, held_out, &held_out_scores)?);
    head_fit::fit(parameters, "list", &of_lists, (&lists.0, &lists.1), seed)?;
    let logprobs: Vec<f64> =
        held_out.iter().flat_map(|group| &group.features).map(|list| f64::from(list.mean_logprob)).collect();
    Ok(HeadReport {
        settings_sha256: String::new(),
        n_lists: 0,
        valid: 0.0,
        lists: head_fit::ordering(&lists.1, &head_fit::predict(&of_lists, &lists.1)?),
        queries: head_fit::ordering(&queries.1, &head_fit::predict(&of_queries, &queries.1)?),
        logprob: head_fit::ordering(&lists.1, &logprobs),
        foresight: Vec::new(),
    })
}

/// Seed and width of a head that is fitted.
#[derive(Clone, Copy)]
struct Shape {
    seed: u64,
    hidden_size: usize,
}

/// Scores of the queries of all groups, each by a query part that was fitted on the other half of them: the list part must
/// learn how far to trust such scores for readers that nobody has seen. Source: Wolpert, "Stacked generalization", 1992.
fn out_of_fold(groups: &[Group], held_out: &Table, shape: Shape) -> Result<Vec<Score>, TrainError> {
    let (first, second) = groups.split_at(groups.len() / 2);
    let mut scores = Vec::new();
    for (fold, others) in [(first, second), (second, first)] {
        let mut parameters = Parameters::fresh(shape.seed, &DEVICE);
        let head = RewardHead::load(&mut parameters, shape.hidden_size, true)?;
        let of_queries = |x: &_| head.forward_queries(x);
        head_fit::fit(
            &parameters,
            "query",
            &of_queries,
            (&query_table(&head, others)?, held_out),
            shape.seed,
        )?;
        scores.extend(head.score_queries(&features(fold))?);
    }
    Ok(scores)
}

fn features(groups: &[Group]) -> Vec<ListFeatures> {
    groups.iter().flat_map(|group| group.features.clone()).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "rewards lie between 0 and 1")]
fn list_table(head: &RewardHead, groups: &[Group], of_queries: &[Score]) -> Result<Table, TrainError> {
    let rewards = groups.iter().flat_map(|group| &group.rewards).map(|reward| reward.list as f32).collect();
    Ok(Table {
        inputs: head.list_inputs(&features(groups), of_queries)?,
        rewards,
        groups: consecutive(groups.iter().map(|g| g.features.len())),
    })
}

#[allow(clippy::cast_possible_truncation, reason = "rewards lie between 0 and 1")]
fn query_table(head: &RewardHead, groups: &[Group]) -> Result<Table, TrainError> {
    let rewards = groups.iter().flat_map(|group| &group.rewards).flat_map(|reward| &reward.queries);
    let rewards = rewards.map(|reward| *reward as f32).collect();
    let n_queries = |group: &Group| group.rewards.iter().map(|reward| reward.queries.len()).sum();
    Ok(Table {
        inputs: head.query_inputs(&features(groups))?,
        rewards,
        groups: consecutive(groups.iter().map(n_queries)),
    })
}

/// Row numbers of groups that stand one after the other.
fn consecutive(sizes: impl Iterator<Item = usize>) -> Vec<Vec<usize>> {
    sizes
        .scan(0, |start, size| {
            *start += size;
            Some((*start - size..*start).collect())
        })
        .collect()
}

/// The report of a head that was written whole, with the same settings and data, and that this build can load.
fn finished(out: &Path, settings_sha256: &str, hidden_size: usize) -> Option<HeadReport> {
    let json = std::fs::read(out.with_extension("json")).ok()?;
    let report: HeadReport = serde_json::from_slice(&json).ok()?;
    let loads = load::head(Cow::Owned(std::fs::read(out).ok()?), hidden_size).is_ok();
    (loads && report.settings_sha256 == settings_sha256).then_some(report)
}

/// The report last: it says that the head is whole.
fn write(
    out: &Path,
    parameters: &Parameters,
    lexicon: &Lexicon,
    report: &HeadReport,
) -> Result<(), TrainError> {
    let head = lexicon::file::add(lexicon, &parameters.to_safetensors(DType::F32)?);
    checkpoint::write_file(out, &head.map_err(|reason| TrainError::file(out, reason))?)?;
    let path = out.with_extension("json");
    let json = serde_json::to_vec_pretty(report).map_err(|error| TrainError::file(&path, error))?;
    checkpoint::write_file(&path, &json)
}
