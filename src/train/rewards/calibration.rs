//! Where the scales of rewards begin and end, read off the news and training readers' clicks.
use super::{
    super::{error::TrainError, events::World, order::Order, salient::Salience},
    meaning::Meaning,
    specificity::mean_of_rarities,
    wishes::QUERY_WORDS,
};
use crate::{
    lexicon::unit::{Unit, WIDTH},
    text::words::words,
};

/// Articles whose mean says what every query is near to.
const HUB_ARTICLES: usize = 256;
/// Clicked titles that scales are read off.
const N_TITLES: usize = 512;
const SEED: u64 = 12;

/// Scales, fitted once per judge.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// Mean of random articles' vectors: its product with a unit vector is the mean cosine to them.
    pub hub: Vec<f32>,
    /// Medians of mean rarities, nats: of whole titles, and of their most telling words.
    pub rarity: (f64, f64),
}

impl Calibration {
    /// Reads the scales off titles that training readers clicked.
    /// # Errors
    /// If they clicked too few.
    pub fn fit(world: &World, meaning: &Meaning) -> Result<Self, TrainError> {
        let salience = Salience::of(world.published());
        let clicks: Vec<&str> = world
            .training_readers()
            .flat_map(|reader| reader.clicks_between(i64::MIN, world.cutoff_unix_s))
            .map(|click| click.text.as_str())
            .collect();
        let (mut titles, mut queries) = (Vec::new(), Vec::new());
        for idx in Order::new(SEED, clicks.len()).items(0, clicks.len().min(N_TITLES)) {
            let mut telling: Vec<&str> = words(clicks[idx]).filter(|word| salience.is_rare(word)).collect();
            telling.sort_by(|a, b| salience.rarity(b).total_cmp(&salience.rarity(a)));
            telling.truncate(QUERY_WORDS);
            titles.extend(mean_of_rarities(words(clicks[idx]), meaning));
            queries.extend(mean_of_rarities(telling.into_iter(), meaning));
        }
        if queries.is_empty() {
            return Err(TrainError::TooLittleData {
                reason: "training readers clicked too few articles to fit the scales of rewards".to_owned(),
            });
        }
        Ok(Self { hub: hub(world, meaning), rarity: (median(titles), median(queries)) })
    }
}

/// The middle one of at least one value; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[allow(clippy::cast_precision_loss, reason = "at most 256 articles")]
fn hub(world: &World, meaning: &Meaning) -> Vec<f32> {
    let published = |idx: &usize| world.articles[*idx].published_unix_s <= world.cutoff_unix_s;
    let order = Order::new(SEED, world.articles.len()).items(0, world.articles.len());
    let units = order.into_iter().filter(published).filter_map(|idx| meaning.article(idx));
    let units: Vec<Unit> = units.take(HUB_ARTICLES).collect();
    let mut hub = vec![0.0_f32; WIDTH];
    for Unit(unit) in &units {
        hub.iter_mut().zip(unit).for_each(|(sum, value)| *sum += value / units.len() as f32);
    }
    hub
}
