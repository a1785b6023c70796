//! Who is asked, and what is measured of what they are shown.
use crate::{
    news::article::Article,
    signals::Stream,
    train::{
        error::TrainError,
        evaluate::{
            measures::{Figures, RECALL_10, figures},
            traits::{OF_RANKINGS, Seen, of_ranking},
        },
        events::{Reader, World},
        ranking::{self, Grades},
    },
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};

/// Readers who are asked, each with all of her signals and with those of each stream alone.
#[derive(Debug)]
pub struct Asked<'a> {
    /// With all signals.
    pub whole: Vec<&'a Reader>,
    /// With those of one stream, in the order of [`Stream::ALL`].
    pub alone: [Vec<Reader>; Stream::ALL.len()],
    /// What each clicked later.
    pub clicked: Vec<Grades<usize>>,
    /// What popularity and the mean of signals show each first.
    pub usual: &'a [BTreeSet<usize>],
    articles: &'a [Article],
}

/// What is measured of one row under one seed, reader by reader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Every measure.
    pub figures: Vec<Figures>,
    /// Traits of rankings.
    pub traits: Vec<[f64; OF_RANKINGS.len()]>,
    /// Recall@10 where one stream was read alone, in the order of [`Stream::ALL`]; empty where that was not asked.
    pub alone: Vec<[f64; Stream::ALL.len()]>,
}

/// Rankings of all readers who are asked, in their order.
#[derive(Clone, Debug)]
pub struct Rankings {
    /// After all signals.
    pub whole: Vec<Vec<usize>>,
    /// After those of one stream, in the order of [`Stream::ALL`]; none where that was not asked.
    pub alone: Option<[Vec<Vec<usize>>; Stream::ALL.len()]>,
}

impl<'a> Asked<'a> {
    /// The readers of a world that have these keys, in their order. `usual`: of each, what popularity and the mean of signals show
    /// first.
    pub fn of(world: &'a World, keys: &[&str], usual: &'a [BTreeSet<usize>]) -> Self {
        let by_key: HashMap<&str, &Reader> =
            world.readers.iter().map(|reader| (reader.key.as_str(), reader)).collect();
        let whole: Vec<&Reader> = keys.iter().filter_map(|key| by_key.get(key).copied()).collect();
        let alone = Stream::ALL.map(|stream| whole.iter().map(|reader| of_stream(reader, stream)).collect());
        let clicked = whole.iter().map(|reader| ranking::alike(reader.held_out.iter().copied())).collect();
        Self { whole, alone, clicked, usual, articles: &world.articles }
    }

    /// Asks for every reader's ranking; with `streams` also for those after one stream alone.
    /// # Errors
    /// The first that `rank` gives.
    pub fn measured(
        &self,
        streams: bool,
        rank: impl Fn(&Reader) -> Result<Vec<usize>, TrainError> + Sync,
    ) -> Result<Measured, TrainError> {
        let whole = self.whole.par_iter().map(|reader| rank(reader)).collect::<Result<_, _>>()?;
        let alone = |readers: &Vec<Reader>| readers.par_iter().map(&rank).collect::<Result<Vec<_>, _>>();
        let alone = match (streams, &self.alone) {
            (true, [search, page, click]) => Some([alone(search)?, alone(page)?, alone(click)?]),
            (false, _) => None,
        };
        Ok(self.of_rankings(&Rankings { whole, alone }))
    }

    /// Measures rankings.
    pub fn of_rankings(&self, rankings: &Rankings) -> Measured {
        let n_readers = self.whole.len();
        let seen = |idx: usize| Seen { ranking: &rankings.whole[idx], clicked: &self.clicked[idx] };
        let traits =
            |idx: usize| of_ranking(seen(idx), seen((idx + 1) % n_readers), &self.usual[idx], self.articles);
        let recall = |ranking: &[usize], idx: usize| figures(ranking, &self.clicked[idx])[RECALL_10];
        let alone = |alone: &[Vec<Vec<usize>>; Stream::ALL.len()]| {
            (0..n_readers).map(|idx| alone.each_ref().map(|of| recall(&of[idx], idx))).collect()
        };
        Measured {
            figures: (0..n_readers).map(|idx| figures(&rankings.whole[idx], &self.clicked[idx])).collect(),
            traits: (0..n_readers).map(traits).collect(),
            alone: rankings.alone.as_ref().map_or_else(Vec::new, alone),
        }
    }
}

/// A reader who left traces in one stream only.
fn of_stream(reader: &Reader, stream: Stream) -> Reader {
    let events = reader.events.iter().filter(|event| event.stream == stream).cloned().collect();
    Reader { key: reader.key.clone(), split: reader.split, events, held_out: Vec::new() }
}
