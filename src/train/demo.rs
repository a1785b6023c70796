//! The demo bundle from nothing: every stage with fixed seeds, then the files that the server embeds.
use super::{
    checkpoint,
    cleaner::{self, Labels},
    encoder_fit::EncoderSettings,
    error::TrainError,
    events::{Event, Reader, Scope, Split, World},
    head,
    journal::{StepMetrics, progress_bar},
    pack_bundle::{self, Parts, Provenance},
    pretrain,
    settings::{DEMO_VOCABULARY, HeadSettings, PretrainSettings, SftSettings},
    sft, tokenizer,
};
use crate::{
    bundle::load::{CONFIG_FILE, TOKENIZER_FILE},
    signals::Stream,
    world::{self, Size, WorldSettings},
};
use candle_core::Device;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Seed of the demo's world.
const WORLD_SEED: u64 = 7;
/// Largest demo bundle; it is compiled into the server.
const BYTES_MAX: u64 = 12 * 1024 * 1024;
/// Readers shown by the demo.
const N_READERS: usize = 3;
/// A reader is shown only with this many signals of each stream.
const SIGNALS_PER_STREAM: usize = 5;
/// Newest signals shown of a reader.
const SIGNALS_SHOWN: usize = 30;

/// Where the stages leave their outputs. A stage whose output is there is not run again, and one cut short goes on.
#[derive(Clone, Debug)]
struct Places {
    world: PathBuf,
    tokenizer: PathBuf,
    cleaner: PathBuf,
    pretrain: PathBuf,
    sft: PathBuf,
    head: PathBuf,
}

/// Runs all stages in `work` and writes the demo bundle to `out`. `world`: an existing world instead of a fresh one. The student is
/// trained and sampled on `device`.
/// # Errors
/// If a stage fails, or the bundle is larger than the server may embed.
pub fn run(work: &Path, world: Option<&Path>, out: &Path, device: &Device) -> Result<(), TrainError> {
    let places = Places {
        world: world.map_or_else(|| work.join("world"), Path::to_owned),
        tokenizer: work.join("tokenizer"),
        cleaner: work.join("cleaner"),
        pretrain: work.join("pretrain"),
        sft: work.join("sft"),
        head: work.join("head.safetensors"),
    };
    if !places.world.join("world.json").is_file() {
        generate(&places.world)?;
    }
    let training = World::read(&places.world, Scope::Training)?;
    train(&training, &places, device)?;
    let shown = World::read(&places.world, Scope::Evaluation)?;
    let others = vec![
        ("articles.jsonl".to_owned(), alive_articles(&shown)?),
        ("users.jsonl".to_owned(), readers(&shown)?),
    ];
    let parts = Parts {
        model: places.sft.clone(),
        tokenizer: places.tokenizer.clone(),
        head: Some(places.head.clone()),
        cleaner: Some(places.cleaner.clone()),
        others,
        bytes_max: Some(BYTES_MAX),
    };
    pack_bundle::run(parts, provenance(&training, &places)?, out)?;
    Ok(())
}

fn generate(out: &Path) -> Result<(), TrainError> {
    let bar = progress_bar("world", 0);
    let mut progress = |done, of| {
        bar.set_length(of);
        bar.set_position(done);
    };
    world::generate(&WorldSettings { size: Size::Full, seed: WORLD_SEED }, out, &mut progress)?;
    bar.finish();
    Ok(())
}

fn train(world: &World, places: &Places, device: &Device) -> Result<(), TrainError> {
    if !places.tokenizer.join(TOKENIZER_FILE).is_file() {
        tokenizer::run(world, DEMO_VOCABULARY, &places.tokenizer)?;
    }
    // Its config is written last: a folder that has one is whole.
    if !places.cleaner.join(CONFIG_FILE).is_file() {
        cleaner::run(&places.world, &Labels::World, &EncoderSettings::cleaner(), &places.cleaner)?;
    }
    let (tokens, json) = tokenizer::read(&places.tokenizer)?;
    // Runs resume by themselves, and a finished one returns at once.
    pretrain::run(world, &places.tokenizer, &PretrainSettings::demo(), &places.pretrain, device)?;
    sft::run(world, (&tokens, &json), (&places.pretrain, device), &SftSettings::demo(), &places.sft)?;
    head::run(world, &places.sft, &HeadSettings::demo(), &places.head, device)?;
    Ok(())
}

