//! Lists sampled from a student, by the decoder that serves.
use super::{error::TrainError, packing::Example};
use crate::{
    decode::{
        batch::{Batch, DecodeError, Finish, FinishedRow, GroupId, GroupRequest},
        features::{Meets, list_features},
        run::run_to_end,
        sampler::SamplerSettings,
    },
    model::{device, reward_head::ListFeatures, transformer::Transformer},
    queries::QueryList,
    text::{parse, tokens::Tokens},
};
use rayon::ThreadPoolBuilder;
use std::sync::Arc;

/// Longest list in tokens: eight queries of nine tokens, with room.
pub const LIST_TOKENS_MAX: usize = 96;
/// Rows decoded side by side by one thread.
const ROWS_MAX: usize = 32;

/// One sampled list with what the reward head reads of it, or in a word why it is none.
pub type Sample = Result<(QueryList, ListFeatures), &'static str>;

/// A student that can be sampled.
#[derive(Clone, Debug)]
pub struct Sampled {
    /// The network, built for serving.
    pub model: Arc<Transformer>,
    /// Its tokenizer.
    pub tokens: Tokens,
}

impl Sampled {
    /// Draws `n` lists for every prompt; the lists of one prompt stand together, in the order of their seeds.
    ///
    /// A prompt's seeds depend on `seed` and its place alone, so the lists do not depend on the number of threads.
    /// `on_row` is called once per finished row, from any thread.
    /// # Errors
    /// If the network fails or a prompt is too long for it.
    pub fn lists(
        &self,
        prompts: &[Vec<u32>],
        n: usize,
        seed: u64,
        on_row: &(dyn Fn() + Sync),
    ) -> Result<Vec<Vec<Sample>>, TrainError> {
        let rows = self.rows(prompts, n, (seed, SamplerSettings::SERVING), on_row)?;
        Ok(rows.iter().map(|rows| self.samples(rows, None)).collect())
    }

    /// As [`Sampled::lists`], by any sampler: the rows themselves, with ids and log-probabilities.
    /// # Errors
    /// The same.
    pub fn rows(
        &self,
        prompts: &[Vec<u32>],
        n: usize,
        (seed, sampler): (u64, SamplerSettings),
        on_row: &(dyn Fn() + Sync),
    ) -> Result<Vec<Vec<FinishedRow>>, TrainError> {
        let n_threads = device::side_by_side(self.model.device());
        let share = prompts.len().div_ceil(n_threads).max(1);
        let parts: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> = prompts
                .chunks(share)
                .enumerate()
                .map(|(part, prompts)| {
                    scope.spawn(move || {
                        // Small products gain nothing from many threads; whole batches side by side do.
                        let pool = ThreadPoolBuilder::new().num_threads(1).build();
                        let pool =
                            pool.map_err(|error| TrainError::Settings { reason: error.to_string() })?;
                        let first_seed = row_seed(seed, (part * share * n) as u64);
                        pool.install(|| self.decode(prompts, n, (first_seed, sampler), on_row))
                            .map_err(TrainError::from)
                    })
                })
                .collect();
            running.into_iter().map(|worker| worker.join()).collect()
        });
        let mut rows = Vec::with_capacity(prompts.len());
        for part in parts {
            let lost = |_| TrainError::Settings { reason: "a sampling thread panicked".to_owned() };
            rows.extend(part.map_err(lost)??);
        }
        Ok(rows)
    }

    fn decode(
        &self,
        prompts: &[Vec<u32>],
        n: usize,
        (first_seed, sampler): (u64, SamplerSettings),
        on_row: &(dyn Fn() + Sync),
    ) -> Result<Vec<Vec<FinishedRow>>, DecodeError> {
        let requests = prompts.iter().enumerate().map(|(idx, prompt)| GroupRequest {
            id: GroupId(idx as u64),
            prompt: prompt.clone(),
            known: None,
            pruning: None,
            n_held: 0,
            seeds: (0..n).map(|row| first_seed.wrapping_add((idx * n + row) as u64)).collect(),
            sampler,
            max_new_tokens: LIST_TOKENS_MAX,
            stop_ids: self.tokens.stop_ids(),
            boundary_ids: self.tokens.boundary_ids(),
        });
        let mut rows: Vec<FinishedRow> = Vec::new();
        run_to_end(&mut Batch::new(self.model.clone()), requests, ROWS_MAX, |row| {
            rows.push(row);
            on_row();
        })?;
        rows.sort_by_key(|row| (row.group, row.row_idx));
        let mut rows = rows.into_iter();
        Ok((0..prompts.len()).map(|_| rows.by_ref().take(n).collect()).collect())
    }

    /// Samples of one prompt, from its rows. `meets`: what a head reads of the reader's interests, where it does.
    pub fn samples(&self, rows: &[FinishedRow], meets: Option<&Meets>) -> Vec<Sample> {
        let lists: Vec<_> = rows.iter().map(|row| self.list(row)).collect();
        let valid: Vec<_> =
            rows.iter().zip(&lists).filter(|(_, list)| list.is_ok()).map(|(row, _)| row).collect();
        let mut features = list_features(&valid, meets).into_iter();
        let mut with_features = |list| (list, features.next().expect("every valid list has features"));
        lists.into_iter().map(|list| list.map(&mut with_features)).collect()
    }

    /// The list that a row wrote, or in a word why it is none.
    /// # Errors
    /// The word.
    pub fn list(&self, row: &FinishedRow) -> Result<QueryList, &'static str> {
        list(row, &self.tokens)
    }
}

/// The list that a row wrote, or in a word why it is none.
/// # Errors
/// The word.
pub fn list(row: &FinishedRow, tokens: &Tokens) -> Result<QueryList, &'static str> {
    match row.finish {
        Finish::Stop => parse::parse(&tokens.decode(&row.ids)).map_err(|malformed| malformed.reason()),
        // The end is missing, however well the beginning reads.
        Finish::Length | Finish::Pruned => Err("unfinished"),
    }
}

/// Each row with its prompt, group after group.
pub fn with_prompts(prompts: &[Vec<u32>], groups: Vec<Vec<FinishedRow>>) -> Vec<(Vec<u32>, FinishedRow)> {
    let groups = prompts.iter().zip(groups);
    groups.flat_map(|(prompt, rows)| rows.into_iter().map(|row| (prompt.clone(), row))).collect()
}

/// What was sampled, as something to learn from.
pub fn examples(rows: &[(Vec<u32>, FinishedRow)]) -> Vec<Example> {
    let example = |(prompt, row): &(Vec<u32>, FinishedRow)| Example {
        prompt: prompt.clone(),
        completion: row.ids.clone(),
        notes: Vec::new(),
    };
    rows.iter().map(example).collect()
}

/// Seeds of neighbouring rows follow each other from here; the factor keeps the rows of different base seeds apart.
fn row_seed(seed: u64, row_idx: u64) -> u64 {
    seed.wrapping_mul(1 << 32).wrapping_add(row_idx)
}
