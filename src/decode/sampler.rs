//! One seeded stream per row; processors in the order of Hugging Face transformers.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "ids and ranks are far below 2^32"
)]
use super::logits::{Logits, Sums};
use crate::model::outline::{Ask, Outline, TOKENS_MAX};
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

/// What became of a draw from an outline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Drawn {
    /// A token.
    Token(Sampled),
    /// No logit is finite, or one is plus infinity.
    Broken,
    /// The outline does not say enough, and nothing was drawn.
    Short,
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
        let uniform = self.uniform();
        let drawn = |logits: &Logits<'_>| {
            let allowed = if forbidden.is_empty() { None } else { logits.without(forbidden) };
            Kept::new(&self.settings, allowed.as_ref().unwrap_or(logits)).at(uniform)
        };
        let id = match penalised(logits, history, self.settings.repetition_penalty) {
            Cow::Borrowed(_) => drawn(&plain),
            Cow::Owned(penalised) => drawn(&Logits::new(&penalised)?),
        };
        let logprob = f64::from(plain.at(id)? - plain.max) - sums.total().ln();
        Some(Sampled { id, logprob: logprob as f32 })
    }

    /// What to ask of logits, but for what is forbidden; None: these settings look at every logit.
    pub fn ask(&self) -> Option<Ask> {
        let SamplerSettings { temperature, top_k, top_p, repetition_penalty, .. } = self.settings;
        let of = |scale: f32, top_k, top_p| Some(Ask { scale, top_k, top_p, forbidden: 0 });
        match () {
            () if repetition_penalty != 1.0 => None,
            () if is_greedy(temperature) => of(1.0, 1, 1.0),
            () if top_k > 0 && top_k <= TOKENS_MAX / 2 => of(temperature.recip(), top_k, 1.0),
            () if top_k == 0 && top_p < 1.0 => of(temperature.recip(), 0, top_p),
            () => None,
        }
    }

    /// Draws one token as `sample` does, of an outline that was asked for.
    pub fn sample_outline(&mut self, outline: &Outline) -> Drawn {
        if !outline.most.is_finite() {
            return Drawn::Broken;
        }
        let Some(tokens) = outline.tokens.as_ref().filter(|tokens| !tokens.is_empty()) else {
            return Drawn::Short;
        };
        let Some(kept) = Kept::of_outline(&self.settings, outline, tokens) else { return Drawn::Short };
        let id = kept.at(self.uniform());
        match tokens.binary_search_by_key(&id, |&(column, _)| column) {
            Ok(place) => {
                let logprob = f64::from(tokens[place].1 - outline.most) - f64::from(outline.total).ln();
                Drawn::Token(Sampled { id, logprob: logprob as f32 })
            }
            Err(_) => Drawn::Broken,
        }
    }

    /// 53 random bits make a number in [0, 1); one draw per token keeps streams comparable between settings.
    fn uniform(&mut self) -> f64 {
        (self.stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Also where the temperature is negative, has no reciprocal or is no number: the settings are checked long before.
fn is_greedy(temperature: f32) -> bool {
    matches!(temperature.partial_cmp(&f32::MIN_POSITIVE), None | Some(Ordering::Less))
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
        if is_greedy(temperature) {
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

    /// The same of an outline's tokens; None: it lacks some.
    fn of_outline(settings: &SamplerSettings, outline: &Outline, tokens: &[(u32, f32)]) -> Option<Self> {
        let &SamplerSettings { temperature, top_k, top_p, min_p, .. } = settings;
        let max = outline.most_allowed;
        if is_greedy(temperature) {
            let likeliest = tokens.iter().find(|&&(_, logit)| logit == max)?;
            return Some(Self::Some(vec![(likeliest.0, 1.0)]));
        }
        let mut entries = if top_k > 0 {
            let mut logits: Vec<f32> = tokens.iter().map(|&(_, logit)| logit).collect();
            logits.sort_unstable_by(|a, b| b.total_cmp(a));
            let least = *logits.get(top_k - 1)?;
            let kept = tokens.iter().copied().filter(|&(_, logit)| logit >= least).collect();
            let entries = weighed(kept, max, temperature);
            if top_p < 1.0 { likeliest(&entries, f64::from(top_p) * total(&entries)) } else { entries }
        } else {
            let entries = weighed(tokens.to_vec(), max, temperature);
            let wanted = f64::from(top_p) * f64::from(outline.total_allowed);
            if total(&entries) < wanted {
                return None;
            }
            likeliest(&entries, wanted)
        };
        entries.retain(|&(_, weight)| weight >= min_p.min(1.0));
        Some(Self::Some(entries))
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

    /// What a device would say of logits.
    fn outlined(logits: &[f32], ask: Ask, forbidden: &[u32], n_tokens: usize) -> Outline {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let is_allowed = |&(id, _): &(u32, f32)| !forbidden.contains(&id);
        let mut tokens: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).filter(is_allowed).collect();
        tokens.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
        let most_allowed = tokens.first().map_or(f32::NEG_INFINITY, |&(_, logit)| logit);
        let total_allowed = tokens.iter().map(|&(_, logit)| ((logit - most_allowed) * ask.scale).exp()).sum();
        tokens.truncate(n_tokens);
        tokens.sort_unstable_by_key(|&(id, _)| id);
        let total = logits.iter().map(|&logit| (logit - most).exp()).sum();
        Outline { most, total, most_allowed, total_allowed, tokens: Some(tokens) }
    }

    #[test]
    fn what_an_outline_gives_is_what_all_logits_give_or_nothing() {
        let base = SamplerSettings { temperature: 0.8, ..PLAIN };
        let all = [
            SamplerSettings::GREEDY,
            SamplerSettings { top_k: 7, ..base },
            SamplerSettings { top_k: 12, top_p: 0.8, min_p: 0.05, ..base },
            SamplerSettings { top_p: 0.9, ..base },
        ];
        let (mut n_short, mut n_drawn) = (0, 0);
        for (seed, settings) in (0..).flat_map(|seed| all.map(|settings| (seed, settings))).take(800) {
            let logits: Vec<f32> =
                (0..90).map(|id| (((id * 37 + seed * 61) % 101) as f32 * 0.7).sin() * 4.0).collect();
            let forbidden: &[u32] = if seed % 3 == 0 { &[] } else { &[3, 40, 41] };
            let mut sampler = Sampler::new(settings, seed);
            let mut of_outline = sampler.clone();
            let outline = outlined(&logits, sampler.ask().unwrap(), forbidden, 3 + seed as usize % 40);
            let sampled = sampler.sample(&logits, &[], forbidden).unwrap();
            match of_outline.sample_outline(&outline) {
                Drawn::Short => {
                    n_short += 1;
                    assert_eq!(
                        of_outline.sample(&logits, &[], forbidden),
                        Some(sampled),
                        "nothing was drawn"
                    );
                }
                Drawn::Token(token) => {
                    n_drawn += 1;
                    assert_eq!(token.id, sampled.id, "{settings:?}");
                    assert!((token.logprob - sampled.logprob).abs() < 1e-5);
                }
                Drawn::Broken => panic!("nothing is broken"),
            }
        }
        assert!(n_short > 50 && n_drawn > 300, "{n_short} short, {n_drawn} drawn");
    }

    #[test]
    fn settings_that_look_at_every_logit_ask_for_no_outline() {
        let ask = |settings| Sampler::new(settings, 1).ask();
        assert_eq!(ask(PLAIN), None);
        assert_eq!(ask(SamplerSettings { top_k: 4, repetition_penalty: 1.1, ..PLAIN }), None);
        assert_eq!(ask(SamplerSettings { top_k: TOKENS_MAX, ..PLAIN }), None);
        assert_eq!(ask(SamplerSettings { min_p: 0.1, ..PLAIN }), None);
        let broken =
            Outline { most: f32::INFINITY, total: 1.0, most_allowed: 1.0, total_allowed: 1.0, tokens: None };
        assert_eq!(Sampler::new(PLAIN, 1).sample_outline(&broken), Drawn::Broken);
        assert_eq!(Sampler::new(PLAIN, 1).sample_outline(&Outline { most: 1.0, ..broken }), Drawn::Short);
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
