//! The watch over a stage that learns from rewards or from a teacher: what validation readers get, from before the first step on.
//!
//! A reward can be raised without any reader being served better, and it shows: lists lose their form, or suit anybody. So every
//! few steps some validation readers are asked; the run whose lists find best what they clicked is kept as the best; and a sign of
//! hacking that holds ends the run, whose result is then the best and not the last.
mod signs;

use super::{
    askers::Asker,
    checkpoint::{self, Run},
    error::TrainError,
    event_file::EventFile,
    events::{Split, World},
    fit::Place,
    journal::Diary,
    order::Order,
    ranking::{self, Gain, Grades},
    retrieval::RECALL_K,
    rewards::{Aggregation, Judge, view::View},
    rollout::Sampled,
};
use crate::{queries::QueryList, text::tokens::Tokens};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
pub use signs::{Alarm, Signs};
use std::{collections::BTreeSet, sync::Arc};
use tracing::warn;

/// Seed of the choice of readers and of their lists: every look asks the same readers with the same dice.
const SEED: u64 = 17;
/// A sign must hold for so many looks: one may be chance.
const PATIENCE: usize = 3;
/// Words of a query that stand together in a signal, from which on it is copied.
const COPIED_WORDS: usize = 3;
/// Articles whose share of all that is found tells a hub.
const HUB_ARTICLES: usize = 10;

/// When is looked, and at whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchSettings {
    /// Steps between two looks; 0: never.
    pub every: u64,
    /// Most validation readers that are asked.
    pub readers: usize,
    /// Lists of each, so that steps are told apart by what was learned and less by the dice. Default 1: what runs had before there was a choice.
    #[serde(default = "WatchSettings::one_list", skip_serializing_if = "WatchSettings::is_one_list")]
    pub lists: usize,
}

impl WatchSettings {
    fn one_list() -> usize {
        1
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_one_list(lists: &usize) -> bool {
        *lists == Self::one_list()
    }
}

/// A validation reader, as she is served and judged.
#[derive(Debug)]
struct Watched<'a> {
    texts: Vec<&'a str>,
    view: View,
    clicked: Grades<usize>,
}

/// A list, and what it finds, best first.
struct Answer {
    list: QueryList,
    found: Vec<usize>,
}

/// The watch of one run; nobody looks where none is wanted.
#[derive(Debug)]
pub struct Watch<'a>(Option<Eyes<'a>>);

#[derive(Debug)]
struct Eyes<'a> {
    judge: &'a Judge<'a>,
    tokens: &'a Tokens,
    settings: WatchSettings,
    place: Place<'a>,
    prompts: Vec<Vec<u32>>,
    readers: Vec<Watched<'a>>,
    diary: Diary<Signs>,
    events: EventFile,
}

impl<'a> Watch<'a> {
    /// A watch that never looks.
    pub fn off() -> Self {
        Self(None)
    }

