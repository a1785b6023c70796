//! Pre-training: the language of the world's news and of its readers' traces.
use super::{
    checkpoint::{self, Run, RunState},
    error::TrainError,
    events::World,
    fit::{self, MicroBatch, Place},
    optimizer::AdamW,
    order::Order,
    packing,
    settings::PretrainSettings,
    tokenizer,
    word_vectors::word_vectors,
};
use crate::{
    bundle::manifest::sha256_hex,
    model::{config::DecoderConfig, ops::Numerics, transformer::Transformer, weights::Parameters},
    text::tokens::Tokens,
};
use candle_core::{Device, Tensor};
use std::path::{Path, PathBuf};

/// Name of the embeddings, which are the output head too.
const EMBEDDINGS: &str = "model.embed_tokens.weight";

/// Trains a fresh student on packed documents, on `device`; goes on from the newest checkpoint in `out` where there is one.
///
/// Returns the last checkpoint's folder.
/// # Errors
/// If the world holds less than one row of text, or training fails.
pub fn run(
    world: &World,
    tokenizer_at: &Path,
    settings: &PretrainSettings,
    out: &Path,
    device: &Device,
) -> Result<PathBuf, TrainError> {
    let (tokens, tokenizer_json) = tokenizer::read(tokenizer_at)?;
    let documents = documents(world, &tokens);
    let rows = packing::pack(&documents, tokens.end_of_text(), settings.row_tokens, settings.fit.seed);
    if rows.is_empty() {
        return Err(TrainError::TooLittleData {
            reason: "the world holds less than one row of text".to_owned(),
        });
    }
    let digest = settings_digest(settings, &[sha256_hex(&tokenizer_json), ids_digest(&rows)])?;
    let mut run = match checkpoint::latest(out)? {
        Some(folder) => checkpoint::open(&folder, settings.fit.adamw(), &digest, device)?,
        None => fresh(settings, &tokens, &documents, (digest, device))?,
    };
    let n_rows = (settings.fit.micro_batch_tokens / settings.row_tokens.max(1)).max(1);
    let order = Order::new(settings.fit.seed, rows.len());
    let batches = |step: u64| -> Vec<MicroBatch> {
        let n_step_rows = n_rows * settings.fit.micro_batches;
        let chosen = order.items(step * n_step_rows as u64, n_step_rows);
        let batch = |part: &[usize]| packing::packed_batch(part.iter().map(|&idx| rows[idx].as_slice()));
        chosen.chunks(n_rows).map(batch).collect()
    };
    let place = Place { title: "pretrain", out, tokenizer_json: &tokenizer_json };
    fit::fit(&mut run, &settings.fit, place, &batches)
}

/// Fresh parameters on the settings' seed.
fn fresh(
    settings: &PretrainSettings,
    tokens: &Tokens,
    documents: &[Vec<u32>],
    (settings_sha256, device): (String, &Device),
) -> Result<Run, TrainError> {
    let config: DecoderConfig = settings.network.config(tokens.n_tokens(), tokens.im_end());
    let mut parameters = Parameters::fresh(settings.fit.seed, device);
    // Parameters come to be when a network first asks for them.
    Transformer::load(&config, &mut parameters, Numerics::Train)?;
    if settings.word_vectors {
        start_embeddings(&parameters, documents, settings.fit.seed)?;
    }
    let optimizer = AdamW::new(settings.fit.adamw(), parameters.vars());
    let state = RunState::start(settings_sha256);
    Ok(Run { config, parameters, optimizer, state, adapted: None })
}

/// Replaces the fresh embeddings by word vectors, of length 1; a token without a vector keeps its fresh one.
///
/// Fresh embeddings are several times shorter. The optimiser moves every number by up to the learning rate, so vectors
/// of that length would be lost within the first steps.
fn start_embeddings(parameters: &Parameters, documents: &[Vec<u32>], seed: u64) -> Result<(), TrainError> {
    let var = parameters.vars().get(EMBEDDINGS).ok_or_else(|| TrainError::File {
        file: EMBEDDINGS.to_owned(),
        reason: "the network has no such tensor".to_owned(),
    })?;
    let (n_rows, width) = var.dims2()?; // (V, D)
    let mut values: Vec<f32> = var.flatten_all()?.to_vec1()?;
    let vectors = word_vectors(documents, n_rows, width, seed);
    for (row, vector) in values.chunks_mut(width).zip(vectors.chunks(width)) {
        if vector.iter().any(|value| *value != 0.0) {
            row.copy_from_slice(vector);
        }
    }
    var.set(&Tensor::from_vec(values, (n_rows, width), var.device())?)?;
    Ok(())
}

/// Articles published before the cutoff, and each training reader's traces as lines in the order of time.
fn documents(world: &World, tokens: &Tokens) -> Vec<Vec<u32>> {
    let articles = world
        .published()
        .map(|article| tokens.encode_text(&format!(" {}\n {}", article.title, article.summary)));
    let readers = world.training_readers().map(|reader| {
        reader.events.iter().flat_map(|event| tokens.encode_text(&event.line())).collect::<Vec<_>>()
    });
    articles.chain(readers).filter(|document| !document.is_empty()).collect()
}

/// Digest of settings and of the digests of data: a checkpoint made with others is not resumed.
pub(super) fn settings_digest<T: serde::Serialize>(
    settings: &T,
    data: &[String],
) -> Result<String, TrainError> {
    let text =
        serde_json::to_vec(settings).map_err(|error| TrainError::Settings { reason: error.to_string() })?;
    Ok(sha256_hex((sha256_hex(&text) + &data.concat()).as_bytes()))
}

/// Digest of rows of ids.
pub(super) fn ids_digest(rows: &[Vec<u32>]) -> String {
    sha256_hex(&rows.iter().flatten().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A long run must go on under a newer build. Source of the number: sha256 of the three digests in a row, computed elsewhere.
    #[test]
    fn the_digest_of_a_run_is_what_it_was() {
        let data = [sha256_hex(b"weights"), sha256_hex(b"ids")];
        let digest = settings_digest(&json!({ "steps": 2 }), &data).unwrap();
        assert_eq!(digest, "958cd9008d111b612a7ee75691ca4a70bbffb0f5d0d00f467054e1a0e635de36");
    }
}
