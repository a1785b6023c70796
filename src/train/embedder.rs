//! The sentence embedder: a small BERT trained on a catalogue, so that texts about one story lie near each other.
//!
//! Pairs are a title and a summary of the same article; every other summary of the update is a wrong answer, unless it is
//! of the same story. Loss: InfoNCE over cosines, in both directions (arXiv 1807.03748, with in-batch negatives as in 2004.04906).
use super::{
    checkpoint::write_file,
    encoder_fit::{self, EncoderSettings},
    error::TrainError,
    events::{Scope, World},
    examples::digest,
    fit::DEVICE,
    order::Order,
    tokenizer,
};
use crate::{
    model::{
        encoder::{
            Encoder,
            config::EncoderFamily,
            embedder::{Embedder, Head, Length, Pooling},
        },
        ops::Numerics,
        weights::Parameters,
    },
    news::article::Article,
    text::tokens::encoder::EncoderTokens,
};
use candle_core::{D, Device, Tensor};
use serde::Serialize;
use serde_json::json;
use std::{fmt, path::Path};

/// Cosines are divided by it: with 0.05 a wrong answer counts when it is nearly as near as the right one.
const TEMPERATURE: f64 = 0.05;
/// One story in this many is never trained on: it says how well new stories are embedded.
const HELD_OUT_STORIES: u64 = 20;
/// Summaries among which the right one is looked for.
const CANDIDATES_MAX: usize = 1000;
/// Texts that are embedded together.
const BATCH: usize = 64;
/// File with the report.
const REPORT_FILE: &str = "embedder.json";

impl EncoderSettings {
    /// An embedder of 128 numbers that indexes some thousand articles a second.
    pub fn embedder() -> Self {
        Self {
            // The names of the news: fewer would cut most of them into pieces.
            vocab_size: 8192,
            hidden_size: 128,
            intermediate_size: 256,
            n_layers: 1,
            n_heads: 4,
            tokens_max: 64,
            steps: 800,
            rows: 64,
            peak_learning_rate: 1e-3,
            warmup_steps: 50,
            seed: 6,
        }
    }
}

/// What an embedder's training says.
#[derive(Clone, Debug, Serialize)]
pub struct EmbedderReport {
    /// World, as it tells itself.
    pub world: String,
    /// Mean loss at the end of training, nats.
    pub loss: f64,
    /// Share of held-out titles whose own summary is the nearest of all.
    pub recall_at_1: f64,
    /// The same among the nearest ten.
    pub recall_at_10: f64,
    /// Summaries among which it was looked for.
    pub n_candidates: usize,
}

/// Trains an embedder on the articles published before the cutoff and writes its sentence-transformers folder.
/// # Errors
/// If there are too few articles, training fails, or the disk refuses.
pub fn run(world_at: &Path, settings: &EncoderSettings, out: &Path) -> Result<EmbedderReport, TrainError> {
    let world = World::read(world_at, Scope::Training)?;
    let complete = |article: &&Article| !article.title.is_empty() && !article.summary.is_empty();
    let (held_out, train): (Vec<&Article>, Vec<&Article>) = world
        .published()
        .filter(complete)
        .partition(|article| digest(&article.story_id).is_multiple_of(HELD_OUT_STORIES));
    if train.len() < settings.rows || held_out.is_empty() {
        let reason = format!("{} articles have title and summary, {} are needed", train.len(), settings.rows);
        return Err(TrainError::TooLittleData { reason });
    }
    let texts: Vec<String> =
        train.iter().flat_map(|article| [article.title.clone(), article.summary.clone()]).collect();
    let tokenizer = tokenizer::train_encoder(texts.into_iter(), settings.vocab_size)?;
    let config = settings.config_json(EncoderFamily::Bert, settings.vocab_size, &[]);
    let shape = encoder_fit::parse(&config)?;
    let tokens = EncoderTokens::from_bytes(&tokenizer, shape.tokens_max())?;
    let mut parameters = Parameters::fresh(settings.seed, &DEVICE);
    let encoder = Encoder::load(&shape, &mut parameters, Numerics::Train)?;
    let embedder = Embedder::new(encoder, Head { pooling: Pooling::Mean, length: Length::Unit });
    let order = Order::new(settings.seed, train.len());
    let loss_of = |step: u64| {
        let chosen = order.items(step * settings.rows as u64, settings.rows);
        let articles: Vec<&Article> = chosen.into_iter().map(|idx| train[idx]).collect();
        let embed = |text: fn(&Article) -> &str| -> Result<Tensor, TrainError> {
            let rows: Vec<Vec<u32>> = articles.iter().map(|article| tokens.encode(text(article))).collect();
            Ok(embedder.embed(&rows)?)
        };
        info_nce(&embed(|article| &article.title)?, &embed(|article| &article.summary)?, &articles)
    };
    let loss = encoder_fit::fit("embedder", &parameters, settings, &loss_of)?;
    let pooling = json!({"word_embedding_dimension": settings.hidden_size, "pooling_mode_mean_tokens": true});
    let others = [
        ("modules.json", modules()),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", json!({"max_seq_length": settings.tokens_max, "do_lower_case": false})),
    ];
    encoder_fit::write(out, (&config, &tokenizer), &parameters, &others)?;
    let (recall_at_1, recall_at_10, n_candidates) = recalls(out, &held_out)?;
    let report = EmbedderReport { world: world.title(), loss, recall_at_1, recall_at_10, n_candidates };
    let json = serde_json::to_vec_pretty(&report).map_err(|error| TrainError::file(out, error))?;
    write_file(&out.join(REPORT_FILE), &json)?;
    Ok(report)
}

