//! How a prompt enters the batch: some of it beside each step, so that rows that run do not wait for all of it.
use super::{
    super::{
        Arc, Bill, Class, DecodeError, Duration, EngineError, Event, Generator, GroupId, GroupRequest,
        Instant, Job, Leave, Metrics, Picked, Queued, Room, Saving, debug, error, mpsc,
    },
    Running, Thread,
    drawing::Held,
    tell,
};
use crate::decode::batch::Admitted;

/// Positions of a prompt after which the thread looks up also where no row waits: whoever asked may have gone.
const POSITIONS_PER_LOOK: usize = 512;

/// A prompt that is being computed.
pub(super) struct Arriving {
    pub(super) request: GroupRequest,
    held: Option<Held>,
    reply: mpsc::Sender<Event>,
    deadline: Arc<super::super::Deadline>,
    growth: Arc<super::super::Growth>,
    class: Class,
    need: Room,
    pub(super) bill: Bill,
    leave: Option<Leave>,
    /// Time in the queue.
    waited: Duration,
    /// Positions that were known before.
    n_known: usize,
    /// Time of what is computed so far.
    pub(super) prefill: Duration,
}

impl Arriving {
    pub(super) fn takes(&self) -> (Class, Room) {
        (self.class, self.need)
    }

    pub(super) fn fail(self, why: EngineError) {
        self.bill.settle(why.spending());
        tell(&self.reply, Event::Failed(why));
    }

    /// Itself, if anybody still waits for it.
    pub(super) fn unless_gone(self, now: Instant, metrics: &Metrics) -> Option<Self> {
        if self.deadline.passed(now) {
            metrics.deadline_missed("running", 1);
            self.fail(EngineError::DeadlineHit);
            return None;
        }
        if self.reply.is_closed() {
            debug!("client is gone, its prompt is given up");
            self.fail(EngineError::Gone);
            return None;
        }
        Some(self)
    }

    fn n_left(&self) -> usize {
        self.request.prompt.len().saturating_sub(self.request.n_known())
    }
}

