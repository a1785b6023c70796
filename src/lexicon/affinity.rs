//! How far queries ask for what a reader is interested in, as the numbers that a reward head weighs.
//!
//! What a query finds depends on the news of the hour, and a server does not know it. It depends on words first: rare ones that stand
//! near to an interest find news of it, and a query in the middle of three subjects finds news of one of its words. So a head reads where
//! the words stand beside what the whole query means (`train/LOG.md` has what that is worth).
use super::{
    Lexicon,
    asked::{asked, met, served, served_together},
    interests::Interests,
    unit::{APART_ENOUGH, Unit, mean, mean_distance},
};
use crate::model::reward_head::{Affinity, LIST_AFFINITY, QUERY_AFFINITY};

/// Says of each query of a list (fields of `OfQuery` in their order) and of the whole list (fields of `OfList`) how far they ask for
/// what a reader is interested in. Cosines lie between -1 and 1, rarities are nats, all else lies between 0 and 1; of a reader without
/// interests, or a query without a word of the news, nothing is above 0 but rarities and the distance of queries.
pub fn affinity(
    queries: impl Iterator<Item = impl AsRef<str>>,
    lexicon: &Lexicon,
    reader: &Interests,
) -> Affinity {
    let queries: Vec<Query> = queries.map(|query| Query::read(query.as_ref(), lexicon)).collect();
    let of_queries: Vec<OfQuery> = queries.iter().map(|query| query.of(reader)).collect();
    let units: Vec<Option<&Unit>> = queries.iter().map(|query| query.unit.as_ref()).collect();
    let mean_of = |part: fn(&OfQuery) -> f64| mean(of_queries.iter().map(part));
    let of_list = OfList {
        asked: asked(&units, reader),
        served: served_together(&units, reader),
        apart: mean_distance(&units, APART_ENOUGH).unwrap_or(0.0),
        nearest: mean_of(|of| of.nearest),
        word_nearest: mean_of(|of| of.word_nearest),
        word_furthest: mean_of(|of| of.word_furthest),
        rarity: mean_of(|of| of.rarity),
    };
    Affinity { queries: of_queries.iter().map(OfQuery::numbers).collect(), list: of_list.numbers() }
}

/// What is known of one query.
#[derive(Default)]
struct OfQuery {
    /// How much of all interests it meets.
    met: f64,
    /// How much of them it serves.
    served: f64,
    /// Cosine to the interest that is nearest to it.
    nearest: f64,
    /// What that interest weighs.
    weight: f64,
    /// Cosine of the word that is nearest to that interest.
    word_nearest: f64,
    /// Of the word that is furthest from it.
    word_furthest: f64,
    /// How much of all interests the word serves that serves most.
    word_served: f64,
    /// How much a word serves in the mean.
    words_served: f64,
    /// Mean inverse frequency of its words.
    rarity: f64,
    /// That of its commonest word.
    rarity_lowest: f64,
}

/// What is known of a list.
struct OfList {
    /// How much of all interests its queries meet, one to one.
    asked: f64,
    /// How much of them they serve together.
    served: f64,
    /// Mean distance of two queries.
    apart: f64,
    /// Mean over queries of [`OfQuery::nearest`].
    nearest: f64,
    /// The same of the nearest words.
    word_nearest: f64,
    /// Of the furthest.
    word_furthest: f64,
    /// And of rarities.
    rarity: f64,
}

/// A query, read once.
struct Query {
    unit: Option<Unit>,
    words: Vec<Word>,
}

/// A word of a query; one that the news does not have means nothing and is not rare, since it finds nothing.
struct Word {
    unit: Option<Unit>,
    rarity: f64,
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
        let cosines = of_words(&|word| centre.cosine(word));
        let words_served = of_words(&|word| served(word, reader));
        OfQuery {
            met: met(unit, reader),
            served: served(unit, reader),
            nearest,
            weight,
            word_nearest: cosines.iter().copied().reduce(f64::max).unwrap_or(0.0),
            word_furthest: cosines.iter().copied().reduce(f64::min).unwrap_or(0.0),
            word_served: words_served.iter().copied().fold(0.0, f64::max),
            words_served: mean(words_served.into_iter()),
            rarity,
            rarity_lowest,
        }
    }
}

/// The interest that is nearest to a query, the heaviest of those as near: cosine, centre and weight.
fn nearest<'r>(query: &Unit, reader: &'r Interests) -> Option<(f64, &'r Unit, f64)> {
    let by_cosine = reader.clusters.iter().map(|(centre, weight)| (centre.cosine(query), centre, *weight));
    by_cosine.reduce(|nearest, other| if other.0 > nearest.0 { other } else { nearest })
}

impl OfQuery {
    fn numbers(&self) -> [f32; QUERY_AFFINITY] {
        let numbers = [
            self.met,
            self.served,
            self.nearest,
            self.weight,
            self.word_nearest,
            self.word_furthest,
            self.word_served,
            self.words_served,
            self.rarity,
            self.rarity_lowest,
        ];
        numbers.map(narrow)
    }
}

impl OfList {
    fn numbers(&self) -> [f32; LIST_AFFINITY] {
        let numbers = [
            self.asked,
            self.served,
            self.apart,
            self.nearest,
            self.word_nearest,
            self.word_furthest,
            self.rarity,
        ];
        numbers.map(narrow)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "numbers of some nats at most")]
fn narrow(number: f64) -> f32 {
    number as f32
}
