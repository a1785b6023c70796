//! The rubric's network: it learns from lists whose order is known by how they were made.
//!
//! For readers whom the judge did not learn from: the judge's own list, that list corrupted in one way, and corrupted in a second
//! way too. Fitted like the reward head, by regression on 1, 0.5 and 0 and by ranking within a reader's lists. What it makes of a
//! corruption that it has not seen is measured by fits without it.
use super::{
    askers::{Asker, Asking, askers},
    checkpoint,
    corrupted::{Between, Corrupter, Corruption, another},
    error::TrainError,
    events::World,
    examples::belongs_to_head,
    fit::DEVICE,
    head_fit::{self, Table},
    journal::progress_bar,
    pretrain::settings_digest,
    rewards::{
        Judge, mean,
        rubric::{Look, N_FEATURES, PART, RULES, Rubric, features, rules},
        view::View,
        wishes::wishes,
    },
    settings::RubricSettings,
    tokenizer,
};
use crate::{bundle::manifest::sha256_hex, model::weights::Parameters, queries::QueryList};
use candle_core::{DType, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// One reader in this many tells when to stop and gives the figures of the report.
const HELD_OUT_SHARE: usize = 5;
/// What makes a list worse that was made worse in some way. It must not undo that, nor put the list of another reader in its place: that would
/// be no worse than this list at once.
fn second(first: Corruption) -> Corruption {
    match first {
        Corruption::Dropped | Corruption::Repeated => Corruption::Generalised,
        Corruption::Swapped | Corruption::Generalised => Corruption::Shuffled,
        Corruption::Shuffled => Corruption::Repeated,
    }
}

/// Whether a list may stand in the place of another: of another reader, and both the network's to learn from or neither.
fn other_reader(of: usize, other: usize) -> bool {
    of != other && of.is_multiple_of(HELD_OUT_SHARE) == other.is_multiple_of(HELD_OUT_SHARE)
}

/// What the network learns of a list by the corruptions that it went through.
const TARGETS: [f32; 3] = [1.0, 0.5, 0.0];

/// How the network tells whole lists from corrupted ones, of readers it was not fitted on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RubricReport {
    /// Digest of settings, tokenizer and world.
    pub settings_sha256: String,
    /// Lists that it was fitted on and is measured on.
    pub n_lists: usize,
    /// By corruption.
    pub corruptions: BTreeMap<String, Told>,
    /// By rule: the share of whole lists that keep it, of those corrupted once, and of those corrupted twice.
    pub rules: BTreeMap<String, [f64; 3]>,
}

/// Shares of readers whose whole list is judged better than the one that was corrupted so.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// By the network.
    pub seen: f64,
    /// By one that was fitted without this corruption.
    pub unseen: f64,
    /// Readers.
    pub readers: usize,
}

/// One list of a reader.
struct Made {
    features: Vec<f32>,
    rules: [bool; RULES.len()],
    /// The corruptions that it went through.
    corruptions: Vec<Corruption>,
}

/// Fits the network and writes it with its report. One that stands there with the same settings and data is left as it is.
/// # Errors
/// If there are too few readers, or fitting fails.
pub fn run(
    world: &World,
    tokenizer: &Path,
    settings: &RubricSettings,
    out: &Path,
) -> Result<RubricReport, TrainError> {
    let (tokens, tokenizer_json) = tokenizer::read(tokenizer)?;
    let data = [sha256_hex(&tokenizer_json), world.content_digest()];
    let settings_sha256 = settings_digest(settings, &data)?;
    if let Some(report) = finished(out, &settings_sha256) {
        return Ok(report);
    }
    let readers = world.training_readers().filter(|reader| belongs_to_head(&reader.key));
    let asking = Asking { cuts_per_reader: settings.cuts_per_reader, prompt_tokens: settings.prompt_tokens };
    let (_, askers) = askers(world, readers, &tokens, asking);
    let others = world.training_readers().filter(|reader| !belongs_to_head(&reader.key));
    let judge = Judge::of(world, others, world.cutoff_unix_s)?;
    let groups = lists(world, &judge, &askers, settings.seed)?;
    let (held_out, train): (Vec<_>, Vec<_>) =
        groups.into_iter().partition(|(reader_idx, _)| reader_idx.is_multiple_of(HELD_OUT_SHARE));
    if train.is_empty() || held_out.is_empty() {
        return Err(TrainError::TooLittleData { reason: "too few readers have lists to corrupt".to_owned() });
    }
    let sets = [train, held_out].map(|groups| groups.into_iter().map(|(_, lists)| lists).collect::<Vec<_>>());
    let (parameters, network) = fitted(&sets, None, settings.seed)?;
    let mut corruptions = BTreeMap::new();
    for how in Corruption::ALL {
        let (_, without) = fitted(&sets, Some(how), settings.seed)?;
        let [(seen, readers), (unseen, _)] = [told(&network, &sets[1], how)?, told(&without, &sets[1], how)?];
        corruptions.insert(how.name().to_owned(), Told { seen, unseen, readers });
    }
    let n_lists = sets.iter().flatten().map(Vec::len).sum();
    let rules = kept(&sets[1]);
    let report = RubricReport { settings_sha256, n_lists, corruptions, rules };
    checkpoint::write_file(out, &parameters.to_safetensors(DType::F32)?)?;
    let path = out.with_extension("json");
    let json = serde_json::to_vec_pretty(&report).map_err(|error| TrainError::file(&path, error))?;
    // The report last: it says that the network is whole.
    checkpoint::write_file(&path, &json)?;
    Ok(report)
}

