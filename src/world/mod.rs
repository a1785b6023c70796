#![doc = include_str!("README.md")]
mod clicks;
pub mod known;
mod lexicon;
mod phrases;
mod signals;
mod stories;
mod streams;
mod timeline;
mod truth;
mod users;
mod write;

use crate::news::catalogue::{self, CatalogueError};
use clicks::Platform;
use lexicon::Lexicon;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use stories::Newsroom;
use thiserror::Error;
use timeline::Surroundings;
use users::User;
use write::{ConcernRow, EventRow, EventTruthRow, HeldOutRow, Table};

/// Changes whenever the same settings would give other bytes.
pub const GENERATOR_VERSION: u32 = 3;
/// Seconds of a day.
pub const DAY_S: i64 = 86_400;
/// When the first signals happen: 2026-01-05, 00:00 UTC.
pub const START_UNIX_S: i64 = 1_767_571_200;
/// The end of the 20th of 21 days; no event is later, and only held-out clicks are.
pub const CUTOFF_UNIX_S: i64 = START_UNIX_S + 20 * DAY_S;

/// Readers in memory at a time: some megabytes of rows, and work for any number of cores.
const READERS_SIDE_BY_SIDE: usize = 1024;

/// Every data file of a world, relative to its folder; `world.json` has their digests.
const DATA_FILES: [&str; 12] = [
    "articles.jsonl",
    "articles.parquet",
    "events.jsonl",
    "events.parquet",
    "held_out.jsonl",
    "held_out.parquet",
    "truth/users.jsonl",
    "truth/users.parquet",
    "truth/events_truth.jsonl",
    "truth/events_truth.parquet",
    "truth/interests.jsonl",
    "truth/stories.jsonl",
];

/// How large a world is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// 24 interests; 240 train, 40 valid and 80 test readers: for tests.
    Tiny,
    /// 240 interests; 4,000 train, 500 valid and 1,500 test readers.
    Small,
    /// 240 interests; 20,000 train, 2,000 valid and 6,000 test readers.
    Full,
}

impl Size {
    /// Its name on the command line and in `world.json`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::Full => "full",
        }
    }

    /// Gives topics and subtopics per topic.
    fn interests(self) -> (usize, usize) {
        match self {
            Self::Tiny => (6, 4),
            Self::Small | Self::Full => (24, 10),
        }
    }

    /// Gives the readers of train, valid and test.
    fn readers(self) -> [(Split, u64); 3] {
        let [train, valid, test] = match self {
            Self::Tiny => [240, 40, 80],
            Self::Small => [4_000, 500, 1_500],
            Self::Full => [20_000, 2_000, 6_000],
        };
        [(Split::Train, train), (Split::Valid, valid), (Split::Test, test)]
    }
}

/// What a reader may be used for. The splits share no reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    Train,
    Valid,
    Test,
}

/// Which world to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorldSettings {
    /// How large.
    pub size: Size,
    /// Readers in all, divided as the size divides its own; as many as the size has where it is none.
    pub n_readers: Option<u64>,
    /// The same seed, size and number of readers give the same bytes.
    pub seed: u64,
}

impl WorldSettings {
    /// A world with the readers of its size.
    pub fn of(size: Size, seed: u64) -> Self {
        Self { size, n_readers: None, seed }
    }

    /// What made a world, as its `world.json` says; none of one that is not of this generator.
    pub fn made(about: &Value) -> Option<Self> {
        let seed = about["seed"].as_u64().filter(|_| about["generator_version"] == GENERATOR_VERSION)?;
        let size = Size::deserialize(&about["size"]).ok()?;
        let n_readers = <[u64; 3]>::deserialize(&about["n_users"]).ok()?.iter().sum();
        let usual = size.readers().iter().map(|(_, n_readers)| n_readers).sum::<u64>();
        Some(Self { size, n_readers: (n_readers != usual).then_some(n_readers), seed })
    }

