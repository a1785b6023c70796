//! The student: a small network learns to write as its teacher would.
//!
//! On the policy the student writes lists and the teacher says of every token what it would have written there: the student
//! learns where it goes wrong itself, and gives up what the teacher would not say (reverse KL). The other modes learn from
//! lists that the teacher writes, and stand for comparison.
//! Source: the on-policy stage of arXiv 2602.15005; MiniLLM, arXiv 2306.08543; GKD, arXiv 2306.13649.
use super::{
    askers::{Asking, askers},
    checkpoint::{self, Run},
    error::TrainError,
    events::World,
    examples::belongs_to_head,
    figures::{self, Figures},
    fit::{self, Computed, Place, Workers},
    gradients::Gradients,
    losses::{
        reverse_kl::{Divergence, divergence},
        sampled::{SampledTokens, sampled_policy_gradient, teacher_advantages},
        unprojected::{TokenMean, Unprojected},
    },
    model_folder::ModelFolder,
    order::Order,
    packing::{self, Example, Shared},
    pretrain::{ids_digest, settings_digest},
    remote::teacher::{Protocol, RemoteTeacher},
    rewards::Judge,
    rollout::{self, Sampled},
    samples::Samples,
    settings::{Distillation, StudentSettings},
    sft::check_tokenizer,
    tokenizer,
    watch::Watch,
};
use crate::{
    bundle::manifest::sha256_hex,
    decode::{batch::FinishedRow, sampler::SamplerSettings},
    model::{
        config::OutputIds,
        ops::Numerics,
        transformer::{Packed, Transformer},
    },
    text::tokens::Tokens,
};
use candle_core::{Device, Tensor};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tracing::warn;

/// Two networks that read the same tokens.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Who learns: a model folder or a run's folder.
    pub student: &'a Path,
    /// Whom it learns from.
    pub teacher: TeacherAt<'a>,
}

