//! The optimisation loop: micro-batches side by side, one update, a diary, checkpoints.
use super::{
    checkpoint::{self, Run},
    error::TrainError,
    gradients::Gradients,
    journal::{Journal, Line, Moved, StepMetrics},
    packing,
    settings::FitSettings,
};
use crate::model::{device, ops::Numerics, transformer::Transformer, weights::Parameters};
use candle_core::{Device, Tensor};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

/// Rows that go through the network together, and the positions whose next token carries loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicroBatch {
    /// Ids, row after row (B * T). Rows are padded on the right: attention is causal, so padding changes nothing before it.
    pub ids: Vec<u32>,
    /// Rows, B.
    pub n_rows: usize,
    /// Positions in `ids` from which a target is predicted.
    pub predictors: Vec<u32>,
    /// The target of each predictor.
    pub targets: Vec<u32>,
}

/// Where a run writes and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Title of the progress bar.
    pub title: &'a str,
    /// Folder of checkpoints, metrics and curve.
    pub out: &'a Path,
    /// Stored with every checkpoint.
    pub tokenizer_json: &'a [u8],
}

/// Sum of losses over targets and its gradient.
#[derive(Debug)]
pub struct LossAndGradients {
    /// Mean loss per target token of the whole step, this part's share, nats.
    pub loss: f64,
    /// Gradient of that share.
    pub gradients: Gradients,
}

/// What a step computed before its update.
#[derive(Debug)]
pub struct Computed<L> {
    /// Mean loss of the step.
    pub loss: f64,
    /// Its gradient.
    pub gradients: Gradients,
    /// Tokens that carried loss.
    pub target_tokens: usize,
    /// What the diary says of the step.
    pub line: L,
}

/// Learns from micro-batches until the last step of the settings; returns the last checkpoint's folder.
///
/// `batches` gives the micro-batches of a step and must depend on the step alone, so that a resumed run
/// sees what the uninterrupted one would have seen.
/// # Errors
/// If the loss stops being a number, or the disk refuses.
pub fn fit(
    run: &mut Run,
    settings: &FitSettings,
    place: Place<'_>,
    batches: &dyn Fn(u64) -> Vec<MicroBatch>,
) -> Result<PathBuf, TrainError> {
    let model = Transformer::load(&run.config, &mut run.parameters, Numerics::Train)?;
    let workers = Workers::new(model.device())?;
    descend(run, settings, place, |run| {
        let step = run.state.step;
        let mut micro_batches = batches(step);
        let tokens = micro_batches.iter().map(|batch| batch.ids.len()).sum();
        if !model.device().is_cpu() {
            // A GPU takes as long for a small operation as for a large one.
            micro_batches = vec![packing::join(&micro_batches)];
        }
        let target_tokens = micro_batches.iter().map(|batch| batch.targets.len()).sum();
        let LossAndGradients { loss, gradients } =
            workers.loss_and_gradients(&model, &run.parameters, &micro_batches)?;
        let line = StepMetrics { step, loss, target_tokens, tokens, ..StepMetrics::default() };
        Ok(Some(Computed { loss, gradients, target_tokens, line }))
    })
}

/// The loop of every stage: compute, clip, update, note, and now and then a checkpoint. Ends after the last step of the
/// settings or when `compute` gives nothing; returns the folder of the best checkpoint where one was chosen, else of the last.
///
/// What `compute` gives must depend on the run alone, so that a resumed run goes on as the uninterrupted one would have.
/// # Errors
/// If `compute` fails, the loss stops being a number, or the disk refuses.
pub fn descend<L: Line>(
    run: &mut Run,
    settings: &FitSettings,
    place: Place<'_>,
    mut compute: impl FnMut(&mut Run) -> Result<Option<Computed<L>>, TrainError>,
) -> Result<PathBuf, TrainError> {
    let mut journal = Journal::open(place.out, place.title, run.state.step, settings.steps)?;
    let schedule = settings.schedule();
    while run.state.step < settings.steps {
        let (step, started) = (run.state.step, Instant::now());
        let Some(Computed { loss, mut gradients, target_tokens, line }) = compute(run)? else { break };
        let grad_norm = gradients.clip(settings.max_grad_norm);
        // Once in the weights, what is no number is in every checkpoint.
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Err(TrainError::Diverged { step, loss });
        }
        let learning_rate = schedule.rate(step);
        run.optimizer.step(run.parameters.vars(), &gradients, learning_rate)?;
        // As large as the model, and a checkpoint needs room for copies of its own.
        drop(gradients);
        run.state.step += 1;
        run.state.target_tokens += target_tokens as u64;
        let step_time_s = started.elapsed().as_secs_f64();
        let target_tokens = run.state.target_tokens;
        journal.note(line.moved(Moved { grad_norm, learning_rate, step_time_s, target_tokens }))?;
        if run.state.step.is_multiple_of(settings.checkpoint_every.max(1)) || run.state.step == settings.steps
        {
            checkpoint::save(place.out, run, place.tokenizer_json, settings.checkpoints_kept)?;
            journal.draw()?;
        }
    }
    journal.finish();
    checkpoint::resolve(place.out)
}

