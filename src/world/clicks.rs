//! Which articles readers click: latent interests decide, never the likeness of texts.
//!
//! The platform shows slates of 20 slots by a policy that is known: each slot shows an article with a chance that is mostly
//! popularity x freshness and weakly personal. A reader examines slot k with weight k^-0.7 and clicks what is examined by
//! relevance, so P(click on a) is proportional to propensity(a) x relevance(a), where the propensity is how often a slate
//! lets the article be examined. Clicks weighted by 1 / propensity therefore say what a uniform policy would say.
#![allow(clippy::cast_precision_loss, reason = "ages in seconds, ranks and hours of 21 days are small")]
use super::lexicon::{Language, Lexicon};
use super::stories::Newsroom;
use super::streams::{pick, weighted};
use super::{CUTOFF_UNIX_S, DAY_S, START_UNIX_S};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

const SLOTS: u32 = 20;
/// Chance that a slot goes to what everybody sees; the others go to the interests that the platform knows.
const COMMON_SLOT: f64 = 0.3;
const POSITION_BIAS: f64 = 0.7;
const FRESHNESS_HALF_LIFE_S: f64 = 18.0 * 3600.0;
/// Share of relevance that goes to interests only implied by the own ones; gives a quarter of the held-out clicks.
const IMPLIED_SHARE: f64 = 0.14;
/// Each earlier click on the same story makes the next less likely.
const FATIGUE: f64 = 0.4;
/// Looks at slates before a reader gives up: what is left was clicked before or has expired within the hour.
const LOOKS_MAX: usize = 50;
const HOUR_S: i64 = 3600;
/// Shares of readers with 0, 1, 2, .. held-out clicks: mean about 1.6, median 1.
const HELD_OUT_SHARES: [f64; 7] = [0.07, 0.53, 0.22, 0.10, 0.05, 0.02, 0.01];

/// The platform: what is alive in each hour and how widely it is shown.
#[derive(Debug)]
pub(super) struct Platform<'world> {
    newsroom: &'world Newsroom,
    lexicon: &'world Lexicon,
    /// From the start to the hour that begins at the cutoff.
    hours: Vec<Hour>,
    /// Times that a slate lets its slots be examined: the sum of k^-0.7.
    n_examined: f64,
}

/// What can be shown in one hour.
#[derive(Debug)]
struct Hour {
    /// Articles alive at its beginning.
    alive: Vec<usize>,
    /// Popularity x freshness of each.
    exposure: Vec<f64>,
}

/// Who looks at a slate.
#[derive(Debug)]
pub(super) struct Reader<'user> {
    pub(super) languages: &'user [Language],
    /// Weights at that time; their sum does not matter.
    pub(super) interests: &'user [(usize, f64)],
    /// Those of the interests that the platform personalises by.
    pub(super) known: &'user [(usize, f64)],
    /// Articles clicked before, and when.
    pub(super) clicked: &'user [(usize, i64)],
}

/// One click and how it came about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Click {
    pub(super) article_idx: usize,
    pub(super) time_unix_s: i64,
    /// Expected examinations of the article in one slate.
    pub(super) propensity: f64,
    /// Slot in which it was clicked, from 1; none where nothing was ranked.
    pub(super) position: Option<u32>,
}

/// What clicks by: a reader's interests, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clicker {
    Reader,
    /// Clicks whatever is shown.
    Bot,
}

/// Who decides what is shown on the day of the held-out clicks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// Everything alive equally often: clicks measure interest alone.
    Uniform,
    /// As on every other day.
    Logged,
}

impl<'world> Platform<'world> {
    pub(super) fn new(newsroom: &'world Newsroom, lexicon: &'world Lexicon) -> Self {
        let hours = (START_UNIX_S..=CUTOFF_UNIX_S)
            .step_by(usize::try_from(HOUR_S).unwrap_or(1))
            .map(|time| {
                let alive: Vec<usize> = (0..newsroom.articles.len())
                    .filter(|&idx| newsroom.articles[idx].is_alive_at(time))
                    .collect();
                let exposure = alive.iter().map(|&idx| exposure(newsroom, idx, time)).collect();
                Hour { alive, exposure }
            })
            .collect();
        let n_examined = (1..=SLOTS).map(examined).sum();
        Self { newsroom, lexicon, hours, n_examined }
    }

    /// Shows slates until one is clicked.
    ///
    /// `None` if nothing that could be shown is relevant, alive and not clicked yet.
    pub(super) fn click(
        &self,
        rng: &mut ChaCha8Rng,
        reader: &Reader<'_>,
        (clicker, time_unix_s): (Clicker, i64),
    ) -> Option<Click> {
        let hour = self.hours.get(usize::try_from((time_unix_s - START_UNIX_S) / HOUR_S).ok()?)?;
        let relevance = self.relevance(reader.interests);
        let shown = self.shown(hour, reader);
        let chances: Vec<f64> = match clicker {
            Clicker::Bot => shown.clone(),
            Clicker::Reader => {
                let relevant = |idx: usize| relevance[self.newsroom.tellings[idx].interest];
                hour.alive.iter().zip(&shown).map(|(&idx, shown)| shown * relevant(idx)).collect()
            }
        };
        for _ in 0..LOOKS_MAX {
            let at = weighted(rng, chances.iter().copied())?;
            let article_idx = hour.alive[at];
            let is_wanted = rng.random_bool(self.freshness_of_mind(article_idx, reader));
            if is_wanted && self.newsroom.articles[article_idx].is_alive_at(time_unix_s) {
                let slot = weighted(rng, (1..=SLOTS).map(examined)).unwrap_or(0);
                let position = u32::try_from(slot).ok().map(|slot| slot + 1);
                return Some(Click {
                    article_idx,
                    time_unix_s,
                    propensity: shown[at] * self.n_examined,
                    position,
                });
            }
        }
        None
    }

