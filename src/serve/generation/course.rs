//! What a generation knows so far, and tells of itself while it goes on.
use crate::{
    decode::{batch::FinishedRow, features::Meets},
    serve::{
        candidate::{Candidate, Phases},
        question::Question,
        rerank::{self, Method},
        traces::{Open, Stage, Trace},
    },
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

/// What a generation knows so far.
pub(super) struct Course {
    pub(super) started: Instant,
    pub(super) method: Method,
    /// What rows meet of what the signals ask for, where the head reads it.
    pub(super) meets: Option<Meets>,
    /// Whether the reward head failed, and is asked no more.
    pub(super) is_headless: bool,
    /// Whether rows were left out that were needed.
    pub(super) is_cut: bool,
    /// In the order in which they ended.
    pub(super) candidates: Vec<Candidate>,
    /// What each was read from.
    pub(super) rows: Vec<FinishedRow>,
    /// Those that are being written, by number, as far as they are shown.
    pub(super) growing: BTreeMap<usize, FinishedRow>,
    /// Whether the head is asked of them.
    pub(super) foresees: bool,
    pub(super) time_to_first_candidate: Option<Duration>,
    pub(super) prompt_tokens: usize,
    pub(super) prefill_tokens_computed: usize,
    pub(super) n_cleaned_signals: usize,
    pub(super) phases: Phases,
    trace: Trace,
    /// When the stage that is open began.
    stage_from: SystemTime,
    /// The queue, then the model; it ends with this where nothing else ends it.
    stage: Option<Open>,
}

impl Course {
    pub(super) fn new(question: &Question) -> Self {
        Self {
            started: Instant::now(),
            method: question.options.method,
            meets: None,
            is_headless: false,
            is_cut: false,
            candidates: Vec::new(),
            rows: Vec::new(),
            growing: BTreeMap::new(),
            foresees: true,
            time_to_first_candidate: None,
            prompt_tokens: 0,
            prefill_tokens_computed: 0,
            n_cleaned_signals: 0,
            phases: Phases::default(),
            trace: question.trace.clone(),
            stage_from: SystemTime::now(),
            stage: None,
        }
    }

    /// The prompt is there. `clean`: how long signals were judged for it.
    pub(super) fn prepared(&mut self, clean: Duration, prompt_tokens: usize, n_cleaned_signals: usize) {
        (self.prompt_tokens, self.n_cleaned_signals) = (prompt_tokens, n_cleaned_signals);
        let tokenize = self.started.elapsed().saturating_sub(clean);
        (self.phases.clean, self.phases.tokenize) = (clean, tokenize);
        let cleaned = self.stage_from + clean;
        self.trace.stage(Stage::Clean, self.stage_from).until(cleaned);
        let tokenized = self.trace.stage(Stage::Tokenize, cleaned);
        tokenized.with("newshound.prompt_tokens", prompt_tokens).until(cleaned + tokenize);
    }

    /// The prompt waits for the model.
    pub(super) fn queued(&mut self) {
        self.stage_from = SystemTime::now();
        self.stage = Some(self.trace.stage(Stage::Queue, self.stage_from));
    }

    /// The prompt went through the model, and rows are written.
    pub(super) fn admitted(&mut self, queue: Duration, prefill: Duration, prefill_tokens_computed: usize) {
        (self.phases.queue, self.phases.prefill) = (queue, prefill);
        self.prefill_tokens_computed = prefill_tokens_computed;
        let admitted = self.stage_from + queue;
        self.stage.take().into_iter().for_each(|queue| queue.until(admitted));
        let through = self.trace.stage(Stage::Prefill, admitted);
        through.with("newshound.prefill_tokens_computed", prefill_tokens_computed).until(admitted + prefill);
        self.stage_from = admitted + prefill;
        self.stage = Some(self.trace.stage(Stage::Decode, self.stage_from));
    }

    /// Rows are no longer written.
    pub(super) fn ended(&mut self, rows: Vec<FinishedRow>) {
        self.growing.retain(|row_idx, _| rows.iter().all(|row| row.row_idx != *row_idx));
        self.rows.extend(rows);
    }

    /// All rows ended.
    pub(super) fn decoded(&mut self, decode: Duration, is_cut: bool) {
        self.is_cut = is_cut;
        self.phases.decode = decode;
        let ended = self.stage_from + decode;
        let decode = self.stage.take().into_iter();
        decode.for_each(|decode| decode.with("newshound.candidates", self.candidates.len()).until(ended));
    }

    /// Rows that ended are parsed and scored, until this is dropped.
    pub(super) fn reranking(&self, n_rows: usize) -> Open {
        self.trace.stage(Stage::Rerank, SystemTime::now()).with("newshound.candidates", n_rows)
    }

    /// Goes on without the reward head: what it has said of some lists cannot be compared with nothing of others.
    pub(super) fn lose_head(&mut self) {
        self.is_headless = true;
        self.candidates.iter_mut().for_each(|candidate| candidate.scores = None);
        if self.method == Method::RewardHead {
            self.method = Method::Consensus;
        }
    }

    /// Marks the valid lists that beat every one before them, as the scores are now.
    pub(super) fn mark_leaders(&mut self) {
        let mut valid: Vec<&mut Candidate> =
            self.candidates.iter_mut().filter(|candidate| candidate.list.is_ok()).collect();
        let standings: Vec<_> = valid.iter().map(|candidate| candidate.standing()).collect();
        for (candidate, leads) in valid.iter_mut().zip(rerank::leaders(self.method, &standings)) {
            candidate.best_so_far = leads;
        }
    }
}
