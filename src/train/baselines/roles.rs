//! Rows beside the baselines that share their readers: a world's truth as queries, and bundles, so that one table compares every
//! role of the model line (prompt-only, fine-tuned on titles of later clicks as GPT4Rec, student) with what a platform has.
use super::{
    asked::{Asked, Measured, Rankings},
    bars::{BY_HEAD, BY_JUDGE, ONE_LIST},
    kept::Part,
};
use crate::{
    bundle::load::{self, Bundle, BundleSource},
    decode::{features::Meets, sampler::SamplerSettings},
    lexicon::{Lexicon, meets::meets},
    model::{precision::Precision, reward_head::RewardHead},
    news::fuse,
    queries::QUERIES_MAX,
    text::prompt,
    train::{
        error::TrainError,
        evaluate::{
            measures::{MRR, RECALL_10, figures},
            ways::Platform,
        },
        events::{Reader, Scope, Split, World},
        ranking::Grades,
        retrieval::RANKING_LENGTH,
        rollout::{Sample, Sampled},
    },
    world::known::Known,
};
use candle_core::Device;
use rayon::prelude::*;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

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
    asked: &Asked<'_>,
) -> Result<Option<Measured>, TrainError> {
    if !world_at.join("truth").is_dir() {
        return Ok(None);
    }
    let known = Known::read(world_at)?;
    // Whatever stream is read: the truth needs no signal.
    let found = |reader: &Reader| {
        let interests = known.interests(&reader.key, world.cutoff_unix_s);
        let queries: Vec<String> = interests.iter().take(QUERIES_MAX).map(|names| names.join(" ")).collect();
        platform.ranking(queries.iter().map(String::as_str))
    };
    asked.measured(false, found).map(Some)
}

/// A bundle that is asked, with its readers as its own cleaner leaves them.
#[derive(Debug)]
pub struct Role {
    name: String,
    student: Sampled,
    head: Option<RewardHead>,
    /// What signals mean to the head, where it reads that.
    lexicon: Option<Arc<Lexicon>>,
    tokens_max: usize,
    world: World,
}

impl Role {
    /// Id of a bundle's content.
    /// # Errors
    /// If the bundle cannot be read.
    pub fn id(named: &NamedBundle) -> Result<String, TrainError> {
        let (id, ..) = load::verified(BundleSource::At(&named.folder))?;
        Ok(id.0)
    }

    /// Loads a bundle and lets its cleaner judge the readers of a split, as the server does it.
    /// # Errors
    /// If bundle or world cannot be read, or the cleaner fails.
    pub fn open(
        named: &NamedBundle,
        (world_at, split): (&Path, Split),
        device: &Device,
    ) -> Result<Self, TrainError> {
        let mut world = World::read(world_at, Scope::Evaluation)?;
        let bundle = load::load(BundleSource::At(&named.folder), Precision::F32, device)?;
        let Bundle { manifest, tokens, model, head, lexicon, cleaner, .. } = bundle;
        if let Some(cleaner) = &cleaner {
            world.clean(cleaner, &[split])?;
        }
        let student = Sampled { model: Arc::new(model), tokens };
        let name = named.name.clone();
        Ok(Self { name, student, head, lexicon, tokens_max: manifest.prompt_tokens_max, world })
    }

    /// The world with the cleaner's verdicts.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// What one list finds, what the best of `n_lists` by the reward head does where there is a head, and that by the rewards
    /// themselves, which know more than a head can; and what the queries of all lists would find if held-out clicks chose among them. Without a head one list is sampled: nothing could choose. Whoever has nothing left to be read is shown nothing.
    /// # Errors
    /// If sampling or the search fails.
    pub fn rows(
        &self,
        asked: &Asked<'_>,
        platform: &Platform<'_>,
        (seed, n_lists): (u64, usize),
        streams: bool,
    ) -> Result<Part, TrainError> {
        let n_lists = self.head.as_ref().map_or(1, |_| n_lists);
        let samples = self.samples(asked.whole.iter().copied(), n_lists, seed)?;
        let alone = |readers: &Vec<Reader>| {
            let samples = self.samples(readers.iter(), 1, seed)?;
            samples.par_iter().map(|samples| first(samples, platform)).collect::<Result<Vec<_>, _>>()
        };
        let alone = match (streams, &asked.alone) {
            (true, [search, page, click]) => Some([alone(search)?, alone(page)?, alone(click)?]),
            (false, _) => None,
        };
        let ranked = |of: &(dyn Fn(usize) -> Result<Vec<usize>, TrainError> + Sync)| {
            (0..samples.len()).into_par_iter().map(of).collect::<Result<Vec<_>, _>>()
        };
        let of = |whole: Vec<Vec<usize>>| asked.of_rankings(&Rankings { whole, alone: None });
        let one = Rankings { whole: ranked(&|idx| first(&samples[idx], platform))?, alone };
        let mut rows = vec![(format!("{}{ONE_LIST}", self.name), asked.of_rankings(&one))];
        if let Some(head) = &self.head {
            let name = format!("{}, best of {n_lists}", self.name);
            let by_head = |idx: usize| best(&samples[idx], &liked(&samples[idx], head)?, platform);
            rows.push((format!("{name}{BY_HEAD}"), of(ranked(&by_head)?)));
            let by_judge = |idx: usize| {
                let composites = platform.composites(asked.whole[idx], &samples[idx])?;
                best(&samples[idx], &composites, platform)
            };
            rows.push((format!("{name}{BY_JUDGE}"), of(ranked(&by_judge)?)));
        }
        let chosen = ranked(&|idx| chosen(&samples[idx], &asked.clicked[idx], platform))?;
        let lists = if n_lists == 1 { "one list".to_owned() } else { format!("{n_lists} lists") };
        let name = format!("{}, queries of {lists} chosen by held-out clicks (oracle)", self.name);
        rows.push((name, of(chosen)));
        Ok(rows)
    }