    /// Draws the clicks of the day after the cutoff on articles alive at the cutoff, by time.
    ///
    /// Stories clicked before are as fresh as others here; articles clicked before are left out.
    /// Each has cutoff < time <= cutoff + 24 h, and the article is still alive then.
    pub(super) fn held_out(&self, rng: &mut ChaCha8Rng, reader: &Reader<'_>, policy: Policy) -> Vec<Click> {
        let Some(hour) = self.hours.last() else { return Vec::new() };
        let relevance = self.relevance(reader.interests);
        let shown = match policy {
            Policy::Logged => self.shown(hour, reader),
            Policy::Uniform => self.shown_uniformly(hour, reader.languages),
        };
        let n_clicks = weighted(rng, HELD_OUT_SHARES.iter().copied()).unwrap_or(0);
        let mut candidates: Vec<(usize, f64, f64)> = hour
            .alive
            .iter()
            .zip(&shown)
            .filter(|(idx, _)| !reader.clicked.iter().any(|&(seen, _)| seen == **idx))
            .map(|(&idx, &shown)| (idx, shown, shown * relevance[self.newsroom.tellings[idx].interest]))
            .collect();
        let mut clicks = Vec::with_capacity(n_clicks);
        while clicks.len() < n_clicks {
            let Some(at) = weighted(rng, candidates.iter().map(|&(_, _, chance)| chance)) else { break };
            let (article_idx, shown, _) = candidates.swap_remove(at);
            let last = (CUTOFF_UNIX_S + DAY_S).min(self.newsroom.articles[article_idx].expires_unix_s - 1);
            if last > CUTOFF_UNIX_S {
                let time_unix_s = rng.random_range(CUTOFF_UNIX_S + 1..=last);
                let propensity = shown * self.n_examined;
                clicks.push(Click { article_idx, time_unix_s, propensity, position: None });
            }
        }
        clicks.sort_by_key(|click| (click.time_unix_s, click.article_idx));
        clicks
    }

    /// Chance of each article of an hour to be what a slot shows; 0 in languages that the reader does not read.
    fn shown(&self, hour: &Hour, reader: &Reader<'_>) -> Vec<f64> {
        let (relevance, languages) = (self.relevance(reader.known), reader.languages);
        let mut of_interest = vec![0.0; relevance.len()];
        let mut of_all = 0.0;
        for (&idx, exposure) in hour.alive.iter().zip(&hour.exposure) {
            if self.speaks(idx, languages) {
                of_all += exposure;
                of_interest[self.newsroom.tellings[idx].interest] += exposure;
            }
        }
        let living = relevance.iter().zip(&of_interest).filter(|(_, exposure)| **exposure > 0.0);
        let personal: f64 = living.map(|(relevance, _)| relevance).sum();
        // A slot for interests that no living article serves goes to what everybody sees.
        let common = if personal > 0.0 { COMMON_SLOT } else { 1.0 };
        let chance = |(&idx, exposure): (&usize, &f64)| {
            let interest = self.newsroom.tellings[idx].interest;
            let own = if personal > 0.0 {
                (1.0 - common) * relevance[interest] / personal * exposure / of_interest[interest]
            } else {
                0.0
            };
            if self.speaks(idx, languages) { common * exposure / of_all + own } else { 0.0 }
        };
        hour.alive.iter().zip(&hour.exposure).map(chance).collect()
    }

    fn shown_uniformly(&self, hour: &Hour, languages: &[Language]) -> Vec<f64> {
        let n_readable = hour.alive.iter().filter(|&&idx| self.speaks(idx, languages)).count() as f64;
        let chance = |&idx: &usize| if self.speaks(idx, languages) { 1.0 / n_readable } else { 0.0 };
        hour.alive.iter().map(chance).collect()
    }

    /// Relevance of every interest: the reader's own, and what they imply. The total stays the same.
    fn relevance(&self, interests: &[(usize, f64)]) -> Vec<f64> {
        let mut relevance = vec![0.0; self.lexicon.interests.len()];
        let implied = |&(interest, weight): &(usize, f64)| {
            self.lexicon.interests[interest].implied.iter().map(move |&(target, p)| (target, weight * p))
        };
        let own: f64 = interests.iter().map(|&(_, weight)| weight).sum();
        let all_implied: f64 = interests.iter().flat_map(implied).map(|(_, weight)| weight).sum();
        let scale = IMPLIED_SHARE * own / all_implied.max(f64::MIN_POSITIVE);
        for &(interest, weight) in interests {
            relevance[interest] += weight * (1.0 - IMPLIED_SHARE);
        }
        for (target, weight) in interests.iter().flat_map(implied) {
            relevance[target] += weight * scale;
        }
        relevance
    }

