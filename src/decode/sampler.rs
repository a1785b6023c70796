//! One seeded stream per row; processors in the order of Hugging Face transformers.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "ids and ranks are far below 2^32"
)]
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use std::borrow::Cow;

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
    /// A query that stands in the list already does not end there again: another token must follow.
    pub distinct_queries: bool,
}

impl SamplerSettings {
    /// How lists are drawn unless a request says otherwise: warm enough that N lists differ, without the unlikeliest
    /// twentieth, where most malformed lists begin, and without queries written twice, which make a list malformed.
    pub const SERVING: Self = Self {
        temperature: 0.8,
        top_k: 0,
        top_p: 0.95,
        min_p: 0.0,
        repetition_penalty: 1.0,
        distinct_queries: true,
    };

    /// The model as it is: temperature 1, every stage off.
    pub const PLAIN: Self = Self {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        distinct_queries: false,
    };

    /// The likeliest token, whatever seed.
    pub const GREEDY: Self = Self { temperature: 0.0, ..Self::PLAIN };
}

/// A drawn token and its log-probability (nats) under the plain model: temperature 1, nothing cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
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
        let allowed = without(logits, forbidden);
        let kept = Kept::new(&self.settings, &allowed, history)?;
        // 53 random bits make a number in [0, 1); one draw per token keeps streams comparable between settings.
        let uniform = (self.stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let id = kept.at(uniform);
        Some(Sampled { id, logprob: log_probability(logits, id)? })
    }
}

/// Probabilities (V) with which `Sampler::sample` draws the first token; None where it would draw none.
pub fn probabilities(settings: &SamplerSettings, logits: &[f32], history: &[u32]) -> Option<Vec<f32>> {
    let kept = Kept::new(settings, logits, history)?;
    let total = kept.total();
    let mut probabilities = vec![0.0; logits.len()];
    for &(id, weight) in &kept.entries {
        probabilities[id as usize] = (f64::from(weight) / total) as f32;
    }
    Some(probabilities)
}

/// Tokens that can be drawn, with weights relative to the likeliest one's.
struct Kept {
    entries: Vec<(u32, f32)>,
}

impl Kept {
    fn new(settings: &SamplerSettings, logits: &[f32], history: &[u32]) -> Option<Self> {
        let logits = penalised(logits, history, settings.repetition_penalty);
        let max = finite_max(&logits)?;
        // Also where the temperature is negative or not a number: the settings are checked long before, here nothing may panic.
        if settings.temperature.partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater) {
            let id = logits.iter().position(|&logit| logit == max)?;
            return Some(Self { entries: vec![(id as u32, 1.0)] });
        }
        let threshold = kth_largest(&logits, settings.top_k);
        let weight = |logit: f32| ((logit - max) / settings.temperature).exp();
        let entries = (0u32..)
            .zip(logits.iter())
            .filter(|&(_, &logit)| logit >= threshold && logit > f32::NEG_INFINITY)
            .map(|(id, &logit)| (id, weight(logit)));
        let mut kept = Self { entries: entries.collect() };
        if settings.top_p < 1.0 {
            kept.cut_top_p(settings.top_p);
        }
        if settings.min_p > 0.0 {
            // The likeliest weight is 1, so a weight is its share of the likeliest probability, whatever the sum.
            kept.entries.retain(|&(_, weight)| weight >= settings.min_p.min(1.0));
        }
        Some(kept)
    }

    fn total(&self) -> f64 {
        self.entries.iter().map(|&(_, weight)| f64::from(weight)).sum()
    }

    /// Keeps each token while the likelier ones hold less than the share `top_p`; at least the likeliest.
    ///
    /// Only the head of the distribution is sorted: tokens within a factor of the likeliest, a factor that grows until
    /// the head holds the share.
    fn cut_top_p(&mut self, top_p: f32) {
        let wanted = f64::from(top_p) * self.total();
        let mut floor = 1e-3;
        let mut head: Vec<(u32, f32)>;
        loop {
            head = self.entries.iter().copied().filter(|&(_, weight)| weight >= floor).collect();
            let mass: f64 = head.iter().map(|&(_, weight)| f64::from(weight)).sum();
            if mass >= wanted || head.len() == self.entries.len() {
                break;
            }
            floor = if floor > 1e-30 { floor * 1e-3 } else { 0.0 };
        }
        head.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut above = 0.0;
        let n_kept = head
            .iter()
            .take_while(|&&(_, weight)| {
                let is_kept = above < wanted;
                above += f64::from(weight);
                is_kept
            })
            .count();
        head.truncate(n_kept.max(1));
        self.entries = head;
    }

    /// The token at a point in [0, 1) of the cumulated weights.
    fn at(&self, uniform: f64) -> u32 {
        let target = uniform * self.total();
        let mut below = 0.0;
        let found = self.entries.iter().find(|&&(_, weight)| {
            below += f64::from(weight);
            target < below
        });
        // Rounding can put the target at the very end, where the last token stands.
        found.or(self.entries.last()).map_or(0, |&(id, _)| id)
    }
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
fn without<'a>(logits: &'a [f32], ids: &[u32]) -> Cow<'a, [f32]> {
    if ids.is_empty() {
        return Cow::Borrowed(logits);
    }
    let mut left = logits.to_vec();
    for &id in ids {
        if let Some(logit) = left.get_mut(id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    if finite_max(&left).is_some() { Cow::Owned(left) } else { Cow::Borrowed(logits) }
}

/// The largest logit, where it is a finite number. NaN is passed over.
fn finite_max(logits: &[f32]) -> Option<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    max.is_finite().then_some(max)
}

/// The k-th largest logit, below which top-k cuts; minus infinity where top-k cuts nothing.
fn kth_largest(logits: &[f32], k: usize) -> f32 {
    if k == 0 || k >= logits.len() {
        return f32::NEG_INFINITY;
    }
    let mut ranked: Vec<f32> =
        logits.iter().map(|&logit| if logit.is_nan() { f32::NEG_INFINITY } else { logit }).collect();
    let (_, kth, _) = ranked.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    *kth
}

/// Log-probability of a token at temperature 1, nothing cut.
fn log_probability(logits: &[f32], id: u32) -> Option<f32> {
    let max = finite_max(logits)?;
    let finite = logits.iter().filter(|logit| !logit.is_nan());
    let sum: f64 = finite.map(|&logit| f64::from((logit - max).exp())).sum();
    let logit = *logits.get(id as usize)?;
    Some((f64::from(logit - max) - sum.ln()) as f32)
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
                distinct_queries: false,
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
        assert_eq!(Some(sampled.logprob), log_probability(&logits, 3), "as if nothing were cut");
        assert_eq!(drawn(&[1.0, 2.0], &[0, 1]).map(|sampled| sampled.id), Some(1));
    }
}
