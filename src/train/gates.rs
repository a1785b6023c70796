//! Gates that a world must pass before anything is trained on it: what no model is needed to find out.
//!
//! | gate | why |
//! |---|---|
//! | the reader's true interests find at least 5 times as much as popularity | else nothing is personal |
//! | copying signals finds at most 60 % of what the interests find | else there is no gap between searches and news |
//! | copying searches alone finds at most 40 % of it | else searches name the news already |
//! | another reader's interests find at most 0.02 more than popularity | else interests are no one's own |
//! | for readers with much noise the judge's own list finds at least 5 % more without it | else cleaning cannot pay; five copied signals find too little to tell |
//! | a linear probe finds at most 60 % of what the interests find | else counting solves the world, and no model is needed |
//! | counting neighbouring words finds at least 0.05 more than counting words | else reading words in company earns nothing |
//! | the reader's true interests find at least 3 times what the best thing a platform has finds: popularity, copying, mean of signals' vectors | else nothing is needed beside what it has |
//! | within a reader the composite reward ranks lists by recall, rank correlation at least 0.4 | else training on it, and choosing by it, leads elsewhere |
//! | a search on all five rewards, without a model, ends above copying signals | else the rewards ask for something else than news she wants |
//! | without coverage it ends below copying, and what it finds is less the reader's own | else coverage is not what makes lists personal |
//!
//! Figures are means of Recall@10 over readers, clicks held out in the day after the cutoff. Intervals resample readers.
mod climb;
pub mod gate;
mod lists;
mod ranks;
mod report;

use super::{
    error::TrainError,
    evaluate::{self, unaided::AVERAGED_SIGNALS},
    events::{Event, Reader, Scope, Split, World},
    examples,
    order::Order,
    probe::{Bag, Probe},
    ranking,
    retrieval::{RECALL_K, Retrieval},
    rewards::{Judge, view::View, wishes::wishes},
};
use crate::{
    lexicon::translation::Features,
    signals::Stream,
    world::known::{Known, Tag},
};
use climb::{Climbs, N_SEARCHES, ablations, climb};
use lists::{Makings, Own};
use ranks::ranks;
use rayon::prelude::*;
pub use report::GateReport;
pub(super) use report::MUCH_NOISE;
use report::{Found, report};
use std::path::Path;

/// Signals that are copied, and interests that become queries: as many as a list has queries.
pub(super) const N_QUERIES: usize = 5;

/// Which readers are asked.
#[derive(Clone, Copy, Debug)]
pub struct GateSettings {
    /// Of which split.
    pub split: Split,
    /// How many at most.
    pub n_users: usize,
    /// For how many of them lists are searched by reward alone: some thousand looks at the index each.
    pub n_climbers: usize,
    /// Seed of their choice and of the intervals.
    pub seed: u64,
}

/// Measures every gate.
///
/// # Errors
/// If the world cannot be read, or has no reader of the split with signals and held-out clicks.
pub fn check(world_at: &Path, settings: GateSettings) -> Result<GateReport, TrainError> {
    let world = World::read(world_at, Scope::Evaluation)?;
    let known = Known::read(world_at)?;
    let cutoff = world.cutoff_unix_s;
    let retrieval = Retrieval::of(&world.articles, |article| article.is_alive_at(cutoff))?;
    let is_able = |reader: &&Reader| {
        reader.split == settings.split && !reader.held_out.is_empty() && !reader.events.is_empty()
    };
    let able: Vec<&Reader> = world.readers.iter().filter(is_able).collect();
    let order = Order::new(settings.seed, able.len()).items(0, able.len().min(settings.n_users));
    let readers: Vec<&Reader> = order.into_iter().map(|idx| able[idx]).collect();
    if readers.len().min(settings.n_climbers) < 2 {
        return Err(TrainError::TooLittleData {
            reason: "gates ask two readers of the split at least, and search lists for two of them"
                .to_owned(),
        });
    }
    let alive = || (0..world.articles.len()).filter(|&idx| world.articles[idx].is_alive_at(cutoff));
    let words = Probe::of(&world, world.training_readers(), Features::Words);
    let judge = Judge::of(&world, world.training_readers(), cutoff)?;
    let ways = Ways {
        world: &world,
        known: &known,
        retrieval: &retrieval,
        popular: evaluate::popular(&world),
        bags_of_words: words.bags(alive()),
        words,
        bags: judge.meaning.probe().bags(alive()),
        judge,
        makings: Makings::of(&world, known.all_interests()),
        seed: settings.seed,
        cutoff,
    };
    let found: Vec<Found> = (0..readers.len())
        .into_par_iter()
        .map(|idx| {
            let (reader, other) = (readers[idx], readers[(idx + 1) % readers.len()]);
            ways.find(reader, other, idx < settings.n_climbers)
        })
        .collect::<Result<_, _>>()?;
    Ok(report(&world, settings, &found))
}

