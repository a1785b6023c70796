//! One generation: prompt, engine, parser, reward head, and the choice of the best list.
mod built;
mod counted;
mod course;
mod growing;

use crate::{
    cleaner::{Cleaner, CleanerError, Verdict, with_category},
    decode::{
        adaptive::Adaptive,
        batch::{Finish, FinishedRow},
        features::{Meets, list_features},
        pruning::{IsList, Pruning},
    },
    experiment::policy::{Draw, EarlyStopping},
    lexicon::Lexicon,
    model::reward_head::RewardHead,
    queries::{QUERIES_MAX, QueryList},
    serve::{
        answer::ServeError,
        bill::Bill,
        candidate::{self, Answer, Candidate, Invalid, Phases, Scores, Seen, StitchedList},
        cost::{Owed, Spending},
        engine::{Deadline, Engine, Event, Growth, Job, Ticket},
        metrics::Metrics,
        models::facts::ModelFacts,
        owner::Leave,
        question::{Judged, Options, Question},
        rerank::Method,
        solo::Solo,
        tenants::Charge,
        topics::Topics,
    },
    telemetry::Chain,
    text::tokens::Tokens,
};
use built::Built;
use course::Course;
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// What a generation needs of the bundle. The model lives as long as this does.
#[derive(Debug)]
pub struct Writer {
    /// What is told of the model.
    pub facts: Arc<ModelFacts>,
    /// The tokenizer.
    pub tokens: Tokens,
    /// The reward head, where there is one.
    pub head: Option<Arc<RewardHead>>,
    /// What signals mean to the head, where it reads that.
    pub lexicon: Option<Arc<Lexicon>>,
    /// The signal cleaner, where there is one.
    pub cleaner: Option<Cleaner>,
    /// The way to the model.
    pub engine: Engine,
    /// Prompts are cut to this many tokens.
    pub prompt_tokens_max: usize,
    /// What is sensitive.
    pub topics: Arc<Topics>,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
    /// Where prompts are made and lists are scored.
    pub solo: Arc<Solo>,
    /// The model thread stands still: what it is asked for never ends. Of one that panics, the channels close.
    pub stuck: CancellationToken,
}

/// What a generation begins with, beside its question.
#[derive(Debug)]
pub struct Passage {
    /// Its place in the queue.
    pub ticket: Ticket,
    /// How long its prompt may be kept.
    pub leave: Leave,
    /// Until when anybody waits for it.
    pub deadline: Arc<Deadline>,
    /// Whether anybody looks at lists while they are written.
    pub growth: Arc<Growth>,
    /// What the tenant was charged for it.
    pub charge: Charge,
}

impl Writer {
    /// Generates, publishing each candidate as it ends, and where anybody looks each of its queries before; the prompt is kept as long as the passage's leave stands. Dropping the future frees the rows within one step.
    ///
    /// # Errors
    /// If the engine refuses or fails, the deadline passes, or no candidate is a valid list.
    pub async fn generate(
        self: &Arc<Self>,
        question: &Arc<Question>,
        Passage { ticket, leave, deadline, growth, charge }: Passage,
        publish: impl Fn(Seen),
    ) -> Result<Answer, ServeError> {
        let mut course = Course::new(question);
        let (writer, of_task) = (Arc::clone(self), Arc::clone(question));
        // Cleaning and tokenising a full set of signals takes longer than an async thread may be held.
        let built = self.solo.run(move || writer.prompt(&of_task.signals)).await;
        let Built { prompt, n_cleaned, clean, took, meets } = built??;
        course.prepared(clean, prompt.ids.len(), n_cleaned);
        course.meets.clone_from(&meets);
        let n_truncated_signals = prompt.n_truncated_signals + question.signals.truncated_count();
        self.metrics.prompt_tokens(prompt.ids.len());
        if prompt.n_truncated_signals == 0 {
            self.engine.prepared(question.n_bytes(), prompt.ids.len(), took);
        }
        let mut events = self
            .engine
            .submit(ticket, self.job((prompt.ids, meets), question, (leave, deadline, growth, charge)))?;
        course.queued();
        loop {
            let (mut ready, mut rows, mut grown, mut ended) = (Vec::new(), Vec::new(), Vec::new(), None);
            tokio::select! {
                _ = events.recv_many(&mut ready, usize::MAX) => {}
                () = self.stuck.cancelled() => {}
            }
            if ready.is_empty() {
                return Err(ServeError::EngineGone);
            }
            for event in ready {
                match event {
                    Event::Admitted { queue, prefill, prefill_tokens_computed } => {
                        course.admitted(queue, prefill, prefill_tokens_computed);
                    }
                    Event::Row(row) => rows.push(row),
                    Event::Grown(rows) => grown.extend(rows),
                    Event::Done { decode, is_cut, bill } => ended = Some(Ok((decode, is_cut, bill))),
                    Event::Failed(error) => ended = Some(Err(error)),
                }
            }
            if !rows.is_empty() {
                let n_before = course.candidates.len();
                course = self.take(course, rows).await?;
                let fresh = course.candidates[n_before..].iter();
                fresh.for_each(|candidate| publish(Seen::Ended(Arc::new(candidate.clone()))));
            }
            if let Some(ended) = ended {
                let (decode, is_cut, bill) = ended?;
                course.decoded(decode, is_cut);
                return self.finish(course, question, n_truncated_signals, bill);
            }
            // What waits here counts more than what is only looked at.
            if !grown.is_empty() && events.is_empty() {
                course = self.grow(course, grown, &publish).await?;
            }
        }
    }

