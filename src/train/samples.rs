//! Lists to be looked at: `samples.jsonl` in a run's folder, of training readers only.
//!
//! The same few readers are asked with the same dice before the first step, at every checkpoint and at the end, so that lists can be
//! laid side by side. A stage that rewards groups adds the best and the worst of a step.
use super::{
    askers::Asker,
    checkpoint::Run,
    error::TrainError,
    fit::Place,
    journal::{Diary, Line, Moved},
    rollout::{self, Sampled},
};
use crate::{
    decode::{batch::FinishedRow, sampler::SamplerSettings},
    text::tokens::Tokens,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Readers that are asked again and again: as many as a person reads.
const READERS: usize = 8;
/// Seed of their lists.
const SEED: u64 = 29;
/// Name of the file in a run's folder.
pub const SAMPLES_FILE: &str = "samples.jsonl";

/// Lists of one reader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Optimiser steps before the lists were written.
    pub step: u64,
    /// Why they stand here.
    pub kind: Kind,
    /// Place of the prompt among those of the run.
    pub prompt_idx: usize,
    /// What the prompt shows, the oldest first.
    pub signals: Vec<String>,
    /// What was written.
    pub lists: Vec<SampledList>,
}

/// Why lists are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The reader is always asked.
    Asked,
    /// The group had the highest mean reward of its step.
    Best,
    /// The group had the lowest.
    Worst,
}

/// One list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampledList {
    /// As it was written, a list or not.
    pub text: String,
    /// In a word why it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub malformed: Option<String>,
    /// Rewards by name, where it was rewarded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rewards: BTreeMap<String, f64>,
}

impl SampledList {
    /// Of a row, with no rewards.
    pub fn of(row: &FinishedRow, tokens: &Tokens) -> Self {
        Self {
            text: tokens.decode(&row.ids),
            malformed: rollout::list(row, tokens).err().map(str::to_owned),
            rewards: BTreeMap::new(),
        }
    }
}

/// The samples of one run.
#[derive(Debug)]
pub struct Samples {
    tokens: Tokens,
    prompts: Vec<Vec<u32>>,
    signals: Vec<Vec<String>>,
    diary: Diary<Sample>,
}

impl Samples {
    /// Opens the file; samples from the run's step on are dropped, as they will be taken again.
    /// # Errors
    /// If the disk refuses.
    pub fn open(
        place: Place<'_>,
        step: u64,
        tokens: &Tokens,
        (prompts, askers): (&[Vec<u32>], &[Asker<'_>]),
    ) -> Result<Self, TrainError> {
        std::fs::create_dir_all(place.out).map_err(TrainError::disk(place.out, "create"))?;
        let signals = askers.iter().take(READERS).map(texts).collect();
        Ok(Self {
            tokens: tokens.clone(),
            prompts: prompts.iter().take(READERS).cloned().collect(),
            signals,
            diary: Diary::open(&place.out.join(SAMPLES_FILE), step)?,
        })
    }

    /// Asks the readers, where the run stands before a multiple of `every` steps.
    /// # Errors
    /// If sampling or the disk fails.
    pub fn take(&mut self, run: &mut Run, every: u64) -> Result<(), TrainError> {
        if run.state.step.is_multiple_of(every.max(1)) { self.ask(run) } else { Ok(()) }
    }

    /// Asks the readers, unless the run stands as when they were asked last.
    /// # Errors
    /// The same.
    pub fn ask(&mut self, run: &mut Run) -> Result<(), TrainError> {
        let step = run.state.step;
        if self.diary.lines().iter().any(|sample| sample.step == step && sample.kind == Kind::Asked) {
            return Ok(());
        }
        let sampled = Sampled { model: Arc::new(run.writer()?), tokens: self.tokens.clone() };
        let groups = sampled.rows(&self.prompts, 1, (SEED, SamplerSettings::SERVING), &|| ())?;
        for (prompt_idx, (rows, signals)) in groups.iter().zip(&self.signals).enumerate() {
            let lists = rows.iter().map(|row| SampledList::of(row, &self.tokens)).collect();
            self.diary.write(Sample {
                step,
                kind: Kind::Asked,
                prompt_idx,
                signals: signals.clone(),
                lists,
            })?;
        }
        Ok(())
    }

    /// Adds a sample.
    /// # Errors
    /// If the disk refuses.
    pub fn add(&mut self, sample: Sample) -> Result<(), TrainError> {
        self.diary.write(sample)
    }
}

/// What an asker's prompt shows.
pub fn texts(asker: &Asker<'_>) -> Vec<String> {
    asker.texts().map(str::to_owned).collect()
}

impl Line for Sample {
    fn step(&self) -> u64 {
        self.step
    }

    /// A sample moves nothing.
    fn moved(self, _moved: Moved) -> Self {
        self
    }

    #[allow(clippy::cast_precision_loss, reason = "a handful of lists")]
    fn headline(&self) -> (&'static str, f64) {
        ("lists", self.lists.len() as f64)
    }

    fn pace(&self) -> (usize, f64) {
        (0, 0.0)
    }
}