    /// Chooses the readers; goes on with the looks until `step`.
    /// # Errors
    /// If fewer than two validation readers have signals and held-out clicks, or the disk refuses.
    pub fn new(
        world: &'a World,
        (judge, tokens): (&'a Judge<'a>, &'a Tokens),
        (settings, prompt_tokens): (WatchSettings, usize),
        place: Place<'a>,
        step: u64,
    ) -> Result<Self, TrainError> {
        let able: Vec<_> = world
            .readers
            .iter()
            .filter(|reader| reader.split == Split::Valid && !reader.held_out.is_empty())
            .collect();
        let chosen = Order::new(SEED, able.len()).items(0, able.len());
        let (prompts, readers): (Vec<_>, Vec<_>) = chosen
            .into_iter()
            .filter_map(|idx| {
                let reader = *able.get(idx)?;
                let (prompt, asker) = Asker::of((idx, reader), world.cutoff_unix_s, (tokens, prompt_tokens))?;
                let clicked = ranking::alike(reader.held_out.iter().copied());
                let watched = Watched { texts: asker.texts().collect(), view: asker.view(judge), clicked };
                Some((prompt, watched))
            })
            .take(settings.readers)
            .unzip();
        if settings.lists == 0 {
            return Err(TrainError::Settings { reason: "watch.lists is at least 1".to_owned() });
        }
        if readers.len() < 2 {
            return Err(TrainError::TooLittleData {
                reason: "fewer than two validation readers have signals and held-out clicks".to_owned(),
            });
        }
        std::fs::create_dir_all(place.out).map_err(TrainError::disk(place.out, "create"))?;
        // A look is had before the update of its step, so that of the step which comes next stands.
        let diary: Diary<Signs> = Diary::open(&place.out.join("watch.jsonl"), step + 1)?;
        // Looks that are gone may have left a best that is none any more.
        keep_best(place, diary.lines())?;
        // A folder of its own: a run that goes on says its step again, and the look before it stands.
        let events_at = place.out.join("validation");
        std::fs::create_dir_all(&events_at).map_err(TrainError::disk(&events_at, "create"))?;
        let events = EventFile::new(&events_at, step + 1);
        Ok(Self(Some(Eyes { judge, tokens, settings, place, prompts, readers, diary, events })))
    }

    /// Looks, if it is time, and says whether the run should end.
    /// # Errors
    /// If sampling, the search or the disk fails.
    pub fn stops(&mut self, run: &mut Run) -> Result<bool, TrainError> {
        let Some(eyes) = self.0.as_mut().filter(|eyes| run.state.step.is_multiple_of(eyes.settings.every))
        else {
            return Ok(false);
        };
        eyes.look(run)?;
        let alarm = Alarm::of(eyes.diary.lines(), PATIENCE);
        if let Some(alarm) = alarm {
            warn!(
                step = run.state.step,
                alarm = alarm.name(),
                "the run ends; its best checkpoint is the result"
            );
        }
        Ok(alarm.is_some())
    }

    /// Looks at a run that has ended.
    /// # Errors
    /// The same.
    pub fn end(&mut self, run: &mut Run) -> Result<(), TrainError> {
        self.0.as_mut().map_or(Ok(()), |eyes| eyes.look(run))
    }
}

impl Eyes<'_> {
    /// Looks, unless the run stands as at the last look.
    fn look(&mut self, run: &mut Run) -> Result<(), TrainError> {
        if self.diary.lines().last().is_some_and(|signs| signs.step == run.state.step) {
            return Ok(());
        }
        let sampled = Sampled { model: Arc::new(run.writer()?), tokens: self.tokens.clone() };
        let lists = sampled.lists(&self.prompts, self.settings.lists, SEED, &|| ())?;
        let answers: Vec<Option<Answer>> = lists
            .into_par_iter()
            .flatten()
            .map(|sample| match sample {
                Ok((list, _)) => Ok(Some(Answer {
                    found: self.judge.ranking(list.as_slice().iter().map(|query| query.as_str()))?,
                    list,
                })),
                Err(_) => Ok(None),
            })
            .collect::<Result<_, TrainError>>()?;
        let signs = self.signs(run.state.step, &answers)?;
        let best = self.diary.lines().iter().map(|signs| signs.ndcg_10).fold(f64::NEG_INFINITY, f64::max);
        if signs.ndcg_10 > best {
            checkpoint::save_best(self.place.out, run, self.place.tokenizer_json)?;
        }
        self.events.add("eval", signs.step, &signs)?;
        self.diary.write(signs)?;
        // Only now: whoever is killed before has the old best, and no line that says it is none.
        keep_best(self.place, self.diary.lines())
    }