    /// What the cleaner says of each of these texts; nothing without a cleaner.
    ///
    /// # Errors
    /// If the cleaner fails.
    pub async fn verdicts(self: &Arc<Self>, texts: Vec<Judged>) -> Result<Vec<Verdict>, ServeError> {
        let writer = Arc::clone(self);
        let judged = self.solo.run(move || match &writer.cleaner {
            Some(cleaner) => {
                let judged = texts.iter().map(|judged| (judged.stream, judged.text.as_str()));
                let verdicts = cleaner.verdicts(judged).map_err(cleaner_failed)?.into_iter().zip(&texts);
                Ok(verdicts
                    .map(|(verdict, judged)| with_category(verdict, judged.category.as_deref()))
                    .collect())
            }
            None => Ok(Vec::new()),
        });
        judged.await?
    }

    fn job(
        &self,
        (prompt, meets): (Vec<u32>, Option<Meets>),
        question: &Question,
        (leave, deadline, growth, charge): (Leave, Arc<Deadline>, Arc<Growth>, Charge),
    ) -> Job {
        let options = &question.options;
        Job {
            // Whoever asks for a seed asks for the same rows again, and a known beginning may change the last bit of a number.
            leave: options.seed.is_none().then_some(leave),
            prompt,
            seeds: row_seeds(options.seed.unwrap_or_else(rand::random), options.n_candidates),
            sampler: options.sampler,
            max_new_tokens: options.max_output_tokens,
            stop_ids: self.tokens.stop_ids(),
            boundary_ids: self.tokens.boundary_ids(),
            pruning: self.pruning(options, meets),
            adaptive: (options.draw == Draw::AsNeeded).then(|| Adaptive { is_list: self.is_list() }),
            deadline,
            growth,
            bill: Bill::open(&self.metrics, &question.enrolment, charge),
        }
    }

    /// How weak lists are stopped: only by the head that chooses, and only if it foresees.
    fn pruning(&self, options: &Options, meets: Option<Meets>) -> Option<Pruning> {
        let confidence = confidence(options.early_stopping)?;
        let head = self.head.as_ref().filter(|head| head.foresees());
        let head = head.filter(|_| options.method == Method::RewardHead)?;
        Some(Pruning { head: Arc::clone(head), confidence, is_list: self.is_list(), meets })
    }

    /// Which rows could be chosen.
    fn is_list(&self) -> IsList {
        let (tokens, gate) = (self.tokens.clone(), self.topics.gate());
        let of_row = move |row: &FinishedRow| gate.queries(list(&tokens, row)?);
        Arc::new(move |row| row.finish == Finish::Stop && of_row(row).is_ok())
    }

    /// Parses rows, and scores them among those that ended before; not on an async thread, which the scores of many lists
    /// would hold too long.
    async fn take(
        self: &Arc<Self>,
        mut course: Course,
        rows: Vec<FinishedRow>,
    ) -> Result<Course, ServeError> {
        let writer = Arc::clone(self);
        let taken = self.solo.run(move || {
            let started = Instant::now();
            let _rerank = course.reranking(rows.len());
            let n_before = course.candidates.len();
            course.candidates.extend(rows.iter().map(|row| writer.candidate(row)));
            course.ended(rows);
            if course.candidates[n_before..].iter().any(|candidate| candidate.list.is_ok()) {
                course.time_to_first_candidate.get_or_insert(course.started.elapsed());
                writer.score(&mut course);
                course.mark_leaders();
            }
            course.phases.rerank += started.elapsed();
            course
        });
        Ok(taken.await?)
    }

    /// Parses a row.
    fn candidate(&self, row: &FinishedRow) -> Candidate {
        let list = match row.finish {
            Finish::Stop => list(&self.tokens, row).and_then(|list| self.topics.queries(list)),
            Finish::Length => Err(Invalid::Unfinished),
            Finish::Pruned => Err(Invalid::Pruned),
        };
        self.count_candidate(&list, row.ids.len());
        Candidate {
            row_idx: row.row_idx,
            list,
            scores: None,
            consensus: None,
            query_consensus: Vec::new(),
            mean_logprob: row.mean_logprob(),
            finish: row.finish,
            n_tokens: row.ids.len(),
            best_so_far: false,
        }
    }

