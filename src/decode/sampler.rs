//! One seeded stream per row; processors in the order of Hugging Face transformers.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "ids and ranks are far below 2^32"
)]
use super::logits::{Logits, Sums};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use std::{borrow::Cow, cmp::Ordering};

/// How a token is drawn. Neutral values switch a stage off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerSettings {
    /// 0 means greedy: the likeliest token, the lowest id among equals.
    pub temperature: f32,
    /// Tokens kept, ties with the last of them included. 0: off.
    pub top_k: usize,
    /// The likeliest tokens are kept until they hold this share. 1: off.
    pub top_p: f32,
    /// Tokens below this share of the likeliest one's probability are cut. 0: off.
    pub min_p: f32,
    /// Logits of ids in the history are divided by it where positive and multiplied where negative. 1: off.
    pub repetition_penalty: f32,
    /// Nothing is drawn that ends a list before its third query, begins a ninth, or ends a query that has no token or stands in the list
    /// already, token for token.
    pub constrained: bool,
}

impl SamplerSettings {
    /// How lists are drawn unless a request says otherwise: warm enough that N lists differ, without the unlikeliest
    /// twentieth, where most malformed lists begin, and constrained to the form of a list.
    pub const SERVING: Self = Self {
        temperature: 0.8,
        top_k: 0,
        top_p: 0.95,
        min_p: 0.0,
        repetition_penalty: 1.0,
        constrained: true,
    };

    /// The model as it is: temperature 1, every stage off.
    pub const PLAIN: Self = Self {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        constrained: false,
    };

    /// The likeliest token, whatever seed.
    pub const GREEDY: Self = Self { temperature: 0.0, ..Self::PLAIN };
}

/// A drawn token, by the place of its logit, and its log-probability (nats) under the plain model: temperature 1, nothing cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// The place of its logit.
    pub id: u32,
    /// Its log-probability.
    pub logprob: f32,
}

/// The random stream of one row. What it draws depends on its seed, the logits and the history, never on other rows.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: SamplerSettings,
    stream: ChaCha8Rng,
}