    /// Gives the readers of train, valid and test. Whoever is over when they are divided trains.
    fn readers(&self) -> [(Split, u64); 3] {
        let [(_, train), (_, valid), (_, test)] = self.size.readers();
        let all = train + valid + test;
        let n_readers = self.n_readers.unwrap_or(all);
        // Wide enough for any number of readers times those of a size.
        let share =
            |of: u64| u64::try_from(u128::from(n_readers) * u128::from(of) / u128::from(all)).unwrap_or(0);
        let (valid, test) = (share(valid), share(test));
        [(Split::Train, n_readers - valid - test), (Split::Valid, valid), (Split::Test, test)]
    }
}

/// What was made; `world.json` holds the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorldSummary {
    /// [`GENERATOR_VERSION`].
    pub generator_version: u32,
    /// As asked.
    pub size: Size,
    /// As asked.
    pub seed: u64,
    /// First second of the simulated time.
    pub start_unix_s: i64,
    /// [`CUTOFF_UNIX_S`].
    pub cutoff_unix_s: i64,
    /// Held-out clicks happen until then, inclusive.
    pub held_out_until_unix_s: i64,
    /// Latent interests.
    pub n_interests: usize,
    /// Stories, the warm-up's included.
    pub n_stories: usize,
    /// Articles in the catalogue.
    pub n_articles: usize,
    /// Articles alive at the cutoff.
    pub n_articles_alive_at_cutoff: usize,
    /// Readers of train, valid and test.
    pub n_users: [u64; 3],
    /// Events of all readers.
    pub n_events: u64,
    /// Held-out clicks of valid and test readers.
    pub n_held_out: u64,
    /// Name and sha256 (hexadecimal) of every data file.
    pub files: Vec<(String, String)>,
}

/// Why a world could not be written, or its truth not be read.
#[derive(Debug, Error)]
pub enum WorldError {
    /// A file or folder could not be made or written.
    #[error("{} could not be written", file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be read back.
    #[error("{} could not be read", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A Parquet file could not be written.
    #[error("{} could not be written as Parquet", file.display())]
    Parquet {
        /// Which.
        file: PathBuf,
        /// Why.
        source: parquet::errors::ParquetError,
    },
    /// The catalogue could not be written.
    #[error("the catalogue could not be written")]
    Catalogue(#[from] CatalogueError),
}

impl WorldError {
    fn io(file: &Path, source: std::io::Error) -> Self {
        Self::Io { file: file.to_owned(), source }
    }

