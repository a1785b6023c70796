//! What early stopping and adaptive N cost and save: rows that were written to their end are cut, or left out, where those would have.
use super::ways::Way;
use crate::{
    decode::{
        adaptive::Adaptive,
        batch::{Finish, FinishedRow},
        features::{Meets, list_features},
        pruning::{IsList, Pruning},
    },
    model::reward_head::RewardHead,
    train::{
        error::TrainError,
        rollout::{Sample, Sampled, list},
        statistics::{Estimate, bootstrap},
    },
};
use rayon::prelude::*;
use serde::Serialize;
use std::sync::Arc;

/// How boldly lists are stopped.
const MODES: [(Way, f32); 2] = [(Way::HeadSafe, Pruning::SAFE), (Way::HeadAggressive, Pruning::AGGRESSIVE)];

/// What early stopping or adaptive N saves and costs, readers resampled.
#[derive(Clone, Debug, Serialize)]
pub struct Stopping {
    /// Its name.
    pub name: String,
    /// Share of lists that were not written to their end.
    pub lists: Estimate,
    /// Share of tokens that were not written.
    pub tokens: Estimate,
    /// The head's score of the chosen list less that of the list that is chosen of all; both as they score among all.
    pub score: Estimate,
}

/// One reader's lists, cut.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) samples: Vec<Sample>,
    lists: f64,
    tokens: f64,
    score: f64,
}

/// The lists of all readers in every mode, of one seed; none without a head, and none that are stopped by one that does not foresee.
pub(super) fn cut(
    student: &Sampled,
    head: Option<&Arc<RewardHead>>,
    rows: &[Vec<FinishedRow>],
    meets: &[Option<Meets>],
) -> Result<Vec<(Way, Vec<Cut>)>, TrainError> {
    let Some(head) = head else { return Ok(Vec::new()) };
    let tokens = student.tokens.clone();
    let is_list: IsList = Arc::new(move |row: &FinishedRow| list(row, &tokens).is_ok());
    let of_mode = |(way, confidence): (Way, f32)| {
        let pruning = |meets: &Option<Meets>| Pruning {
            head: Arc::clone(head),
            confidence,
            is_list: Arc::clone(&is_list),
            meets: meets.clone(),
        };
        let asked = rows.par_iter().zip(meets);
        let cuts = asked.map(|(rows, meets)| {
            cut_rows((student, head, meets.as_ref()), rows, pruning(meets).replay(rows)?)
        });
        Ok((way, cuts.collect::<Result<_, TrainError>>()?))
    };
    let adaptive = Adaptive { is_list: Arc::clone(&is_list) };
    let drawn = rows
        .par_iter()
        .zip(meets)
        .map(|(rows, meets)| cut_rows((student, head, meets.as_ref()), rows, adaptive.replay(rows).to_vec()));
    let drawn = (Way::HeadAdaptive, drawn.collect::<Result<_, TrainError>>()?);
    let modes = MODES.into_iter().filter(|_| head.foresees()).map(of_mode);
    modes.chain([Ok(drawn)]).collect()
}

/// The table's rows.
pub(super) fn table(cuts: &[(Way, Vec<Cut>)], (n_lists, seed): (usize, u64)) -> Vec<Stopping> {
    let row = |(way, cuts): &(Way, Vec<Cut>)| {
        let estimate = |value: fn(&Cut) -> f64| bootstrap(&cuts.iter().map(value).collect::<Vec<_>>(), seed);
        Stopping {
            name: way.name(n_lists),
            lists: estimate(|cut| cut.lists),
            tokens: estimate(|cut| cut.tokens),
            score: estimate(|cut| cut.score),
        }
    };
    cuts.iter().map(row).collect()
}

#[allow(clippy::cast_precision_loss, reason = "a handful of lists of some hundred tokens")]
fn cut_rows(
    (student, head, meets): (&Sampled, &RewardHead, Option<&Meets>),
    rows: &[FinishedRow],
    left: Vec<FinishedRow>,
) -> Result<Cut, TrainError> {
    let n_tokens = |rows: &[FinishedRow]| rows.iter().map(|row| row.ids.len()).sum::<usize>() as f64;
    let n_whole = left.iter().filter(|row| row.finish != Finish::Pruned).count();
    let samples = student.samples(&left, meets);
    let (all, among_all) = scored((student, head, meets), rows)?;
    let (kept, among_kept) = scored((student, head, meets), &left)?;
    let best = |scores: &[f32]| (0..scores.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let of_place = |place: usize| all.iter().position(|&other| other == place).map(|at| among_all[at]);
    let score = match (best(&among_all), best(&among_kept)) {
        (Some(of_all), Some(of_kept)) => of_place(kept[of_kept]).map_or(0.0, |kept| kept - among_all[of_all]),
        // Where no list is valid, none is lost; of the lists that early stopping leaves none need be valid.
        (None, _) => 0.0,
        (Some(of_all), None) => -among_all[of_all],
    };
    let tokens = 1.0 - n_tokens(&left) / n_tokens(rows).max(1.0);
    Ok(Cut {
        samples,
        lists: (rows.len() - n_whole) as f64 / rows.len().max(1) as f64,
        tokens,
        score: f64::from(score),
    })
}

/// Places of the valid lists among rows, and what the head says of each.
fn scored(
    (student, head, meets): (&Sampled, &RewardHead, Option<&Meets>),
    rows: &[FinishedRow],
) -> Result<(Vec<usize>, Vec<f32>), TrainError> {
    let samples = student.samples(rows, meets);
    let places: Vec<usize> = (0..rows.len()).filter(|&place| samples[place].is_ok()).collect();
    let valid: Vec<&FinishedRow> = places.iter().map(|&place| &rows[place]).collect();
    let scores = head.score(&list_features(&valid, meets))?;
    Ok((places, scores.iter().map(|scores| scores.list.mean).collect()))
}
