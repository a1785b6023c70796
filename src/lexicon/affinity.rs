//! How far queries ask for what a reader is interested in, as the numbers that a reward head weighs.
//!
//! What a query finds depends on the news of the hour, and a server does not know them. It depends on words first: rare ones that stand
//! near to an interest find news of it, and a query in the middle of three subjects finds news of one of its words. So a head reads where
//! the words stand beside what the whole query means (`train/LOG.md` has what that is worth).
use super::{
    Lexicon,
    asked::{asked, met, served, served_together},
    interests::Interests,
    unit::{Unit, mean_distance},
};
use crate::model::reward_head::{Affinity, LIST_AFFINITY, QUERY_AFFINITY};

/// Queries at a distance beyond this are different enough.
pub const APART_ENOUGH: f64 = 0.6;

/// A query, read once.
struct Query {
    unit: Option<Unit>,
    words: Vec<Word>,
}

/// A word of a query; one that the news does not have means nothing and is not rare, since it finds nothing.
#[derive(Default)]
struct Word {
    unit: Option<Unit>,
    rarity: f64,
}

/// What is known of one query, each from 0 to 1 but where it says otherwise.
#[derive(Default)]
struct OfQuery {
    /// How much of all interests it meets.
    met: f64,
    /// How much of them it serves.
    served: f64,
    /// Cosine to the interest that is nearest to it, from -1.
    nearest: f64,
    /// What that interest weighs.
    weight: f64,
    /// Cosines of its nearest and furthest word to that interest, from -1.
    words_nearest: f64,
    words_furthest: f64,
    /// How much of all interests its best word serves, and the mean of its words.
    words_served: f64,
    words_served_mean: f64,
    /// Mean and lowest inverse frequency of its words, nats.
    rarity: f64,
    rarity_lowest: f64,
}

/// Reads the queries of a list.
pub fn affinity(
    queries: impl Iterator<Item = impl AsRef<str>>,
    lexicon: &Lexicon,
    reader: &Interests,
) -> Affinity {
    let queries: Vec<Query> = queries.map(|query| Query::read(query.as_ref(), lexicon)).collect();
    let of_queries: Vec<OfQuery> = queries.iter().map(|query| query.of(reader)).collect();
    let units: Vec<Option<&Unit>> = queries.iter().map(|query| query.unit.as_ref()).collect();
    let mean_of = |part: fn(&OfQuery) -> f64| mean(of_queries.iter().map(part));
    let list: [f64; LIST_AFFINITY] = [
        asked(&units, reader),
        served_together(&units, reader),
        mean_distance(&units, APART_ENOUGH).unwrap_or(0.0),
        mean_of(|of| of.nearest),
        mean_of(|of| of.words_nearest),
        mean_of(|of| of.words_furthest),
        mean_of(|of| of.rarity),
    ];
    Affinity { queries: of_queries.iter().map(OfQuery::numbers).collect(), list: list.map(narrow) }
}

impl Query {
    fn read(text: &str, lexicon: &Lexicon) -> Self {
        let ids: Vec<Option<u32>> = lexicon.word_ids(text).collect();
        let of_ids = |ids: &[Option<u32>]| lexicon.sum(ids.iter().flatten().map(|&id| (id, 1.0)));
        let word = |id: &Option<u32>| Word {
            unit: of_ids(&[*id]),
            rarity: id.map_or(0.0, |id| f64::from(lexicon.rarity(id))),
        };
        Self { unit: of_ids(&ids), words: ids.iter().map(word).collect() }
    }

    fn of(&self, reader: &Interests) -> OfQuery {
        let rarities = || self.words.iter().map(|word| word.rarity);
        let (rarity, rarity_lowest) = (mean(rarities()), rarities().reduce(f64::min).unwrap_or(0.0));
        let nearest = self.unit.as_ref().and_then(|unit| Some((unit, nearest(unit, reader)?)));
        let Some((unit, (nearest, centre, weight))) = nearest else {
            return OfQuery { rarity, rarity_lowest, ..OfQuery::default() };
        };
        let of_words = |of: &dyn Fn(&Unit) -> f64| -> Vec<f64> {
            self.words.iter().map(|word| word.unit.as_ref().map_or(0.0, of)).collect()
        };
        let words = of_words(&|word| centre.cosine(word));
        let words_served = of_words(&|word| served(word, reader));
        OfQuery {
            met: met(unit, reader),
            served: served(unit, reader),
            nearest,
            weight,
            words_nearest: words.iter().copied().reduce(f64::max).unwrap_or(0.0),
            words_furthest: words.iter().copied().reduce(f64::min).unwrap_or(0.0),
            words_served: words_served.iter().copied().fold(0.0, f64::max),
            words_served_mean: mean(words_served.into_iter()),
            rarity,
            rarity_lowest,
        }
    }
}

impl OfQuery {
    fn numbers(&self) -> [f32; QUERY_AFFINITY] {
        let numbers = [
            self.met,
            self.served,
            self.nearest,
            self.weight,
            self.words_nearest,
            self.words_furthest,
            self.words_served,
            self.words_served_mean,
            self.rarity,
            self.rarity_lowest,
        ];
        numbers.map(narrow)
    }
}

/// The interest that is nearest to a query, the heaviest of those as near: cosine, centre and weight.
fn nearest<'r>(query: &Unit, reader: &'r Interests) -> Option<(f64, &'r Unit, f64)> {
    let by_cosine = reader.clusters.iter().map(|(centre, weight)| (centre.cosine(query), centre, *weight));
    by_cosine.reduce(|nearest, other| if other.0 > nearest.0 { other } else { nearest })
}

#[allow(clippy::cast_possible_truncation, reason = "numbers of some nats at most")]
fn narrow(number: f64) -> f32 {
    number as f32
}

/// Mean of some numbers; 0 of none.
#[allow(clippy::cast_precision_loss, reason = "a handful of queries and words")]
fn mean(numbers: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = numbers.fold((0.0, 0_usize), |(sum, n), number| (sum + number, n + 1));
    sum / n.max(1) as f64
}
