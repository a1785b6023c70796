//! Rows beside the baselines that share their readers: a world's truth as queries, and bundles, so that one table compares every
//! role of the model line (prompt-only, fine-tuned on titles of later clicks as GPT4Rec, student) with what a platform has.
use crate::{
    bundle::load::{self, BundleSource},
    model::precision::Precision,
    text::prompt,
    train::{
        error::TrainError,
        evaluate::{
            EvaluateSettings, Question,
            measures::{Figures, figures},
            ways::Platform,
        },
        events::{Reader, Scope, World},
        rollout::{Sample, Sampled},
    },
    world::known::Known,
};
use candle_core::Device;
use rayon::prelude::*;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Queries that are made of true interests: as many as a list may have.
const QUERIES_MAX: usize = 8;
/// What the row of true interests is called.
pub const ORACLE: &str = "true interests as queries (oracle)";

/// A bundle with its name in tables.
#[derive(Clone, Debug)]
pub struct NamedBundle {
    /// The name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
}

/// What the names of each reader's true interests find, one query for each; none of a world that holds no truth.
/// # Errors
/// If the truth is broken or the search fails.
pub fn oracle(
    world_at: &Path,
    world: &World,
    platform: &Platform<'_>,
    questions: &[Question<'_>],
) -> Result<Option<Vec<Figures>>, TrainError> {
    if !world_at.join("truth").is_dir() {
        return Ok(None);
    }
    let known = Known::read(world_at)?;
    let found = |question: &Question<'_>| -> Result<Figures, TrainError> {
        let interests = known.interests(&question.reader.key, world.cutoff_unix_s);
        let queries: Vec<String> = interests.iter().take(QUERIES_MAX).map(|names| names.join(" ")).collect();
        let ranking = platform.ranking(queries.iter().map(String::as_str))?;
        Ok(figures(&ranking, &question.clicked))
    };
    questions.par_iter().map(found).collect::<Result<_, _>>().map(Some)
}

/// What one list of a bundle finds for each of the readers asked, by seed. They are cleaned by its own cleaner, as the server does
/// it; whoever has nothing left to be read is shown nothing.
/// # Errors
/// If the bundle cannot be loaded or sampling fails.
pub fn bundle(
    world_at: &Path,
    named: &NamedBundle,
    settings: EvaluateSettings,
    questions: &[Question<'_>],
    device: &Device,
) -> Result<Vec<Vec<Figures>>, TrainError> {
    let mut world = World::read(world_at, Scope::Evaluation)?;
    let bundle = load::load(BundleSource::Dir(&named.folder), Precision::F32, device)?;
    if let Some(cleaner) = &bundle.cleaner {
        world.clean(cleaner, &[settings.split])?;
    }
    let tokens_max = bundle.manifest.prompt_tokens_max;
    let student = Sampled { model: Arc::new(bundle.model), tokens: bundle.tokens };
    let platform = Platform::of(&world, Vec::new(), None, None)?;
    let by_key: HashMap<&str, &Reader> =
        world.readers.iter().map(|reader| (reader.key.as_str(), reader)).collect();
    let (prompts, asked): (Vec<Vec<u32>>, Vec<usize>) = questions
        .iter()
        .enumerate()
        .filter_map(|(place, question)| {
            let signals = by_key.get(question.reader.key.as_str())?.signals_until(world.cutoff_unix_s)?;
            Some((prompt::build(&signals, &student.tokens, tokens_max).ids, place))
        })
        .unzip();
    let mut by_seed = Vec::new();
    for seed in (settings.seed..).take(usize::try_from(settings.n_seeds.max(1)).unwrap_or(1)) {
        let samples = student.lists(&prompts, 1, seed, &|| ())?;
        let found = |(&place, samples): (&usize, &Vec<Sample>)| -> Result<(usize, Figures), TrainError> {
            let ranking = match samples.first() {
                Some(Ok((list, _))) => {
                    platform.ranking(list.as_slice().iter().map(|query| query.as_str()))?
                }
                Some(Err(_)) | None => Vec::new(),
            };
            Ok((place, figures(&ranking, &questions[place].clicked)))
        };
        let found = asked.par_iter().zip(&samples).map(found).collect::<Result<Vec<_>, _>>()?;
        let mut of_readers = vec![Figures::default(); questions.len()];
        found.into_iter().for_each(|(place, figures)| of_readers[place] = figures);
        by_seed.push(of_readers);
    }
    Ok(by_seed)
}
