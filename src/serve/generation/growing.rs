//! Candidates that are shown while they are written.
use super::{Course, Writer};
use crate::{
    decode::{batch::FinishedRow, features::list_features},
    model::{reward_head::ListFeatures, weights::ModelError},
    serve::{
        answer::ServeError,
        candidate::{Growing, Seen, queries_so_far},
    },
    telemetry::Chain,
};
use std::sync::Arc;
use tracing::warn;

/// What the head says of a list: of each of its queries, and of the whole that it foresees.
type Said = (Vec<f32>, Option<f32>);

impl Writer {
    /// Reads, scores and publishes rows, among all that there are; not on an async thread, as with rows that ended. Nothing of it decides anything.
    pub(super) async fn grow(
        self: &Arc<Self>,
        mut course: Course,
        mut grown: Vec<FinishedRow>,
        publish: impl Fn(Seen),
    ) -> Result<Course, ServeError> {
        grown.retain(|row| course.rows.iter().all(|ended| ended.row_idx != row.row_idx));
        if grown.is_empty() {
            return Ok(course);
        }
        let writer = Arc::clone(self);
        let shown = self.solo.run(move || {
            let numbers: Vec<usize> = grown.iter().map(|row| row.row_idx).collect();
            course.growing.extend(grown.into_iter().map(|row| (row.row_idx, row)));
            let said = writer.said(&course, &numbers).unwrap_or_else(|error| {
                warn!(error = %Chain(&error), "reward head failed, lists are shown without scores");
                writer.metrics.head_failed();
                course.foresees = false;
                Vec::new()
            });
            let mut said = said.into_iter();
            let rows = numbers.iter().filter_map(|row_idx| course.growing.get(row_idx));
            let growing = rows.map(|row| writer.growing(row, said.next().unwrap_or_default()));
            let growing: Vec<Growing> = growing.collect();
            (course, growing)
        });
        let (course, growing) = shown.await?;
        growing.into_iter().for_each(|growing| publish(Seen::Growing(Arc::new(growing))));
        Ok(course)
    }

    /// A candidate that is being written.
    fn growing(&self, row: &FinishedRow, (scores, foreseen): Said) -> Growing {
        // The token that ends a query may hold its last characters, and the first of the next.
        let n_ids = row.query_ends.last().map_or(0, |end| row.ids.len().min(end.n_ids + 1));
        let written = self.tokens.decode(&row.ids[..n_ids]);
        let mut queries = queries_so_far(written.rsplit_once('\n').map_or("", |(ended, _)| ended));
        let gate = self.topics.gate();
        queries.retain(|query| gate.passes(query));
        let scores = Some(scores).filter(|scores| scores.len() == queries.len());
        Growing { row_idx: row.row_idx, queries, scores, foreseen, n_tokens: row.ids.len() }
    }

    /// What the head says of the rows with these numbers, beside all others; nothing where it is not asked.
    fn said(&self, course: &Course, numbers: &[usize]) -> Result<Vec<Said>, ModelError> {
        let Some(head) = self.head.as_ref().filter(|_| course.foresees && !course.is_headless) else {
            return Ok(Vec::new());
        };
        let is_list = |place: &usize| course.candidates[*place].list.is_ok();
        let ended = (0..course.rows.len()).filter(is_list).map(|place| &course.rows[place]);
        let others = course.growing.values().filter(|row| !numbers.contains(&row.row_idx));
        let these = numbers.iter().filter_map(|row_idx| course.growing.get(row_idx));
        let rows: Vec<&FinishedRow> = these.chain(ended).chain(others).collect();
        let mut features = list_features(&rows, course.meets.as_ref());
        features.truncate(numbers.len());
        let foreseen = head.foresee(&features, &vec![false; features.len()])?;
        let mut queries = head.score_queries(&features)?.into_iter().map(|score| score.mean);
        let mut of_list = |list: &ListFeatures| queries.by_ref().take(list.query_hidden.len()).collect();
        let foreseen = foreseen.into_iter().map(|score| score.map(|score| score.mean));
        Ok(features.iter().map(&mut of_list).zip(foreseen).collect())
    }
}