/// Where a teacher is.
#[derive(Clone, Copy, Debug)]
pub enum TeacherAt<'a> {
    /// A model folder or a run's folder: all that it would have written is known.
    Folder(&'a Path),
    /// A server: what it says of a sampled token is known, and nothing of the others.
    Served(Protocol, &'a str),
}

/// A teacher that can be asked.
#[derive(Debug)]
enum Teacher {
    Local(Arc<Transformer>),
    Remote(RemoteTeacher),
}

/// Distils a teacher into a student, on readers that the reward head is not fitted on; goes on from the newest checkpoint in
/// `out`.
///
/// Returns the folder of the best checkpoint by validation readers, or of the last where nothing is watched.
/// # Errors
/// If a model folder is broken, tokenizers differ, there is no reader to ask, or training fails.
pub fn run(
    world: &World,
    pair: Pair<'_>,
    settings: &StudentSettings,
    out: &Path,
    device: &Device,
) -> Result<PathBuf, TrainError> {
    let init = checkpoint::resolve(pair.student)?;
    let (tokens, tokenizer_json) = tokenizer::read(&init)?;
    let (teacher, known_by) = teacher(pair.teacher, settings, (&tokens, &tokenizer_json), device)?;
    let others = || world.training_readers().filter(|reader| !belongs_to_head(&reader.key));
    let asking = Asking { cuts_per_reader: settings.cuts_per_reader, prompt_tokens: settings.prompt_tokens };
    let (prompts, askers) = askers(world, others(), &tokens, asking);
    if prompts.is_empty() {
        return Err(TrainError::TooLittleData { reason: "no training reader has signals".to_owned() });
    }
    let [title, articles] = world.digests();
    let (init_digest, ids) = (checkpoint::weights_digest(&init)?, ids_digest(&prompts));
    let data = [sha256_hex(&tokenizer_json), init_digest, known_by, ids, title, articles];
    let digest = settings_digest(settings, &data)?;
    let lora = settings.lora.of_seed(settings.fit.seed)?;
    let mut run = checkpoint::resume_or_begin(out, (&init, lora), settings.fit.adamw(), digest, device)?;
    if let Teacher::Local(teacher) = &teacher {
        say_if_cut(teacher.config().vocab_size, run.config.vocab_size);
        check_written(&teacher.config().output_ids, &run.config.output_ids)?;
    }
    // Only the watch asks what lists are worth.
    let judge = match settings.watch.every {
        0 => None,
        _ => Some(Judge::of(world, others(), world.cutoff_unix_s)?),
    };
    let place = Place { title: "student", out, tokenizer_json: &tokenizer_json };
    let watching = (settings.watch, settings.prompt_tokens);
    let mut watch = match &judge {
        Some(judge) => Watch::new(world, (judge, &tokens), watching, place, run.state.step)?,
        None => Watch::off(),
    };
    let mut samples = Samples::open(place, run.state.step, &tokens, (&prompts, &askers))?;
    let stage = Stage { teacher, prompts, tokens: &tokens, settings, workers: Workers::new(device)? };
    stage.train(&mut run, place, (&mut watch, &mut samples))?;
    watch.end(&mut run)?;
    samples.ask(&mut run)?;
    checkpoint::resolve(out)
}

/// A teacher has something to say of every token that the student may write.
fn check_written(teacher: &OutputIds, student: &OutputIds) -> Result<(), TrainError> {
    match (teacher, student) {
        (OutputIds::All, _) => Ok(()),
        (OutputIds::Kept(_), OutputIds::Kept(ids)) if teacher.columns(ids).is_ok() => Ok(()),
        _ => {
            let reason = "the teacher may not write all tokens that the student may (output_ids)".to_owned();
            Err(TrainError::Settings { reason })
        }
    }
}

/// Checkpoints of one family have rows for more tokens than their tokenizer knows, the larger ones more of them.
fn say_if_cut(n_teacher: usize, n_student: usize) {
    if n_teacher > n_student {
        warn!(
            n_teacher,
            n_student,
            "the teacher has logits for more tokens than the student; they are cut to the student's"
        );
    }
}

/// The teacher, and the digest of what a run with it is known by: its weights, or of one elsewhere its name.
fn teacher(
    at: TeacherAt<'_>,
    settings: &StudentSettings,
    (tokens, tokenizer_json): (&Tokens, &[u8]),
    device: &Device,
) -> Result<(Teacher, String), TrainError> {
    match at {
        TeacherAt::Folder(folder) => {
            let folder = ModelFolder::open(folder, device)?;
            check_tokenizer(&folder.path, tokenizer_json)?;
            let weights = checkpoint::weights_digest(&folder.path)?;
            Ok((Teacher::Local(Arc::new(folder.model)), weights))
        }
        TeacherAt::Served(protocol, url) => {
            if settings.mode != Distillation::ReverseKl {
                let reason = "a served teacher writes no lists; mode must be reverse_kl".to_owned();
                return Err(TrainError::Settings { reason });
            }
            let teacher = RemoteTeacher::open(protocol, url, tokens, settings.teacher_calls)?;
            let name = sha256_hex(teacher.name().as_bytes());
            Ok((Teacher::Remote(teacher), name))
        }
    }
}

struct Stage<'a> {
    teacher: Teacher,
    prompts: Vec<Vec<u32>>,
    tokens: &'a Tokens,
    settings: &'a StudentSettings,
    workers: Workers,
}