impl Sampler {
    /// Starts a stream.
    pub fn new(settings: SamplerSettings, seed: u64) -> Self {
        Self { settings, stream: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Draws one token of logits (V). `history`: ids the repetition penalty looks at, each counted once. `forbidden`: ids
    /// that are not drawn, unless nothing else is left.
    ///
    /// A NaN counts as a token that cannot be drawn. None: no logit is finite, or one is plus infinity, so the model is broken.
    pub fn sample(&mut self, logits: &[f32], history: &[u32], forbidden: &[u32]) -> Option<Sampled> {
        let plain = Logits::new(logits)?;
        let sums = plain.sums(1.0);
        // 53 random bits make a number in [0, 1); one draw per token keeps streams comparable between settings.
        let uniform = (self.stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let allowed = penalised(logits, history, self.settings.repetition_penalty);
        let id = match without(allowed, forbidden) {
            Cow::Borrowed(_) => Kept::new(&self.settings, &plain).at(uniform),
            Cow::Owned(allowed) => Kept::new(&self.settings, &Logits::new(&allowed)?).at(uniform),
        };
        let logprob = f64::from(plain.at(id)? - plain.max) - sums.total().ln();
        Some(Sampled { id, logprob: logprob as f32 })
    }
}

/// Probabilities (V) with which `Sampler::sample` draws the first token; None where it would draw none.
pub fn probabilities(settings: &SamplerSettings, logits: &[f32], history: &[u32]) -> Option<Vec<f32>> {
    let mut probabilities = vec![0.0; logits.len()];
    let penalised = penalised(logits, history, settings.repetition_penalty);
    let logits = Logits::new(&penalised)?;
    let entries = match Kept::new(settings, &logits) {
        Kept::All(_) => weighed(logits.from(f32::NEG_INFINITY), logits.max, settings.temperature),
        Kept::Some(entries) => entries,
    };
    let total = total(&entries);
    for (id, weight) in entries {
        probabilities[id as usize] = (f64::from(weight) / total) as f32;
    }
    Some(probabilities)
}

/// Tokens that can be drawn, with weights relative to the likeliest one's.
enum Kept<'a> {
    All(Sums<'a>),
    Some(Vec<(u32, f32)>),
}

impl<'a> Kept<'a> {
    fn new(settings: &SamplerSettings, logits: &'a Logits<'a>) -> Self {
        let &SamplerSettings { temperature, top_k, top_p, min_p, .. } = settings;
        let max = logits.max;
        // Also where the temperature is negative, has no reciprocal or is no number: the settings are checked long before.
        if matches!(temperature.partial_cmp(&f32::MIN_POSITIVE), None | Some(Ordering::Less)) {
            return Self::Some(logits.from(max).into_iter().take(1).map(|(id, _)| (id, 1.0)).collect());
        }
        let mut entries = if top_k > 0 {
            let entries = weighed(logits.from(logits.kth_largest(top_k)), max, temperature);
            if top_p < 1.0 { likeliest(&entries, f64::from(top_p) * total(&entries)) } else { entries }
        } else if top_p < 1.0 {
            head(logits, temperature, top_p)
        } else if min_p > 0.0 {
            weighed(logits.from(max + temperature * min_p.min(1.0).ln()), max, temperature)
        } else {
            return Self::All(logits.sums(temperature.recip()));
        };
        // The likeliest weight is 1, so a weight is its share of the likeliest probability, whatever the sum.
        entries.retain(|&(_, weight)| weight >= min_p.min(1.0));
        Self::Some(entries)
    }

    /// The token at a point in [0, 1) of the cumulated weights.
    fn at(&self, point: f64) -> u32 {
        let entries = match self {
            Self::All(sums) => return sums.token_at(point),
            Self::Some(entries) => entries,
        };
        let target = point * total(entries);
        let mut below = 0.0;
        let found = entries.iter().find(|&&(_, weight)| {
            below += f64::from(weight);
            target < below
        });
        // Rounding can put the target at the very end, where the last token stands.
        found.or(entries.last()).map_or(0, |&(id, _)| id)
    }
}

/// Weights of logits, relative to that of the largest.
fn weighed(mut entries: Vec<(u32, f32)>, max: f32, temperature: f32) -> Vec<(u32, f32)> {
    for (_, value) in &mut entries {
        *value = ((*value - max) / temperature).exp();
    }
    entries
}

fn total(entries: &[(u32, f32)]) -> f64 {
    entries.iter().map(|&(_, weight)| f64::from(weight)).sum()
}

/// The likeliest tokens that hold the share `top_p` of all weights.
///
/// Only the head of the distribution is looked at: tokens within a factor of the likeliest, a factor that grows until the head
/// holds the share.
fn head(logits: &Logits<'_>, temperature: f32, top_p: f32) -> Vec<(u32, f32)> {
    let wanted = f64::from(top_p) * logits.sums(temperature.recip()).total();
    let mut floor = 1e-3_f32;
    loop {
        let least = logits.max + temperature * floor.ln();
        let entries = weighed(logits.from(least), logits.max, temperature);
        if total(&entries) >= wanted || least == f32::NEG_INFINITY {
            return likeliest(&entries, wanted);
        }
        floor = if floor > 1e-30 { floor * 1e-3 } else { 0.0 };
    }
}

/// Each token while the likelier ones hold less than `wanted`, the likeliest first; at least that one.
fn likeliest(entries: &[(u32, f32)], wanted: f64) -> Vec<(u32, f32)> {
    let mut entries = entries.to_vec();
    entries.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut above = 0.0;
    let n_kept = entries
        .iter()
        .take_while(|&&(_, weight)| {
            let is_kept = above < wanted;
            above += f64::from(weight);
            is_kept
        })
        .count();
    entries.truncate(n_kept.max(1));
    entries
}

/// Logits with the repetition penalty on every id of the history, once each.
fn penalised<'a>(logits: &'a [f32], history: &[u32], penalty: f32) -> Cow<'a, [f32]> {
    if penalty == 1.0 || history.is_empty() {
        return Cow::Borrowed(logits);
    }
    let mut ids = history.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let mut logits = logits.to_vec();
    for id in ids {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
    Cow::Owned(logits)
}

/// Logits with some ids made impossible; as they are where nothing would be left.
fn without<'a>(logits: Cow<'a, [f32]>, ids: &[u32]) -> Cow<'a, [f32]> {
    if ids.is_empty() {
        return logits;
    }
    let mut left = logits.to_vec();
    for &id in ids {
        if let Some(logit) = left.get_mut(id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    if Logits::new(&left).is_some() { Cow::Owned(left) } else { logits }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: SamplerSettings = SamplerSettings::PLAIN;

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        let greedy = SamplerSettings::GREEDY;
        assert_eq!(
            Sampler::new(greedy, 1).sample(&[0.0, 2.0, 2.0], &[], &[]).map(|sampled| sampled.id),
            Some(1)
        );
    }

    #[test]
    fn logprob_is_of_the_plain_model_whatever_is_cut() {
        let cut = SamplerSettings { temperature: 0.3, top_k: 1, repetition_penalty: 2.0, ..PLAIN };
        let sampled = Sampler::new(cut, 1).sample(&[1.0, 3.0, 2.0], &[2], &[]).unwrap();
        let expected = 3.0 - (1f32.exp() + 2f32.exp() + 3f32.exp()).ln();
        assert!((sampled.logprob - expected).abs() < 1e-6);
    }

    #[test]
    fn broken_logits_are_passed_over_or_give_nothing() {
        let mut sampler = Sampler::new(PLAIN, 1);
        let partly = [f32::NAN, 1.0, f32::NEG_INFINITY];
        assert_eq!(sampler.sample(&partly, &[], &[]).map(|sampled| sampled.id), Some(1));
        for broken in [[f32::NAN; 3], [f32::NEG_INFINITY; 3], [1.0, f32::INFINITY, 0.0]] {
            assert!(sampler.sample(&broken, &[], &[]).is_none());
        }
        assert!(sampler.sample(&[], &[], &[]).is_none());
    }

    #[test]
    fn odd_settings_never_panic() {
        let odd = [-1.0, 0.0, 1e-30, f32::NAN, f32::INFINITY];
        for value in odd {
            let all = SamplerSettings {
                temperature: value,
                top_k: 9,
                top_p: value,
                min_p: value,
                repetition_penalty: value,
                constrained: false,
            };
            let _ = Sampler::new(all, 1).sample(&[1.0, 2.0, -3.0], &[0, 2, 99], &[]);
            let _ =
                probabilities(&SamplerSettings { temperature: 1.0, ..all }, &[1.0, 2.0, -3.0], &[0, 2, 99]);
        }
    }

    #[test]
    fn frequencies_follow_probabilities() {
        let settings = SamplerSettings { temperature: 0.8, top_k: 4, top_p: 0.95, min_p: 0.02, ..PLAIN };
        let logits = [0.5, 2.0, 1.0, -1.0, 1.5, -4.0];
        let expected = probabilities(&settings, &logits, &[]).unwrap();
        let mut sampler = Sampler::new(settings, 11);
        let mut counts = [0f32; 6];
        for _ in 0..20_000 {
            counts[sampler.sample(&logits, &[], &[]).unwrap().id as usize] += 1.0;
        }
        for (count, expected) in counts.iter().zip(expected) {
            assert!((count / 20_000.0 - expected).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn top_p_of_a_flat_distribution_keeps_the_lowest_ids() {
        let settings = SamplerSettings { top_p: 0.5, ..PLAIN };
        assert_eq!(probabilities(&settings, &[0.0; 4], &[]).unwrap(), [0.5, 0.5, 0.0, 0.0]);
        assert_eq!(probabilities(&SamplerSettings { top_p: 0.0, ..PLAIN }, &[0.0; 4], &[]).unwrap()[0], 1.0);
    }

    #[test]
    fn a_forbidden_id_is_drawn_only_where_nothing_else_is_left() {
        let greedy = SamplerSettings::GREEDY;
        let logits = [0.0, 1.0, 3.0, 2.0];
        let drawn =
            |logits: &[f32], forbidden: &[u32]| Sampler::new(greedy, 1).sample(logits, &[], forbidden);
        let sampled = drawn(&logits, &[2, 99]).unwrap();
        assert_eq!(sampled.id, 3);
        let plain: f32 = logits.iter().map(|logit| (logit - 2.0_f32).exp()).sum();
        assert!((sampled.logprob + plain.ln()).abs() < 1e-6, "as if nothing were cut");
        assert_eq!(drawn(&[1.0, 2.0], &[0, 1]).map(|sampled| sampled.id), Some(1));
    }
}