/// The commands that would do the same one by one, the seeds, and what the runs say of themselves.
fn provenance(world: &World, places: &Places) -> Result<Provenance, TrainError> {
    let commands = [
        format!("newshound-trainer world generate --size full --seed {WORLD_SEED} --out work/world"),
        format!("newshound-trainer tokenizer --world work/world --vocab-size {DEMO_VOCABULARY} --out work/tokenizer"),
        "newshound-trainer cleaner --world work/world --out work/cleaner".to_owned(),
        "newshound-trainer pretrain --world work/world --tokenizer work/tokenizer --out work/pretrain".to_owned(),
        "newshound-trainer sft --world work/world --tokenizer work/tokenizer --init work/pretrain --out work/sft".to_owned(),
        "newshound-trainer head --world work/world --model work/sft --out work/head.safetensors".to_owned(),
        "newshound-trainer demo-bundle --work work --out deploy/demo".to_owned(),
    ];
    let (pretrain, sft, head) = (PretrainSettings::demo(), SftSettings::demo(), HeadSettings::demo());
    let cleaner = EncoderSettings::cleaner().seed;
    let seeds = [
        ("world", world.seed),
        ("cleaner", cleaner),
        ("pretrain", pretrain.fit.seed),
        ("sft", sft.fit.seed),
        ("head", head.seed),
    ];
    let mut training = BTreeMap::from([("world".to_owned(), world.name.clone())]);
    for (stage, run) in [("pretrain", &places.pretrain), ("sft", &places.sft)] {
        training.extend(facts(stage, run)?);
    }
    Ok(Provenance {
        name: "newshound-demo".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        prompt_tokens_max: sft.prompt_tokens,
        commands: commands.into(),
        seeds: seeds.into_iter().map(|(stage, seed)| (stage.to_owned(), seed)).collect(),
        training,
    })
}

/// Returns steps, tokens and last losses of a run, from its diary.
/// # Errors
/// If the diary cannot be read.
pub fn facts(stage: &str, run: &Path) -> Result<BTreeMap<String, String>, TrainError> {
    let path = run.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).map_err(TrainError::disk(&path, "read"))?;
    let metrics: Vec<StepMetrics> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let recent = &metrics[metrics.len().saturating_sub(20)..];
    let loss = super::rewards::mean(recent.iter().map(|step| step.loss));
    let tokens: usize = metrics.iter().map(|step| step.tokens).sum();
    let folder = checkpoint::latest(run)?
        .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()));
    Ok(BTreeMap::from([
        (format!("{stage}.checkpoint"), folder.unwrap_or_default()),
        (format!("{stage}.steps"), metrics.len().to_string()),
        (format!("{stage}.tokens"), tokens.to_string()),
        (format!("{stage}.loss"), format!("{loss:.4}")),
    ]))
}

/// Articles alive at the cutoff, one JSON object a line.
fn alive_articles(world: &World) -> Result<Vec<u8>, TrainError> {
    json_lines(world.articles.iter().filter(|article| article.is_alive_at(world.cutoff_unix_s)))
}

#[derive(Serialize)]
struct ReaderLine<'a> {
    user_key: &'a str,
    as_of_unix_s: i64,
    signals: Vec<SignalLine<'a>>,
}

#[derive(Serialize)]
struct SignalLine<'a> {
    stream: &'static str,
    text: &'a str,
    time_unix_s: i64,
    category: Option<&'a str>,
    source: Option<&'a str>,
    dwell_ms: Option<u32>,
}

/// The first test readers, by key, that have signals of every stream. Chosen by signals alone.
fn readers(world: &World) -> Result<Vec<u8>, TrainError> {
    let count =
        |reader: &Reader, stream: Stream| reader.events.iter().filter(|event| event.stream == stream).count();
    let rich = |reader: &&Reader| {
        reader.split == Split::Test
            && [Stream::Search, Stream::Page, Stream::Click]
                .iter()
                .all(|&stream| count(reader, stream) >= SIGNALS_PER_STREAM)
    };
    let mut chosen: Vec<&Reader> = world.readers.iter().filter(rich).collect();
    chosen.sort_by(|a, b| a.key.cmp(&b.key));
    json_lines(chosen.into_iter().take(N_READERS).map(|reader| {
        let newest = &reader.events[reader.events.len().saturating_sub(SIGNALS_SHOWN)..];
        ReaderLine {
            user_key: &reader.key,
            as_of_unix_s: world.cutoff_unix_s,
            signals: newest.iter().map(SignalLine::of).collect(),
        }
    }))
}

impl<'a> SignalLine<'a> {
    fn of(event: &'a Event) -> Self {
        let category = event.category.as_deref();
        Self {
            stream: event.stream.word(),
            text: &event.text,
            time_unix_s: event.time_unix_s,
            category,
            source: None,
            dwell_ms: None,
        }
    }
}

fn json_lines(rows: impl Iterator<Item = impl Serialize>) -> Result<Vec<u8>, TrainError> {
    let mut bytes = Vec::new();
    for row in rows {
        let wrong = |error| TrainError::File { file: "demo".to_owned(), reason: format!("{error}") };
        serde_json::to_writer(&mut bytes, &row).map_err(wrong)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}
