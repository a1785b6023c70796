//! Which articles readers click: latent interests decide, never the likeness of texts.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ages in seconds, ranks and hours of 21 days are small"
)]
use super::lexicon::{Language, Lexicon};
use super::stories::Newsroom;
use super::streams::{pick, weighted};
use super::{CUTOFF_UNIX_S, DAY_S, START_UNIX_S};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

const SLOTS: usize = 20;
/// Chance that a slot goes to what everybody sees; the others go to the reader's interests.
const COMMON_SLOT: f64 = 0.5;
const POSITION_BIAS: f64 = 0.7;
const FRESHNESS_HALF_LIFE_S: f64 = 18.0 * 3600.0;
/// Relevance of an article outside all interests, next to 1 for the strongest interest.
const CURIOSITY: f64 = 0.004;
/// Share of relevance that goes to interests only implied by the own ones; gives a quarter of the held-out clicks.
const IMPLIED_SHARE: f64 = 0.14;
/// Each recent click on the same story makes the next less likely.
const FATIGUE: f64 = 0.4;
const HOUR_S: i64 = 3600;
/// Shares of readers with 0, 1, 2, .. held-out clicks: mean about 1.6, median 1.
const HELD_OUT_SHARES: [f64; 7] = [0.07, 0.53, 0.22, 0.10, 0.05, 0.02, 0.01];

/// The platform: what is alive in each hour and how widely it is shown.
#[derive(Debug)]
pub(super) struct Platform<'world> {
    newsroom: &'world Newsroom,
    lexicon: &'world Lexicon,
    /// For each hour from the start: articles alive at its beginning, and their cumulative popularity x freshness.
    hours: Vec<(Vec<usize>, Vec<f64>)>,
    alive_at_cutoff: Vec<usize>,
}

impl<'world> Platform<'world> {
    pub(super) fn new(newsroom: &'world Newsroom, lexicon: &'world Lexicon) -> Self {
        let n_hours = (CUTOFF_UNIX_S - START_UNIX_S) / HOUR_S;
        let hours = (0..n_hours)
            .map(|hour| {
                let time = START_UNIX_S + hour * HOUR_S;
                let alive = alive_at(newsroom, time);
                let mut sum = 0.0;
                let cumulative = alive
                    .iter()
                    .map(|&article_idx| {
                        sum += exposure(newsroom, article_idx, time);
                        sum
                    })
                    .collect();
                (alive, cumulative)
            })
            .collect();
        Self { newsroom, lexicon, hours, alive_at_cutoff: alive_at(newsroom, CUTOFF_UNIX_S) }
    }

    /// Shows one slate of 20 to somebody who will click, and returns the article clicked.
    ///
    /// P(click) = rank^-0.7 x relevance x (1 - fatigue), by popularity x freshness within a slate that is half
    /// common and half personal. `None` if nothing alive is in the languages or nothing is relevant.
    pub(super) fn click(&self, rng: &mut ChaCha8Rng, reader: &Reader<'_>, time_unix_s: i64) -> Option<usize> {
        let relevance = self.with_implied(reader.interests);
        let mut slate: Vec<usize> = Vec::with_capacity(SLOTS);
        for _ in 0..SLOTS {
            let drawn = if rng.random_bool(COMMON_SLOT) {
                self.common_slot(rng, time_unix_s)
            } else {
                self.personal_slot(rng, &relevance, (reader, time_unix_s))
            };
            slate.extend(
                drawn.filter(|&idx| self.speaks(idx, reader.languages) && self.is_alive(idx, time_unix_s)),
            );
        }
        slate.sort_unstable();
        slate.dedup();
        slate.sort_by(|&left, &right| {
            let shown = |idx| exposure(self.newsroom, idx, time_unix_s);
            shown(right).total_cmp(&shown(left)).then(left.cmp(&right))
        });
        let strongest = relevance.iter().map(|&(_, weight)| weight).fold(f64::MIN_POSITIVE, f64::max);
        let chances: Vec<f64> = (1_u32..)
            .zip(&slate)
            .map(|(rank, &idx)| {
                let relevant = weight_of(&relevance, self.newsroom.tellings[idx].interest) / strongest;
                f64::from(rank).powf(-POSITION_BIAS)
                    * relevant.max(CURIOSITY)
                    * self.freshness_of_mind(idx, reader)
            })
            .collect();
        weighted(rng, chances.iter().copied()).map(|at| slate[at])
    }

    /// Draws an article as shown to nobody in particular.
    pub(super) fn any_click(
        &self,
        rng: &mut ChaCha8Rng,
        languages: &[Language],
        time_unix_s: i64,
    ) -> Option<usize> {
        (0..SLOTS).find_map(|_| {
            self.common_slot(rng, time_unix_s)
                .filter(|&idx| self.speaks(idx, languages) && self.is_alive(idx, time_unix_s))
        })
    }