    /// 1 for a fresh story, less with each article of it clicked before, 0 for an article clicked before.
    fn freshness_of_mind(&self, article_idx: usize, reader: &Reader<'_>) -> f64 {
        let story = &self.newsroom.articles[article_idx].story_id;
        let mut left = 1.0;
        for &(clicked, _) in reader.clicked {
            if clicked == article_idx {
                return 0.0;
            }
            if self.newsroom.articles[clicked].story_id == *story {
                left *= 1.0 - FATIGUE;
            }
        }
        left
    }

    fn speaks(&self, article_idx: usize, languages: &[Language]) -> bool {
        languages.contains(&self.newsroom.tellings[article_idx].language)
    }
}

/// Draws the interest behind one event.
pub(super) fn draw_interest(rng: &mut ChaCha8Rng, interests: &[(usize, f64)]) -> Option<usize> {
    weighted(rng, interests.iter().map(|&(_, weight)| weight)).map(|at| interests[at].0)
}

/// Draws one of the reader's languages.
pub(super) fn draw_language(rng: &mut ChaCha8Rng, languages: &[Language]) -> Language {
    *pick(rng, languages)
}

/// How often slot k is examined, next to the first.
fn examined(slot: u32) -> f64 {
    f64::from(slot).powf(-POSITION_BIAS)
}

/// Gives popularity x freshness.
fn exposure(newsroom: &Newsroom, article_idx: usize, time_unix_s: i64) -> f64 {
    let age_s = (time_unix_s - newsroom.articles[article_idx].published_unix_s).max(0) as f64;
    newsroom.tellings[article_idx].popularity * (-age_s / FRESHNESS_HALF_LIFE_S).exp2()
}

#[cfg(test)]
mod tests {
    use super::super::streams::stream;
    use super::*;

    /// Share of clicks by interest, each weighted by 1 / propensity.
    fn weighted_shares(clicks: &[Click], newsroom: &Newsroom, n_interests: usize) -> Vec<f64> {
        let mut shares = vec![0.0; n_interests];
        for click in clicks {
            shares[newsroom.tellings[click.article_idx].interest] += 1.0 / click.propensity;
        }
        let total: f64 = shares.iter().sum();
        shares.iter().map(|share| share / total).collect()
    }

    fn half_distance(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
    }

    /// What a uniform policy must give: relevance x living articles that the reader can read, by interest.
    fn expected(platform: &Platform<'_>, reader: &Reader<'_>) -> Vec<f64> {
        let mut shares = platform.relevance(reader.interests);
        let living = |interest: usize| {
            let alive = platform.hours.last().unwrap().alive.iter();
            let own = alive.filter(|&&idx| platform.newsroom.tellings[idx].interest == interest);
            own.filter(|&&idx| platform.speaks(idx, reader.languages)).count() as f64
        };
        shares.iter_mut().enumerate().for_each(|(interest, share)| *share *= living(interest));
        let total: f64 = shares.iter().sum();
        shares.iter().map(|share| share / total).collect()
    }

    #[test]
    fn logged_clicks_weighted_by_inverse_propensity_say_what_a_uniform_policy_says() {
        let mut lexicon = Lexicon::generate(1, 6, 4);
        let newsroom = Newsroom::generate(1, &mut lexicon);
        let platform = Platform::new(&newsroom, &lexicon);
        let interests = [(0, 0.5), (7, 0.3), (13, 0.2)];
        let known = &interests[..2];
        let reader = Reader { languages: &[Language::English], interests: &interests, known, clicked: &[] };
        let draw = |policy, purpose: &str| -> Vec<Click> {
            // Of several clicks the later ones are drawn from what the first left over.
            (0..20_000)
                .map(|idx| platform.held_out(&mut stream(1, purpose, idx), &reader, policy))
                .filter(|clicks| clicks.len() == 1)
                .flatten()
                .collect()
        };
        let (uniform, logged) = (draw(Policy::Uniform, "u"), draw(Policy::Logged, "l"));
        let n_interests = lexicon.interests.len();
        let truth = weighted_shares(&uniform, &newsroom, n_interests);
        let mended = weighted_shares(&logged, &newsroom, n_interests);
        let flat: Vec<Click> = logged.iter().map(|click| Click { propensity: 1.0, ..*click }).collect();
        let biased = weighted_shares(&flat, &newsroom, n_interests);
        assert!(half_distance(&truth, &expected(&platform, &reader)) < 0.02, "{truth:?}");
        let distance = |a: &[f64]| half_distance(a, &truth);
        let (mended, biased) = (distance(&mended), distance(&biased));
        assert!(mended < 0.025 && biased > 2.0 * mended, "{mended} {biased}");
    }
}
