//! The loop of the model thread: receive, forget who is gone, admit, step.
use super::{
    Arc, Batcher, Bill, Command, DecodeError, Duration, EngineError, EngineGauges, EngineState, Event,
    FinishedRow, Generator, GroupId, GroupRequest, HashMap, Instant, Job, Leave, Ordering, Picked,
    PrefillRate, Prefixes, Queued, Room, Saving, Shared, Spending, debug, error, mpsc, split,
};
use crate::decode::batch::Finish;

/// Prompt tokens after which nobody else is admitted before the next step, as long as rows run: a burst of requests would
/// otherwise hold their next token up by the prefills of all of them. One prompt may go beyond it, because none is split.
/// 1024: more than one of the longest prompts of the default settings, and less than two.
pub const PREFILL_TOKENS_PER_STEP_MAX: usize = 1024;

/// Runs until told to stop or until nobody can send commands any more.
pub(super) fn run<G: Generator>(
    generator: G,
    opening: Arc<[u32]>,
    inbox: mpsc::Receiver<Command>,
    shared: &Shared,
) {
    let limits = &shared.limits;
    let waiting = Batcher::new(limits.overtake_max, limits.sharing, limits.room.rows);
    let mut thread = Thread {
        generator,
        prefixes: Prefixes::new(shared.limits.prefixes, opening),
        waiting,
        running: HashMap::new(),
        next_group: 0,
        has_orphans: false,
        left_at: None,
        is_saturated: false,
        prefill_rate: PrefillRate::default(),
        gauges: EngineGauges::new(Arc::clone(&shared.metrics)),
        shared,
    };
    thread.serve(inbox);
    thread.give_up();
    shared.metrics.idle_until(Instant::now());
}

struct Thread<'a, G> {
    generator: G,
    prefixes: Prefixes,
    waiting: Batcher<Box<Queued>>,
    running: HashMap<GroupId, Running>,
    next_group: u64,
    /// Whether groups may have been dropped that nobody named.
    has_orphans: bool,
    /// When the last job left, if the thread has been busy since.
    left_at: Option<Instant>,
    /// Whether somebody waits for whom there was no room.
    is_saturated: bool,
    prefill_rate: PrefillRate,
    gauges: EngineGauges,
    shared: &'a Shared,
}

/// A group in the batch.
struct Running {
    reply: mpsc::Sender<Event>,
    deadline: Arc<super::Deadline>,
    need: Room,
    rows_left: usize,
    /// Tokens that each live row has.
    n_tokens: usize,
    /// Tokens of the longest list that was not stopped early.
    longest: usize,
    prefilled_at: Instant,
    bill: Bill,
}