/// What sentence-transformers reads of a folder first.
fn modules() -> serde_json::Value {
    let module = |idx: usize, path: &str, kind: &str| {
        let name = idx.to_string();
        json!({"idx": idx, "name": name, "path": path, "type": format!("sentence_transformers.models.{kind}")})
    };
    json!([
        module(0, "", "Transformer"),
        module(1, "1_Pooling", "Pooling"),
        module(2, "2_Normalize", "Normalize")
    ])
}

/// Mean negative log-probability of the right partner among all, in both directions. Titles and summaries (B, D), length 1.
fn info_nce(titles: &Tensor, summaries: &Tensor, articles: &[&Article]) -> Result<Tensor, TrainError> {
    let n = articles.len();
    // Another article of the same story is no wrong answer, and none that is asked for: it is left out.
    let left_out: Vec<f32> = articles
        .iter()
        .enumerate()
        .flat_map(|(row, a)| {
            articles
                .iter()
                .enumerate()
                .map(move |(column, b)| if row != column && a.story_id == b.story_id { -1e4 } else { 0.0 })
        })
        .collect();
    let left_out = Tensor::from_vec(left_out, (n, n), &DEVICE)?;
    let scores = ((titles.matmul(&summaries.t()?)? / TEMPERATURE)? + left_out)?; // (B, B)
    let own: Vec<u32> = (0..).take(n).collect();
    let own = encoder_fit::ids(&own)?.reshape((n, 1))?;
    let one_way = |scores: &Tensor| -> Result<Tensor, TrainError> {
        let log_probs = candle_nn::ops::log_softmax(scores, D::Minus1)?;
        Ok(log_probs.gather(&own, 1)?.mean_all()?.neg()?)
    };
    Ok(((one_way(&scores)? + one_way(&scores.t()?.contiguous()?)?)? / 2.0)?)
}

/// How often a held-out title finds its own summary first, and among ten; measured with the folder as it was written.
#[allow(clippy::cast_precision_loss, reason = "counts of articles")]
fn recalls(folder: &Path, held_out: &[&Article]) -> Result<(f64, f64, usize), TrainError> {
    let embedder = Embedder::open(folder, &Device::Cpu)?;
    let tokens = EncoderTokens::open(folder, embedder.encoder().config().tokens_max())?;
    let chosen = &held_out[..held_out.len().min(CANDIDATES_MAX)];
    let embed = |text: fn(&Article) -> &str| -> Result<Tensor, TrainError> {
        let batches = chosen.chunks(BATCH).map(|batch| {
            let rows: Vec<Vec<u32>> = batch.iter().map(|article| tokens.encode(text(article))).collect();
            Ok(embedder.embed(&rows)?)
        });
        Ok(Tensor::cat(&batches.collect::<Result<Vec<_>, TrainError>>()?, 0)?)
    };
    let titles = embed(|article| &article.title)?;
    let scores = titles.matmul(&embed(|article| &article.summary)?.t()?)?.to_vec2::<f32>()?;
    let within = |k: usize| {
        let found = scores
            .iter()
            .enumerate()
            .filter(|(idx, row)| row.iter().filter(|score| **score > row[*idx]).count() < k);
        found.count() as f64 / chosen.len() as f64
    };
    Ok((within(1), within(10), chosen.len()))
}

impl fmt::Display for EmbedderReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}. Loss {:.4}. Of {} held-out titles {:.1} % find their own summary first, {:.1} % among ten.",
            self.world,
            self.loss,
            self.n_candidates,
            100.0 * self.recall_at_1,
            100.0 * self.recall_at_10
        )
    }
}