    /// `answers`: of each reader, as many.
    fn signs(&self, step: u64, answers: &[Option<Answer>]) -> Result<Signs, TrainError> {
        let (n_answers, n_lists) = (answers.len(), answers.len() / self.readers.len());
        let reader = |idx: usize| &self.readers[idx / n_lists];
        // The same answer of the next reader.
        let next = |idx: usize| (idx + n_lists) % n_answers;
        let reward = |of: usize, at: usize| -> Result<f64, TrainError> {
            let list = answers[of].as_ref().map(|answer| &answer.list);
            Ok(self.judge.rewards(list, &reader(at).view)?.composite(Aggregation::Weighted))
        };
        let rewards = |at: &(dyn Fn(usize) -> usize + Sync)| {
            (0..n_answers).into_par_iter().map(|idx| reward(idx, at(idx))).collect::<Result<Vec<_>, _>>()
        };
        let (own, others) = (rewards(&|idx| idx)?, rewards(&next)?);
        let found = |idx: usize| answers[idx].as_ref().map_or(&[][..], |answer| &answer.found);
        let measure = |of: &dyn Fn(&[usize], &Grades<usize>) -> f64| {
            mean((0..n_answers).map(|idx| of(found(idx), &reader(idx).clicked)))
        };
        let words: Vec<BTreeSet<&str>> = answers.iter().map(|answer| words(answer.as_ref())).collect();
        let overlap = |idx: usize| super::statistics::jaccard(&words[idx], &words[next(idx)]).unwrap_or(0.0);
        let queries = || {
            let of = answers.iter().enumerate();
            of.filter_map(|(idx, answer)| answer.as_ref().map(|answer| (&answer.list, reader(idx))))
                .flat_map(|(list, reader)| list.as_slice().iter().map(move |query| (query.as_str(), reader)))
        };
        let (reward, reward_of_others) = (mean(own.into_iter()), mean(others.into_iter()));
        Ok(Signs {
            step,
            valid: mean(answers.iter().map(|answer| f64::from(u8::from(answer.is_some())))),
            recall_10: measure(&|ranking, clicked| ranking::recall(ranking, clicked, RECALL_K)),
            ndcg_10: measure(&|ranking, clicked| ranking::ndcg(ranking, clicked, RECALL_K, Gain::Linear)),
            reward,
            permutation_gap: reward - reward_of_others,
            overlap: mean((0..n_answers).map(overlap)),
            copy_rate: mean(
                queries().map(|(query, reader)| f64::from(u8::from(is_copied(query, &reader.texts)))),
            ),
            top_query_share: signs::top_share(queries().map(|(query, _)| query), 1),
            top_trigram_share: signs::top_share(queries().flat_map(|(query, _)| trigrams(query)), 1),
            hub_rate: signs::top_share(
                (0..n_answers).flat_map(|idx| found(idx).iter().take(RECALL_K)),
                HUB_ARTICLES,
            ),
        })
    }
}

/// Keeps the best of the looks, and the best of those that a run would still know which went on from the newest checkpoint.
fn keep_best(place: Place<'_>, looks: &[Signs]) -> Result<(), TrainError> {
    let newest = checkpoint::latest(place.out)?.map(|folder| checkpoint::state(&folder)).transpose()?;
    let newest = newest.flatten().map_or(0, |state| state.step);
    let best = |looks: &mut dyn Iterator<Item = &Signs>| {
        looks
            .reduce(|best, other| if other.ndcg_10 > best.ndcg_10 { other } else { best })
            .map(|best| best.step)
    };
    let known = best(&mut looks.iter().filter(|look| look.step <= newest));
    let kept: Vec<u64> = best(&mut looks.iter()).into_iter().chain(known).collect();
    checkpoint::keep_best(place.out, &kept)
}

/// Whether [`COPIED_WORDS`] words of a query in a row stand in a row in one of the texts.
fn is_copied(query: &str, texts: &[&str]) -> bool {
    let words: Vec<&str> = query.split_whitespace().collect();
    texts.iter().any(|text| {
        let text: Vec<&str> = text.split_whitespace().collect();
        words.windows(COPIED_WORDS).any(|run| text.windows(COPIED_WORDS).any(|other| run == other))
    })
}

/// Every three words in a row.
fn trigrams(query: &str) -> Vec<[&str; 3]> {
    let words: Vec<&str> = query.split_whitespace().collect();
    words.array_windows().copied().collect()
}

fn words(answer: Option<&Answer>) -> BTreeSet<&str> {
    let queries = answer.into_iter().flat_map(|answer| answer.list.as_slice());
    queries.flat_map(|query| query.as_str().split_whitespace()).collect()
}

/// Mean of some values; 0 of none.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0_u32), |(sum, n), value| (sum + value, n + 1));
    sum / f64::from(n.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_one_list_are_those_of_runs_that_had_no_choice() {
        let before = r#"{"every":100,"readers":300}"#;
        let settings: WatchSettings = serde_json::from_str(before).unwrap();
        assert_eq!(settings.lists, 1);
        assert_eq!(serde_json::to_string(&settings).unwrap(), before, "their digests are the same");
    }

    #[test]
    fn trigrams_are_every_three_words_in_a_row() {
        assert_eq!(trigrams("used car loan rates"), [["used", "car", "loan"], ["car", "loan", "rates"]]);
        assert_eq!(trigrams("used car"), [[""; 3]; 0]);
    }

    #[test]
    fn three_words_in_a_row_are_copied_and_two_are_not() {
        let texts = ["used car loan rates", "garden"];
        assert!(is_copied("car loan rates today", &texts));
        assert!(!is_copied("car loan today rates", &texts));
        assert!(!is_copied("loan rates", &texts));
    }
}
