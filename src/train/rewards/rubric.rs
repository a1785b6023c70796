//! A checklist instead of a judge model: six rules that can be computed, and what a small network says that has learned to tell whole
//! lists from corrupted ones. Optional: `rewards.weights.rubric` is 0 unless it is set.
//!
//! R = (rules kept + 4 x judgement) / 10. A rule is kept by all of a list or not at all:
//!
//! | rule | kept where |
//! |---|---|
//! | interests | the heaviest interest, and each with 0.15 of the weight or more, has a query at cosine 0.6 or more |
//! | own | each query is at cosine 0.45 or more to one of the interests |
//! | answered | each query finds a living article |
//! | distinct | no two queries share more than half of the words that either has |
//! | telling | of each query, more than half of the words stand in few articles |
//! | form | each query keeps the form (`structure`) |
//!
//! The judgement is the mean that the network predicts, between 0 and 1: 1 for lists as the judge of signals writes them, 0.5 for those
//! corrupted once (`train::corrupted`), 0 for those corrupted twice. The stage `rubric` fits it; it reads how a list lies to signals and
//! articles, and not what they mean.
//! Source: rubrics as rewards, arXiv 2507.17746 (a weighted share of what is kept).
use super::{
    super::{error::TrainError, salient::COMMON_SHARE, statistics::jaccard},
    Asked, Judge, mean, structure,
    view::View,
};
use crate::{
    lexicon::{
        asked::{MET, STRAYS},
        unit::{Unit, WIDTH, pairs},
    },
    model::{
        perceptron::{Perceptron, Score, scores},
        weights::{Checkpoint, ModelError, TensorSource},
    },
    queries::{QUERIES_MAX, QueryList},
};
use candle_core::{DType, Device, Tensor};
use std::{borrow::Cow, collections::BTreeSet, path::Path};

/// Its name in figures and samples.
pub const RUBRIC: &str = "rubric";
/// The part of its file that holds the network.
pub const PART: &str = "rubric";

/// Names of the rules, in the order of [`rules`].
pub const RULES: [&str; 6] = ["interests", "own", "answered", "distinct", "telling", "form"];
/// How many rules the judgement counts as: with six rules a checklist of ten, of which the rules are more than half.
const JUDGEMENT_RULES: f64 = 4.0;

/// An interest of less weight may be left out: with five of equal weight each has 0.2.
pub const WEIGHT_MIN: f64 = 0.15;
/// Two queries that share more of their words than this ask for the same. Meanings do not tell: of one interest they stand together.
const SAME_SHARE: f64 = 0.5;
/// Articles that the network takes a query to have found: what a reader would look at.
const READ: usize = 10;

/// What the network reads of a list: the rules, and eleven measures. It reads no meanings themselves: with those of signals, queries
/// and articles it knew the corruptions that it had seen as well, and others worse (LOG.md).
pub const N_FEATURES: usize = RULES.len() + N_MEASURES;
const N_MEASURES: usize = 11;

/// One list of one reader, with what was looked up.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The list.
    pub list: &'a QueryList,
    /// Its queries, looked up.
    pub asked: &'a [Asked],
    /// Its reader.
    pub view: &'a View,
}

/// A rubric whose network was fitted.
#[derive(Debug)]
pub struct Rubric {
    network: Perceptron,
}

impl Rubric {
    /// Reads the network of a source.
    /// # Errors
    /// If a tensor is missing, misshapen or not finite.
    pub fn load(source: &mut dyn TensorSource) -> Result<Self, ModelError> {
        Ok(Self { network: Perceptron::load(source, PART, N_FEATURES)? })
    }

    /// Opens what the stage wrote.
    /// # Errors
    /// If the file cannot be read or is broken.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let bytes = std::fs::read(path).map_err(TrainError::disk(path, "read"))?;
        let name = path.display().to_string();
        let mut file = Checkpoint::from_files(vec![(name, Cow::Owned(bytes))], DType::F32, &Device::Cpu)?;
        Ok(Self::load(&mut file)?)
    }

    /// Maps rows of features (n, [`N_FEATURES`]) to mean and log-variance: (n, 2). Differentiable.
    /// # Errors
    /// If the width differs.
    pub fn forward(&self, features: &Tensor) -> Result<Tensor, ModelError> {
        self.network.forward(features)
    }

    /// What the network says of a list.
    /// # Errors
    /// If it fails.
    pub fn judgement(&self, judge: &Judge<'_>, look: Look<'_>) -> Result<Score, TrainError> {
        let features = Tensor::from_vec(features(judge, look), (1, N_FEATURES), &Device::Cpu)?;
        let scores = scores(&self.forward(&features)?)?;
        Ok(scores[0])
    }

    /// Rewards a list, from 0 to 1.
    /// # Errors
    /// If the network fails.
    #[allow(clippy::cast_precision_loss, reason = "six")]
    pub fn reward(&self, judge: &Judge<'_>, look: Look<'_>) -> Result<f64, TrainError> {
        let n_kept = rules(judge, look).into_iter().filter(|kept| *kept).count() as f64;
        let judgement = f64::from(self.judgement(judge, look)?.mean).clamp(0.0, 1.0);
        Ok((n_kept + JUDGEMENT_RULES * judgement) / (RULES.len() as f64 + JUDGEMENT_RULES))
    }
}

