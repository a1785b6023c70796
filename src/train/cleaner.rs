//! The signal cleaner: a RoBERTa classifier trained on labelled signals, and what cleaning is worth.
//!
//! Labels are a world's own tags of training readers' events, or lines that a platform labelled. A second person on the
//! same account writes like anybody: to a cleaner that sees one signal at a time their events are not noise.
mod report;

use super::{
    encoder_fit::{self, EncoderSettings},
    error::TrainError,
    events::{Event, Reader, Scope, World},
    fit::DEVICE,
    order::Order,
    tokenizer,
};
use crate::{
    cleaner::{Cleaner, Verdict, line},
    model::{
        encoder::{classifier::Classifier, config::EncoderFamily},
        ops::Numerics,
        weights::Parameters,
    },
    signals::Stream,
    text::tokens::encoder::EncoderTokens,
    world::known::{Known, Tag},
};
use candle_core::{D, Tensor};
pub use report::CleanerReport;
use serde::Deserialize;
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

/// What the classifier tells apart; rules alone say what is personal.
const LABELS: [Verdict; 4] = [Verdict::Keep, Verdict::Malformed, Verdict::Navigational, Verdict::Automated];
/// File with the report.
pub const REPORT_FILE: &str = "cleaner.json";

impl EncoderSettings {
    /// A cleaner that judges more than ten thousand signals a second on one core.
    pub fn cleaner() -> Self {
        Self {
            // Noise repeats itself: few words tell it.
            vocab_size: 2048,
            hidden_size: 64,
            intermediate_size: 128,
            n_layers: 1,
            n_heads: 4,
            tokens_max: 32,
            steps: 1500,
            rows: 64,
            peak_learning_rate: 2e-3,
            warmup_steps: 50,
            seed: 5,
        }
    }
}

/// Where labels come from.
#[derive(Clone, Debug)]
pub enum Labels {
    /// The tags of a generated world.
    World,
    /// JSON lines with `text`, `stream` (search or page) and `label` (a verdict).
    File(PathBuf),
}

/// One labelled signal.
struct Labelled {
    line: String,
    label: u32,
}

/// Trains a cleaner into `out` and measures it on validation readers, if the labels are a world's.
/// # Errors
/// If there is no signal of a label, training fails, or the disk refuses.
pub fn run(
    world_at: &Path,
    labels: &Labels,
    settings: &EncoderSettings,
    out: &Path,
) -> Result<CleanerReport, TrainError> {
    let world = World::read(world_at, Scope::Validation)?;
    let known = match labels {
        Labels::World => Some(Known::read(world_at)?),
        Labels::File(_) => None,
    };
    let labelled = match (labels, &known) {
        (Labels::File(file), _) => read_labelled(file)?,
        (Labels::World, Some(known)) => tagged(&world, known),
        (Labels::World, None) => Vec::new(),
    };
    let mut counts = [0; LABELS.len()];
    labelled.iter().for_each(|line| counts[line.label as usize] += 1);
    if let Some(idx) = counts.iter().position(|count| *count == 0) {
        return Err(TrainError::TooLittleData { reason: format!("no signal is {}", LABELS[idx].word()) });
    }
    let texts = labelled.iter().map(|labelled| labelled.line.clone()).collect::<Vec<_>>().into_iter();
    let tokenizer = tokenizer::train_encoder(texts, settings.vocab_size)?;
    let names = LABELS.map(Verdict::word);
    let config = settings.config_json(EncoderFamily::Roberta, settings.vocab_size, &names);
    let shape = encoder_fit::parse(&config)?;
    let tokens = EncoderTokens::from_bytes(&tokenizer, shape.tokens_max())?;
    let mut parameters = Parameters::fresh(settings.seed, &DEVICE);
    let classifier = Classifier::load(&shape, &mut parameters, Numerics::Train)?;
    let order = Order::new(settings.seed, labelled.len());
    let loss_of = |step: u64| {
        let chosen = order.items(step * settings.rows as u64, settings.rows);
        let rows: Vec<Vec<u32>> = chosen.iter().map(|&idx| tokens.encode(&labelled[idx].line)).collect();
        let targets: Vec<u32> = chosen.iter().map(|&idx| labelled[idx].label).collect();
        cross_entropy(&classifier.logits(&rows)?, &targets)
    };
    let loss = encoder_fit::fit("cleaner", &parameters, settings, &loss_of)?;
    encoder_fit::write(out, (&config, &tokenizer), &parameters, &[])?;
    // Measured as it will be used: read back from the folder.
    let cleaner = Cleaner::open(out)?;
    let report = report::measure(&world, known.as_ref(), &cleaner, loss)?;
    let json = serde_json::to_vec_pretty(&report).map_err(|error| TrainError::file(out, error))?;
    super::checkpoint::write_file(&out.join(REPORT_FILE), &json)?;
    Ok(report)
}

