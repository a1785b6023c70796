//! Supervised fine-tuning: signals to lists of queries.
use super::{
    checkpoint,
    error::TrainError,
    events::World,
    examples::{self, Examples},
    fit::{self, MicroBatch, Place},
    order::Order,
    packing::{self, Example},
    pretrain::{ids_digest, settings_digest},
    settings::{FitSettings, SftSettings, output::OutputTokens},
};
use crate::{
    bundle::{load::TOKENIZER_FILE, manifest::sha256_hex},
    model::config::OutputIds,
    text::tokens::Tokens,
};
use candle_core::Device;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Fine-tunes the model `init` on training readers' examples, on `device`; goes on from the newest checkpoint in `out` where there is one.
///
/// Returns the last checkpoint's folder.
/// # Errors
/// If no example can be made, or training fails.
pub fn run(
    world: &World,
    tokenizer: (&Tokens, &[u8]),
    (init, device): (&Path, &Device),
    settings: &SftSettings,
    out: &Path,
) -> Result<PathBuf, TrainError> {
    let (tokens, tokenizer_json) = tokenizer;
    let init = checkpoint::resolve(init)?;
    check_tokenizer(&init, tokenizer_json)?;
    let examples = examples::build(world, tokens, settings)?;
    let rows: Vec<Vec<u32>> = examples
        .singles
        .iter()
        .chain(&examples.whole)
        .map(|example| {
            let place = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
            let notes: Vec<u32> = example.notes.iter().flat_map(|&(at, id)| [place(at), id]).collect();
            [&*example.prompt, &*example.completion, &*notes].concat()
        })
        .collect();
    // A digest of a digest: so it stands in the checkpoints of runs that are to go on.
    let weights = sha256_hex(checkpoint::weights_digest(&init)?.as_bytes());
    let digest = settings_digest(settings, &[sha256_hex(tokenizer_json), ids_digest(&rows), weights])?;
    let lora = settings.lora.of_seed(settings.fit.seed)?;
    let mut run = checkpoint::resume_or_begin(out, (&init, lora), settings.fit.adamw(), digest, device)?;
    if settings.output_tokens == OutputTokens::Taught {
        run.config.output_ids = taught(&examples, tokens, &run.config.eos_ids);
    }
    let n_single_steps = if examples.singles.is_empty() { 0 } else { settings.single_signal_steps };
    if n_single_steps >= settings.fit.steps {
        let reason = format!(
            "all {} steps would read single signals; single_signal_steps must be fewer",
            settings.fit.steps
        );
        return Err(TrainError::Settings { reason });
    }
    let singles = Phase::new(&examples.singles, &settings.fit);
    let whole = Phase::new(&examples.whole, &settings.fit);
    let batches = |step: u64| match step.checked_sub(n_single_steps) {
        Some(step) => whole.batches(step, tokens.end_of_text()),
        None => singles.batches(step, tokens.end_of_text()),
    };
    let place = Place { title: "sft", out, tokenizer_json };
    fit::fit(&mut run, &settings.fit, place, &batches)
}

/// The tokens of all lists and notes, and those that end a list.
fn taught(examples: &Examples, tokens: &Tokens, eos_ids: &[u32]) -> OutputIds {
    let examples = examples.singles.iter().chain(&examples.whole);
    let written = |example: &Example| {
        let notes = example.notes.iter().map(|&(_, id)| id);
        example.completion.iter().copied().chain(notes).collect::<Vec<u32>>()
    };
    let mut ids: BTreeSet<u32> = examples.flat_map(written).collect();
    ids.extend(tokens.stop_ids().iter().chain(eos_ids));
    OutputIds::Kept(ids.into_iter().collect())
}

/// Examples that are learned in an order of their own.
struct Phase<'a> {
    examples: &'a [Example],
    buckets: Vec<Vec<usize>>,
    order: Order,
    n_micro_batches: usize,
}

impl<'a> Phase<'a> {
    fn new(examples: &'a [Example], settings: &FitSettings) -> Self {
        let buckets = packing::buckets(examples, settings.micro_batch_tokens);
        let order = Order::new(settings.seed, buckets.len());
        Self { examples, buckets, order, n_micro_batches: settings.micro_batches }
    }

    /// The micro-batches of a step of this phase.
    fn batches(&self, step: u64, padding: u32) -> Vec<MicroBatch> {
        let first = step * self.n_micro_batches as u64;
        let batch = |bucket: usize| {
            let chosen: Vec<&Example> = self.buckets[bucket].iter().map(|&idx| &self.examples[idx]).collect();
            packing::example_batch(&chosen, padding)
        };
        self.order.items(first, self.n_micro_batches).into_iter().map(batch).collect()
    }
}

/// A model reads only the ids of its own tokenizer.
/// # Errors
/// If that of the model folder is another.
pub(super) fn check_tokenizer(init: &Path, tokenizer_json: &[u8]) -> Result<(), TrainError> {
    let path = init.join(TOKENIZER_FILE);
    let own = std::fs::read(&path).map_err(TrainError::disk(&path, "read"))?;
    if own == tokenizer_json {
        Ok(())
    } else {
        Err(TrainError::file(&path, "another tokenizer than the one given"))
    }
}
