//! The table of what a platform has without us: every row filled by one command, on the same readers.
//!
//! Means are over readers and seeds; intervals resample both. A row's traits (`evaluate::traits`) are means over the same. What one
//! stream alone finds is of the first seed, over all readers: whoever has no such signal is shown what is popular, or by a bundle nothing.
//! Models are trained side by side, one on each core.
use super::{
    Recommender, SequenceModel,
    asked::{Asked, Measured},
    gru4rec::Gru4Rec,
    hstu::Hstu,
    kept::{Kept, Part},
    nrhub::Nrhub,
    pinsage::CoClicks,
    report::{BaselineTable, Kind, Measurements},
    roles::{self, NamedBundle, Role},
    sasrec::SasRec,
    training::Trained,
};
use crate::{
    cleaner::Cleaner,
    train::{
        error::TrainError,
        evaluate::{
            self, EvaluateSettings,
            tier::Tier,
            traits::usual,
            unaided::{Shows, UNAIDED},
            ways::{Platform, Way},
        },
        events::{Reader, Scope, Split, World},
        fit::{DEVICE, Workers},
    },
};
use candle_core::Device;
use rayon::prelude::*;
use std::{collections::BTreeSet, path::Path};

/// The word of the row of true interests.
pub(super) const INTERESTS: &str = "interests";

/// Where things lie, and which rows are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// World folder.
    pub world: &'a Path,
    /// Folder of the cleaner that judges signals before anything but a bundle reads them; bundles bring their own.
    pub cleaner: Option<&'a Path>,
    /// Bundles that are rows too.
    pub bundles: &'a [NamedBundle],
    /// Where networks of bundles compute.
    pub device: &'a Device,
    /// Words of the rows that are made; all where there are none.
    pub only: &'a [String],
    /// Folder for the figures of what is trained or sampled: what is there is not made again.
    pub kept: Option<&'a Path>,
}

type Train = fn(&Trainer<'_>, u64) -> Result<Measured, TrainError>;

/// What is trained: word, name and how.
const TRAINED: [(&str, &str, Train); 5] = [
    (CoClicks::WORD, CoClicks::NAME, |trainer, seed| trainer.measured::<CoClicks>(seed)),
    (Gru4Rec::WORD, Gru4Rec::NAME, |trainer, seed| trainer.measured::<Trained<Gru4Rec>>(seed)),
    (SasRec::WORD, SasRec::NAME, |trainer, seed| trainer.measured::<Trained<SasRec>>(seed)),
    (Hstu::WORD, Hstu::NAME, |trainer, seed| trainer.measured::<Trained<Hstu>>(seed)),
    (Nrhub::WORD, Nrhub::NAME, |trainer, seed| trainer.measured::<Nrhub>(seed)),
];

/// Words of what a platform has: all rows but the judge's, bundles and the truth.
pub(super) fn of_platform() -> impl Iterator<Item = &'static str> {
    let unaided = UNAIDED.iter().filter(|(way, _)| *way != Way::Judge).map(|(way, _)| way.word());
    unaided.chain(TRAINED.iter().map(|(word, ..)| *word))
}

/// Trains and measures the baselines. `settings.n_seeds`: how often models are trained and lists of bundles are sampled, each
/// time with the next seed; `settings.n_lists`: lists of a bundle among which its head chooses.
/// # Errors
/// If the world cannot be read, has no reader to ask, a row is unknown, or training fails.
pub fn run(inputs: Inputs<'_>, settings: EvaluateSettings) -> Result<BaselineTable, TrainError> {
    check(inputs)?;
    let mut world = World::read(inputs.world, Scope::Evaluation)?;
    if let Some(folder) = inputs.cleaner {
        world.clean(&Cleaner::open(folder)?, &[Split::Train, settings.split])?;
    }
    let questions = evaluate::questions(&world, settings);
    if questions.is_empty() {
        return Err(TrainError::TooLittleData {
            reason: "no reader of the split has signals and held-out clicks".to_owned(),
        });
    }
    let popular = evaluate::popular(&world);
    let platform = Platform::of(&world, popular.clone(), None, None)?;
    let keys: Vec<&str> = questions.iter().map(|question| question.reader.key.as_str()).collect();
    let usual =
        usual_of_each(&platform, &questions.iter().map(|question| question.reader).collect::<Vec<_>>())?;
    let asked = Asked::of(&world, &keys, &usual);
    let settings_text = format!("{:?} {} lists", settings.split, settings.n_lists);
    let made_of = [&world.content_digest(), &keys.join(" "), &settings_text];
    let kept = Kept::of(inputs.kept, &made_of.map(String::as_str));
    let making = Making { inputs, settings, asked: &asked, platform: &platform, kept: &kept };
    let mut rows = making.unaided()?;
    rows.extend(making.trained(&Trainer { world: &world, asked: &asked, popular: &popular, settings })?);
    for named in inputs.bundles.iter().filter(|named| inputs.wants(&named.name)) {
        rows.extend(making.bundle(named, &keys)?);
    }
    if inputs.wants(INTERESTS)
        && let Some(found) = roles::oracle(inputs.world, &world, &platform, &asked)?
    {
        rows.push(Measurements::of((INTERESTS, roles::ORACLE), Kind::Oracle, vec![found]));
    }
    let tiers: Vec<Tier> = asked.whole.iter().map(|reader| Tier::of(reader)).collect();
    Ok(BaselineTable::of(world.title(), settings, &tiers, &rows))
}

impl Inputs<'_> {
    fn wants(&self, word: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == word)
    }
}

