//! Supervised fine-tuning: signals to lists of queries.
use super::{
    checkpoint::{self, Run, RunState},
    error::TrainError,
    events::World,
    examples,
    fit::{self, MicroBatch, Place},
    optimizer::AdamW,
    order::Order,
    packing::{self, Example},
    pretrain::{id_bytes, settings_digest},
    settings::SftSettings,
};
use crate::{
    bundle::load::{TOKENIZER_FILE, WEIGHTS_FILE},
    bundle::manifest::sha256_hex,
    text::tokens::Tokens,
};
use candle_core::Device;
use std::path::{Path, PathBuf};

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
    let buckets = packing::buckets(&examples, settings.fit.micro_batch_tokens);
    let rows: Vec<Vec<u32>> =
        examples.iter().map(|example| [&*example.prompt, &*example.completion].concat()).collect();
    let weights = init.join(WEIGHTS_FILE);
    let weights = sha256_hex(&std::fs::read(&weights).map_err(TrainError::disk(&weights, "read"))?);
    let digest = settings_digest(settings, &[tokenizer_json, &id_bytes(&rows), weights.as_bytes()])?;
    let mut run = match checkpoint::latest(out)? {
        Some(folder) => checkpoint::open(&folder, settings.fit.adamw(), &digest, device)?,
        None => {
            let (config, parameters) = checkpoint::open_model(&init, device)?;
            let optimizer = AdamW::new(settings.fit.adamw(), parameters.vars());
            Run { config, parameters, optimizer, state: RunState::start(digest) }
        }
    };
    let order = Order::new(settings.fit.seed, buckets.len());
    let batches = |step: u64| -> Vec<MicroBatch> {
        let n = settings.fit.micro_batches;
        let batch = |bucket: usize| {
            let chosen: Vec<&Example> = buckets[bucket].iter().map(|&idx| &examples[idx]).collect();
            packing::example_batch(&chosen, tokens.end_of_text())
        };
        order.items(step * n as u64, n).into_iter().map(batch).collect()
    };
    let place = Place { title: "sft", out, tokenizer_json };
    fit::fit(&mut run, &settings.fit, place, &batches)
}

/// A model reads only the ids of its own tokenizer.
fn check_tokenizer(init: &Path, tokenizer_json: &[u8]) -> Result<(), TrainError> {
    let path = init.join(TOKENIZER_FILE);
    let own = std::fs::read(&path).map_err(TrainError::disk(&path, "read"))?;
    if own == tokenizer_json {
        Ok(())
    } else {
        Err(TrainError::file(&path, "another tokenizer than the one given"))
    }
}