/// What an event is to a cleaner that sees it alone. Clicks are judged by no classifier.
fn verdict_of(event: &Event, tag: Tag) -> Option<Verdict> {
    match (event.stream, tag) {
        (Stream::Click, _) => None,
        (_, Tag::Interest | Tag::Household) => Some(Verdict::Keep),
        (_, Tag::Malformed) => Some(Verdict::Malformed),
        (_, Tag::Navigational) => Some(Verdict::Navigational),
        (_, Tag::Bot) => Some(Verdict::Automated),
    }
}

/// Searches and pages of a reader with what they truly are.
fn judged<'a>(reader: &'a Reader, known: &'a Known) -> impl Iterator<Item = (&'a Event, Verdict)> {
    let tagged = reader.events.iter().zip(known.tags(&reader.key));
    tagged.filter_map(|(event, tag)| Some((event, verdict_of(event, *tag)?)))
}

/// Training readers' searches and pages, by the world's tags.
fn tagged(world: &World, known: &Known) -> Vec<Labelled> {
    let all = world.training_readers().flat_map(|reader| judged(reader, known));
    all.map(|(event, verdict)| Labelled {
        line: line(event.stream, &event.text),
        label: label_of(verdict).unwrap_or(0),
    })
    .collect()
}

fn label_of(verdict: Verdict) -> Option<u32> {
    (0..).zip(LABELS).find(|(_, label)| *label == verdict).map(|(id, _)| id)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelRow {
    stream: String,
    text: String,
    label: String,
}

/// A platform's own labels; a broken line is an error, since a label that is lost silently teaches the opposite.
fn read_labelled(path: &Path) -> Result<Vec<Labelled>, TrainError> {
    let file = std::fs::File::open(path).map_err(TrainError::disk(path, "open"))?;
    let mut labelled = Vec::new();
    for (idx, text) in BufReader::new(file).lines().enumerate() {
        let text = text.map_err(TrainError::disk(path, "read"))?;
        let wrong =
            |reason: String| TrainError::Line { file: path.display().to_string(), line: idx + 1, reason };
        let row: LabelRow = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let stream = Stream::of_word(&row.stream)
            .filter(|stream| *stream != Stream::Click)
            .ok_or_else(|| wrong(format!("stream is {:?}, expected search or page", row.stream)))?;
        let label = Verdict::of_word(&row.label).and_then(label_of).ok_or_else(|| {
            wrong(format!("label is {:?}, expected one of {:?}", row.label, LABELS.map(Verdict::word)))
        })?;
        labelled.push(Labelled { line: line(stream, &row.text), label });
    }
    Ok(labelled)
}

/// Mean negative log-probability of the labels, nats. `logits` (B, labels) f32.
fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor, TrainError> {
    let (n_rows, _) = logits.dims2()?;
    let log_probs = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let of_labels = log_probs.gather(&encoder_fit::ids(labels)?.reshape((n_rows, 1))?, 1)?;
    Ok(of_labels.mean_all()?.neg()?)
}
