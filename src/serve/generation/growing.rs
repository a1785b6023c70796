//! Candidates that are shown while they are written.
use super::{Course, Writer};
use crate::{
    decode::{batch::FinishedRow, features::list_features},
    model::{
        reward_head::{ListFeatures, Score},
        weights::ModelError,
    },
    serve::{
        answer::ServeError,
        candidate::{Growing, queries_so_far},
    },
    telemetry::Chain,
};
use std::{sync::Arc, time::Instant};
use tracing::warn;

/// What the head says of a list: of each of its queries, and of the whole that it foresees.
type Said = (Vec<f32>, Option<f32>);

impl Writer {
    /// Reads and scores rows, among all that there are; not on an async thread, as with rows that ended. Nothing of it decides anything.
    pub(super) async fn grow(
        self: &Arc<Self>,
        mut course: Course,
        grown: Vec<FinishedRow>,
    ) -> Result<(Course, Vec<Growing>), ServeError> {
        let writer = Arc::clone(self);
        let shown = self.solo.run(move || {
            let started = Instant::now();
            let has_ended = |row: &FinishedRow| course.rows.iter().any(|ended| ended.row_idx == row.row_idx);
            let grown: Vec<FinishedRow> = grown.into_iter().filter(|row| !has_ended(row)).collect();
            let numbers: Vec<usize> = grown.iter().map(|row| row.row_idx).collect();
            course.growing.extend(grown.into_iter().map(|row| (row.row_idx, row)));
            let growing = writer.growing(&course).into_iter().filter(|one| numbers.contains(&one.row_idx));
            let growing = growing.collect();
            course.phases.rerank += started.elapsed();
            (course, growing)
        });
        Ok(shown.await?)
    }

    /// Every candidate that is being written.
    fn growing(&self, course: &Course) -> Vec<Growing> {
        let said = self.said(course).unwrap_or_else(|error| {
            warn!(error = %Chain(&error), "reward head failed, lists are shown without scores");
            vec![(Vec::new(), None); course.growing.len()]
        });
        let gate = self.topics.gate();
        let growing = |(row, (scores, foreseen)): (&FinishedRow, Said)| {
            let n_ids = row.query_ends.last().map_or(0, |end| end.n_ids);
            let mut queries = queries_so_far(&self.tokens.decode(&row.ids[..n_ids]));
            queries.retain(|query| gate.passes(query));
            let scores = Some(scores).filter(|scores| scores.len() == queries.len());
            Growing { row_idx: row.row_idx, queries, scores, foreseen, n_tokens: row.ids.len() }
        };
        course.growing.values().zip(said).map(growing).collect()
    }

    /// What the head says of each of them, beside the lists that have ended.
    fn said(&self, course: &Course) -> Result<Vec<Said>, ModelError> {
        let Some(head) = self.head.as_ref().filter(|_| !course.is_headless) else {
            return Ok(vec![(Vec::new(), None); course.growing.len()]);
        };
        let valid =
            course.rows.iter().zip(&course.candidates).filter(|(_, candidate)| candidate.list.is_ok());
        let valid: Vec<&FinishedRow> = valid.map(|(row, _)| row).collect();
        let n_ended = valid.len();
        let rows: Vec<&FinishedRow> = valid.into_iter().chain(course.growing.values()).collect();
        let features = list_features(&rows, course.meets.as_ref());
        let has_ended: Vec<bool> = (0..rows.len()).map(|place| place < n_ended).collect();
        let foreseen = head.foresee(&features, &has_ended)?.split_off(n_ended);
        let mut queries = head.score_queries(&features[n_ended..])?.into_iter().map(|score| score.mean);
        let of_row = |(list, foreseen): (&ListFeatures, Option<Score>)| {
            (queries.by_ref().take(list.query_hidden.len()).collect(), foreseen.map(|score| score.mean))
        };
        Ok(features[n_ended..].iter().zip(foreseen).map(of_row).collect())
    }
}
