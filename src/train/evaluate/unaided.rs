//! What a platform shows without a student: the ways that everything is compared with.
use super::ways::{Platform, Way};
use crate::{
    cleaner::Verdict,
    lexicon::interests::Interests,
    train::{
        error::TrainError,
        events::{Event, Reader},
        rewards::wishes::wishes,
    },
};

/// Signals that the copying baseline takes as queries.
pub(super) const COPIED_SIGNALS: usize = 5;
/// Signals whose vectors are averaged: as many as fit a prompt.
pub const AVERAGED_SIGNALS: usize = 25;

/// What a way that needs no student shows a reader, and the queries that found it, where it has queries.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Articles, best first.
    pub ranking: Vec<usize>,
    pub(super) queries: Vec<String>,
}

impl Shown {
    fn without_queries(ranking: Vec<usize>) -> Self {
        Self { ranking, queries: Vec::new() }
    }
}

/// How a way that needs no student finds what it shows.
pub type Shows = fn(&Platform<'_>, &Reader) -> Result<Shown, TrainError>;

/// The ways that need no student, in the order of tables.
pub const UNAIDED: [(Way, Shows); 4] = [
    (Way::Popularity, |platform, _| Ok(Shown::without_queries(platform.popular.clone()))),
    (Way::Copy, |platform, reader| platform.copied(reader)),
    (Way::Vector, |platform, reader| platform.near_mean(reader)),
    (Way::Judge, |platform, reader| platform.judged(reader)),
];

impl Platform<'_> {
    /// The last signals as queries.
    fn copied(&self, reader: &Reader) -> Result<Shown, TrainError> {
        let queries: Vec<String> =
            newest(reader).take(COPIED_SIGNALS).map(|event| event.text.clone()).collect();
        Ok(Shown { ranking: self.ranking(queries.iter().map(String::as_str))?, queries })
    }

    fn near_mean(&self, reader: &Reader) -> Result<Shown, TrainError> {
        let averaged: Vec<&str> =
            newest(reader).take(AVERAGED_SIGNALS).map(|event| event.text.as_str()).collect();
        Ok(Shown::without_queries(self.space.nearest(&self.judge.meaning, &averaged)?))
    }

    fn judged(&self, reader: &Reader) -> Result<Shown, TrainError> {
        let meaning = &self.judge.meaning;
        let interests = Interests::of(&meaning.signals(&reader.events), self.judge.at_unix_s());
        let Some(list) = wishes(&interests, meaning) else { return Ok(Shown::without_queries(Vec::new())) };
        let queries: Vec<String> = list.as_slice().iter().map(|query| query.as_str().to_owned()).collect();
        Ok(Shown { ranking: self.ranking(queries.iter().map(String::as_str))?, queries })
    }
}

/// A reader's signals that are no noise, the newest first.
fn newest(reader: &Reader) -> impl Iterator<Item = &Event> {
    reader.events.iter().rev().filter(|event| event.verdict == Verdict::Keep)
}
