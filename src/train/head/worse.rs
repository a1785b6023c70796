//! Sampled lists made worse, with what the head reads of them: it then learns of lists that its student hardly writes.
use super::super::{
    askers::Asker,
    corrupted::{Between, Corrupter, Corruption},
    error::TrainError,
    rewards::Judge,
    rollout::{Sample, Sampled},
};
use crate::{
    decode::{
        batch::FinishedRow,
        features::{Meets, list_features},
        forced,
    },
    queries::QueryList,
    text::prompt,
};
use rand::{SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

/// Makes lists worse, and has the student read them as if it had written them.
pub(super) struct Worse<'a> {
    pub(super) student: &'a Sampled,
    pub(super) judge: &'a Judge<'a>,
    pub(super) corrupter: Corrupter<'a>,
    /// Lists made worse for each prompt.
    pub(super) n: usize,
    pub(super) seed: u64,
}

/// What was sampled for one prompt.
pub(super) struct Written<'a> {
    pub(super) prompt: &'a [u32],
    pub(super) asker: &'a Asker<'a>,
    /// Valid rows.
    pub(super) rows: &'a [&'a FinishedRow],
    /// Their lists, in the same order.
    pub(super) lists: Vec<&'a QueryList>,
    pub(super) meets: Option<&'a Meets>,
}

impl Worse<'_> {
    /// Lists of the prompt at place `idx`, each one of its sampled lists made worse in one way. `other`: the list of another reader, where
    /// there is one. A list that this student cannot write is left out.
    /// # Errors
    /// If the network fails.
    pub(super) fn samples(
        &self,
        idx: usize,
        written: &Written<'_>,
        other: Option<&QueryList>,
    ) -> Result<Vec<Sample>, TrainError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(idx as u64);
        let interests = written.asker.interests(self.judge);
        let between = Between { interests: &interests, other };
        let places: Vec<usize> = (0..written.lists.len()).collect();
        let mut samples = Vec::new();
        for _ in 0..self.n {
            let (Some(place), Some(&how)) = (places.choose(&mut rng), Corruption::ALL.choose(&mut rng))
            else {
                break;
            };
            let list = written.lists[*place];
            if let Some(worse) = self.corrupter.corrupted(list, how, between, &mut rng) {
                samples.extend(self.read(worse, *place, written)?);
            }
        }
        Ok(samples)
    }

    /// What the head would read of a list, were it sampled in the place of another; None where the student's vocabulary lacks a token of it.
    fn read(
        &self,
        list: QueryList,
        place: usize,
        written: &Written<'_>,
    ) -> Result<Option<Sample>, TrainError> {
        let Sampled { model, tokens } = self.student;
        let ids = prompt::completion_ids(&list, tokens);
        if ids.iter().any(|&id| model.config().output_ids.column(id).is_none()) {
            return Ok(None);
        }
        let row = forced::read(model, written.prompt, &ids, (tokens.stop_ids(), tokens.boundary_ids()))?;
        let mut rows = written.rows.to_vec();
        rows[place] = &row;
        Ok(Some(Ok((list, list_features(&rows, written.meets).remove(place)))))
    }
}