    fn read(file: &Path, source: std::io::Error) -> Self {
        Self::Read { file: file.to_owned(), source }
    }
}

/// Generates a world into a folder, which is made if it is missing; files of the same names are replaced.
///
/// `progress` hears how many readers are done, of how many. Readers are generated side by side and written in their order, some at a
/// time, so memory holds the catalogue and the rows of those, however many readers there are. `world.json` is written last.
/// # Errors
/// If a file cannot be written.
pub fn generate(
    settings: &WorldSettings,
    out_dir: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<WorldSummary, WorldError> {
    let truth_dir = out_dir.join("truth");
    std::fs::create_dir_all(&truth_dir).map_err(|error| WorldError::io(&truth_dir, error))?;
    let (n_topics, n_subtopics) = settings.size.interests();
    let mut lexicon = Lexicon::generate(settings.seed, n_topics, n_subtopics);
    let newsroom = Newsroom::generate(settings.seed, &mut lexicon);
    catalogue::write_jsonl(&out_dir.join("articles.jsonl"), &newsroom.articles)?;
    catalogue::write_parquet(&out_dir.join("articles.parquet"), &newsroom.articles)?;
    truth::write_interests(&truth_dir.join("interests.jsonl"), &lexicon)?;
    truth::write_stories(&truth_dir.join("stories.jsonl"), &newsroom)?;
    let platform = Platform::new(&newsroom, &lexicon);
    let surroundings =
        Surroundings { seed: settings.seed, lexicon: &lexicon, newsroom: &newsroom, platform: &platform };
    let (n_events, n_held_out) = write_readers(settings, &surroundings, out_dir, progress)?;
    let alive = newsroom.articles.iter().filter(|article| article.is_alive_at(CUTOFF_UNIX_S));
    let summary = WorldSummary {
        generator_version: GENERATOR_VERSION,
        size: settings.size,
        seed: settings.seed,
        start_unix_s: START_UNIX_S,
        cutoff_unix_s: CUTOFF_UNIX_S,
        held_out_until_unix_s: CUTOFF_UNIX_S + DAY_S,
        n_interests: lexicon.interests.len(),
        n_stories: newsroom.stories.len(),
        n_articles: newsroom.articles.len(),
        n_articles_alive_at_cutoff: alive.count(),
        n_users: settings.readers().map(|(_, n_users)| n_users),
        n_events,
        n_held_out,
        files: digests(out_dir)?,
    };
    let path = out_dir.join("world.json");
    let json = serde_json::to_vec_pretty(&summary).map_err(|error| WorldError::io(&path, error.into()))?;
    std::fs::write(&path, json).map_err(|error| WorldError::io(&path, error))?;
    Ok(summary)
}

/// Writes everything about readers; returns the numbers of events and of held-out clicks.
fn write_readers(
    settings: &WorldSettings,
    surroundings: &Surroundings<'_>,
    out_dir: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(u64, u64), WorldError> {
    let mut events = Table::<EventRow>::create(&out_dir.join("events"))?;
    let mut held_out = Table::<HeldOutRow>::create(&out_dir.join("held_out"))?;
    let mut events_truth = Table::<EventTruthRow>::create(&out_dir.join("truth/events_truth"))?;
    let mut concerns = Table::<ConcernRow>::create(&out_dir.join("truth/users"))?;
    let [n_train, n_valid, n_test] = settings.readers().map(|(_, n_users)| n_users);
    let n_users = n_train + n_valid + n_test;
    let split_of = |user_idx: u64| match user_idx {
        idx if idx < n_train => Split::Train,
        idx if idx < n_train + n_valid => Split::Valid,
        _ => Split::Test,
    };
    // Each reader is drawn from streams of their own, so that it does not matter who is drawn beside whom.
    let lived = |user_idx: u64| {
        let user = User::generate(surroundings.seed, user_idx, split_of(user_idx), surroundings.lexicon);
        let traces = surroundings.live(user_idx, &user);
        (user, traces)
    };
    let (mut n_events, mut n_held_out) = (0, 0);
    for first in (0..n_users).step_by(READERS_SIDE_BY_SIDE) {
        let until = (first + READERS_SIDE_BY_SIDE as u64).min(n_users);
        let readers: Vec<_> = (first..until).into_par_iter().map(lived).collect();
        for (done, (user, traces)) in (first + 1..).zip(readers) {
            n_events += traces.events.len() as u64;
            n_held_out += traces.held_out.len() as u64;
            traces.events.into_iter().try_for_each(|row| events.push(row))?;
            traces.truth.into_iter().try_for_each(|row| events_truth.push(row))?;
            traces.held_out.into_iter().try_for_each(|row| held_out.push(row))?;
            user.concerns.iter().try_for_each(|concern| concerns.push(ConcernRow::new(&user, concern)))?;
            progress(done, n_users);
        }
    }
    events.close()?;
    held_out.close()?;
    events_truth.close()?;
    concerns.close()?;
    Ok((n_events, n_held_out))
}

fn digests(out_dir: &Path) -> Result<Vec<(String, String)>, WorldError> {
    DATA_FILES.iter().map(|name| Ok(((*name).to_owned(), digest(&out_dir.join(name))?))).collect()
}

fn digest(path: &Path) -> Result<String, WorldError> {
    let mut file = std::fs::File::open(path).map_err(|error| WorldError::io(path, error))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n_bytes = file.read(&mut buffer).map_err(|error| WorldError::io(path, error))?;
        if n_bytes == 0 {
            break;
        }
        hasher.update(&buffer[..n_bytes]);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
