//! A generator that writes given texts, one token a step, as fast as the test allows.
use crate::support::goldens;
use newshound::{
    decode::batch::{Admitted, DecodeError, Finish, FinishedRow, GroupId, GroupRequest, QueryEnd, SHOWN_MAX},
    serve::engine::Generator,
    text::tokens::Tokens,
};
use std::sync::{
    Arc, Condvar, Mutex,
    atomic::{AtomicUsize, Ordering},
};

/// Width of the hidden states that the script invents.
pub const HIDDEN: usize = 32;

/// A valid list.
pub const LIST: &str = "solar storm tonight\ntrain strike talks\ncity council vote";

/// The tokenizer of the smallest golden model.
pub fn tokens() -> Tokens {
    let path = goldens::root().join("models/qwen2-tied/tokenizer.json");
    Tokens::from_bytes(&std::fs::read(path).unwrap()).unwrap()
}

/// What the script does and what was done to it.
#[derive(Debug, Default)]
pub struct Log {
    pub prefills: AtomicUsize,
    pub steps: AtomicUsize,
    pub cancelled_rows: AtomicUsize,
    /// For each prefill, the steps that were made before it.
    pub steps_before: Mutex<Vec<usize>>,
}

impl Log {
    pub fn prefills(&self) -> usize {
        self.prefills.load(Ordering::SeqCst)
    }

    pub fn steps(&self) -> usize {
        self.steps.load(Ordering::SeqCst)
    }
}

/// Lets steps through: a number of them, or all.
#[derive(Debug, Default)]
pub struct Gate {
    permits: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    pub fn allow(&self, n_steps: usize) {
        let mut permits = self.permits.lock().unwrap();
        *permits = permits.saturating_add(n_steps);
        self.changed.notify_all();
    }

    /// Lets nothing more through.
    pub fn close(&self) {
        *self.permits.lock().unwrap() = 0;
    }

    pub fn open(&self) {
        *self.permits.lock().unwrap() = usize::MAX;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut permits = self.permits.lock().unwrap();
        while *permits == 0 {
            permits = self.changed.wait(permits).unwrap();
        }
        if *permits != usize::MAX {
            *permits -= 1;
        }
    }
}

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    None,
    /// The first prefill panics.
    Panic,
    /// The first step fails.
    Step,
    /// From the first step on a row is held for nobody.
    Leak,
    /// The reward head is made for another width than the hidden states have.
    Head,
}

/// The text of a row, by row number and seed.
pub type Text = Arc<dyn Fn(usize, u64) -> String + Send + Sync>;

struct Row {
    group: GroupId,
    row_idx: usize,
    ids: Vec<u32>,
    finish: Finish,
    n_written: usize,
    n_shown: usize,
    boundary_ids: Arc<[u32]>,
}

pub struct Script {
    tokens: Tokens,
    text: Text,
    /// Whether it writes what it has read instead.
    echoes: bool,
    gate: Arc<Gate>,
    log: Arc<Log>,
    mishap: Mishap,
    rows: Vec<Row>,
    held: Vec<Row>,
}

impl Script {
    pub fn new(text: Text, gate: Arc<Gate>, log: Arc<Log>, mishap: Mishap) -> Self {
        let (tokens, rows, held) = (tokens(), Vec::new(), Vec::new());
        Self { tokens, text, echoes: false, gate, log, mishap, rows, held }
    }

    /// One that writes the last words of its prompt.
    pub fn echo(gate: Arc<Gate>, log: Arc<Log>) -> Self {
        Self { echoes: true, ..Self::new(Arc::new(|_, _| String::new()), gate, log, Mishap::None) }
    }

    fn text(&self, prompt: &[u32], row_idx: usize, seed: u64) -> String {
        if !self.echoes {
            return (self.text)(row_idx, seed);
        }
        let prompt = self.tokens.decode(prompt);
        let mut words: Vec<&str> = prompt.split_whitespace().rev().take(7).collect();
        words.reverse();
        let query = |at: usize| format!("{} {} part {at}", words[2 * at], words[2 * at + 1]);
        (0..3).map(query).collect::<Vec<_>>().join("\n")
    }
}

impl Generator for Script {
    /// Its prompts cost nothing, so there is nothing to split.
    fn splits_prompts(&self) -> bool {
        false
    }