/// The lists of each asker for whom the judge writes one, with the place of their reader.
fn lists(
    world: &World,
    judge: &Judge<'_>,
    askers: &[Asker<'_>],
    seed: u64,
) -> Result<Vec<(usize, Vec<Made>)>, TrainError> {
    let corrupter = Corrupter::of(world, &judge.meaning);
    let whole: Vec<(usize, View, QueryList)> = askers
        .par_iter()
        .filter_map(|asker| {
            let view = asker.view(judge);
            let list = wishes(&view.interests, &judge.meaning)?;
            Some((asker.reader_idx, view, list))
        })
        .collect();
    let bar = progress_bar("lists", whole.len() as u64);
    let groups = whole.par_iter().enumerate().map(|(idx, (reader_idx, view, list))| {
        let is_other = |other: usize| other_reader(*reader_idx, whole[other].0);
        let other = another(idx, whole.len(), is_other).map(|other| &whole[other].2);
        let between = Between { interests: &view.interests, other };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(idx as u64);
        let mut made = vec![look_at(judge, view, list, Vec::new())?];
        for how in Corruption::ALL {
            let Some(once) = corrupter.corrupted(list, how, between, &mut rng) else { continue };
            made.push(look_at(judge, view, &once, vec![how])?);
            let then = second(how);
            if let Some(twice) = corrupter.corrupted(&once, then, between, &mut rng) {
                made.push(look_at(judge, view, &twice, vec![how, then])?);
            }
        }
        bar.inc(1);
        Ok((*reader_idx, made))
    });
    let groups = groups.collect();
    bar.finish();
    groups
}

fn look_at(
    judge: &Judge<'_>,
    view: &View,
    list: &QueryList,
    corruptions: Vec<Corruption>,
) -> Result<Made, TrainError> {
    let asked = judge.all_asked(list)?;
    let look = Look { list, asked: &asked, view };
    Ok(Made { features: features(judge, look), rules: rules(judge, look), corruptions })
}

/// A network fitted to the first set, as the second says when to stop; without the lists of one corruption, where that is asked.
fn fitted(
    sets: &[Vec<Vec<Made>>; 2],
    without: Option<Corruption>,
    seed: u64,
) -> Result<(Parameters, Rubric), TrainError> {
    let mut parameters = Parameters::fresh(seed, &DEVICE);
    let rubric = Rubric::load(&mut parameters)?;
    let forward = |features: &_| rubric.forward(features);
    let [train, held_out] = [table(&sets[0], without)?, table(&sets[1], without)?];
    head_fit::fit(&parameters, PART, &forward, (&train, &held_out), seed)?;
    Ok((parameters, rubric))
}

fn table(groups: &[Vec<Made>], without: Option<Corruption>) -> Result<Table, TrainError> {
    let (mut inputs, mut rewards, mut of_groups) = (Vec::new(), Vec::new(), Vec::new());
    for group in groups {
        let first = rewards.len();
        for made in group {
            if without.is_none_or(|without| !made.corruptions.contains(&without)) {
                inputs.extend_from_slice(&made.features);
                rewards.push(TARGETS[made.corruptions.len()]);
            }
        }
        of_groups.push((first..rewards.len()).collect());
    }
    let inputs = Tensor::from_vec(inputs, (rewards.len(), N_FEATURES), &DEVICE)?;
    Ok(Table { inputs, rewards, groups: of_groups })
}

/// The share of readers whose whole list has the higher judgement, beside the one that went through this corruption alone.
fn told(rubric: &Rubric, groups: &[Vec<Made>], how: Corruption) -> Result<(f64, usize), TrainError> {
    let mut right = Vec::new();
    for group in groups {
        let Some(worse) = group.iter().find(|made| made.corruptions == [how]) else { continue };
        let rows = [&group[0].features[..], &worse.features].concat();
        let output = rubric.forward(&Tensor::from_vec(rows, (2, N_FEATURES), &DEVICE)?)?;
        let means: Vec<f32> = output.narrow(1, 0, 1)?.squeeze(1)?.to_vec1()?;
        right.push(f64::from(u8::from(means[0] > means[1])));
    }
    Ok((mean(right.iter().copied()), right.len()))
}

/// The share of lists that keep each rule, by how often they were corrupted.
fn kept(groups: &[Vec<Made>]) -> BTreeMap<String, [f64; 3]> {
    let share = |rule: usize, n_corruptions: usize| {
        let lists = groups.iter().flatten().filter(|made| made.corruptions.len() == n_corruptions);
        mean(lists.map(|made| f64::from(u8::from(made.rules[rule]))))
    };
    let of_rule = |(rule, name): (usize, &&str)| ((*name).to_owned(), [0, 1, 2].map(|n| share(rule, n)));
    RULES.iter().enumerate().map(of_rule).collect()
}

/// The report of a network that was written whole, with the same settings and data.
fn finished(out: &Path, settings_sha256: &str) -> Option<RubricReport> {
    let json = std::fs::read(out.with_extension("json")).ok()?;
    let report: RubricReport = serde_json::from_slice(&json).ok()?;
    (report.settings_sha256 == settings_sha256 && Rubric::open(out).is_ok()).then_some(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_corruption_is_another_one_and_never_another_readers_list() {
        for how in Corruption::ALL {
            let then = second(how);
            assert!(then != how && then != Corruption::Swapped, "{} then {}", how.name(), then.name());
        }
    }

    #[test]
    fn lists_are_swapped_between_readers_of_one_set() {
        assert!(other_reader(1, 2) && other_reader(5, 10), "both are learned from, and neither is");
        assert!(!other_reader(1, 1) && !other_reader(1, 5) && !other_reader(10, 2));
    }
}