/// Which rules a list keeps, in the order of [`RULES`].
pub fn rules(judge: &Judge<'_>, Look { list, asked, view }: Look<'_>) -> [bool; RULES.len()] {
    let near = |asked: &Asked, centre: &Unit, least: f64| {
        asked.unit.as_ref().is_some_and(|unit| unit.cosine(centre) >= least)
    };
    let clusters = &view.interests.clusters;
    let of_weight =
        clusters.iter().enumerate().filter(|(idx, (_, weight))| *idx == 0 || *weight >= WEIGHT_MIN);
    let met = |centre: &Unit| asked.iter().any(|asked| near(asked, centre, MET));
    let words: Vec<BTreeSet<&String>> = asked.iter().map(|asked| asked.words.iter().collect()).collect();
    let same = |(a, b): (usize, usize)| jaccard(&words[a], &words[b]).is_some_and(|same| same > SAME_SHARE);
    let tells =
        |word: &&String| judge.meaning.rarity(word).is_some_and(|rarity| rarity >= -COMMON_SHARE.ln());
    let n_telling = |asked: &Asked| asked.words.iter().filter(tells).count();
    [
        !clusters.is_empty() && of_weight.into_iter().all(|(_, (centre, _))| met(centre)),
        asked.iter().all(|asked| clusters.iter().any(|(centre, _)| near(asked, centre, STRAYS))),
        asked.iter().all(|asked| !asked.found.is_empty()),
        !pairs(asked.len()).any(same),
        asked.iter().all(|asked| 2 * n_telling(asked) > asked.words.len()),
        structure::structure(list) >= 1.0,
    ]
}

/// What the network reads of a list ([`N_FEATURES`] numbers).
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "small counts and cosines, for a network in f32"
)]
pub fn features(judge: &Judge<'_>, look: Look<'_>) -> Vec<f32> {
    let Look { asked, view, .. } = look;
    let signals = weighted(view.interests.clusters.iter().map(|(unit, weight)| (unit, *weight)));
    let queries = weighted(asked.iter().filter_map(|asked| Some((asked.unit.as_ref()?, 1.0))));
    let of_found: Vec<Option<Unit>> = asked
        .iter()
        .map(|asked| {
            let articles = asked.found.iter().take(READ).filter_map(|&(idx, _)| judge.meaning.article(idx));
            let articles: Vec<Unit> = articles.collect();
            weighted(articles.iter().map(|unit| (unit, 1.0)))
        })
        .collect();
    let found = weighted(of_found.iter().flatten().map(|unit| (unit, 1.0)));
    let mut row: Vec<f32> = Vec::with_capacity(N_FEATURES);
    row.extend(rules(judge, look).map(|kept| f32::from(u8::from(kept))));
    let cosine = |a: &Option<Unit>, b: &Option<Unit>| match (a, b) {
        (Some(a), Some(b)) => a.cosine(b),
        _ => 0.0,
    };
    let nearest = |unit: &Option<Unit>| {
        let cosines = view
            .interests
            .clusters
            .iter()
            .map(|(centre, _)| unit.as_ref().map_or(0.0, |unit| unit.cosine(centre)));
        cosines.fold(0.0, f64::max)
    };
    let own: Vec<f64> = asked.iter().map(|asked| nearest(&asked.unit)).collect();
    let answered: Vec<f64> =
        asked.iter().zip(&of_found).map(|(asked, found)| cosine(&asked.unit, found)).collect();
    let served: Vec<f64> = of_found.iter().map(nearest).collect();
    let together: Vec<f64> =
        pairs(asked.len()).map(|(a, b)| cosine(&asked[a].unit, &asked[b].unit)).collect();
    let lowest = |of: &[f64]| of.iter().copied().fold(1.0, f64::min);
    let highest = |of: &[f64]| of.iter().copied().fold(0.0, f64::max);
    let mean_of = |of: &[f64]| mean(of.iter().copied());
    let measures: [f64; N_MEASURES] = [
        cosine(&signals, &queries),
        cosine(&signals, &found),
        mean_of(&own),
        lowest(&own),
        mean_of(&answered),
        lowest(&answered),
        mean_of(&served),
        lowest(&served),
        mean_of(&together),
        highest(&together),
        asked.len() as f64 / QUERIES_MAX as f64,
    ];
    row.extend(measures.map(|measure| measure as f32));
    row
}

/// The direction of a weighted sum; none of nothing.
#[allow(clippy::cast_possible_truncation, reason = "weights up to 1")]
fn weighted<'u>(units: impl Iterator<Item = (&'u Unit, f64)>) -> Option<Unit> {
    let mut sum = vec![0.0_f32; WIDTH];
    for (Unit(unit), weight) in units {
        sum.iter_mut().zip(unit).for_each(|(sum, value)| *sum += value * weight as f32);
    }
    Unit::of(sum)
}
