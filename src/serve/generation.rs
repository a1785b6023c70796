//! One generation: prompt, engine, parser, reward head, and the choice of the best list.
use crate::{
    decode::{
        batch::{Finish, FinishedRow},
        features::list_features,
    },
    model::reward_head::{ListFeatures, RewardHead},
    queries::QueryList,
    serve::{
        answer::ServeError,
        candidate::{Answer, Candidate, Invalid, Phases, Scores},
        engine::{Deadline, Engine, Event, Job},
        metrics::Metrics,
        question::{Options, Question},
        rerank::{self, Method},
    },
    text::{parse, prompt, tokens::Tokens},
};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Instant};

/// What a generation needs of the bundle.
#[derive(Debug)]
pub struct Writer {
    /// The tokenizer.
    pub tokens: Tokens,
    /// The reward head, where there is one.
    pub head: Option<RewardHead>,
    /// The way to the model.
    pub engine: Engine,
    /// Prompts are cut to this many tokens.
    pub prompt_tokens_max: usize,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
}

impl Writer {
    /// Takes what it needs of a bundle; the network itself belongs to the engine.
    pub fn new(
        tokens: Tokens,
        head: Option<RewardHead>,
        engine: Engine,
        prompt_tokens_max: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { tokens, head, engine, prompt_tokens_max, metrics }
    }

    /// Generates, publishing each candidate as it ends. Dropping the future frees the rows within one step.
    ///
    /// # Errors
    /// If the engine refuses or fails, the deadline passes, or no candidate is a valid list.
    pub async fn generate(
        self: &Arc<Self>,
        question: &Arc<Question>,
        deadline: Arc<Deadline>,
        publish: impl Fn(&Arc<Candidate>),
    ) -> Result<Answer, ServeError> {
        let mut course = Course::new(question.options.method);
        let (writer, of_task) = (Arc::clone(self), Arc::clone(question));
        // Tokenising a full set of signals takes longer than an async thread may be held.
        let built = tokio::task::spawn_blocking(move || {
            prompt::build(&of_task.signals, &writer.tokens, writer.prompt_tokens_max)
        });
        let prompt = built.await.map_err(|_| ServeError::Panicked)?;
        course.phases.tokenize = course.started.elapsed();
        course.prompt_tokens = prompt.ids.len();
        let n_truncated_signals = prompt.n_dropped_signals + question.signals.truncated_count();
        self.metrics.generation_started(prompt.ids.len(), question.options.n_candidates);
        let mut events = self.engine.submit(self.job(prompt.ids, &question.options, deadline))?;
        loop {
            match events.recv().await {
                Some(Event::Admitted { queue, prefill, prefill_tokens_computed }) => {
                    (course.phases.queue, course.phases.prefill) = (queue, prefill);
                    course.prefill_tokens_computed = prefill_tokens_computed;
                }
                Some(Event::Row(row)) => {
                    let candidate = self.candidate(&row, &mut course.phases)?;
                    publish(&course.add(candidate));
                }
                Some(Event::Done { decode }) => {
                    course.phases.decode = decode;
                    return self.finish(course, question, n_truncated_signals);
                }
                Some(Event::Failed(error)) => return Err(error.into()),
                None => return Err(ServeError::EngineGone),
            }
        }
    }

    fn job(&self, prompt: Vec<u32>, options: &Options, deadline: Arc<Deadline>) -> Job {
        Job {
            prompt,
            seeds: row_seeds(options.seed.unwrap_or_else(rand::random), options.n_candidates),
            sampler: options.sampler,
            max_new_tokens: options.max_output_tokens,
            stop_ids: self.tokens.stop_ids(),
            boundary_ids: self.tokens.boundary_ids(),
            deadline,
        }
    }

    /// Parses and scores a row.
    fn candidate(&self, row: &FinishedRow, phases: &mut Phases) -> Result<Candidate, ServeError> {
        let started = Instant::now();
        let features = list_features(row);
        let mean_logprob = features.mean_logprob;
        let list = match row.finish {
            Finish::Stop => parse::parse(&self.tokens.decode(&row.ids)).map_err(Invalid::Malformed),
            Finish::Length => Err(Invalid::Unfinished),
        };
        let scores = match &list {
            Ok(list) => self.scores(list, features)?,
            Err(_) => None,
        };
        self.count(&list, row.ids.len());
        phases.rerank += started.elapsed();
        let (row_idx, finish, n_tokens) = (row.row_idx, row.finish, row.ids.len());
        Ok(Candidate { row_idx, list, scores, mean_logprob, finish, n_tokens, best_so_far: false })
    }