impl<G: Generator> Thread<'_, G> {
    /// Admits what fits, but lets rows that run wait for no more than a budget of positions before their next step. Returns how many
    /// positions of a prompt that is not admitted yet may be computed beside that step.
    pub(super) fn admit(&mut self) -> usize {
        let mut n_computed = 0;
        loop {
            // The first rows of all wait for nobody.
            let budget = match self.generator.n_rows() {
                0 => POSITIONS_PER_LOOK,
                _ => self.generator.prefill_budget().saturating_sub(n_computed),
            };
            let Some(arriving) = self.arriving.take().or_else(|| (budget > 0).then(|| self.begin())?) else {
                return 0;
            };
            if arriving.n_left() > budget && self.generator.splits_prompts() {
                self.arriving = Some(arriving);
                return budget;
            }
            n_computed += self.start(arriving);
            // That took long enough for others to leave or to be late, and theirs would be for nobody.
            self.forget_gone();
        }
    }

    /// Takes the next job that fits out of the queue, unless enough rows run without it.
    fn begin(&mut self) -> Option<Arriving> {
        if self.generator.n_rows() >= self.shared.limits.rows_enough {
            return None;
        }
        loop {
            let Picked { job: queued, need, waited } = self.waiting.pick(Instant::now(), &self.standing())?;
            let Queued { job, reply, mut ticket, .. } = *queued;
            let class = ticket.class();
            drop(ticket);
            // A client may have gone since `forget_gone`; a prefill for nobody would cost more than this look.
            if reply.is_closed() {
                continue;
            }
            let group = GroupId(self.next_group);
            self.next_group += 1;
            let (leave, deadline) = (job.leave.clone(), Arc::clone(&job.deadline));
            let growth = Arc::clone(&job.growth);
            let n_rows = job.n_held();
            let adaptive = job.adaptive.clone().filter(|_| n_rows > 0);
            let held = adaptive.map(|adaptive| Held { adaptive, n_rows, ended: Vec::new() });
            let owner = leave.as_ref().map(|leave| leave.epoch.owner);
            let known = owner.and_then(|owner| self.prefixes.find(owner, &job.prompt, Instant::now()));
            let n_known = known.as_ref().map_or(0, |known| known.n_positions);
            let (bill, request) = request(group, job);
            let request = GroupRequest { known, ..request };
            let prefill = Duration::ZERO;
            return Some(Arriving {
                request,
                held,
                reply,
                deadline,
                growth,
                class,
                need,
                bill,
                leave,
                waited,
                n_known,
                prefill,
            });
        }
    }

    /// Computes what is left of a prompt and starts its rows; returns the positions that went through the model.
    fn start(&mut self, mut arriving: Arriving) -> usize {
        let started = Instant::now();
        let begun = self.shared.metrics.compute_from(started);
        let n_left = arriving.n_left();
        let n_rows = arriving.request.seeds.len() - arriving.request.n_held;
        let admitted = self.generator.admit(arriving.request.clone());
        let ended = Instant::now();
        arriving.prefill += ended - started;
        // What came to nothing may have been computed too.
        let n_computed =
            admitted.as_ref().map_or(n_left, |admitted| admitted.prefill_tokens_computed + n_rows);
        arriving.bill.used.prefill(self.shared.metrics.computed(begun, ended), n_computed);
        match admitted {
            Ok(admitted) => self.run(arriving, admitted, ended),
            Err(error) => self.fail_prompt(arriving, error),
        }
        // Also where it was in vain.
        n_left
    }

    /// A prompt's rows have their first token.
    fn run(&mut self, arriving: Arriving, admitted: Admitted, prefilled_at: Instant) {
        let Arriving {
            request,
            held,
            reply,
            deadline,
            growth,
            class,
            bill,
            leave,
            waited,
            n_known,
            prefill,
            ..
        } = arriving;
        let (group, rows_left) = (request.id, request.seeds.len() - request.n_held);
        let (prompt_tokens, row_tokens_max) = (request.prompt.len(), request.max_new_tokens);
        // What `admit` did not compute was known to begin with, or was computed beside steps.
        let before = request.n_known().saturating_sub(n_known);
        let prefill_tokens_computed = before + admitted.prefill_tokens_computed;
        let ids = request.prompt;
        let n_known = ids.len() - prefill_tokens_computed.min(ids.len());
        self.shared.metrics.known_tokens(n_known);
        // A `Forget` that ends the leave after this look is still to come, and drops what is kept here.
        let leave = leave.filter(Leave::stands);
        if let (Some(leave), Some(prefix)) = (leave, admitted.prefix) {
            self.prefixes.keep(leave.epoch.owner, ids, prefix, prefilled_at);
        }
        self.shared.metrics.prefilled(prefill_tokens_computed, prefill, (class, waited));
        self.prefill_rate.note(prefill_tokens_computed, prefill);
        self.shared.load.lock().rates.prefilled(n_known + prefill_tokens_computed, prefill);
        self.shared.metrics.saved(Saving::Prefix, self.prefill_rate.of(n_known));
        tell(&reply, Event::Admitted { queue: waited, prefill, prefill_tokens_computed });
        let (n_tokens, longest) = (1, 0);
        let running = Running {
            reply,
            deadline,
            growth,
            class,
            prompt_tokens,
            row_tokens_max,
            has_many: rows_left > 1,
            rows_left,
            held,
            is_cut: false,
            n_tokens,
            longest,
            prefilled_at,
            bill,
        };
        self.running.insert(group, running);
    }

    /// Only this job is at fault; the others know nothing of it.
    pub(super) fn fail_prompt(&mut self, arriving: Arriving, error: DecodeError) {
        self.generator.cancel(arriving.request.id);
        error!(reason = %super::super::cause(&error), "prompt could not be decoded");
        self.shared.metrics.engine_fault();
        arriving.fail(EngineError::Fault(Arc::new(error)));
    }
}

/// A job as the generator wants it, and its bill.
fn request(id: GroupId, job: Job) -> (Bill, GroupRequest) {
    let n_held = job.n_held();
    let request = GroupRequest {
        id,
        prompt: job.prompt,
        known: None,
        pruning: job.pruning,
        n_held,
        seeds: job.seeds,
        sampler: job.sampler,
        max_new_tokens: job.max_new_tokens,
        stop_ids: job.stop_ids,
        boundary_ids: job.boundary_ids,
    };
    (job.bill, request)
}