/// What finds articles for a reader.
struct Ways<'a> {
    world: &'a World,
    known: &'a Known,
    retrieval: &'a Retrieval,
    popular: Vec<usize>,
    words: Probe,
    bags_of_words: Vec<Bag>,
    bags: Vec<Bag>,
    judge: Judge<'a>,
    makings: Makings<'a>,
    seed: u64,
    cutoff: i64,
}

impl Ways<'_> {
    fn find(&self, reader: &Reader, other: &Reader, climbs: bool) -> Result<Found, TrainError> {
        let (known, retrieval, cutoff) = (self.known, self.retrieval, self.cutoff);
        let clicked = ranking::alike(reader.held_out.iter().copied());
        let recall = |found: &[usize]| ranking::recall(found, &clicked, RECALL_K);
        let by_texts = |events: &mut dyn Iterator<Item = &Event>| {
            let texts: Vec<&str> = events.take(N_QUERIES).map(|event| event.text.as_str()).collect();
            Ok::<_, TrainError>(recall(&retrieval.ranking(texts.into_iter(), cutoff)?))
        };
        let by_interests = |of: &Reader| {
            let queries: Vec<String> = known
                .interests(&of.key, cutoff)
                .iter()
                .take(N_QUERIES)
                .map(|names| names.join(" "))
                .collect();
            Ok::<_, TrainError>(recall(&retrieval.ranking(queries.iter().map(String::as_str), cutoff)?))
        };
        let by_counting =
            |probe: &Probe, bags: &[Bag]| recall(&probe.ranking(reader, cutoff, bags, RECALL_K));
        let newest = || reader.events.iter().rev();
        let own =
            || reader.events.iter().zip(known.tags(&reader.key)).filter(|(_, tag)| **tag == Tag::Interest);
        let interests = known.interests(&reader.key, cutoff);
        let view = self.judge.view(reader);
        let by_judge = |view: &View| match wishes(&view.interests, &self.judge.meaning) {
            Some(list) => Ok::<_, TrainError>(recall(&retrieval.list_ranking(&list, cutoff)?)),
            None => Ok(0.0),
        };
        let own_events = own().map(|(event, _)| event.clone()).collect();
        let clean = Reader { events: own_events, held_out: Vec::new(), ..reader.clone() };
        let averaged = newest().take(AVERAGED_SIGNALS).map(|event| event.text.as_str());
        let vector = self.judge.meaning.mean(averaged);
        let vector = vector.map(|mean| self.judge.nearest(&mean, RECALL_K)).unwrap_or_default();
        let own_makings = Own { interests: &interests, events: &reader.events };
        Ok(Found {
            popularity: recall(&self.popular),
            copy: by_texts(&mut newest())?,
            copy_clean: by_texts(&mut own().rev().map(|(event, _)| event))?,
            searches: by_texts(&mut newest().filter(|event| event.stream == Stream::Search))?,
            interests: by_interests(reader)?,
            permuted: by_interests(other)?,
            vector: recall(&vector),
            probe: by_counting(&self.words, &self.bags_of_words),
            neighbours: by_counting(self.judge.meaning.probe(), &self.bags),
            noise_share: noise_share(known.tags(&reader.key)),
            wishes: by_judge(&view)?,
            wishes_clean: by_judge(&self.judge.view(&clean))?,
            climbs: climbs.then(|| self.climbs(&view, reader, other)).transpose()?,
            ranks: ranks(
                (&self.judge, retrieval),
                (&self.makings, own_makings, self.seed_of(reader)),
                (&view, &clicked, cutoff),
                &|idx| known.care(&reader.key, &self.world.articles[idx].story_id, cutoff),
            )?,
        })
    }

    /// Lists of each reader are drawn by a seed of their own, the same for every search.
    fn seed_of(&self, reader: &Reader) -> u64 {
        self.seed ^ examples::digest(&reader.key)
    }

    /// What searches by reward alone find for a reader, and what the same lists find for another.
    fn climbs(&self, view: &View, reader: &Reader, other: &Reader) -> Result<Climbs, TrainError> {
        let recall = |found: &[usize], of: &Reader| {
            ranking::recall(found, &ranking::alike(of.held_out.iter().copied()), RECALL_K)
        };
        let newest = reader.events.iter().rev().take(N_QUERIES).map(|event| event.text.as_str());
        let copy = recall(&self.retrieval.ranking(newest, self.cutoff)?, reader);
        let mut climbs = Climbs { copy, own: [0.0; N_SEARCHES], permuted: [0.0; N_SEARCHES] };
        for (search, weights) in ablations().iter().enumerate() {
            if let Some(list) = climb(&self.judge, &self.makings, (view, weights, self.seed_of(reader)))? {
                let found = self.retrieval.list_ranking(&list, self.cutoff)?;
                climbs.own[search] = recall(&found, reader);
                climbs.permuted[search] = recall(&found, other);
            }
        }
        Ok(climbs)
    }
}

#[allow(clippy::cast_precision_loss, reason = "events of one reader")]
pub(super) fn noise_share(tags: &[Tag]) -> f64 {
    tags.iter().filter(|tag| **tag != Tag::Interest).count() as f64 / tags.len().max(1) as f64
}