impl<G: Generator> Thread<'_, G> {
    fn serve(&mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            if self.running.is_empty() && self.waiting.is_empty() {
                self.left_at = None;
                self.show_state();
                match inbox.blocking_recv() {
                    Some(command) => self.take(command),
                    None => return,
                }
            }
            while let Ok(command) = inbox.try_recv() {
                self.take(command);
            }
            self.shared.metrics.idle_until(Instant::now());
            if self.shared.stopping.load(Ordering::Relaxed) {
                return;
            }
            self.forget_gone();
            self.prefixes.forget_old(Instant::now());
            self.admit();
            self.is_saturated = !self.waiting.is_empty();
            self.show_state();
            if !self.running.is_empty() {
                self.step();
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Generate(queued) => {
                let (need, class, since) = (queued.job.need(), queued.ticket.class(), queued.since);
                self.waiting.push(queued, need, class, since);
            }
            Command::Forget { owner, done } => {
                self.prefixes.forget(owner);
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Command::Wake => {}
        }
    }

    fn show_state(&mut self) {
        let (queued, prefix_bytes) = (self.waiting.len(), self.prefixes.n_bytes());
        let (rows, kv_bytes) = (self.generator.n_rows(), self.generator.kv_bytes());
        self.gauges.show(EngineState { queued, rows, kv_bytes, prefix_bytes });
        let free = self.free_room();
        let mut now = self.shared.load.lock();
        (now.n_rows, now.free) = (rows, free);
    }

    /// Frees what belongs to clients that are gone or too late, in the queue and in the batch.
    fn forget_gone(&mut self) {
        let now = Instant::now();
        let shared = self.shared;
        let age_max = shared.limits.queue_wait_max;
        let gone = |queued: &Queued, waited: Duration| {
            queued.reply.is_closed() || queued.job.deadline.passed(now) || waited >= age_max
        };
        self.waiting.remove_if(
            now,
            |queued, waited| gone(queued, waited),
            |queued| {
                // First: whoever waits gives up at the deadline too, so by now its channel is closed as well.
                if queued.job.deadline.passed(now) {
                    shared.metrics.deadline_missed("queue", 1);
                    return tell(&queued.reply, Event::Failed(EngineError::DeadlineHit));
                }
                if queued.reply.is_closed() {
                    return;
                }
                let waited_ms = u64::try_from((now - queued.since).as_millis()).unwrap_or(u64::MAX);
                let retry_after = shared.load.pace.until_free(shared.limits.queue_max);
                shared.metrics.refused("age", retry_after);
                tell(&queued.reply, Event::Failed(EngineError::QueueAge { waited_ms, retry_after }));
            },
        );
        let (late, gone): (Vec<_>, Vec<_>) = self
            .running
            .iter()
            .filter(|(_, running)| running.deadline.passed(now) || running.reply.is_closed())
            .map(|(&group, running)| (group, running.deadline.passed(now)))
            .partition(|&(_, late)| late);
        for (group, _) in late {
            self.shared.metrics.deadline_missed("running", 1);
            self.cancel(group, EngineError::DeadlineHit);
        }
        for (group, _) in gone {
            debug!("client is gone, its rows are freed");
            self.cancel(group, EngineError::Gone);
        }
    }

    /// Takes a group out of the batch and tells its owner, if there still is one, why.
    fn cancel(&mut self, group: GroupId, why: EngineError) {
        let n_rows = self.generator.cancel(group);
        let Some(running) = self.running.remove(&group) else { return };
        running.bill.settle(why.spending());
        self.shared.metrics.candidates("cancelled", running.rows_left);
        self.shared.metrics.output_tokens("cancelled", n_rows * running.n_tokens);
        tell(&running.reply, Event::Failed(why));
    }

    fn free_room(&self) -> Room {
        self.running.values().fold(self.shared.limits.room, |free, running| free.less(running.need))
    }

    /// Admits what fits, but lets rows that run wait for no more than a budget of prefills before their next step.
    fn admit(&mut self) {
        let mut n_prefilled = 0;
        while self.running.is_empty() || n_prefilled < PREFILL_TOKENS_PER_STEP_MAX {
            let idle = self.running.is_empty();
            let Some(picked) = self.waiting.pick(Instant::now(), self.free_room(), idle) else { return };
            n_prefilled += self.admit_one(picked);
            // A prefill takes long enough for others to leave or to be late, and theirs would be for nobody.
            self.forget_gone();
        }
    }

    /// Starts a job's rows; returns the prompt tokens that went through the model.
    fn admit_one(&mut self, picked: Picked<Box<Queued>>) -> usize {
        let Picked { job: queued, need, waited } = picked;
        let Queued { job, reply, ticket, .. } = *queued;
        drop(ticket);
        // A client may have gone since `forget_gone`; a prefill for nobody would cost more than this look.
        if reply.is_closed() {
            return 0;
        }
        let group = GroupId(self.next_group);
        self.next_group += 1;
        let (rows_left, deadline) = (job.seeds.len(), Arc::clone(&job.deadline));
        let (leave, ids) = (job.leave.clone(), job.prompt.clone());
        let started = Instant::now();
        let begun = self.shared.metrics.compute_from(started);
        let known = leave.as_ref().and_then(|leave| self.prefixes.find(leave.epoch.owner, &ids, started));
        let (mut bill, request) = request(group, job);
        let admitted = self.generator.admit(GroupRequest { known, ..request });
        let prefilled_at = Instant::now();
        let prefill = prefilled_at - started;
        // What came to nothing may have been computed too.
        let n_computed =
            admitted.as_ref().map_or(ids.len(), |admitted| admitted.prefill_tokens_computed + rows_left);
        bill.used.prefill(self.shared.metrics.computed(begun, prefilled_at), n_computed);
        match admitted {
            Ok(admitted) => {
                let n_known = ids.len() - admitted.prefill_tokens_computed.min(ids.len());
                self.shared.metrics.known_tokens(n_known);
                // A `Forget` that ends the leave after this look is still to come, and drops what is kept here.
                let leave = leave.filter(Leave::stands);
                if let (Some(leave), Some(prefix)) = (leave, admitted.prefix) {
                    self.prefixes.keep(leave.epoch.owner, ids, prefix, prefilled_at);
                }
                let prefill_tokens_computed = admitted.prefill_tokens_computed;
                self.shared.metrics.prefilled(prefill_tokens_computed, prefill, waited);
                self.prefill_rate.note(prefill_tokens_computed, prefill);
                self.shared.load.lock().rates.prefilled(n_known + prefill_tokens_computed, prefill);
                self.shared.metrics.saved(Saving::Prefix, self.prefill_rate.of(n_known));
                tell(&reply, Event::Admitted { queue: waited, prefill, prefill_tokens_computed });
                let (n_tokens, longest) = (1, 0);
                let running =
                    Running { reply, deadline, need, rows_left, n_tokens, longest, prefilled_at, bill };
                self.running.insert(group, running);
                prefill_tokens_computed
            }
            Err(error) => {
                // Only this job is at fault; the others know nothing of it.
                self.generator.cancel(group);
                error!(reason = %super::cause(&error), "prompt could not be decoded");
                self.shared.metrics.engine_fault();
                let error = EngineError::Fault(Arc::new(error));
                bill.settle(error.spending());
                tell(&reply, Event::Failed(error));
                // It may have been computed in vain.
                ids.len()
            }
        }
    }

    fn step(&mut self) {
        let groups: Vec<(GroupId, usize)> =
            self.running.keys().map(|&group| (group, self.generator.n_rows_of(group))).collect();
        let started = Instant::now();
        let begun = self.shared.metrics.compute_from(started);
        let stepped = self.generator.step();
        let ended = Instant::now();
        let took = ended - started;
        self.split_step(&groups, self.shared.metrics.computed(begun, ended));
        match stepped {
            Ok(finished) => {
                let rows = groups.iter().map(|(_, n_rows)| n_rows).sum();
                if rows > 0 {
                    self.shared.metrics.stepped(rows, took);
                    self.shared.load.lock().rates.stepped(rows, took, ended);
                }
                self.running.values_mut().for_each(|running| running.n_tokens += 1);
                finished.into_iter().for_each(|row| self.hand_over(row));
                if self.has_orphans {
                    self.fail_orphans();
                }
            }
            Err(DecodeError::NotFinite { id }) => self.fail_one(id),
            Err(error) => self.fail_all(error),
        }
    }

    /// Writes a step on the bills of the groups that it computed a token for, by their rows; where there was none it was idle time.
    fn split_step(&mut self, groups: &[(GroupId, usize)], took: Duration) {
        let weights: Vec<u64> = groups.iter().map(|&(_, n_rows)| n_rows as u64).collect();
        if weights.iter().all(|&n_rows| n_rows == 0) {
            self.shared.metrics.spent(Spending::Idle, took);
        }
        for (&(group, n_rows), share) in groups.iter().zip(split(took, &weights)) {
            if let Some(running) = self.running.get_mut(&group) {
                running.bill.used.step(share, n_rows);
            }
        }
    }

    fn hand_over(&mut self, row: FinishedRow) {
        let group = row.group;
        let Some(running) = self.running.get_mut(&group) else { return };
        running.bill.used.row_ended(row.ids.len(), row.finish == Finish::Pruned);
        running.rows_left = running.rows_left.saturating_sub(1);
        if row.finish != Finish::Pruned {
            running.longest = running.longest.max(row.ids.len());
            self.shared.load.lock().rates.wrote(row.ids.len());
        }
        tell(&running.reply, Event::Row(row));
        if running.rows_left > 0 {
            return;
        }
        if running.need.rows > 1 && running.longest > 0 {
            self.shared.load.lock().rates.wrote_all(running.longest);
        }
        let now = Instant::now();
        if let Some(Running { reply, prefilled_at, bill, .. }) = self.running.remove(&group) {
            tell(&reply, Event::Done { decode: now - prefilled_at, bill });
        }
        if let Some(before) = self.left_at.replace(now).filter(|_| self.is_saturated) {
            self.shared.load.pace.note(now - before);
        }
    }

    /// The generator dropped this group; every other one goes on. It may have dropped more than it named: that is seen after the
    /// next step, when all rows that finished have been handed over.
    fn fail_one(&mut self, group: GroupId) {
        self.has_orphans = true;
        let error = DecodeError::NotFinite { id: group };
        error!(reason = %super::cause(&error), "group failed");
        self.shared.metrics.engine_fault();
        self.cancel(group, EngineError::Fault(Arc::new(error)));
    }

    fn fail_orphans(&mut self) {
        let generator = &self.generator;
        let orphan = self.running.keys().copied().find(|&group| generator.n_rows_of(group) == 0);
        match orphan {
            Some(group) => self.fail_one(group),
            None => self.has_orphans = false,
        }
    }

    /// A failed step leaves no row that can be trusted: all end, and the next job starts from an empty batch.
    fn fail_all(&mut self, error: DecodeError) {
        error!(reason = %super::cause(&error), n_groups = self.running.len(), "decode step failed");
        self.shared.metrics.engine_fault();
        let error = Arc::new(error);
        let groups: Vec<GroupId> = self.running.keys().copied().collect();
        for group in groups {
            self.cancel(group, EngineError::Step(Arc::clone(&error)));
        }
    }

    fn give_up(&mut self) {
        let groups: Vec<GroupId> = self.running.keys().copied().collect();
        for group in groups {
            self.cancel(group, EngineError::Gone);
        }
        self.waiting.remove_if(
            Instant::now(),
            |_, _| true,
            |queued| tell(&queued.reply, Event::Failed(EngineError::Gone)),
        );
    }
}

/// Hands an event over without waiting. The channel has room for all events of a job, so only a closed one refuses, and that
/// is noticed before the next step.
fn tell(reply: &mpsc::Sender<Event>, event: Event) {
    let _ = reply.try_send(event);
}

/// A job as the generator wants it, and its bill.
fn request(id: GroupId, job: Job) -> (Bill, GroupRequest) {
    let request = GroupRequest {
        id,
        prompt: job.prompt,
        known: None,
        pruning: job.pruning,
        seeds: job.seeds,
        sampler: job.sampler,
        max_new_tokens: job.max_new_tokens,
        stop_ids: job.stop_ids,
        boundary_ids: job.boundary_ids,
    };
    (job.bill, request)
}