    /// Draws the clicks of the day after the cutoff on articles alive at the cutoff, all shown equally often.
    ///
    /// Popularity and position play no part here, so the clicks measure interest alone. Each (article, time) has
    /// cutoff < time <= cutoff + 24 h, and the article is still alive then.
    pub(super) fn held_out(&self, rng: &mut ChaCha8Rng, reader: &Reader<'_>) -> Vec<(usize, i64)> {
        let relevance = self.with_implied(reader.interests);
        let n_clicks = weighted(rng, HELD_OUT_SHARES.iter().copied()).unwrap_or(0);
        let mut candidates: Vec<(usize, f64)> = self
            .alive_at_cutoff
            .iter()
            .filter(|&&idx| {
                self.speaks(idx, reader.languages) && !reader.clicked.iter().any(|&(seen, _)| seen == idx)
            })
            .map(|&idx| (idx, weight_of(&relevance, self.newsroom.tellings[idx].interest)))
            .filter(|&(_, weight)| weight > 0.0)
            .collect();
        let mut clicks = Vec::with_capacity(n_clicks);
        while clicks.len() < n_clicks {
            let Some(at) = weighted(rng, candidates.iter().map(|&(_, weight)| weight)) else { break };
            let (idx, _) = candidates.swap_remove(at);
            let last = (CUTOFF_UNIX_S + DAY_S).min(self.newsroom.articles[idx].expires_unix_s - 1);
            if last > CUTOFF_UNIX_S {
                clicks.push((idx, rng.random_range(CUTOFF_UNIX_S + 1..=last)));
            }
        }
        clicks.sort_by_key(|&(idx, time)| (time, idx));
        clicks
    }

    /// Adds what the interests imply; the total stays the same.
    fn with_implied(&self, interests: &[(usize, f64)]) -> Vec<(usize, f64)> {
        let mut relevance: Vec<(usize, f64)> = Vec::with_capacity(4 * interests.len());
        let implied: Vec<(usize, f64)> = interests
            .iter()
            .flat_map(|&(interest, weight)| {
                self.lexicon.interests[interest].implied.iter().map(move |&(target, p)| (target, weight * p))
            })
            .collect();
        let sum = |weights: &[(usize, f64)]| weights.iter().map(|&(_, weight)| weight).sum::<f64>();
        let implied_scale = IMPLIED_SHARE * sum(interests) / sum(&implied).max(f64::MIN_POSITIVE);
        let own = interests.iter().map(|&(interest, weight)| (interest, weight * (1.0 - IMPLIED_SHARE)));
        let others = implied.into_iter().map(|(target, weight)| (target, weight * implied_scale));
        for (interest, weight) in own.chain(others) {
            match relevance.iter_mut().find(|(other, _)| *other == interest) {
                Some((_, known)) => *known += weight,
                None => relevance.push((interest, weight)),
            }
        }
        relevance
    }

    fn common_slot(&self, rng: &mut ChaCha8Rng, time_unix_s: i64) -> Option<usize> {
        let hour = usize::try_from((time_unix_s - START_UNIX_S) / HOUR_S).ok()?;
        let (alive, cumulative) = self.hours.get(hour)?;
        let drawn = rng.random::<f64>() * cumulative.last()?;
        alive.get(cumulative.partition_point(|&sum| sum < drawn)).copied()
    }

    fn personal_slot(
        &self,
        rng: &mut ChaCha8Rng,
        relevance: &[(usize, f64)],
        (reader, time_unix_s): (&Reader<'_>, i64),
    ) -> Option<usize> {
        let (interest, _) = relevance[weighted(rng, relevance.iter().map(|&(_, weight)| weight))?];
        let published = &self.newsroom.by_interest[interest];
        let until =
            published.partition_point(|&idx| self.newsroom.articles[idx].published_unix_s <= time_unix_s);
        let living: Vec<usize> = published[..until]
            .iter()
            .copied()
            .filter(|&idx| self.is_alive(idx, time_unix_s) && self.speaks(idx, reader.languages))
            .collect();
        let shown = living.iter().map(|&idx| exposure(self.newsroom, idx, time_unix_s));
        weighted(rng, shown).map(|at| living[at])
    }

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

    fn is_alive(&self, article_idx: usize, time_unix_s: i64) -> bool {
        self.newsroom.articles[article_idx].is_alive_at(time_unix_s)
    }

    fn speaks(&self, article_idx: usize, languages: &[Language]) -> bool {
        languages.contains(&self.newsroom.tellings[article_idx].language)
    }
}

/// Who looks at a slate.
#[derive(Debug)]
pub(super) struct Reader<'user> {
    pub(super) languages: &'user [Language],
    /// Weights at that time, summing to 1.
    pub(super) interests: &'user [(usize, f64)],
    /// Articles clicked before, and when.
    pub(super) clicked: &'user [(usize, i64)],
}

/// Draws the interest behind one event.
pub(super) fn draw_interest(rng: &mut ChaCha8Rng, interests: &[(usize, f64)]) -> Option<usize> {
    weighted(rng, interests.iter().map(|&(_, weight)| weight)).map(|at| interests[at].0)
}

/// Draws one of the reader's languages.
pub(super) fn draw_language(rng: &mut ChaCha8Rng, languages: &[Language]) -> Language {
    *pick(rng, languages)
}

fn weight_of(relevance: &[(usize, f64)], interest: usize) -> f64 {
    relevance.iter().find(|(known, _)| *known == interest).map_or(0.0, |&(_, weight)| weight)
}

fn alive_at(newsroom: &Newsroom, time_unix_s: i64) -> Vec<usize> {
    (0..newsroom.articles.len()).filter(|&idx| newsroom.articles[idx].is_alive_at(time_unix_s)).collect()
}

/// Gives popularity x freshness.
fn exposure(newsroom: &Newsroom, article_idx: usize, time_unix_s: i64) -> f64 {
    let age_s = (time_unix_s - newsroom.articles[article_idx].published_unix_s).max(0) as f64;
    newsroom.tellings[article_idx].popularity * (-age_s / FRESHNESS_HALF_LIFE_S).exp2()
}