impl Stage<'_> {
    fn train(
        &self,
        run: &mut Run,
        place: Place<'_>,
        (watch, samples): (&mut Watch<'_>, &mut Samples),
    ) -> Result<PathBuf, TrainError> {
        let settings = &self.settings.fit;
        let student = Transformer::load(&run.config, &mut run.parameters, Numerics::Train)?;
        let order = Order::new(settings.seed, self.prompts.len());
        fit::descend(run, settings, place, |run| {
            let step = run.state.step;
            if watch.stops(run)? {
                return Ok(None);
            }
            samples.take(run, settings.checkpoint_every)?;
            let chosen = order.items(step * settings.micro_batches as u64, settings.micro_batches);
            let sampled = self.writer(run)?;
            let rows = self.rows(&sampled, &chosen, step)?;
            let n_valid = rows.iter().filter(|(_, row)| sampled.list(row).is_ok()).count();
            let (loss, gradients) = self.loss_and_gradients(&student, run, &rows)?;
            let mut line = Figures::of(step, loss, &rows, n_valid);
            if self.settings.mode == Distillation::ReverseKl {
                // What is lowered is what users of on-policy distillation know by this name.
                line.add("teacher_kl", loss);
            }
            Ok(Some(Computed { loss, gradients, target_tokens: figures::n_tokens(&rows), line }))
        })
    }

    /// Who writes the lists that are learned from.
    fn writer(&self, run: &mut Run) -> Result<Sampled, TrainError> {
        let model = match (&self.teacher, self.settings.mode) {
            (Teacher::Local(teacher), Distillation::ForwardKl | Distillation::Supervised) => teacher.clone(),
            (Teacher::Local(_) | Teacher::Remote(_), _) => Arc::new(run.writer()?),
        };
        Ok(Sampled { model, tokens: self.tokens.clone() })
    }

    fn rows(
        &self,
        writer: &Sampled,
        chosen: &[usize],
        step: u64,
    ) -> Result<Vec<(Vec<u32>, FinishedRow)>, TrainError> {
        let prompts: Vec<Vec<u32>> = chosen.iter().map(|&idx| self.prompts[idx].clone()).collect();
        let n = self.settings.lists_per_prompt;
        // Seeds of other steps are other seeds, also after a run went on.
        let seed = self.settings.fit.seed.wrapping_add(step);
        let groups = writer.rows(&prompts, n, (seed, SamplerSettings::PLAIN), &|| ())?;
        Ok(rollout::with_prompts(&prompts, groups))
    }

    /// Mean loss per sampled token of the step, nats, and its gradient.
    fn loss_and_gradients(
        &self,
        student: &Transformer,
        run: &Run,
        rows: &[(Vec<u32>, FinishedRow)],
    ) -> Result<(f64, Gradients), TrainError> {
        let examples = rollout::examples(rows);
        let n_tokens = figures::n_tokens(rows);
        let advantages = match &self.teacher {
            Teacher::Local(_) => Vec::new(),
            Teacher::Remote(teacher) => advantages(teacher, rows)?,
        };
        let buckets = packing::shared_buckets(&examples, self.settings.fit.micro_batch_tokens);
        let (mut loss, mut gradients) = (0.0, Gradients::default());
        let of_bucket = |bucket: &Vec<usize>| {
            let chosen: Vec<&Example> = bucket.iter().map(|&idx| &examples[idx]).collect();
            let inputs = Self::inputs(student, &chosen)?;
            let part = match &self.teacher {
                Teacher::Local(teacher) => self.share(student, teacher, &inputs, n_tokens)?,
                Teacher::Remote(_) => {
                    let of_rows =
                        |of: &dyn Fn(usize) -> Vec<f32>| bucket.iter().flat_map(|&idx| of(idx)).collect();
                    let sampler: Vec<f32> = of_rows(&|idx| rows[idx].1.logprobs.clone());
                    let advantages: Vec<f32> = of_rows(&|idx| advantages[idx].clone());
                    sampled_share(student, &inputs, (&sampler, &advantages), n_tokens)?
                }
            };
            let gradients = Gradients::collect(run.parameters.vars(), part.backward()?)?;
            Ok((f64::from(part.to_scalar::<f32>()?), gradients))
        };
        self.workers.side_by_side(&buckets, of_bucket, |(part, gradient)| {
            loss += part;
            gradients.add(gradient);
        })?;
        if !advantages.is_empty() {
            // The policy gradient has no value of its own; what it lowers is the mean of sampler - teacher.
            let gained: f64 = advantages.iter().flatten().map(|advantage| f64::from(*advantage)).sum();
            loss = -gained / f64::from(fit::divisor(n_tokens));
        }
        Ok((loss, gradients))
    }

    /// Rows that go through the networks together.
    fn inputs(student: &Transformer, examples: &[&Example]) -> Result<Inputs, TrainError> {
        let Shared { packed, predictors, targets } = packing::share_prompts(examples);
        let predictors = Tensor::from_slice(&predictors, predictors.len(), student.device())?;
        Ok(Inputs { packed, predictors, targets })
    }

    /// A micro-batch's share of the step's loss, by a teacher whose every probability is known.
    fn share(
        &self,
        student: &Transformer,
        teacher: &Transformer,
        inputs: &Inputs,
        n_tokens: usize,
    ) -> Result<Tensor, TrainError> {
        let kind = match self.settings.mode {
            Distillation::ReverseKl => Divergence::ReverseKl,
            Distillation::ForwardKl => Divergence::ForwardKl,
            Distillation::Supervised => {
                let (n_targets, device) = (inputs.targets.len(), student.device());
                let targets = Tensor::from_slice(&inputs.targets, n_targets, device)?;
                let weights = Tensor::full(1.0 / fit::divisor(n_tokens), n_targets, device)?;
                return Ok(student.cross_entropy(&inputs.hidden(student)?, &targets, &weights)?);
            }
        };
        let (own, taught) = (inputs.hidden(student)?, inputs.hidden(teacher)?);
        let mean = TokenMean { temperature: 1.0, n_tokens };
        // A teacher is asked for its choice among the tokens that the student may write.
        let heads = (student.head_weight()?, teacher.head_weight_of(&student.config().output_ids)?);
        let own = Unprojected { hidden: &own, head: &heads.0 };
        let taught = Unprojected { hidden: &taught, head: &heads.1 };
        Ok(divergence(kind, mean, &own, &taught)?.loss)
    }
}

