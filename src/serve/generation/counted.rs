//! What is counted of a generation.
use super::{Course, Writer};
use crate::{
    queries::QueryList,
    serve::{
        candidate::{Answer, Invalid},
        experiments::enrolment::Enrolment,
    },
};

/// Words for what candidates become.
const FATES: [&str; 3] = ["valid", "invalid", "pruned"];

fn fate(list: &Result<QueryList, Invalid>) -> &'static str {
    match list {
        Ok(_) => "valid",
        Err(Invalid::Pruned) => "pruned",
        Err(_) => "invalid",
    }
}

impl Writer {
    /// Counts a candidate as it ends.
    pub(super) fn count_candidate(&self, list: &Result<QueryList, Invalid>, n_tokens: usize) {
        match list {
            Ok(list) => self.metrics.list_queries(list.as_slice().len()),
            Err(Invalid::Pruned) => {}
            Err(invalid) => self.metrics.invalid_output(invalid.reason()),
        }
        self.metrics.candidates(fate(list), 1);
        self.metrics.output_tokens(fate(list), n_tokens);
    }

    /// Counts a generation whose candidates have all ended, whatever they are.
    pub(super) fn count_course(&self, course: &Course, enrolment: &Enrolment) {
        let phases = &course.phases;
        for (name, took) in [
            ("clean", phases.clean),
            ("tokenize", phases.tokenize),
            ("queue", phases.queue),
            ("prefill", phases.prefill),
            ("decode", phases.decode),
            ("rerank", phases.rerank),
        ] {
            self.metrics.phase(name, took);
        }
        self.metrics.candidates_started(course.candidates.len());
        for arm in enrolment.arms() {
            for word in FATES {
                let n = course.candidates.iter().filter(|candidate| fate(&candidate.list) == word).count();
                self.metrics.arm_candidates(arm, word, n);
            }
        }
    }

    /// Counts what came of it.
    pub(super) fn count_answer(&self, answer: &Answer, enrolment: &Enrolment) {
        let (first, gain) = (answer.phases.time_to_first_candidate, answer.gain());
        self.metrics.first_candidate(first);
        answer.score().into_iter().for_each(|score| self.metrics.best_list_score(score));
        gain.into_iter().for_each(|gain| self.metrics.score_gain(gain));
        for arm in enrolment.arms() {
            self.metrics.arm_generated(arm, first, gain);
            self.metrics.arm_output_tokens(arm, answer.n_output_tokens());
        }
    }
}