    fn scores(&self, list: &QueryList, features: ListFeatures) -> Result<Option<Scores>, ServeError> {
        let Some(head) = &self.head else { return Ok(None) };
        if features.query_hidden.is_empty() {
            return Ok(None);
        }
        let scored = head.score(&[features]).map_err(|error| ServeError::Head(Arc::new(error)))?;
        Ok(scored.into_iter().next().map(|scored| {
            let queries: Vec<f32> = scored.queries.iter().map(|score| score.mean).collect();
            let queries = Some(queries).filter(|queries| queries.len() == list.as_slice().len());
            Scores { list: scored.list.mean, queries }
        }))
    }

    fn count(&self, list: &Result<QueryList, Invalid>, n_tokens: usize) {
        let fate = match list {
            Ok(list) => {
                self.metrics.list_queries(list.as_slice().len());
                "valid"
            }
            Err(invalid) => {
                self.metrics.invalid_output(invalid.reason());
                "invalid"
            }
        };
        self.metrics.candidates(fate, 1);
        self.metrics.output_tokens(fate, n_tokens);
    }

    fn finish(
        &self,
        mut course: Course,
        question: &Question,
        n_truncated_signals: usize,
    ) -> Result<Answer, ServeError> {
        let phases = course.phases;
        for (name, took) in [
            ("tokenize", phases.tokenize),
            ("queue", phases.queue),
            ("prefill", phases.prefill),
            ("decode", phases.decode),
            ("rerank", phases.rerank),
        ] {
            self.metrics.phase(name, took);
        }
        course.candidates.sort_by_key(|candidate| candidate.row_idx);
        let Some(best) = &course.best else {
            return Err(ServeError::NoValidList { n_candidates: course.candidates.len() });
        };
        self.metrics.first_candidate(phases.time_to_first_candidate);
        if let Some(scores) = &best.scores {
            self.metrics.best_list_score(scores.list);
        }
        let best_idx = course.candidates.iter().position(|candidate| candidate.row_idx == best.row_idx);
        Ok(Answer {
            best_idx: best_idx.expect("the best candidate is one of the candidates"),
            n_queries_max: question.options.n_queries_max.unwrap_or(parse::QUERIES_MAX),
            method: question.options.method,
            prompt_tokens: course.prompt_tokens,
            prefill_tokens_computed: course.prefill_tokens_computed,
            n_truncated_signals,
            phases,
            candidates: course.candidates,
        })
    }
}

/// What a generation knows so far.
struct Course {
    started: Instant,
    method: Method,
    candidates: Vec<Arc<Candidate>>,
    best: Option<Arc<Candidate>>,
    prompt_tokens: usize,
    prefill_tokens_computed: usize,
    phases: Phases,
}

impl Course {
    fn new(method: Method) -> Self {
        Self {
            started: Instant::now(),
            method,
            candidates: Vec::new(),
            best: None,
            prompt_tokens: 0,
            prefill_tokens_computed: 0,
            phases: Phases::default(),
        }
    }

    /// Takes a candidate in and says whether it leads.
    fn add(&mut self, mut candidate: Candidate) -> Arc<Candidate> {
        if candidate.list.is_ok() {
            if self.best.is_none() {
                self.phases.time_to_first_candidate = self.started.elapsed();
            }
            candidate.best_so_far = self
                .best
                .as_ref()
                .is_none_or(|best| rerank::beats(self.method, &candidate.standing(), &best.standing()));
        }
        let candidate = Arc::new(candidate);
        if candidate.best_so_far {
            self.best = Some(Arc::clone(&candidate));
        }
        self.candidates.push(Arc::clone(&candidate));
        candidate
    }
}

/// One seed per row, from the request's: rows differ, and the same request has the same rows whatever else runs.
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
