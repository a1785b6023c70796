//! Readers: what each cares about, when, in which language, and how much of it they show.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts of events per reader and seconds of 21 days are small"
)]
use super::lexicon::{Language, Lexicon};
use super::streams::{stream, weighted};
use super::{CUTOFF_UNIX_S, DAY_S, START_UNIX_S, Split};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma, LogNormal};
use serde::Deserialize;

/// Interests spread over readers by rank^-0.5; every reader has some of the long tail.
const INTEREST_SKEW: f64 = 0.5;
const DIRICHLET: f64 = 0.7;
const BILINGUAL: f64 = 0.1;
const ENGLISH_SHARE: f64 = 0.8;
const DRIFTS: f64 = 0.3;
const BURST_WEIGHT: f64 = 0.8;
const BURST_HALF_LIFE_S: f64 = DAY_S as f64;
const HOUSEHOLD: f64 = 0.35;
const COLD: f64 = 0.3;
const COLD_CLICKS_MAX: usize = 5;
const EVENTS_MEDIAN: f64 = 27.0;
const EVENTS_SIGMA: f64 = 0.75;
const EVENTS_MAX: f64 = 140.0;

/// How much a reader shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    /// More than 5 clicks.
    Warm,
    /// At most 5 clicks, many searches and pages.
    ColdRich,
    /// At most 5 clicks and little else.
    Cold,
    /// One or two signals.
    Empty,
}

impl Tier {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::ColdRich => "cold_rich",
            Self::Cold => "cold",
            Self::Empty => "empty",
        }
    }
}

/// Why a reader cares about an interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Care {
    LongTerm,
    Burst,
    /// Somebody else on the same account: noise.
    Household,
}

impl Care {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LongTerm => "long_term",
            Self::Burst => "burst",
            Self::Household => "household",
        }
    }
}

/// One interest of one reader within a time.
#[derive(Clone, Debug)]
pub(super) struct Concern {
    pub(super) care: Care,
    pub(super) interest: usize,
    /// Long-term and household weights sum to 1 at any time; a burst's is its weight when it starts.
    pub(super) weight: f64,
    /// Whether the platform personalises by it before the cutoff.
    pub(super) known_to_platform: bool,
    pub(super) from_unix_s: i64,
    /// Exclusive; far away unless the interest drifts away.
    pub(super) until_unix_s: i64,
}

impl Concern {
    /// Gives the weight at a time: 0 outside the concern's time, and halved each day in a burst.
    fn weight_at(&self, time_unix_s: i64) -> f64 {
        if time_unix_s < self.from_unix_s || time_unix_s >= self.until_unix_s {
            return 0.0;
        }
        match self.care {
            Care::LongTerm | Care::Household => self.weight,
            Care::Burst => {
                self.weight * (-((time_unix_s - self.from_unix_s) as f64) / BURST_HALF_LIFE_S).exp2()
            }
        }
    }
}

/// One reader.
#[derive(Debug)]
pub(super) struct User {
    pub(super) key: String,
    pub(super) split: Split,
    pub(super) tier: Tier,
    pub(super) languages: Vec<Language>,
    pub(super) concerns: Vec<Concern>,
    pub(super) n_searches: usize,
    pub(super) n_pages: usize,
    pub(super) n_clicks: usize,
}

impl User {
    /// Draws one reader from their own stream.
    pub(super) fn generate(seed: u64, user_idx: u64, split: Split, lexicon: &Lexicon) -> Self {
        let mut rng = stream(seed, "user", user_idx);
        let languages = languages(&mut rng);
        let concerns = concerns(&mut rng, lexicon);
        let (tier, [n_searches, n_pages, n_clicks]) = activity(&mut rng);
        let key = format!("u{user_idx:06}");
        Self { key, split, tier, languages, concerns, n_searches, n_pages, n_clicks }
    }

    /// Gives the interests of the reader (or of the household's other member) at a time; weights sum to 1.
    pub(super) fn interests_at(&self, time_unix_s: i64, household: bool) -> Vec<(usize, f64)> {
        interests_at(&self.concerns, time_unix_s, household)
    }

    /// Gives those of [`User::interests_at`] that the platform knows, with the same weights.
    pub(super) fn known_at(&self, time_unix_s: i64, household: bool) -> Vec<(usize, f64)> {
        let mut interests = self.interests_at(time_unix_s, household);
        interests.retain(|(interest, _)| {
            self.concerns.iter().any(|concern| concern.interest == *interest && concern.known_to_platform)
        });
        interests
    }

    /// Says whether a second person uses the account.
    pub(super) fn has_household(&self) -> bool {
        self.concerns.iter().any(|concern| concern.care == Care::Household)
    }
}

/// Gives the interests among concerns, the household's or the others, at a time; weights sum to 1.
pub(super) fn interests_at(concerns: &[Concern], time_unix_s: i64, household: bool) -> Vec<(usize, f64)> {
    let mut weights: Vec<(usize, f64)> = concerns
        .iter()
        .filter(|concern| (concern.care == Care::Household) == household)
        .map(|concern| (concern.interest, concern.weight_at(time_unix_s)))
        .filter(|&(_, weight)| weight > 0.0)
        .collect();
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    for (_, weight) in &mut weights {
        *weight /= total;
    }
    weights
}

