//! The demo bundle from nothing: the pipeline's demo profile, and the files that the server's demo shows.
use super::{
    error::TrainError,
    events::{Event, Reader, Scope, Split, World},
    pack_bundle::{self, Parts},
    pipeline::{self, Made, Profile},
};
use crate::{bundle::save::Files, signals::Stream};
use candle_core::Device;
use serde::Serialize;
use std::path::Path;

/// Largest demo bundle; it is compiled into the server.
pub const BYTES_MAX: u64 = 12 * 1024 * 1024;
/// Readers shown by the demo.
const N_READERS: usize = 3;
/// A reader is shown only with this many signals of each stream.
const SIGNALS_PER_STREAM: usize = 5;
/// Newest signals shown of a reader.
const SIGNALS_SHOWN: usize = 30;

/// Runs the pipeline in `work` and writes the demo bundle to `out`. `world`: an existing world instead of a fresh one. `figures`: for its
/// card.
/// # Errors
/// If a stage fails, or the bundle is larger than the server may embed.
pub fn run(
    (work, world): (&Path, Option<&Path>),
    figures: &[String],
    out: &Path,
    device: &Device,
) -> Result<(), TrainError> {
    let Made { parts, mut provenance, world } = pipeline::run(&Profile::demo(), work, world, device)?;
    let others = shown(&world)?;
    provenance.commands.push("newshound-trainer demo-bundle --work work --out deploy/demo".to_owned());
    pack_bundle::run(
        Parts { others, figures: figures.to_vec(), bytes_max: Some(BYTES_MAX), ..parts },
        provenance,
        out,
    )?;
    Ok(())
}

/// What the server's demo shows: files for its bundle.
/// # Errors
/// If the world cannot be read.
pub fn shown(world: &Path) -> Result<Files, TrainError> {
    let world = World::read(world, Scope::Evaluation)?;
    Ok(vec![
        ("articles.jsonl".to_owned(), alive_articles(&world)?),
        ("users.jsonl".to_owned(), readers(&world)?),
    ])
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