/// # Errors
/// If a row that is asked for is none.
fn check(inputs: Inputs<'_>) -> Result<(), TrainError> {
    let mut words: Vec<&str> = UNAIDED.iter().map(|(way, _)| way.word()).collect();
    words.extend(TRAINED.map(|(word, ..)| word));
    words.extend(inputs.bundles.iter().map(|named| named.name.as_str()));
    words.push(INTERESTS);
    match inputs.only.iter().find(|only| !words.contains(&only.as_str())) {
        Some(unknown) => {
            let reason = format!("there is no row {unknown}; there are {}", words.join(", "));
            Err(TrainError::Settings { reason })
        }
        None => Ok(()),
    }
}

/// What popularity and the mean of signals show each reader first.
fn usual_of_each(platform: &Platform<'_>, readers: &[&Reader]) -> Result<Vec<BTreeSet<usize>>, TrainError> {
    let is_usual = |(way, _): &&(Way, Shows)| matches!(way, Way::Popularity | Way::Vector);
    let of_reader = |reader: &&Reader| {
        let shown = UNAIDED.iter().filter(is_usual).map(|(_, shows)| Ok(shows(platform, reader)?.ranking));
        let shown = shown.collect::<Result<Vec<_>, TrainError>>()?;
        Ok(usual(shown.iter().map(Vec::as_slice)))
    };
    readers.par_iter().map(of_reader).collect()
}

/// Trains baselines and asks them.
struct Trainer<'a> {
    world: &'a World,
    asked: &'a Asked<'a>,
    popular: &'a [usize],
    settings: EvaluateSettings,
}

impl Trainer<'_> {
    /// Trains a baseline and asks it for every reader; of whom it knows nothing is shown what is popular.
    fn measured<R: Recommender + Sync>(&self, seed: u64) -> Result<Measured, TrainError> {
        let cutoff = self.world.cutoff_unix_s;
        let alive: Vec<usize> = (0..self.world.articles.len())
            .filter(|&idx| self.world.articles[idx].is_alive_at(cutoff))
            .collect();
        let trained = R::fit(self.world, seed)?;
        self.asked.measured(seed == self.settings.seed, |reader| {
            let ranking = trained.ranking(reader, cutoff, &alive)?;
            Ok(ranking.unwrap_or_else(|| self.popular.to_vec()))
        })
    }
}

/// Makes rows.
struct Making<'a> {
    inputs: Inputs<'a>,
    settings: EvaluateSettings,
    asked: &'a Asked<'a>,
    platform: &'a Platform<'a>,
    kept: &'a Kept<'a>,
}

impl Making<'_> {
    fn seeds(&self) -> Vec<u64> {
        let n = usize::try_from(self.settings.n_seeds.max(1)).unwrap_or(1);
        (self.settings.seed..).take(n).collect()
    }

    fn unaided(&self) -> Result<Vec<Measurements>, TrainError> {
        let wanted = UNAIDED.iter().filter(|(way, _)| self.inputs.wants(way.word()));
        let row = |(way, shows): &(Way, Shows)| {
            let found = self.asked.measured(true, |reader| Ok(shows(self.platform, reader)?.ranking))?;
            let kind = if *way == Way::Judge { Kind::Ours } else { Kind::Platform };
            Ok(Measurements::of((way.word(), &way.name(0)), kind, vec![found]))
        };
        wanted.map(row).collect()
    }

    fn trained(&self, trainer: &Trainer<'_>) -> Result<Vec<Measurements>, TrainError> {
        let wanted: Vec<_> = TRAINED.iter().filter(|(word, ..)| self.inputs.wants(word)).collect();
        let seeds = self.seeds();
        let jobs: Vec<_> =
            wanted.iter().flat_map(|row| seeds.iter().map(move |&seed| (*row, seed))).collect();
        let of_job = |&((word, name, train), seed): &(&(&str, &str, Train), u64)| {
            if let Some(part) = self.kept.get((word, ""), seed)? {
                return Ok(part);
            }
            self.kept.put((word, ""), seed, vec![((*name).to_owned(), train(trainer, seed)?)])
        };
        let mut parts: Vec<Part> = Vec::new();
        Workers::new(&DEVICE)?.side_by_side(&jobs, of_job, |part| parts.push(part))?;
        let rows = wanted.iter().zip(parts.chunks(seeds.len()));
        Ok(rows
            .flat_map(|((word, ..), parts)| Measurements::of_parts(word, parts, |_| Kind::Platform))
            .collect())
    }

    fn bundle(&self, named: &NamedBundle, keys: &[&str]) -> Result<Vec<Measurements>, TrainError> {
        let seeds = self.seeds();
        let row = (named.name.as_str(), &*Role::id(named)?);
        let known = seeds.iter().map(|&seed| self.kept.get(row, seed)).collect::<Result<Vec<_>, _>>()?;
        let parts = if known.iter().all(Option::is_some) {
            known.into_iter().flatten().collect()
        } else {
            let role = Role::open(named, (self.inputs.world, self.settings.split), self.inputs.device)?;
            let platform = Platform::of(role.world(), Vec::new(), None, None)?;
            let asked = Asked::of(role.world(), keys, self.asked.usual);
            let part = |(&seed, known): (&u64, Option<Part>)| match known {
                Some(part) => Ok(part),
                None => {
                    let how = (seed, self.settings.n_lists);
                    let part = role.rows(&asked, &platform, how, seed == self.settings.seed)?;
                    self.kept.put(row, seed, part)
                }
            };
            seeds.iter().zip(known).map(part).collect::<Result<Vec<_>, TrainError>>()?
        };
        let kind = |name: &str| if name.ends_with("(oracle)") { Kind::Oracle } else { Kind::Ours };
        Ok(Measurements::of_parts(&named.name, &parts, kind))
    }
}