    /// Scores every valid candidate again: each list more is one more opinion on those that were there.
    fn score(&self, course: &mut Course) {
        let (mut valid, rows): (Vec<&mut Candidate>, Vec<&FinishedRow>) = course
            .candidates
            .iter_mut()
            .zip(&course.rows)
            .filter(|(candidate, _)| candidate.list.is_ok())
            .unzip();
        let meets = course.meets.as_ref().filter(|_| self.head.is_some() && !course.is_headless);
        let features = list_features(&rows, meets);
        for (candidate, read) in valid.iter_mut().zip(&features) {
            candidate.consensus = read.consensus.as_ref().map(|consensus| consensus.list);
            candidate.query_consensus =
                read.consensus.iter().flat_map(|found| found.queries.clone()).collect();
        }
        let Some(head) = self.head.as_ref().filter(|_| !course.is_headless) else { return };
        let scored = match head.score(&features) {
            Ok(scored) => scored,
            Err(error) => {
                warn!(error = %Chain(&error), "reward head failed, lists are chosen by consensus");
                self.metrics.head_failed();
                return course.lose_head();
            }
        };
        for (candidate, scored) in valid.iter_mut().zip(scored) {
            let n_queries = candidate.list.as_ref().map_or(0, |list| list.as_slice().len());
            let queries: Vec<f32> = scored.queries.iter().map(|score| score.mean).collect();
            let queries = Some(queries).filter(|queries| queries.len() == n_queries);
            candidate.scores = Some(Scores { list: scored.list.mean, queries });
        }
    }

    fn finish(
        &self,
        course: Course,
        question: &Question,
        n_truncated_signals: usize,
        bill: Bill,
    ) -> Result<Answer, ServeError> {
        let (phases, n_candidates) = (course.phases, course.candidates.len());
        self.count_course(&course, &question.enrolment);
        // The last leader beats every other list.
        let best_idx = course.candidates.iter().rposition(|candidate| candidate.best_so_far);
        let (Some(best_idx), Some(first)) = (best_idx, course.time_to_first_candidate) else {
            bill.settle(Spending::Failed);
            return Err(ServeError::NoValidList { n_candidates });
        };
        let cost = bill.settle(Spending::Useful);
        let stitched = match course.method {
            Method::Stitch => StitchedList::of(&course.candidates),
            Method::RewardHead | Method::Consensus | Method::LogProb | Method::None => None,
        };
        let answer = Answer {
            model: Arc::clone(&self.facts),
            best_idx,
            stitched,
            n_queries_max: question.options.n_queries_max.unwrap_or(QUERIES_MAX),
            method: course.method,
            fell_short: course.is_headless || course.is_cut,
            prompt_tokens: course.prompt_tokens,
            prefill_tokens_computed: course.prefill_tokens_computed,
            n_truncated_signals,
            n_cleaned_signals: course.n_cleaned_signals,
            cost,
            owed: Owed::new(cost),
            phases: Phases { time_to_first_candidate: first, ..phases },
            candidates: course.candidates.into_iter().map(Arc::new).collect(),
        };
        self.count_answer(&answer, &question.enrolment);
        Ok(answer)
    }
}

/// How sure early stopping must be; none where it is off.
pub(super) fn confidence(mode: EarlyStopping) -> Option<f32> {
    match mode {
        EarlyStopping::Off => None,
        EarlyStopping::Safe => Some(Pruning::SAFE),
        EarlyStopping::Aggressive => Some(Pruning::AGGRESSIVE),
    }
}

/// The list of a row that ended by itself.
fn list(tokens: &Tokens, row: &FinishedRow) -> Result<QueryList, Invalid> {
    candidate::list(&tokens.decode(&row.ids))
}

fn cleaner_failed(error: CleanerError) -> ServeError {
    ServeError::Cleaner(Arc::new(error))
}

/// One seed per row, from the request's: rows differ, and the same request has the same rows whatever else runs (as far as `Batch` says).
fn row_seeds(seed: u64, n_rows: usize) -> Vec<u64> {
    (0..n_rows)
        .map(|row_idx| {
            let mut hash = Sha256::new();
            hash.update(b"newshound row 1");
            hash.update(seed.to_le_bytes());
            hash.update((row_idx as u64).to_le_bytes());
            let digest: [u8; 32] = hash.finalize().into();
            let mut first = [0; 8];
            first.copy_from_slice(&digest[..8]);
            u64::from_le_bytes(first)
        })
        .collect()
}