/// Computes one micro-batch's share of the step's mean loss and its gradient.
/// # Errors
/// If the network fails or a parameter is cut off from the loss.
pub fn loss_and_gradients(
    model: &Transformer,
    parameters: &Parameters,
    batch: &MicroBatch,
    n_step_targets: usize,
) -> Result<LossAndGradients, TrainError> {
    let device = model.device();
    let width = batch.ids.len() / batch.n_rows.max(1);
    let ids = Tensor::from_slice(&batch.ids, (batch.n_rows, width), device)?;
    let hidden = model.hidden(&ids, None)?;
    let (n_rows, width, hidden_size) = hidden.dims3()?; // (B, T, D)
    let predictors = Tensor::from_slice(&batch.predictors, batch.predictors.len(), device)?;
    // The head is wide: it is applied only where a target is predicted.
    let hidden = hidden.reshape((n_rows * width, hidden_size))?;
    let hidden = if batch.predictors.len() == batch.ids.len() {
        hidden
    } else {
        hidden.index_select(&predictors, 0)?
    };
    let targets = Tensor::from_slice(&batch.targets, batch.targets.len(), device)?;
    // Divided by the targets of the whole step: the gradient does not depend on how the step is cut.
    let weights = Tensor::full(1.0 / divisor(n_step_targets), batch.targets.len(), device)?;
    let loss = model.cross_entropy(&hidden, &targets, &weights)?;
    let gradients = Gradients::collect(parameters.vars(), loss.backward()?)?;
    Ok(LossAndGradients { loss: f64::from(loss.to_scalar::<f32>()?), gradients })
}

/// A count of targets as a divisor.
#[allow(clippy::cast_precision_loss, reason = "a step has some thousand targets")]
pub(super) fn divisor(n_targets: usize) -> f32 {
    n_targets.max(1) as f32
}

/// Threads that compute micro-batches side by side.
///
/// Element-wise operations use one core each, so whole micro-batches side by side use the machine better than
/// one matrix product on all cores. Sums are taken in the order of micro-batches: the result does not depend
/// on the number of threads.
#[derive(Debug)]
pub struct Workers {
    pools: Vec<ThreadPool>,
}

impl Workers {
    /// Starts one worker per core, each computing on one thread; for a GPU, which one micro-batch fills, a single one.
    /// # Errors
    /// If the system gives no threads.
    pub fn new(device: &Device) -> Result<Self, TrainError> {
        let n_workers = device::side_by_side(device);
        let pool = |_| {
            ThreadPoolBuilder::new()
                .num_threads(1)
                .build()
                .map_err(|error| TrainError::Settings { reason: error.to_string() })
        };
        Ok(Self { pools: (0..n_workers).map(pool).collect::<Result<_, _>>()? })
    }

    /// Computes the mean loss per target token over all micro-batches and its gradient.
    /// # Errors
    /// If a micro-batch fails, or there is no target at all.
    pub fn loss_and_gradients(
        &self,
        model: &Transformer,
        parameters: &Parameters,
        batches: &[MicroBatch],
    ) -> Result<LossAndGradients, TrainError> {
        let n_targets: usize = batches.iter().map(|batch| batch.targets.len()).sum();
        if n_targets == 0 {
            return Err(TrainError::TooLittleData { reason: "a step has no target token".to_owned() });
        }
        let batches: Vec<_> = batches.iter().filter(|batch| !batch.targets.is_empty()).collect();
        let mut sum = LossAndGradients { loss: 0.0, gradients: Gradients::default() };
        let of_batch = |batch: &&MicroBatch| loss_and_gradients(model, parameters, batch, n_targets);
        self.side_by_side(&batches, of_batch, |part| {
            sum.loss += part.loss;
            sum.gradients.add(part.gradients);
        })?;
        Ok(sum)
    }

    /// Computes something of every item, as many at once as there are workers; `take` gets the results in order.
    /// # Errors
    /// The first that a computation gives.
    pub fn side_by_side<I: Sync, R: Send>(
        &self,
        items: &[I],
        of: impl Fn(&I) -> Result<R, TrainError> + Sync,
        mut take: impl FnMut(R),
    ) -> Result<(), TrainError> {
        let of = &of;
        for items in items.chunks(self.pools.len()) {
            let results: Vec<_> = std::thread::scope(|scope| {
                let running: Vec<_> = items
                    .iter()
                    .zip(&self.pools)
                    .map(|(item, pool)| scope.spawn(move || pool.install(|| of(item))))
                    .collect();
                running.into_iter().map(|worker| worker.join()).collect()
            });
            for result in results {
                let lost = |_| TrainError::Settings { reason: "a training thread panicked".to_owned() };
                take(result.map_err(lost)??);
            }
        }
        Ok(())
    }
}

/// Where encoders, reward heads and baselines are trained: they are too small to gain from another device.
pub const DEVICE: Device = Device::Cpu;
