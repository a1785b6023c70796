//! Lists from good to bad for one reader, made without a model: what rewards must tell apart.
use super::{
    super::{
        events::{Event, World},
        rewards::wishes::QUERY_WORDS,
        salient::Salience,
    },
    N_QUERIES,
};
use crate::{
    queries::QueryList,
    text::{parse::parse, words::words},
};
use rand::{Rng, SeedableRng, seq::IndexedRandom, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Names of an interest that a query about it takes.
const NAMES: std::ops::RangeInclusive<usize> = 2..=4;
/// Tries to make a list that the parser takes.
const TRIES: usize = 20;

/// What queries are made of.
pub(super) struct Makings<'a> {
    /// Names in the news of every interest of the world.
    all_interests: Vec<&'a [String]>,
    /// Telling words of each living title, the most telling first.
    titles: Vec<Vec<&'a str>>,
    /// Words of living titles that tell nothing.
    common: Vec<&'a str>,
}

/// What one reader's lists are made of.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    /// Names in the news of the reader's true interests.
    pub(super) interests: &'a [&'a [String]],
    /// The reader's signals.
    pub(super) events: &'a [Event],
}

impl<'a> Makings<'a> {
    /// Gathers the words of articles alive at the cutoff.
    pub(super) fn of(world: &'a World, all_interests: Vec<&'a [String]>) -> Self {
        let salience = Salience::of(world.published());
        let alive = world.articles.iter().filter(|article| article.is_alive_at(world.cutoff_unix_s));
        let (mut titles, mut common) = (Vec::new(), Vec::new());
        for article in alive {
            let (mut telling, rest): (Vec<&str>, Vec<&str>) =
                words(&article.title).partition(|word| salience.is_rare(word));
            telling.sort_by(|a, b| salience.rarity(b).total_cmp(&salience.rarity(a)));
            common.extend(rest);
            if telling.len() > 1 {
                titles.push(telling);
            }
        }
        Self { all_interests, titles, common }
    }

    /// Draws `n` lists; each has its own share of queries about the reader's true interests, from none to all.
    pub(super) fn varied(&self, own: Own<'_>, n: usize, seed: u64) -> Vec<QueryList> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let one = |rng: &mut ChaCha8Rng| {
            let about_own = rng.random::<f64>();
            let mut interests: Vec<&[String]> = own.interests.to_vec();
            interests.shuffle(rng);
            let mut own_next = interests.iter().cycle();
            let queries: Vec<String> = (0..N_QUERIES)
                .map(|_| match own_next.next() {
                    Some(names) if rng.random_bool(about_own) => some_names(rng, names),
                    _ => self.other(rng, own.events),
                })
                .collect();
            parse(&queries.join("\n")).ok()
        };
        (0..n).filter_map(|_| (0..TRIES).find_map(|_| one(&mut rng))).collect()
    }

    /// A query that is not made of the truth about the reader: another's interest, a signal copied, a title, or empty words.
    fn other(&self, rng: &mut ChaCha8Rng, events: &[Event]) -> String {
        match rng.random_range(0..10) {
            0..4 => self.all_interests.choose(rng).map_or_else(String::new, |names| some_names(rng, names)),
            4..6 => events.choose(rng).map_or_else(String::new, |event| event.text.clone()),
            6..9 => self.title_query(rng),
            _ => {
                let n_words = rng.random_range(2..=QUERY_WORDS);
                (0..n_words).filter_map(|_| self.common.choose(rng).copied()).collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// The telling words of a living title.
    pub(super) fn title_query(&self, rng: &mut ChaCha8Rng) -> String {
        let Some(title) = self.titles.choose(rng) else { return String::new() };
        title[..title.len().min(QUERY_WORDS)].join(" ")
    }

    /// A telling word of a living title.
    pub(super) fn title_word(&self, rng: &mut ChaCha8Rng) -> &'a str {
        self.titles.choose(rng).and_then(|title| title.choose(rng).copied()).unwrap_or_default()
    }
}

fn some_names(rng: &mut ChaCha8Rng, names: &[String]) -> String {
    let n_names = rng.random_range(NAMES).min(names.len());
    let chosen: Vec<&str> = names.choose_multiple(rng, n_names).map(String::as_str).collect();
    chosen.join(" ")
}