    /// Lists for each reader; none for whom there is nothing to be read of.
    fn samples<'r>(
        &self,
        readers: impl Iterator<Item = &'r Reader>,
        n_lists: usize,
        seed: u64,
    ) -> Result<Vec<Vec<Sample>>, TrainError> {
        let tokens = &self.student.tokens;
        let read = |reader: &Reader| {
            let signals = reader.signals_until(self.world.cutoff_unix_s)?;
            let prompt = prompt::build(&signals, tokens, self.tokens_max);
            let lexicon = self.lexicon.as_ref();
            let meets = lexicon.map(|lexicon| meets(lexicon, prompt.shown(&signals), tokens));
            Some((prompt.ids, meets))
        };
        let read: Vec<Option<(Vec<u32>, Option<Meets>)>> = readers.map(read).collect();
        let prompts: Vec<Vec<u32>> = read.iter().flatten().map(|(ids, _)| ids.clone()).collect();
        let how = (seed, SamplerSettings::SERVING);
        let mut rows = self.student.rows(&prompts, n_lists, how, &|| ())?.into_iter();
        let of_reader = |read: &Option<(_, Option<Meets>)>| match read {
            Some((_, meets)) => self.student.samples(&rows.next().unwrap_or_default(), meets.as_ref()),
            None => Vec::new(),
        };
        Ok(read.iter().map(of_reader).collect())
    }
}

/// What the first list finds; nothing where it is none.
fn first(samples: &[Sample], platform: &Platform<'_>) -> Result<Vec<usize>, TrainError> {
    match samples.first() {
        Some(Ok((list, _))) => platform.ranking(list.as_slice().iter().map(|query| query.as_str())),
        Some(Err(_)) | None => Ok(Vec::new()),
    }
}

/// How the head likes each valid list.
fn liked(samples: &[Sample], head: &RewardHead) -> Result<Vec<f32>, TrainError> {
    let features: Vec<_> = samples.iter().flatten().map(|(_, read)| read.clone()).collect();
    Ok(head.score(&features)?.iter().map(|scores| scores.list.mean).collect())
}

/// What the valid list with the highest score finds.
fn best(samples: &[Sample], scores: &[f32], platform: &Platform<'_>) -> Result<Vec<usize>, TrainError> {
    let lists: Vec<_> = samples.iter().flatten().map(|(list, _)| list).collect();
    // On a tie the earlier list wins: max_by would take the last.
    match (0..lists.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])) {
        Some(idx) => platform.ranking(lists[idx].as_slice().iter().map(|query| query.as_str())),
        None => Ok(Vec::new()),
    }
}

/// What a list finds whose queries are chosen among all that were written by what the reader clicked later: one after the other the
/// query with which the list finds most, and among equals ranks it highest, until none adds anything.
fn chosen(
    samples: &[Sample],
    clicked: &Grades<usize>,
    platform: &Platform<'_>,
) -> Result<Vec<usize>, TrainError> {
    let queries = samples.iter().flatten().flat_map(|(list, _)| list.as_slice()).map(|query| query.as_str());
    let hits: Vec<Vec<usize>> = queries
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|query| platform.hits(query))
        .collect::<Result<_, _>>()?;
    // A query that finds nothing she clicked lifts nothing.
    let able: Vec<Vec<usize>> =
        hits.into_iter().filter(|found| found.iter().any(|idx| clicked.contains_key(idx))).collect();
    let mut list: Vec<Vec<usize>> = Vec::new();
    let (mut ranking, mut worth) = (Vec::new(), (0.0, 0.0));
    while list.len() < QUERIES_MAX {
        let with = |found: &Vec<usize>| {
            let mut more = list.clone();
            more.push(found.clone());
            let ranking = fuse::reciprocal_rank(&more, RANKING_LENGTH);
            let figures = figures(&ranking, clicked);
            ((figures[RECALL_10], figures[MRR]), more, ranking)
        };
        let by_worth = |a: &(f64, f64), b: &(f64, f64)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1));
        let Some(best) = able.iter().map(with).rev().max_by(|a, b| by_worth(&a.0, &b.0)) else { break };
        if by_worth(&best.0, &worth).is_le() {
            break;
        }
        (worth, list, ranking) = best;
    }
    Ok(ranking)
}
