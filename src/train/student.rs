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
        unprojected::{TokenMean, Unprojected},
    },
    model_folder::ModelFolder,
    order::Order,
    packing::{self, Example},
    pretrain::{id_bytes, settings_digest},
    rewards::Judge,
    rollout::{self, Sampled},
    settings::{Distillation, StudentSettings},
    sft::check_tokenizer,
    tokenizer,
    watch::Watch,
};
use crate::{
    bundle::load::WEIGHTS_FILE,
    decode::{batch::FinishedRow, sampler::SamplerSettings},
    model::{ops::Numerics, transformer::Transformer},
    text::tokens::Tokens,
};
use candle_core::{Device, Tensor};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Two networks that read the same tokens.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Who learns: a model folder or a run's folder.
    pub student: &'a Path,
    /// Whom it learns from.
    pub teacher: &'a Path,
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
    let teacher = ModelFolder::open(pair.teacher, device)?;
    let (tokens, tokenizer_json) = tokenizer::read(&init)?;
    check_tokenizer(&teacher.path, &tokenizer_json)?;
    let others = || world.training_readers().filter(|reader| !belongs_to_head(&reader.key));
    let asking = Asking { cuts_per_reader: settings.cuts_per_reader, prompt_tokens: settings.prompt_tokens };
    let (prompts, _) = askers(world, others(), &tokens, asking);
    if prompts.is_empty() {
        return Err(TrainError::TooLittleData { reason: "no training reader has signals".to_owned() });
    }
    let weights_of = |folder: &Path| {
        let path = folder.join(WEIGHTS_FILE);
        std::fs::read(&path).map_err(TrainError::disk(&path, "read"))
    };
    let (title, articles) = (world.title(), world.articles_digest());
    let data = [
        &tokenizer_json[..],
        &weights_of(&init)?,
        &weights_of(&teacher.path)?,
        &id_bytes(&prompts),
        title.as_bytes(),
        articles.as_bytes(),
    ];
    let digest = settings_digest(settings, &data)?;
    let mut run = checkpoint::resume_or_begin(out, &init, settings.fit.adamw(), digest, device)?;
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
    let stage = Stage {
        teacher: Arc::new(teacher.model),
        prompts,
        tokens: &tokens,
        settings,
        workers: Workers::new(device)?,
    };
    stage.train(&mut run, place, &mut watch)?;
    watch.end(&mut run)?;
    checkpoint::resolve(out)
}

struct Stage<'a> {
    teacher: Arc<Transformer>,
    prompts: Vec<Vec<u32>>,
    tokens: &'a Tokens,
    settings: &'a StudentSettings,
    workers: Workers,
}

impl Stage<'_> {
    fn train(&self, run: &mut Run, place: Place<'_>, watch: &mut Watch<'_>) -> Result<PathBuf, TrainError> {
        let settings = &self.settings.fit;
        let student = Transformer::load(&run.config, &mut run.parameters, Numerics::Train)?;
        let order = Order::new(settings.seed, self.prompts.len());
        fit::descend(run, settings, place, |run| {
            let step = run.state.step;
            if watch.stops(run)? {
                return Ok(None);
            }
            let chosen = order.items(step * settings.micro_batches as u64, settings.micro_batches);
            let sampled = self.writer(run)?;
            let rows = self.rows(&sampled, &chosen, step)?;
            let n_valid = rows.iter().filter(|(_, row)| sampled.list(row).is_ok()).count();
            let (loss, gradients) = self.loss_and_gradients(&student, run, &rows)?;
            let line = Figures::of(step, loss, &rows, n_valid);
            Ok(Some(Computed { loss, gradients, target_tokens: figures::n_tokens(&rows), line }))
        })
    }

    /// Who writes the lists that are learned from.
    fn writer(&self, run: &mut Run) -> Result<Sampled, TrainError> {
        let model = match self.settings.mode {
            Distillation::ReverseKl => {
                Arc::new(Transformer::load(&run.config, &mut run.parameters, Numerics::Serve)?)
            }
            Distillation::ForwardKl | Distillation::Supervised => self.teacher.clone(),
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
        let buckets = packing::buckets(&examples, self.settings.fit.micro_batch_tokens);
        let (mut loss, mut gradients) = (0.0, Gradients::default());
        let of_bucket = |bucket: &Vec<usize>| {
            let chosen: Vec<&Example> = bucket.iter().map(|&idx| &examples[idx]).collect();
            let part = self.micro_batch(student, &chosen, n_tokens)?;
            let gradients = Gradients::collect(run.parameters.vars(), &part.backward()?)?;
            Ok((f64::from(part.to_scalar::<f32>()?), gradients))
        };
        self.workers.side_by_side(&buckets, of_bucket, |(part, gradient)| {
            loss += part;
            gradients.add(gradient);
        })?;
        Ok((loss, gradients))
    }

    /// A micro-batch's share of the step's loss.
    fn micro_batch(
        &self,
        student: &Transformer,
        examples: &[&Example],
        n_tokens: usize,
    ) -> Result<Tensor, TrainError> {
        let batch = packing::example_batch(examples, self.tokens.end_of_text());
        let device = student.device();
        let width = batch.ids.len() / batch.n_rows.max(1);
        let ids = Tensor::from_slice(&batch.ids, (batch.n_rows, width), device)?;
        let predictors = Tensor::from_slice(&batch.predictors, batch.predictors.len(), device)?;
        let hidden = |model: &Transformer| -> Result<Tensor, TrainError> {
            let hidden = model.hidden(&ids, None)?;
            let hidden_size = hidden.dims3()?.2; // (B, T, D)
            Ok(hidden.reshape((batch.n_rows * width, hidden_size))?.index_select(&predictors, 0)?)
        };
        let kind = match self.settings.mode {
            Distillation::ReverseKl => Divergence::ReverseKl,
            Distillation::ForwardKl => Divergence::ForwardKl,
            Distillation::Supervised => {
                let targets = Tensor::from_slice(&batch.targets, batch.targets.len(), device)?;
                let weights = Tensor::full(1.0 / fit::divisor(n_tokens), batch.targets.len(), device)?;
                return Ok(student.cross_entropy(&hidden(student)?, &targets, &weights)?);
            }
        };
        let (own, taught) = (hidden(student)?, hidden(&self.teacher)?);
        let mean = TokenMean { temperature: 1.0, n_tokens };
        let own = Unprojected { hidden: &own, head: student.head_weight()? };
        let taught = Unprojected { hidden: &taught, head: self.teacher.head_weight()? };
        Ok(divergence(kind, mean, &own, &taught)?.loss)
    }
}