/// A micro-batch, and on the device the positions that predict completions.
struct Inputs {
    packed: Packed,
    predictors: Tensor,
    targets: Vec<u32>,
}

impl Inputs {
    /// Hidden states (n, D) at the positions that predict completions.
    fn hidden(&self, model: &Transformer) -> Result<Tensor, TrainError> {
        Ok(model.hidden_of(&self.packed)?.squeeze(0)?.index_select(&self.predictors, 0)?)
    }
}

/// What a served teacher gives each sampled token: how much likelier it finds it than the student did, nats.
fn advantages(
    teacher: &RemoteTeacher,
    rows: &[(Vec<u32>, FinishedRow)],
) -> Result<Vec<Vec<f32>>, TrainError> {
    let asked: Vec<(&[u32], &[u32])> = rows.iter().map(|(prompt, row)| (&prompt[..], &row.ids[..])).collect();
    let said = teacher.logprobs(&asked)?;
    let pairs = rows.iter().zip(&said);
    pairs.map(|((_, row), said)| Ok(teacher_advantages(1.0, &row.logprobs, said)?)).collect()
}

/// A micro-batch's share of the policy gradient towards a served teacher.
fn sampled_share(
    student: &Transformer,
    inputs: &Inputs,
    (sampler_logprobs, advantages): (&[f32], &[f32]),
    n_tokens: usize,
) -> Result<Tensor, TrainError> {
    let hidden = inputs.hidden(student)?;
    let (head, columns) = (student.head_weight()?, student.config().output_ids.columns(&inputs.targets)?);
    let own = Unprojected { hidden: &hidden, head: &head };
    let tokens = SampledTokens { ids: &columns, sampler_logprobs, advantages };
    Ok(sampled_policy_gradient(TokenMean { temperature: 1.0, n_tokens }, &own, &tokens)?.loss)
}