fn languages(rng: &mut ChaCha8Rng) -> Vec<Language> {
    if rng.random_bool(BILINGUAL) {
        vec![Language::English, Language::Spanish]
    } else if rng.random_bool(ENGLISH_SHARE) {
        vec![Language::English]
    } else {
        vec![Language::Spanish]
    }
}

fn concerns(rng: &mut ChaCha8Rng, lexicon: &Lexicon) -> Vec<Concern> {
    let n_long_term = rng.random_range(2..=6);
    let mut interests = distinct_interests(rng, lexicon, n_long_term + 5);
    let mut take = || interests.pop().unwrap_or(0);
    let mut concerns = Vec::new();
    let mut weights = dirichlet(rng, n_long_term);
    weights.sort_by(f64::total_cmp);
    for weight in weights {
        // A platform has found out about one interest, the lightest; the others are typed, and rarely shown any news.
        let known_to_platform = concerns.is_empty();
        concerns.push(Concern { known_to_platform, ..always(Care::LongTerm, take(), weight) });
    }
    if rng.random_bool(DRIFTS) {
        let drifting = rng.random_range(0..concerns.len());
        let time = rng.random_range(START_UNIX_S + 3 * DAY_S..CUTOFF_UNIX_S);
        let successor = Concern { interest: take(), from_unix_s: time, ..concerns[drifting].clone() };
        concerns[drifting].until_unix_s = time;
        concerns.push(successor);
    }
    for _ in 0..rng.random_range(0..=2) {
        let from_unix_s = rng.random_range(START_UNIX_S..CUTOFF_UNIX_S);
        concerns.push(Concern { from_unix_s, ..always(Care::Burst, take(), BURST_WEIGHT) });
    }
    if rng.random_bool(HOUSEHOLD) {
        for weight in dirichlet(rng, 2) {
            concerns.push(always(Care::Household, take(), weight));
        }
    }
    concerns
}

fn always(care: Care, interest: usize, weight: f64) -> Concern {
    let (from_unix_s, until_unix_s) = (START_UNIX_S, i64::MAX);
    Concern { care, interest, weight, known_to_platform: false, from_unix_s, until_unix_s }
}

fn distinct_interests(rng: &mut ChaCha8Rng, lexicon: &Lexicon, n_wanted: usize) -> Vec<usize> {
    let n_interests = lexicon.interests.len();
    // Rank and number are unrelated, so that popular interests spread over the topics.
    let weights = (0..n_interests).map(|idx| ((idx * 7 % n_interests + 3) as f64).powf(-INTEREST_SKEW));
    let mut chosen = Vec::with_capacity(n_wanted);
    while chosen.len() < n_wanted.min(n_interests) {
        if let Some(interest) = weighted(rng, weights.clone())
            && !chosen.contains(&interest)
        {
            chosen.push(interest);
        }
    }
    chosen
}

fn dirichlet(rng: &mut ChaCha8Rng, n_parts: usize) -> Vec<f64> {
    let drawn: Vec<f64> = (0..n_parts)
        .map(|_| Gamma::new(DIRICHLET, 1.0).map_or(1.0, |gamma| gamma.sample(rng)).max(1e-3))
        .collect();
    let total: f64 = drawn.iter().sum();
    // Rounded, so that the truth files read well and repeat exactly.
    drawn.into_iter().map(|part| (part / total * 1e4).round().max(1.0) / 1e4).collect()
}

/// Draws the tier and the counts of searches, pages and clicks: 35, 40 and 25 % over all readers.
fn activity(rng: &mut ChaCha8Rng) -> (Tier, [usize; 3]) {
    let heavy =
        LogNormal::new(EVENTS_MEDIAN.ln(), EVENTS_SIGMA).map_or(EVENTS_MEDIAN, |heavy| heavy.sample(rng));
    let n_events = heavy.clamp(10.0, EVENTS_MAX);
    if !rng.random_bool(COLD) {
        let n_clicks = (0.30 * n_events).round().max((COLD_CLICKS_MAX + 1) as f64);
        return (
            Tier::Warm,
            [(0.33 * n_events).round() as usize, (0.37 * n_events).round() as usize, n_clicks as usize],
        );
    }
    // Cold in news is not the same as idle: half of the cold search as much as anybody.
    match rng.random_range(0..30) {
        0..15 => {
            let n_others = n_events.max(20.0);
            let n_searches = (0.47 * n_others).round() as usize;
            let n_clicks = rng.random_range(0..=COLD_CLICKS_MAX);
            (Tier::ColdRich, [n_searches, (0.53 * n_others).round() as usize, n_clicks])
        }
        15..28 => {
            let n_others: usize = rng.random_range(2..=8);
            (Tier::Cold, [n_others / 2, n_others - n_others / 2, rng.random_range(0..=COLD_CLICKS_MAX)])
        }
        _ => {
            let mut counts = [1, 0, 0];
            counts.shuffle(rng);
            counts[1] += usize::from(rng.random_bool(0.3));
            (Tier::Empty, counts)
        }
    }
}