    fn step_beside(&mut self, _: &mut GroupRequest, _: usize) -> Result<Vec<FinishedRow>, DecodeError> {
        self.step()
    }

    fn admit(&mut self, request: GroupRequest) -> Result<Admitted, DecodeError> {
        assert!(self.mishap != Mishap::Panic, "the script says so");
        self.log.prefills.fetch_add(1, Ordering::SeqCst);
        self.log.steps_before.lock().unwrap().push(self.log.steps());
        for (row_idx, &seed) in request.seeds.iter().enumerate() {
            let mut ids = self.tokens.encode_text(&self.text(&request.prompt, row_idx, seed));
            ids.push(self.tokens.im_end());
            let finish = if ids.len() > request.max_new_tokens { Finish::Length } else { Finish::Stop };
            ids.truncate(request.max_new_tokens);
            let boundary_ids = Arc::clone(&request.boundary_ids);
            let is_held = row_idx + request.n_held >= request.seeds.len();
            let rows = if is_held { &mut self.held } else { &mut self.rows };
            rows.push(Row {
                group: request.id,
                row_idx,
                ids,
                finish,
                n_written: 1,
                n_shown: 0,
                boundary_ids,
            });
        }
        Ok(Admitted { prefill_tokens_computed: request.prompt.len(), prefix: None })
    }

    fn draw(&mut self, group: GroupId) -> Result<usize, DecodeError> {
        let n_before = self.rows.len();
        self.rows.extend(self.held.extract_if(.., |row| row.group == group));
        Ok(self.rows.len() - n_before)
    }

    fn grown(&mut self, group: GroupId) -> Vec<FinishedRow> {
        let rows = self.rows.iter_mut().filter(|row| row.group == group);
        let grown = rows.filter_map(|row| {
            let so_far = written(row, row.n_written);
            let n_before = std::mem::replace(&mut row.n_shown, so_far.query_ends.len());
            (row.n_shown > n_before && row.n_shown <= SHOWN_MAX).then_some(so_far)
        });
        grown.collect()
    }

    fn step(&mut self) -> Result<Vec<FinishedRow>, DecodeError> {
        self.gate.pass();
        self.log.steps.fetch_add(1, Ordering::SeqCst);
        if self.mishap == Mishap::Step {
            self.mishap = Mishap::None;
            return Err(DecodeError::EmptyPrompt);
        }
        self.rows.iter_mut().for_each(|row| row.n_written += 1);
        let (finished, live) =
            std::mem::take(&mut self.rows).into_iter().partition(|row| row.n_written >= row.ids.len());
        self.rows = live;
        let finished: Vec<Row> = finished;
        Ok(finished.iter().map(|row| written(row, row.ids.len())).collect())
    }

    fn cancel(&mut self, group: GroupId) -> usize {
        self.held.retain(|row| row.group != group);
        let before = self.rows.len();
        self.rows.retain(|row| row.group != group);
        let n_cancelled = before - self.rows.len();
        self.log.cancelled_rows.fetch_add(n_cancelled, Ordering::SeqCst);
        n_cancelled
    }

    fn n_rows_of(&self, group: GroupId) -> usize {
        self.rows.iter().filter(|row| row.group == group).count()
    }

    fn n_rows(&self) -> usize {
        self.rows.len() + usize::from(self.mishap == Mishap::Leak && self.log.steps() > 0)
    }

    fn kv_bytes(&self) -> usize {
        (self.rows.len() + self.held.len()) * 1000
    }
}

/// The first ids of a row. Later rows are less likely: row `i` has a mean log-probability of -(i + 1) / 10.
fn written(row: &Row, n_ids: usize) -> FinishedRow {
    let ends = (0..n_ids).filter(|&at| {
        row.boundary_ids.contains(&row.ids[at]) || (at + 1 == row.ids.len() && row.finish == Finish::Stop)
    });
    let mut start = 0;
    let end = |n_ids| {
        let end = QueryEnd { start, n_ids, hidden: vec![1.0 / (row.row_idx as f32 + 1.0); HIDDEN] };
        start = n_ids + 1;
        end
    };
    FinishedRow {
        group: row.group,
        row_idx: row.row_idx,
        query_ends: ends.map(end).collect(),
        logprobs: vec![-(row.row_idx as f32 + 1.0) / 10.0; n_ids],
        ids: row.ids[..n_ids].to_vec(),
        finish: row.finish,
    }
}
